"""Claims: which destinations have work, who looks after them, and what they have waiting.

An agent takes a destination with one write and owns everything it has waiting, until it gives it back or its
lease ends. Recipients are then read in the order of their waiting lines (``lines``), without any write.

Guarantees: two agents never own a destination at once; new work at an owned destination is announced to its
owner. Never decides what may be sent.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import (
    ColumnElement,
    Connection,
    ScalarSelect,
    bindparam,
    case,
    false,
    func,
    literal_column,
    null,
    or_,
    select,
    true,
    union_all,
    update,
)

from deliveryagent.queue import inflow, news
from deliveryagent.queue.bulk import Bulk, Listing, Prepared, item
from deliveryagent.queue.content import contents, part
from deliveryagent.queue.lines import (
    Claimed,
    Cursor,
    Fetch,
    Fetched,
    Siblings,
    fetch,
    recalled,
    rewound,
    siblings,
)
from deliveryagent.queue.operation import operation
from queue_schema.tables import destination, recipient

__all__ = [
    "Claimed",
    "Cursor",
    "Fetch",
    "Fetched",
    "GiveBack",
    "Holding",
    "Siblings",
    "Take",
    "TakeUp",
    "Taken",
    "contents",
    "disown",
    "fetch",
    "give_back",
    "next_ready",
    "next_work",
    "part",
    "recalled",
    "rewound",
    "siblings",
    "take",
    "take_up",
]


class Take(msgspec.Struct, frozen=True):
    """Ask for destinations that have work now, at most ``limit``.

    ``absorb``: also those that only got it from an application's transaction (``queue.inflow``).
    """

    agent: int
    now: float
    limit: int
    absorb: bool = True


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


class TakeUp(msgspec.Struct, frozen=True):
    """Ask for these destinations, as far as they have work now, with the first of what they have waiting.

    ``limit``, ``largest`` and ``octets`` are those of a :class:`Fetch` for each.
    """

    agent: int
    now: float
    names: tuple[str, ...]
    limit: int
    largest: int
    octets: int


class Holding(msgspec.Struct, frozen=True):
    """What an agent knows that it owns: the names of destinations."""

    agent: int
    names: tuple[str, ...]


class GiveBack(msgspec.Struct, frozen=True):
    """Stop owning a destination; it is not ready again before ``not_before`` (0: when something is due).

    ``offered``: there is work now, and other agents are told.
    """

    destination: str
    agent: int
    not_before: float = 0.0
    offered: bool = False


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
    if any(wanted.absorb for wanted in items):
        inflow.absorb(connection, {wanted.agent for wanted in items})
    answers = []
    for wanted in items:
        found = _ready.run(connection, agent=wanted.agent, now=wanted.now, limit=wanted.limit)
        _take.run(connection, [(one.name, wanted.agent) for one in sorted(found, key=_by_name)])
        answers.append(found)
    return answers


def _by_name(taken: Taken) -> str:
    return taken.name


_wanted = item(destination.c.name, ("now", recipient.c.due.type))
_free = Bulk(
    select(destination.c.name)
    .select_from(_wanted)
    .join(destination, destination.c.name == _wanted.c.name)
    .where(
        destination.c.owner.is_(None),
        or_(destination.c.paused_until.is_(None), destination.c.paused_until <= _wanted.c.now),
        destination.c.ready <= _wanted.c.now,
    )
    .order_by(destination.c.name)
    .with_for_update(of=destination, skip_locked=True),
    _wanted,
)


@operation(reports=True)
def take_up(connection: Connection, items: Sequence[TakeUp]) -> list[dict[str, Fetched]]:
    """Own destinations that nobody owns and read their lines, in the transaction that brought them work.

    What is paused or somebody's is left out: ``take`` will say so.
    """
    answers = []
    for wanted in items:
        rows = _free.answers(connection, [(name, wanted.now) for name in sorted(wanted.names)])
        names = sorted(name for (name,) in rows)
        _take.run(connection, [(name, wanted.agent) for name in names])
        orders = [
            Fetch(name, wanted.now, None, None, wanted.limit, wanted.largest, wanted.octets)
            for name in names
        ]
        answers.append(dict(zip(names, fetch(connection, orders), strict=True)))
    return answers


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


_unknown = (
    update(destination)
    .values(owner=null(), ready=next_work(literal_column("0.0")))
    .where(
        destination.c.owner == bindparam("agent"),
        destination.c.name.not_in(bindparam("names", expanding=True)),
    )
)


@operation(must=True)
def disown(connection: Connection, items: Sequence[Holding]) -> list[int]:
    """Free what agents own in the store without knowing it; returns how many destinations that were.

    So it is when the answer to ``take`` was lost with the connection after its commit.
    """
    return [
        connection.execute(_unknown, {"agent": i.agent, "names": i.names}).rowcount for i in items
    ]


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
    if any(one.offered for one in items):
        news.tell(connection, "mail")
    return [None] * len(items)


def _scalar(cursor: Any) -> Any:
    row = cursor.fetchone()
    return None if row is None else row[0]
