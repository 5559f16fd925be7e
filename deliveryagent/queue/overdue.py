"""Recipients that have waited for too long: which they are, their end, the warning to their sender.

Guarantees: only what waits is ended or warned of, whatever was decided on in between; what another agent owns
is left to that one. Never decides who is due for it: that is ``policy.retry`` and ``policy.notices``.
"""

from collections.abc import Sequence

import msgspec
from sqlalchemy import Connection, bindparam, case, null, select, tuple_, update

from deliveryagent.queue import recalls
from deliveryagent.queue.bulk import Bulk, Listing, item, rows_of
from deliveryagent.queue.operation import operation
from deliveryagent.queue.outcomes import drop_content
from queue_schema.tables import message, recipient


class Expiry(msgspec.Struct, frozen=True, kw_only=True):
    """A recipient whose time is over while it waits.

    The last answer stays as it is; when there was none, ``enhanced`` and ``text`` say why. ``agent`` is who
    says so: what another one owns at ``destination`` is left to that one.
    """

    message_id: int
    number: int
    now: float
    owed: str
    destination: str
    agent: int = 0
    enhanced: str = "4.4.7"
    text: str = ""


class Warning_(msgspec.Struct, frozen=True):  # noqa: N801 - Warning is Python's
    """A delay report becomes due for a waiting recipient."""

    message_id: int
    number: int


class Aged(msgspec.Struct, frozen=True):
    """Ask for live recipients of messages with ids below ``before``, in order, behind ``after``.

    ``unwarned``: only those that still may get a delay warning (none sent, none owed).
    """

    before: int
    after: tuple[int, int] = (0, 0)
    limit: int = 1000
    unwarned: bool = False


class AgedRecipient(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A live recipient with what expiry and warning depend on."""

    message_id: int
    number: int
    status: str
    destination: str
    notify: int
    attempts: int
    sender: str
    address: str
    not_before: float = 0.0
    deliver_by: float = 0.0
    by_mode: str = ""


_expiry = item(
    recipient.c.message_id,
    recipient.c.number,
    recipient.c.updated,
    recipient.c.owed,
    recipient.c.enhanced,
    recipient.c.note,
)
_expire = Bulk(
    update(recipient)
    .values(
        status="expired",
        due=null(),
        updated=_expiry.c.updated,
        finished=_expiry.c.updated,
        owed=_expiry.c.owed,
        enhanced=case((recipient.c.attempts == 0, _expiry.c.enhanced), else_=""),
        note=case((recipient.c.attempts == 0, _expiry.c.note), else_=""),
    )
    .where(
        recipient.c.message_id == _expiry.c.message_id,
        recipient.c.number == _expiry.c.number,
        recipient.c.due.is_not(None),
    ),
    _expiry,
)
_debt = item(recipient.c.message_id, recipient.c.number)
_warn = Bulk(
    update(recipient)
    .values(owed="delay")
    .where(
        recipient.c.message_id == _debt.c.message_id,
        recipient.c.number == _debt.c.number,
        recipient.c.due.is_not(None),
        recipient.c.warned.is_(None),
        recipient.c.owed == "",
    ),
    _debt,
)


@operation()
def expire(connection: Connection, items: Sequence[Expiry]) -> list[bool]:
    """End recipients that wait for longer than they may; False for one that does not wait any more."""
    fields = ("message_id", "number", "now", "owed", "enhanced", "text")
    foreign = {
        (agent, name)
        for agent in {one.agent for one in items}
        for name in recalls.foreign(
            connection, {one.destination for one in items if one.agent == agent}, agent
        )
    }
    applied = [
        (one.agent, one.destination) not in foreign and _expire.run(connection, [row]) == 1
        for one, row in zip(items, rows_of(fields, items), strict=True)
    ]
    drop_content(connection, {one.message_id for one in items})
    return applied


@operation()
def warn(connection: Connection, items: Sequence[Warning_]) -> list[bool]:
    """Delay reports become due; False for a recipient that does not wait any more or had its warning."""
    return [_warn.run(connection, [(one.message_id, one.number)]) == 1 for one in items]


_live = (
    select(
        *(recipient.c[name] for name in ("message_id", "number", "status", "destination")),
        *(recipient.c[name] for name in ("notify", "attempts")),
        message.c.sender,
        recipient.c.address,
        *(message.c[name] for name in ("not_before", "deliver_by", "by_mode")),
    )
    .join(message, message.c.id == recipient.c.message_id)
    .where(
        recipient.c.finished.is_(None),
        recipient.c.message_id < bindparam("before"),
        tuple_(recipient.c.message_id, recipient.c.number)
        > tuple_(
            bindparam("message_id", type_=recipient.c.message_id.type),
            bindparam("number", type_=recipient.c.number.type),
        ),
    )
    .order_by(recipient.c.message_id, recipient.c.number)
    .limit(bindparam("limit"))
)
_aged = Listing(_live, AgedRecipient)
_unwarned = Listing(
    _live.where(recipient.c.warned.is_(None), recipient.c.owed == "", message.c.sender != ""),
    AgedRecipient,
)


@operation(writes=False)
def aged(connection: Connection, items: Sequence[Aged]) -> list[list[AgedRecipient]]:
    """Live recipients of old messages, in the order of arrival."""
    return [
        (_unwarned if one.unwarned else _aged).run(
            connection,
            before=one.before,
            message_id=one.after[0],
            number=one.after[1],
            limit=one.limit,
        )
        for one in items
    ]
