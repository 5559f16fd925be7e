"""deliveryagent: a Postfix-like agent for outbound mail.

``from deliveryagent import Client`` (or ``AsyncClient``) hands over mail from Python, ``from deliveryagent
import enqueue`` inside an SQL transaction of the application's own; each is loaded when it is asked for.
"""

from __future__ import annotations

TYPE_CHECKING = False  # importing typing would double the time every command takes to start
if TYPE_CHECKING:
    from typing import Any

    from deliveryagent.async_client import AsyncClient
    from deliveryagent.client import Client, EnqueueError
    from deliveryagent.outbox import enqueue

__version__ = "0.1.0"

__all__ = ["AsyncClient", "Client", "EnqueueError", "__version__", "enqueue"]

_HOMES = {
    "AsyncClient": "async_client",
    "Client": "client",
    "EnqueueError": "client",
    "enqueue": "outbox",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module  # noqa: PLC0415 - likewise

        return getattr(import_module(f"deliveryagent.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
