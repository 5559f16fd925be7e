"""How the recipients of a message that share a next hop are cut into delivery requests.

Guarantees: every recipient is in exactly one request, the order is kept, no request is empty or larger than
the limit. RFC 5321 4.5.4.1 asks for few transactions, 4.5.3.1.8 for at most 100 recipients where the peer's
limit is unknown.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, TypeVar

from deliveryagent.setting import key

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class BatchSettings:
    """The size of a delivery request."""

    default_destination_recipient_limit: Annotated[
        int,
        key(
            "Most recipients of a message in one delivery, that is in one SMTP transaction.",
            postfix="default_destination_recipient_limit",
        ),
    ] = 50


def pack(recipients: Sequence[T], limit: int) -> Sequence[Sequence[T]]:
    """Cut recipients into groups of at most ``limit``; a limit below 1 counts as 1."""
    size = max(1, limit)
    if 0 < len(recipients) <= size:
        return (recipients,)
    return [recipients[start : start + size] for start in range(0, len(recipients), size)]
