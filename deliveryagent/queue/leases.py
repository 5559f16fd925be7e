"""Which agents are at work, and what becomes of what a dead one owned.

An agent registers itself with a lease and renews it while it lives. What it owns returns to everybody when
the lease is over; on an SQLite queue, whose lock proves that there is no other agent, at once.

On PostgreSQL the agent's row is the fence. Whoever takes over what a silent agent owned locks that row, frees
its destinations and slots, and deletes it, all in one transaction; an agent holds a shared lock on its own row
during every transaction that writes (``fence``). So either the old agent's outcome is committed before
somebody else reads the recipient, or it is refused. The time of the lease, by the clock of the database
alone, only says when others may do that: an agent that finds its row still there has lost nothing, however
late it comes to renew. One that was stopped in the middle of a transaction would hold its lock for as long as
it stands still: an advisory lock that goes with the fence tells which session that is, and whoever takes over
ends it.

Guarantees: a destination given back is ready as soon as something of it is due; an agent that was taken for
dead writes nothing any more. Never touches recipients.
"""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Connection,
    Double,
    bindparam,
    delete,
    func,
    insert,
    literal,
    null,
    select,
    text,
    update,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from deliveryagent.queue import news
from deliveryagent.queue.bulk import Prepared
from deliveryagent.queue.claims import next_work
from deliveryagent.queue.operation import Fenced, operation
from deliveryagent.queue.states import Member
from queue_schema.tables import agent, destination, site_share

FOREVER = 1e12
"""Until when a lease lasts on a queue that nobody else can own."""

_REGISTER_LOCK = 0x44414731  # an advisory lock: who is there does not change while it is held


class moment(FunctionElement[float]):  # noqa: N801 - reads as the SQL function it is
    """Now, by the clock of the database: seconds since the epoch."""

    inherit_cache = True
    type = Double()


@compiles(moment, "postgresql")
def _(_: moment, __: SQLCompiler, **___: object) -> str:
    return "CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS DOUBLE PRECISION)"


@compiles(moment, "sqlite")
def _(_: moment, __: SQLCompiler, **___: object) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


class Registration(msgspec.Struct, frozen=True, kw_only=True):
    """An agent begins. ``length`` is that of its lease in seconds, ``FOREVER`` on an SQLite queue."""

    agent: int
    host: str
    pid: int
    started: float
    length: float
    version: str = ""


class Renewal(msgspec.Struct, frozen=True, kw_only=True):
    """Carry a lease on for ``length`` seconds from now, and say how things stand.

    ``destinations`` it owns, recipients ``waiting`` in its memory, requests ``in_flight``.
    """

    agent: int
    length: float
    draining: bool = False
    destinations: int = 0
    waiting: int = 0
    in_flight: int = 0


class Recovery(msgspec.Struct, frozen=True):
    """Give back what dead agents own. ``alone``: there can be no other agent (SQLite under its lock)."""

    alone: bool


_until: ColumnElement[float] = moment() + bindparam("length", type_=Double())
_renew = (
    update(agent)
    .values(
        lease_until=_until,
        **{
            name: bindparam(f"its_{name}", type_=agent.c[name].type)
            for name in ("draining", "destinations", "waiting", "in_flight")
        },
    )
    .where(agent.c.id == bindparam("agent"))
)
_members = select(
    agent.c.id.label("agent"),
    *(agent.c[name] for name in ("host", "pid", "started")),
    (agent.c.lease_until - moment()).label("left"),
    *(agent.c[name] for name in Member.__struct_fields__[5:]),
).order_by(agent.c.started, agent.c.id)
_ids: BindParameter[int] = bindparam("ids", expanding=True)
_over = (
    select(agent.c.id)
    .where(agent.c.lease_until < moment())
    # A row that is locked belongs to an agent in the middle of a transaction, or somebody else buries it.
    .with_for_update(skip_locked=True)
)
_one = select(agent.c.id).where(agent.c.id == bindparam("agent")).with_for_update()
_free = (
    update(destination)
    .values(owner=null(), ready=next_work(literal(0.0)))
    .where(destination.c.owner.in_(_ids))
)
_drop_shares = delete(site_share).where(site_share.c.agent.in_(_ids))
_leave = delete(agent).where(agent.c.id.in_(_ids))
_lock = select(func.pg_advisory_xact_lock(_REGISTER_LOCK))
_others = select(func.count()).where(agent.c.id != bindparam("agent"))
_stop_sharing = update(agent).values(sharing=False).where(agent.c.id == bindparam("agent"))
_late = select(agent.c.id).where(agent.c.lease_until < moment())
_mine = Prepared(
    select(agent.c.id, func.pg_advisory_xact_lock_shared(agent.c.id))
    .where(agent.c.id == bindparam("agent"))
    .with_for_update(read=True, key_share=True)
)


