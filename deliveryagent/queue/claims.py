"""Claims: which destinations have work, who looks after them, and what they have waiting.

An agent takes a destination with one write and owns everything it has waiting, until it gives it back or its
lease ends. Recipients are then read in the order of their waiting lines, behind a cursor, without any write.

Guarantees: two agents never own a destination at once; a read touches no more index entries than it returns
recipients; new work at an owned destination is announced to its owner. Never decides what may be sent.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import (
    ColumnElement,
    Connection,
    ScalarSelect,
    Select,
    bindparam,
    case,
    false,
    func,
    literal_column,
    null,
    or_,
    select,
    true,
    tuple_,
    union_all,
    update,
)

from deliveryagent.queue.bulk import Bulk, Listing, Prepared, item, joined, json_rows
from deliveryagent.queue.operation import operation
from queue_schema.tables import content, destination, message, recipient

Cursor = tuple[float, int, int]
"""A place in a waiting line: (due, message id, recipient number). Fetching goes on behind it."""


class Take(msgspec.Struct, frozen=True):
    """Ask for destinations that have work now, at most ``limit``."""

    agent: int
    now: float
    limit: int


class Taken(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A destination this agent owns now, or owned already and that got new work.

    ``ready`` is the earliest due time of that work: an owner whose cursors are beyond it must go back to it
    (``rewound``). ``paused_until`` is an operator's pause (see ``orders``), None when there is none.
    """

    name: str
    ready: float
    site: str
    paused_until: float | None
    pause_note: str
    paused_by: str


class Fetch(msgspec.Struct, frozen=True):
    """Ask for due recipients of a destination behind the cursors (None: from the beginning)."""

    destination: str
    now: float
    cursor_small: Cursor | None
    cursor_bulk: Cursor | None
    limit: int


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


class Fetched(msgspec.Struct, frozen=True):
    """Due recipients, small and bulk in turn. ``exhausted``: nothing more is due now behind the new cursors."""

    recipients: list[Claimed]
    cursor_small: Cursor | None
    cursor_bulk: Cursor | None
    exhausted: bool


class Siblings(msgspec.Struct, frozen=True):
    """Ask for the due recipients of one message at the destinations that ``agent`` owns, at most ``limit``."""

    message_id: int
    now: float
    agent: int
    limit: int = 1000


class GiveBack(msgspec.Struct, frozen=True):
    """Stop owning a destination; it is not ready again before ``not_before`` (0: when something is due)."""

    destination: str
    agent: int
    not_before: float = 0.0


