"""Orders of people."""

from collections.abc import Sequence
from typing import Literal

import msgspec
from sqlalchemy import Connection

from deliveryagent.queue.operation import operation
from deliveryagent.queue.search import Filter

Kind = Literal["retry", "hold", "release", "bounce", "delete"]


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """One step of an order: at most ``limit`` recipients behind ``after``.

    ``skip`` are the recipients whose attempt is in flight. ``note`` is kept as the text of a hold or bounce.
    """

    kind: Kind
    filter: Filter
    now: float
    skip: frozenset[tuple[int, int]] = frozenset()
    note: str = ""
    dry_run: bool = False
    after: tuple[int, int] = (0, 0)
    limit: int = 1000


class OrderResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a step did. ``next`` is where the following step begins, None when the order is done.

    ``messages`` counts those that this step was the first to touch. ``recipients`` were changed (would be,
    when dry). ``bytes`` is the size of the messages counted. ``sample`` are some queue ids. ``owing`` are
    messages that owe a report now.
    """

    messages: int
    recipients: int
    skipped_active: int
    bytes: int
    sample: tuple[int, ...]
    destinations: tuple[str, ...]
    owing: tuple[int, ...]
    next: tuple[int, int] | None


class Pause(msgspec.Struct, frozen=True, kw_only=True):
    """Pause a destination or a site. ``until`` is seconds since the epoch, ``FOREVER`` until resumed."""

    name: str
    until: float
    note: str
    by: str
    site: bool = False
    now: float = 0.0


class Resume(msgspec.Struct, frozen=True, kw_only=True):
    """End a pause."""

    name: str
    now: float
    site: bool = False


FOREVER = 1e12


@operation(cap=1)
def order(connection: Connection, items: Sequence[Order]) -> list[OrderResult]:
    raise NotImplementedError


@operation()
def pause(connection: Connection, items: Sequence[Pause]) -> list[bool]:
    raise NotImplementedError


@operation()
def resume(connection: Connection, items: Sequence[Resume]) -> list[bool]:
    raise NotImplementedError
