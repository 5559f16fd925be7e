"""Which agents are at work, and what becomes of what a dead one owned.

An agent registers itself with a lease and renews it while it lives. What it owns returns to everybody when
the lease is over; on an SQLite queue, whose lock proves that there is no other agent, at once.

Guarantees: a destination given back is ready as soon as something of it is due. Never touches recipients.
"""

from collections.abc import Sequence

import msgspec
from sqlalchemy import Connection, bindparam, delete, literal, null, or_, select, update

from deliveryagent.queue.bulk import Bulk, insertion, item
from deliveryagent.queue.claims import next_work
from deliveryagent.queue.operation import operation
from queue_schema.tables import agent, destination


class Lease(msgspec.Struct, frozen=True):
    """An agent at work: who and where it is, and until when its claims are good (seconds since the epoch)."""

    agent: int
    host: str
    pid: int
    started: float
    until: float


class Renewal(msgspec.Struct, frozen=True):
    """Carry a lease on until a later moment."""

    agent: int
    until: float


class Recovery(msgspec.Struct, frozen=True):
    """Give back what dead agents own. ``alone``: there can be no other agent (SQLite under its lock)."""

    now: float
    alone: bool


_register = insertion(
    agent,
    *("id", "host", "pid", "started", "lease_until"),
    ending="ON CONFLICT (id) DO UPDATE SET lease_until = excluded.lease_until",
)
_renewal = item(agent.c.id, agent.c.lease_until)
_renew = Bulk(
    update(agent).values(lease_until=_renewal.c.lease_until).where(agent.c.id == _renewal.c.id),
    _renewal,
)
_free = update(destination).values(owner=null(), ready=next_work(literal(0.0)))
_over = or_(agent.c.lease_until < bindparam("now"), bindparam("alone"))
_dead = select(agent.c.id).where(_over)
_free_dead = _free.where(destination.c.owner.in_(_dead))
_bury = delete(agent).where(_over)
_free_own = _free.where(destination.c.owner == bindparam("agent"))
_leave = delete(agent).where(agent.c.id == bindparam("agent"))


@operation()
def register(connection: Connection, items: Sequence[Lease]) -> list[None]:
    """Enter agents with their leases."""
    _register.run(connection, [(i.agent, i.host, i.pid, i.started, i.until) for i in items])
    return [None] * len(items)


@operation(must=True)
def renew(connection: Connection, items: Sequence[Renewal]) -> list[bool]:
    """Carry leases on; False for an agent that was taken for dead and must register again."""
    return [_renew.run(connection, [(i.agent, i.until)]) == 1 for i in items]


@operation(must=True)
def retire(connection: Connection, items: Sequence[int]) -> list[None]:
    """Agents end: whatever they still own is everybody's again."""
    for one in items:
        connection.execute(_free_own, {"agent": one})
        connection.execute(_leave, {"agent": one})
    return [None] * len(items)


@operation()
def recover(connection: Connection, items: Sequence[Recovery]) -> list[int]:
    """Free what dead agents own; returns how many destinations that were."""
    freed = []
    for one in items:
        values = {"now": one.now, "alone": one.alone}
        freed.append(connection.execute(_free_dead, values).rowcount)
        connection.execute(_bury, values)
    return freed