_FIELDS = (
    *(recipient.c[name] for name in ("message_id", "number", "address", "destination", "bulk")),
    *(recipient.c[name] for name in ("attempts", "due", "notify", "orcpt", "warned")),
    *(message.c[name] for name in ("sender", "size", "dotted", "eightbit", "utf8", "long_lines")),
    *(message.c[name] for name in ("ret", "envid", "recipient_count", "crashes", "not_before")),
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


# -- custody ---


def _mine(agent: str) -> ColumnElement[bool]:
    return or_(destination.c.owner.is_(None), destination.c.owner == bindparam(agent))


_ready = Listing(
    select(
        *(destination.c[name] for name in ("name", "ready", "site")),
        *(destination.c[name] for name in ("paused_until", "pause_note", "paused_by")),
    )
    .where(destination.c.ready <= bindparam("now"), _mine("agent"))
    .order_by(destination.c.ready)
    .limit(bindparam("limit"))
    .with_for_update(skip_locked=True),
    Taken,
)
_taken = item(destination.c.name, ("agent", destination.c.owner.type))
_take = Bulk(
    update(destination)
    .values(owner=_taken.c.agent, ready=null())
    .where(destination.c.name == _taken.c.name),
    _taken,
)
_next_ready = Prepared(
    select(destination.c.ready)
    .where(destination.c.ready.is_not(None), _mine("agent"))
    .order_by(destination.c.ready)
    .limit(1)
)


@operation()
def take(connection: Connection, items: Sequence[Take]) -> list[list[Taken]]:
    """Own destinations that have work now and that nobody else owns, those that waited longest first."""
    answers = []
    for wanted in items:
        found = _ready.run(connection, agent=wanted.agent, now=wanted.now, limit=wanted.limit)
        _take.run(connection, [(one.name, wanted.agent) for one in sorted(found, key=_by_name)])
        answers.append(found)
    return answers


def _by_name(taken: Taken) -> str:
    return taken.name


@operation(writes=False)
def next_ready(connection: Connection, items: Sequence[int]) -> list[float | None]:
    """When the next destination will have work for this agent, None when none waits."""
    return [_scalar(_next_ready.run(connection, agent=agent)) for agent in items]


def next_work(not_before: ColumnElement[float]) -> ScalarSelect[float | None]:
    """When a destination that nobody owns is ready, for use inside an UPDATE of ``destination``.

    The row's own ``ready`` counts too: it may tell of work that was committed after this statement began.
    """
    line = select(func.min(recipient.c.due).label("due")).where(
        recipient.c.destination == literal_column("destination.name"), recipient.c.due.is_not(None)
    )
    lines = union_all(
        line.where(recipient.c.bulk == false()),
        line.where(recipient.c.bulk == true()),
        select(literal_column("destination.ready")),
    ).subquery("lines")
    due = func.min(lines.c.due)
    return select(case((due < not_before, not_before), else_=due)).scalar_subquery()


_returned = item(
    destination.c.name, ("agent", destination.c.owner.type), ("not_before", recipient.c.due.type)
)
_give_back = Bulk(
    update(destination)
    .values(owner=null(), ready=next_work(literal_column("item.not_before")))
    .where(destination.c.name == _returned.c.name, destination.c.owner == _returned.c.agent),
    _returned,
)


@operation(must=True)
def give_back(connection: Connection, items: Sequence[GiveBack]) -> list[None]:
    """Let others have destinations; one that this agent does not own is left alone."""
    _give_back.run(connection, sorted((i.destination, i.agent, i.not_before) for i in items))
    return [None] * len(items)


# -- waiting lines ---

_recipients: Select[Any] = select(*_FIELDS).join(message, message.c.id == recipient.c.message_id)
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
    select(*(func.coalesce(c, 0.0).label("due") if c.key == "due" else c for c in _FIELDS))
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
    """Due recipients in the order of their lines; bulk ones get half of the room, or what is left."""
    return [_fetched(connection, wanted) for wanted in items]


def _fetched(connection: Connection, wanted: Fetch) -> Fetched:
    bulk: list[Claimed] = []
    small_at, bulk_at = wanted.cursor_small, wanted.cursor_bulk
    half = wanted.limit // 2
    if half:
        bulk, bulk_at = _read_line(connection, wanted, bulk=True, cursor=bulk_at, limit=half)
    more_bulk = len(bulk) == half
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


# -- contents ---

_wanted = item(content.c.message_id)
_first_parts = Bulk(
    select(json_rows(content.c.message_id, func.length(content.c.data)), joined(content.c.data))
    .select_from(_wanted)
    .join(content, content.c.message_id == _wanted.c.message_id)
    .where(content.c.part == 0),
    _wanted,
)
_part = Prepared(
    select(content.c.data).where(
        content.c.message_id == bindparam("message_id"), content.c.part == bindparam("part")
    )
)
_lengths = msgspec.json.Decoder(list[tuple[int, int]])


@operation(writes=False)
def contents(connection: Connection, items: Sequence[Sequence[int]]) -> list[dict[int, bytes]]:
    """The first parts of contents by queue id; a message whose content is gone is left out."""
    return [_contents(connection, ids) for ids in items]


def _contents(connection: Connection, ids: Sequence[int]) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    for lengths, data in _first_parts.answers(connection, [(one,) for one in ids]):
        listed = _lengths.decode(lengths) if lengths else []
        if len(data or b"") != sum(length for _, length in listed):
            # An SQLite that ends joined octets at the first zero octet: one by one, then.
            read = {one: _read_part(connection, one, 0) for one, _ in listed}
            found.update((one, alone) for one, alone in read.items() if alone is not None)
            continue
        start = 0
        for one, length in listed:
            found[one] = data[start : start + length]
            start += length
    return found


@operation(writes=False)
def part(connection: Connection, items: Sequence[tuple[int, int]]) -> list[bytes | None]:
    """Parts of contents by queue id and number (from 0); None where there is no such part."""
    return [_read_part(connection, message_id, number) for message_id, number in items]


def _read_part(connection: Connection, message_id: int, number: int) -> bytes | None:
    data = _scalar(_part.run(connection, message_id=message_id, part=number))
    return None if data is None else bytes(data)


def _scalar(cursor: Any) -> Any:
    row = cursor.fetchone()
    return None if row is None else row[0]
