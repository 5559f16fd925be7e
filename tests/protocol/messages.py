"""Messages and peers that tests of the conversation talk about."""

from typing import Any

from deliveryagent.mail.delivery import DeliveryRequest, RequestRecipient
from deliveryagent.protocol.capabilities import Capabilities

PLAIN = Capabilities(name="plain.example")
"""A peer that offers nothing."""

ALL = Capabilities(
    name="all.example",
    pipelining=True,
    size=True,
    eightbitmime=True,
    smtputf8=True,
    dsn=True,
)
"""A peer that offers everything."""


def recipients(count: int = 1) -> tuple[RequestRecipient, ...]:
    """Recipients 0, 1, 2 …"""
    return tuple(RequestRecipient(number, f"r{number}@example.net", 1) for number in range(count))


def message(**facts: Any) -> DeliveryRequest:
    """A request for one small plain message."""
    usual: dict[str, Any] = {
        "serial": 1,
        "queue_id": 1,
        "sender": "a@example.org",
        "recipients": recipients(),
        "domain": "example.net",
        "next_hop": "example.net",
        "route": -1,
        "size": 100,
        "dotted": False,
        "eightbit": False,
        "utf8": False,
        "long_lines": False,
        "ret": "",
        "envid": "",
        "arrival": 0.0,
        "due": 0.0,
        "content": None,
    }
    return DeliveryRequest(**{**usual, **facts})
