"""Asking the owners of destinations to let go, before somebody else changes what waits there.

Several agents only. Who is about to hold, delete or bounce recipients, or pauses a destination, must not do so
behind the back of an agent that has them in memory, or in flight. It writes down which destinations it needs;
their owners, told by the news ``orders``, drop what they have in memory and give each destination back as soon
as nothing of it is in flight, to rest for ``REST`` seconds. What nobody owns is then changed in peace.

Guarantees: a destination that was recalled is taken up again by itself after the rest, whatever becomes of who
asked; a recall that nobody answered is forgotten. Never touches recipients.
"""

from collections.abc import Iterable, Sequence

import msgspec
from sqlalchemy import Connection, Double, bindparam, delete, literal, select, update

from deliveryagent.queue import news
from deliveryagent.queue.bulk import Bulk, insertion, item
from deliveryagent.queue.claims import next_work
from deliveryagent.queue.leases import moment
from deliveryagent.queue.operation import operation
from queue_schema.tables import destination, recall

REST = 10.0
"""Seconds a recalled destination is left alone by everybody, unless who asked ends it before."""

_VALID = REST + 5.0  # seconds after which a recall is stale


class Recalled(msgspec.Struct, frozen=True):
    """A destination its owner is to let go of; not to be taken up before ``not_before``."""

    name: str
    not_before: float


_ask = insertion(
    recall,
    *("name", "asked"),
    ending="ON CONFLICT (name) DO UPDATE SET asked = excluded.asked",
)
_now = select(moment())
_asked = (
    select(destination.c.name, destination.c.paused_until)
    .join(recall, recall.c.name == destination.c.name)
    .where(
        destination.c.owner == bindparam("agent"),
        recall.c.asked > moment() - literal(_VALID, Double()),
    )
)
_name = item(recall.c.name)
_forget = Bulk(delete(recall).where(recall.c.name.in_(select(_name.c.name))), _name)
_stale = delete(recall).where(recall.c.asked < moment() - literal(_VALID, Double()))
_wake = Bulk(
    update(destination)
    .values(ready=next_work(literal(0.0)))
    .where(destination.c.name == _name.c.name, destination.c.owner.is_(None)),
    _name,
)
_owners = Bulk(
    select(destination.c.name, destination.c.owner)
    .select_from(_name)
    .join(destination, destination.c.name == _name.c.name)
    .order_by(destination.c.name)
    .with_for_update(of=destination),
    _name,
)


def foreign(connection: Connection, names: Iterable[str], agent: int) -> set[str]:
    """Those of the destinations that other agents than ``agent`` own (0: any agent).

    Nobody takes up one of the others before the transaction ends. On an SQLite queue there is no other.
    """
    if connection.dialect.name != "postgresql":
        return set()
    rows = _owners.answers(connection, [(name,) for name in sorted(names)])
    return {name for name, owner in rows if owner not in (None, agent)}


@operation()
def ask(connection: Connection, items: Sequence[Sequence[str]]) -> list[None]:
    """Ask the owners of destinations to let go of them."""
    now = connection.scalar(_now)
    names = sorted({name for one in items for name in one})
    _ask.run(connection, [(name, now) for name in names])
    news.tell(connection, "orders")
    return [None] * len(items)


@operation(writes=False)
def asked(connection: Connection, items: Sequence[int]) -> list[list[Recalled]]:
    """What each agent owns and is asked to let go of."""
    answers = []
    for one in items:
        now = connection.scalar(_now) or 0.0
        rows = connection.execute(_asked, {"agent": one}).all()
        answers.append([Recalled(name, max(now + REST, paused or 0.0)) for name, paused in rows])
    return answers


def forget(connection: Connection, names: Iterable[str]) -> None:
    """Nobody needs these destinations any more; their owners keep them."""
    _forget.run(connection, [(name,) for name in sorted(names)])


@operation()
def end(connection: Connection, items: Sequence[Sequence[str]]) -> list[None]:
    """What was asked for is done: the destinations may be taken up again. Stale recalls go as well."""
    names = sorted({name for one in items for name in one})
    forget(connection, names)
    _wake.run(connection, [(name,) for name in names])
    connection.execute(_stale)
    news.tell(connection, "mail")
    return [None] * len(items)
