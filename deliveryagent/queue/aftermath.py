"""After a crash, and before an end: recipients looked up again, suspects cleared, last attempts made due."""

from collections.abc import Sequence

import msgspec
from sqlalchemy import Connection, bindparam, case, update

from deliveryagent.queue.claims import Claimed, recalled
from deliveryagent.queue.operation import operation
from queue_schema.tables import destination, message, recipient


class LastAttempt(msgspec.Struct, frozen=True):
    """Make one sleeping recipient due at ``now``, because its time is over."""

    message_id: int
    number: int
    destination: str
    now: float


_DUE = (
    update(recipient)
    .where(
        recipient.c.message_id == bindparam("b_id"),
        recipient.c.number == bindparam("b_number"),
        recipient.c.due > bindparam("b_now"),
    )
    .values(due=bindparam("b_now"))
)
_READY = (
    update(destination)
    .where(destination.c.name == bindparam("b_name"))
    .values(
        ready=case(
            (destination.c.ready < bindparam("b_now"), destination.c.ready),
            else_=bindparam("b_now"),
        )
    )
)
_ABSOLVE = update(message).where(message.c.id == bindparam("b_id")).values(crashes=0)


@operation()
def make_due(connection: Connection, items: Sequence[LastAttempt]) -> list[None]:
    """Make recipients due now, each for a last attempt before it expires."""
    connection.execute(
        _DUE, [{"b_id": i.message_id, "b_number": i.number, "b_now": i.now} for i in items]
    )
    names = {i.destination: i.now for i in items}
    connection.execute(_READY, [{"b_name": name, "b_now": now} for name, now in names.items()])
    return [None] * len(items)


@operation()
def absolve(connection: Connection, items: Sequence[int]) -> list[None]:
    """An attempt ended properly: the message no longer counts as a suspect."""
    connection.execute(_ABSOLVE, [{"b_id": queue_id} for queue_id in items])
    return [None] * len(items)


@operation(writes=False)
def recall(connection: Connection, items: Sequence[tuple[int, int]]) -> list[Claimed | None]:
    """The recipients with these message ids and numbers, as long as they live."""
    return [recalled(connection, message_id, number) for message_id, number in items]


@operation(must=True)
def barrier(_: Connection, items: Sequence[None]) -> list[None]:
    """Changes nothing; it is done once everything handed in before it is recorded."""
    return [None] * len(items)
