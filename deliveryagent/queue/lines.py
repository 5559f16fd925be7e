"""Waiting lines: the due recipients of a destination, in order, behind a cursor.

A destination has two lines, of small and of bulk recipients, so that a message to a hundred thousand never
makes others wait for all of it. Guarantees: a read touches no more index entries than it returns recipients,
and writes nothing. Never decides what may be sent.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, Integer, Select, bindparam, func, select, true, tuple_

from deliveryagent.queue.bulk import Bulk, Listing, Row, item
from deliveryagent.queue.content import JOINED, first_parts
from deliveryagent.queue.operation import operation
from queue_schema.tables import destination, message, recipient

Cursor = tuple[float, int, int]
"""A place in a waiting line: (due, message id, recipient number). Fetching goes on behind it."""


class Fetch(msgspec.Struct, frozen=True):
    """Ask for due recipients of a destination behind the cursors (None: from the beginning).

    With them come the contents of messages of at most ``largest`` octets, ``octets`` in all. Bulk recipients
    get one part in ``bulk_share`` of the room, and what the others leave.
    """

    destination: str
    now: float
    cursor_small: Cursor | None
    cursor_bulk: Cursor | None
    limit: int
    largest: int = 0
    octets: int = 0
    bulk_share: int = 2


class Claimed(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A due recipient with what its message says."""

    message_id: int
    number: int
    address: str
    destination: str
    bulk: bool
    attempts: int
    due: float
    notify: int
    orcpt: str
    warned: int | None
    sender: str
    size: int
    dotted: bool
    eightbit: bool
    utf8: bool
    long_lines: bool
    ret: str
    envid: str
    recipient_count: int
    crashes: int
    not_before: float = 0.0
    priority: int = 0
    deliver_by: float = 0.0
    by_mode: str = ""
    require_tls: bool = False


class Fetched(msgspec.Struct, frozen=True):
    """Due recipients, small and bulk in turn. ``exhausted``: nothing more is due now behind the new cursors.

    ``contents`` has the contents that were asked for by queue id, and may have those of other answers.
    """

    recipients: list[Claimed]
    cursor_small: Cursor | None
    cursor_bulk: Cursor | None
    exhausted: bool
    contents: dict[int, bytes] = {}


class Siblings(msgspec.Struct, frozen=True):
    """Ask for the due recipients of one message at the destinations that ``agent`` owns, at most ``limit``."""

    message_id: int
    now: float
    agent: int
    limit: int = 1000


FIELDS = (
    *(recipient.c[name] for name in ("message_id", "number", "address", "destination", "bulk")),
    *(recipient.c[name] for name in ("attempts", "due", "notify", "orcpt", "warned")),
    *(message.c[name] for name in ("sender", "size", "dotted", "eightbit", "utf8", "long_lines")),
    *(message.c[name] for name in ("ret", "envid", "recipient_count", "crashes", "not_before")),
    *(message.c[name] for name in ("priority", "deliver_by", "by_mode", "require_tls")),
)
"""The fields of ``Claimed`` in order."""

_START: Cursor = (0.0, 0, 0)


def rewound(cursor: Cursor | None, ready: float) -> Cursor | None:
    """The cursor to go on with after new work due at ``ready`` came: never behind that work.

    >>> rewound((5.0, 7, 1), 4.0), rewound((5.0, 7, 1), 6.0)
    ((3.999, 0, 0), (5.0, 7, 1))
    """
    if cursor is None or ready > cursor[0]:
        return cursor
    # ``ready`` came with 15 digits: a millisecond is more than it can be off.
    return (ready - 0.001, 0, 0)


_recipients: Select[Any] = select(*FIELDS).join(message, message.c.id == recipient.c.message_id)
_line = Listing(
    _recipients.where(
        recipient.c.destination == bindparam("destination"),
        recipient.c.bulk == bindparam("bulk"),
        recipient.c.due <= bindparam("now"),
        tuple_(recipient.c.due, recipient.c.message_id, recipient.c.number)
        > tuple_(
            bindparam("due", type_=recipient.c.due.type),
            bindparam("message_id", type_=recipient.c.message_id.type),
            bindparam("number", type_=recipient.c.number.type),
        ),
    )
    .order_by(recipient.c.due, recipient.c.message_id, recipient.c.number)
    .limit(bindparam("limit")),
    Claimed,
    greatest="due",
)
_asked = item(
    ("place", Integer()),
    recipient.c.destination,
    recipient.c.bulk,
    ("now", recipient.c.due.type),
    recipient.c.due,
    recipient.c.message_id,
    recipient.c.number,
    ("most", Integer()),
)
_each = (
    _recipients.where(
        recipient.c.destination == _asked.c.destination,
        recipient.c.bulk == _asked.c.bulk,
        recipient.c.due <= _asked.c.now,
        tuple_(recipient.c.due, recipient.c.message_id, recipient.c.number)
        > tuple_(_asked.c.due, _asked.c.message_id, _asked.c.number),
    )
    .order_by(recipient.c.due, recipient.c.message_id, recipient.c.number)
    .limit(_asked.c.most)
    .lateral("line")
)
_each_line = Bulk(
    select(*_each.c, _asked.c.place).select_from(_asked.join(_each, true())),
    _asked,
)
_siblings = Listing(
    _recipients.join(destination, destination.c.name == recipient.c.destination)
    .where(
        recipient.c.message_id == bindparam("message_id"),
        recipient.c.due <= bindparam("now"),
        destination.c.owner == bindparam("agent"),
    )
    .order_by(recipient.c.number)
    .limit(bindparam("limit")),
    Claimed,
)
_recalled = Listing(
    select(*(func.coalesce(c, 0.0).label("due") if c.key == "due" else c for c in FIELDS))
    .join(message, message.c.id == recipient.c.message_id)
    .where(
        recipient.c.message_id == bindparam("message_id"),
        recipient.c.number == bindparam("number"),
        recipient.c.finished.is_(None),
    ),
    Claimed,
)