_end_sessions = text(
    """
    SELECT pg_terminate_backend(held.pid) FROM pg_locks held
    JOIN pg_stat_activity session ON session.pid = held.pid AND session.usename = current_user
    WHERE held.locktype = 'advisory' AND held.granted AND held.objsubid = 1
        AND held.database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND (CAST(held.classid AS BIGINT) << 32) + CAST(held.objid AS BIGINT) = :agent
        AND held.pid <> pg_backend_pid()
    """
)


def fence(own: int) -> Callable[[Connection], None]:
    """What an agent asks first in a transaction: is it still one? Raises ``Fenced`` if not.

    Until the transaction ends nobody can take over what is the agent's. PostgreSQL only.
    """

    def ask(connection: Connection) -> None:
        if _mine.run(connection, agent=own).fetchone() is None:
            raise Fenced("the lease is lost: another agent took over")

    return ask


@operation()
def register(connection: Connection, items: Sequence[Registration]) -> list[None]:
    """Enter agents with their leases; they share sites from the beginning."""
    if connection.dialect.name == "postgresql":
        connection.execute(_lock)
    for one in items:
        row: dict[str, Any] = {"host": one.host, "pid": one.pid, "started": one.started}
        row |= {"lease_until": moment() + one.length, "version": one.version}
        if not connection.execute(
            update(agent).where(agent.c.id == one.agent).values(row)
        ).rowcount:
            connection.execute(insert(agent).values(id=one.agent, **row))
    news.tell(connection, "shares")
    return [None] * len(items)


@operation()
def renew(connection: Connection, items: Sequence[Renewal]) -> list[list[Member]]:
    """Carry leases on; who is at work now. An agent that was taken for dead is not among them."""
    for one in items:
        values = {
            f"its_{name}": getattr(one, name)
            for name in ("draining", "destinations", "waiting", "in_flight")
        }
        connection.execute(_renew, {"agent": one.agent, "length": one.length, **values})
    found = members(connection)
    return [found] * len(items)


@operation(writes=False)
def present(connection: Connection, items: Sequence[None]) -> list[list[Member]]:
    """Who is at work now."""
    return [members(connection)] * len(items)


def members(connection: Connection) -> list[Member]:
    """All agents, the oldest first."""
    return [Member(**row) for row in connection.execute(_members).mappings()]


@operation()
def go_alone(connection: Connection, items: Sequence[int]) -> list[bool]:
    """Stop sharing sites if there is no other agent: from now on the ledger tells nothing of this one."""
    if connection.dialect.name == "postgresql":
        connection.execute(_lock)
    answers = []
    for one in items:
        alone = not connection.scalar(_others, {"agent": one})
        if alone:
            connection.execute(_stop_sharing, {"agent": one})
            connection.execute(_drop_shares, {"ids": [one]})
        answers.append(alone)
    return answers


@operation(must=True)
def retire(connection: Connection, items: Sequence[int]) -> list[None]:
    """Agents end: whatever they still own is everybody's again."""
    for one in items:
        connection.execute(_one, {"agent": one})
        _bury(connection, [one])
    return [None] * len(items)


@operation()
def recover(connection: Connection, items: Sequence[Recovery]) -> list[int]:
    """Free what dead agents own; returns how many destinations that were.

    Where one stands still in the middle of a transaction, this ends the transaction, and the next call frees.
    """
    freed = []
    for one in items:
        dead = connection.scalars(select(agent.c.id) if one.alone else _over).all()
        freed.append(_bury(connection, dead))
        if connection.dialect.name == "postgresql":
            for late in connection.scalars(_late).all():
                connection.execute(_end_sessions, {"agent": late})
    return freed


def _bury(connection: Connection, ids: Sequence[int]) -> int:
    """Free what locked agents own, and forget them; returns the number of destinations freed."""
    if not ids:
        return 0
    freed = connection.execute(_free, {"ids": ids}).rowcount
    connection.execute(_drop_shares, {"ids": ids})
    connection.execute(_leave, {"ids": ids})
    news.tell(connection, "mail")
    news.tell(connection, "shares")
    return freed
