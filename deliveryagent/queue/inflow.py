"""Mail that applications enqueue inside their own transactions: the agents' side of it (PostgreSQL only).

The SQL functions (``queue_schema.functions``) write messages and recipients like every other door. They do not
touch ``destination``: its rows are shared, and an application may keep its transaction open for a long time.
Instead each transaction leaves a row per destination in ``deliveryagent.arrival``, which agents carry on in
``absorb``. News of its own (``inflow``) tells them to; since news can be lost, they also look at their start
and every few seconds. What the functions must know of the configuration, agents write down at their start
(``note_terms``): with agents of different settings, those of the last start or reload hold.

Guarantees: nobody waits for an application's transaction; what is carried on is not lost by a failure, and the
owner of a destination hears of it; where nobody enqueues by SQL, claims do not pay for it. On SQLite, whose
queue has no other writer, all of this does nothing.
"""

from collections.abc import Collection, Sequence

import msgspec
from sqlalchemy import Connection, column, table, text

from deliveryagent.queue import news
from deliveryagent.queue.bulk import Prepared
from deliveryagent.queue.operation import operation

arrival = table("arrival", column("destination"), column("due"), schema="deliveryagent")
"""Destinations that got work from a transaction, and when it is due; null for work that is held."""

# Locked rows are another agent's at this moment. In the same order as everybody, against deadlocks.
_absorb = Prepared(
    text(
        """
        WITH gone AS (
            DELETE FROM deliveryagent.arrival WHERE ctid = ANY (ARRAY(
                SELECT ctid FROM deliveryagent.arrival FOR UPDATE SKIP LOCKED
            )) RETURNING destination, due
        )
        INSERT INTO destination (name, ready)
        SELECT destination, min(due) FROM gone GROUP BY destination ORDER BY destination
        ON CONFLICT (name) DO UPDATE SET ready = excluded.ready
        WHERE destination.ready > excluded.ready
            OR destination.ready IS NULL AND excluded.ready IS NOT NULL
        RETURNING owner
        """
    )
)
_note_terms = Prepared(
    text(
        """
        INSERT INTO deliveryagent.terms VALUES (
            true, :hostname, :message_size_limit, :recipient_limit, :header_size_limit,
            :hopcount_limit, :bulk_after, extract(epoch FROM clock_timestamp())
        )
        ON CONFLICT (one) DO UPDATE SET
            hostname = excluded.hostname, message_size_limit = excluded.message_size_limit,
            recipient_limit = excluded.recipient_limit,
            header_size_limit = excluded.header_size_limit,
            hopcount_limit = excluded.hopcount_limit, bulk_after = excluded.bulk_after,
            updated = excluded.updated
        """
    )
)
_MARKS = 1024  # agents and programs that write directly have as many each


class Conditions(msgspec.Struct, frozen=True):
    """What every message is judged and stamped by: this host's name and the limits of ``[queue]``.

    The meaning of the fields is that of ``protocol.arrival.LimitSettings`` and ``Submission.bulk_after``.
    """

    hostname: str
    message_size_limit: int
    recipient_limit: int
    header_size_limit: int
    hopcount_limit: int
    bulk_after: int


def absorb(connection: Connection, agents: Collection[int] = ()) -> None:
    """Make destinations ready that got work from applications' transactions, on behalf of ``agents``.

    Others that own one of them may have looked too early, while our transaction had it: they are told.
    """
    if connection.dialect.name == "postgresql":
        owners = {owner for (owner,) in _absorb.run(connection).fetchall()}
        if owners.difference([None, *agents]):
            news.tell(connection, "mail")


@operation()
def note_terms(connection: Connection, items: Sequence[Conditions]) -> list[None]:
    """Write down what the SQL functions go by; the last one holds."""
    if connection.dialect.name == "postgresql":
        _note_terms.run(connection, **msgspec.structs.asdict(items[-1]))
    return [None] * len(items)


@operation()
def agent_mark(connection: Connection, items: Sequence[None]) -> list[int | None]:
    """A mark for the queue ids of an agent, None where it needs none (``queue.ids``)."""
    return [_mark(connection, "agent_mark", _MARKS) for _ in items]


@operation()
def listener_mark(connection: Connection, items: Sequence[None]) -> list[int | None]:
    """A mark for the queue ids of a listener process: on SQLite None, where its agent deals them out."""
    return [direct_mark(connection) for _ in items]


def direct_mark(connection: Connection) -> int | None:
    """A mark for the queue ids of a program that writes to the queue itself."""
    return _mark(connection, "direct_mark", 0)


def _mark(connection: Connection, sequence: str, first: int) -> int | None:
    if connection.dialect.name != "postgresql":
        return None
    number = connection.scalar(text(f"SELECT nextval('deliveryagent.{sequence}')"))
    return first + int(number or 0) % _MARKS
