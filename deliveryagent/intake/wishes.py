"""What an application may say of a message it hands over, and how it may hold its content.

Types only; what is done with them stands in :mod:`deliveryagent.intake.outgoing`. Never imported by
what must start fast.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Protocol, TypedDict


class Readable(Protocol):
    """A binary file that can be read again from where it stands."""

    def read(self, size: int = ..., /) -> bytes: ...
    def seek(self, offset: int, /) -> int: ...
    def tell(self) -> int: ...


class Wishes(TypedDict, total=False):
    """What may be said of a message besides sender, recipients and content.

    ``key``: sent again with the same key, sender, recipients and content, it is the same message.
    ``at``: not before this moment (an aware ``datetime``, or seconds since the epoch). ``tags``:
    names and values that are kept with it. ``dsn``: the reports wanted, ``"never"`` or some of
    ``success``, ``failure``, ``delay``; ``ret``: what a report returns, ``"full"`` or ``"hdrs"``;
    ``envid``: an identifier for reports. ``hold``: keep it until it is released. ``from_headers``:
    take recipients from To, Cc and Bcc as well. ``full_name``: the sender's, for a From field that has to
    be added. ``priority``: from -9 to 9, a higher one is sent earlier (RFC 6710). ``deliver_by``: the
    moment by which it is to be delivered; ``by_mode``: what becomes of it then, ``"notify"`` (its
    sender is told once, and delivery goes on) or ``"return"`` (RFC 2852). ``require_tls``: only by
    way of hosts that promise protected transport (RFC 8689).
    """

    key: str | None
    at: datetime | float | None
    tags: Mapping[str, str] | None
    dsn: str | Iterable[str] | None
    ret: str | None
    envid: str | None
    hold: bool
    from_headers: bool
    full_name: str
    priority: int
    deliver_by: datetime | float | None
    by_mode: str | None
    require_tls: bool
