"""deliveryagent: a Postfix-like agent for outbound mail.

``from deliveryagent import Client`` hands over mail from Python; it is loaded when it is asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deliveryagent.client import Client, EnqueueError

__version__ = "0.1.0"

__all__ = ["Client", "EnqueueError", "__version__"]


def __getattr__(name: str) -> Any:
    if name in {"Client", "EnqueueError"}:
        return getattr(import_module("deliveryagent.client"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
