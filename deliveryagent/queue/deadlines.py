"""Messages that were to be delivered by a time which is over (RFC 2852): whom that concerns still.

The table ``deadline`` has a row for each message with such a time, from its arrival until the time is over and
what it asks for is done. What is done is ``overdue.expire`` and ``overdue.warn``. Guarantees: asking costs what
is late, not what the queue or its history holds; a row goes only when nothing it stands for is left to do, so
nothing is forgotten by a crash in between. Never decides what becomes of a recipient.
"""

from collections.abc import Sequence

import msgspec
from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    bindparam,
    delete,
    literal,
    or_,
    select,
    tuple_,
)

from deliveryagent.mail.envelope import Notify
from deliveryagent.queue.operation import operation
from queue_schema.tables import deadline, message, recipient

Place = tuple[float, int, int]
"""A time, a message and the number of its recipient, in the order in which they are looked at."""

_MOST_CLEARED = 1000


class Late(msgspec.Struct, frozen=True):
    """Ask for waiting recipients whose time was over at ``now``, in order, behind ``after``."""

    now: float
    after: Place = (0.0, 0, 0)
    limit: int = 500


class LateRecipient(msgspec.Struct, frozen=True):
    """A waiting recipient whose time is over; in mode ``N`` one whose sender is to be told."""

    at: float
    message_id: int
    number: int
    destination: str
    notify: int
    sender: str
    by_mode: str
    not_before: float

    @property
    def place(self) -> Place:
        """Where to go on behind it."""
        return self.at, self.message_id, self.number


_returns: ColumnElement[bool] = message.c.by_mode.in_(("R", "RT"))
_to_be_told = and_(
    recipient.c.warned.is_(None),
    recipient.c.owed == "",
    message.c.sender != "",
    or_(
        recipient.c.notify == Notify.DEFAULT.value,
        recipient.c.notify.op("&")(Notify.DELAY.value) != 0,
    ),
)
_late = (
    select(
        deadline.c.at,
        *(recipient.c[name] for name in ("message_id", "number", "destination", "notify")),
        *(message.c[name] for name in ("sender", "by_mode", "not_before")),
    )
    .select_from(deadline)
    .join(message, message.c.id == deadline.c.message_id)
    .join(recipient, recipient.c.message_id == deadline.c.message_id)
    .where(
        deadline.c.at <= bindparam("now"),
        recipient.c.due.is_not(None),
        or_(_returns, _to_be_told),
        tuple_(deadline.c.at, recipient.c.message_id, recipient.c.number)
        > tuple_(
            bindparam("after_time", type_=deadline.c.at.type),
            bindparam("after_id", type_=recipient.c.message_id.type),
            bindparam("after_number", type_=recipient.c.number.type),
        ),
    )
    .order_by(deadline.c.at, recipient.c.message_id, recipient.c.number)
    .limit(bindparam("limit"))
)
_concerned = (
    select(literal(1))
    .select_from(recipient)
    .join(message, message.c.id == recipient.c.message_id)
    .where(
        recipient.c.message_id == deadline.c.message_id,
        recipient.c.finished.is_(None),
        or_(_returns, _to_be_told),
    )
    .correlate(deadline)
    .exists()
)
_key = tuple_(deadline.c.at, deadline.c.message_id)
_clear = delete(deadline).where(
    _key.in_(
        select(deadline.c.at, deadline.c.message_id)
        .where(deadline.c.at <= bindparam("now"), ~_concerned)
        .limit(_MOST_CLEARED)
    )
)


@operation(writes=False)
def late(connection: Connection, items: Sequence[Late]) -> list[list[LateRecipient]]:
    """Those whom a time that is over concerns still, the earliest first."""
    answers = []
    for one in items:
        at, message_id, number = one.after
        place = {"after_time": at, "after_id": message_id, "after_number": number}
        rows = connection.execute(_late, {"now": one.now, "limit": one.limit, **place})
        answers.append([LateRecipient(*row) for row in rows])
    return answers


@operation()
def clear(connection: Connection, items: Sequence[float]) -> list[int]:
    """Forget times that are over by each moment and concern nobody any more; how many."""
    return [connection.execute(_clear, {"now": now}).rowcount for now in items]
