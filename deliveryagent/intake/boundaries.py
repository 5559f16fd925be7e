"""What makes a message of several parts the same octets when a program builds it again.

The ``email`` package draws a boundary at random whenever it writes such a message, so a second try with the
same key would be another message to the queue. Guarantees: boundaries that follow from the key alone, and are
no line of anybody's text. Those that are there already are left alone.
"""

from email.message import Message
from hashlib import sha256
from typing import Any

__all__ = ["settle_boundaries"]


def settle_boundaries(message: "Message[Any, Any]", key: str) -> None:
    """Give every part that lacks one its boundary.

    >>> from email.mime.multipart import MIMEMultipart
    >>> one, other = MIMEMultipart(), MIMEMultipart()
    >>> settle_boundaries(one, "order-4711"), settle_boundaries(other, "order-4711")
    (None, None)
    >>> one.as_bytes() == other.as_bytes()
    True
    """
    for number, part in enumerate(message.walk()):
        if part.get_content_maintype() == "multipart" and part.get_boundary() is None:
            digest = sha256(f"{number} {key}".encode(errors="surrogateescape")).hexdigest()
            part.set_boundary(f"=_{digest[:40]}")
