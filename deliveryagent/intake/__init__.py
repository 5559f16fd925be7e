"""Where mail comes in: the local socket, the listeners for SMTP, submission and LMTP, and ``Server``.

What programs use is found here; it is loaded when it is asked for, since commands that must start fast come
through this room too.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from deliveryagent.intake.hook import Hook
    from deliveryagent.intake.message import Message
    from deliveryagent.intake.server import Server
    from deliveryagent.mail.verdict import Accept, Defer, Discard, Hold, Reject, Tempfail
    from deliveryagent.protocol.session import Recipient, Session, Transaction

__all__ = [
    "Accept",
    "Defer",
    "Discard",
    "Hold",
    "Hook",
    "Message",
    "Recipient",
    "Reject",
    "Server",
    "Session",
    "Tempfail",
    "Transaction",
]

_PLACES = {
    "Hook": "deliveryagent.intake.hook",
    "Message": "deliveryagent.intake.message",
    "Server": "deliveryagent.intake.server",
    "Recipient": "deliveryagent.protocol.session",
    "Session": "deliveryagent.protocol.session",
    "Transaction": "deliveryagent.protocol.session",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415 - see above

    return getattr(import_module(_PLACES.get(name, "deliveryagent.mail.verdict")), name)