@operation(writes=False)
def fetch(connection: Connection, items: Sequence[Fetch]) -> list[Fetched]:
    """Due recipients in the order of their lines; bulk ones get their share, or what is left."""
    if connection.dialect.name == "postgresql":
        pages = _fetched_at_once(connection, items)
    else:
        pages = [_fetched(connection, wanted) for wanted in items]
    sizes: dict[int, int] = {}
    for wanted, page in zip(items, pages, strict=True):
        sizes |= _small(wanted, page)
    if not sizes:
        return pages
    small = sorted(one for one, size in sizes.items() if size <= JOINED)
    large = sorted(one for one, size in sizes.items() if size > JOINED)
    contents = first_parts(connection, small, apart=large)
    return [msgspec.structs.replace(page, contents=contents) for page in pages]


def _small(wanted: Fetch, page: Fetched) -> dict[int, int]:
    """The messages whose contents come along, with their sizes."""
    chosen: dict[int, int] = {}
    room = wanted.octets
    for one in page.recipients:
        if one.size <= wanted.largest and one.size <= room and one.message_id not in chosen:
            chosen[one.message_id] = one.size
            room -= one.size
    return chosen


def _fetched(connection: Connection, wanted: Fetch) -> Fetched:
    bulk: list[Claimed] = []
    small_at, bulk_at = wanted.cursor_small, wanted.cursor_bulk
    share = wanted.limit // wanted.bulk_share
    if share:
        bulk, bulk_at = _read_line(connection, wanted, bulk=True, cursor=bulk_at, limit=share)
    more_bulk = len(bulk) == share
    room = wanted.limit - len(bulk)
    small, small_at = _read_line(connection, wanted, bulk=False, cursor=small_at, limit=room)
    room -= len(small)
    if more_bulk and room:
        rest, bulk_at = _read_line(connection, wanted, bulk=True, cursor=bulk_at, limit=room)
        bulk += rest
        more_bulk = len(rest) == room
    exhausted = room > 0 and not more_bulk
    return Fetched(_in_turn(small, bulk), small_at, bulk_at, exhausted)


_CURSOR = ("due", "message_id", "number")


def _read_line(
    connection: Connection, wanted: Fetch, *, bulk: bool, cursor: Cursor | None, limit: int
) -> tuple[list[Claimed], Cursor | None]:
    found, last_due = _line.with_greatest(
        connection,
        destination=wanted.destination,
        bulk=bulk,
        now=wanted.now,
        limit=limit,
        **dict(zip(_CURSOR, cursor or _START, strict=True)),
    )
    if not found:
        return found, cursor
    return found, (last_due, found[-1].message_id, found[-1].number)


def _fetched_at_once(connection: Connection, items: Sequence[Fetch]) -> list[Fetched]:
    """Both lines of every destination with one statement: a server's answer costs more than its rows."""
    asked: list[Row] = []
    for place, wanted in enumerate(items):
        name, now, most = wanted.destination, wanted.now, wanted.limit
        asked.append((2 * place, name, False, now, *(wanted.cursor_small or _START), most))
        asked.append((2 * place + 1, name, True, now, *(wanted.cursor_bulk or _START), most))
    lines: list[list[Any]] = [[] for _ in asked]
    for row in _each_line.answers(connection, asked):
        lines[row[-1]].append(row)
    return [
        _shared_out(wanted, *(msgspec.convert(line, list[Claimed]) for line in both))
        for wanted, *both in zip(items, lines[::2], lines[1::2], strict=True)
    ]


def _shared_out(wanted: Fetch, small: list[Claimed], bulk: list[Claimed]) -> Fetched:
    """Their share of the room for bulk recipients, the rest for small ones, and each what the other leaves."""
    share = min(len(bulk), wanted.limit // wanted.bulk_share)
    small = small[: wanted.limit - share]
    bulk = bulk[: wanted.limit - len(small)]
    return Fetched(
        _in_turn(small, bulk),
        _place(small[-1]) if small else wanted.cursor_small,
        _place(bulk[-1]) if bulk else wanted.cursor_bulk,
        exhausted=len(small) + len(bulk) < wanted.limit,
    )


def _place(one: Claimed) -> Cursor:
    return (one.due, one.message_id, one.number)


def _in_turn(small: list[Claimed], bulk: list[Claimed]) -> list[Claimed]:
    if not bulk:
        return small
    both = min(len(small), len(bulk))
    mixed = [one for pair in zip(small[:both], bulk[:both], strict=True) for one in pair]
    return mixed + small[both:] + bulk[both:]


@operation(writes=False)
def siblings(connection: Connection, items: Sequence[Siblings]) -> list[list[Claimed]]:
    """The due recipients of messages at the destinations an agent owns, in the order of the envelope."""
    return [
        _siblings.run(connection, message_id=i.message_id, now=i.now, agent=i.agent, limit=i.limit)
        for i in items
    ]


def recalled(connection: Connection, message_id: int, number: int) -> Claimed | None:
    """One recipient as long as it lives, due or not."""
    found = _recalled.run(connection, message_id=message_id, number=number)
    return found[0] if found else None
