"""Outcomes: what became of recipients, with the history of how.

An attempt moves its recipient on, and writes its row of history, in one transaction; content is dropped with
the last recipient, or the last owed report, that needs it. ``attempts`` is the fence: an outcome counts only
for the attempt that is next, so recording it twice, or recording what an earlier run already recorded,
changes nothing.

Guarantees: a final state never changes; nothing stays without a due time or a person to look after it; a
debt to the sender is recorded with the outcome it comes from. Never decides what is owed: that is
``policy.notices``.
"""

from collections.abc import Iterable, Sequence

import msgspec
from sqlalchemy import (
    Connection,
    Text,
    and_,
    bindparam,
    case,
    delete,
    literal,
    null,
    or_,
    select,
    tuple_,
    update,
)

from deliveryagent.mail.envelope import FINAL_STATUSES
from deliveryagent.queue.bulk import Bulk, Listing, Prepared, insertion, item, rows_of
from deliveryagent.queue.operation import operation
from queue_schema.tables import attempt, content, destination, message, recipient


class Settlement(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The outcome of one attempt for one recipient: its new state and the row of its history.

    ``attempt`` counts from 1. ``status`` is a stored status; ``due`` is the next attempt's time, None unless
    deferred. ``owed`` names a report that is due now: ``""``, ``"failure"``, ``"delay"`` or ``"success"``.
    ``updated`` is now, ``started`` the attempt's begin (seconds since the epoch). ``decision`` is the word of
    the history: delivered, deferred, bounced, in_doubt, held, expired. ``trail`` is a JSON list of the hosts
    tried before the one that decided, or empty. Times in seconds.
    """

    message_id: int
    number: int
    destination: str
    attempt: int
    status: str
    due: float | None
    owed: str
    updated: float
    started: float
    decision: str
    stage: str
    code: int
    enhanced: str
    text: str
    host: str = ""
    ip: str = ""
    port: int = 0
    tls: str = ""
    queue_time: float = 0.0
    connect_time: float = 0.0
    setup_time: float = 0.0
    transfer_time: float = 0.0
    trail: str = ""


class Expiry(msgspec.Struct, frozen=True, kw_only=True):
    """A recipient whose time is over while it waits.

    The last answer stays as it is; when there was none, ``enhanced`` and ``text`` say why.
    """

    message_id: int
    number: int
    now: float
    owed: str
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


class HoldOrder(msgspec.Struct, frozen=True, kw_only=True):
    """Put the live recipients of a message (or one of them) aside for a person, with the reason."""

    message_id: int
    now: float
    text: str
    number: int | None = None
    enhanced: str = "4.3.0"


_FINAL = frozenset(status.value for status in FINAL_STATUSES)

_row = item(
    recipient.c.message_id,
    recipient.c.number,
    attempt.c.attempt,
    recipient.c.status,
    ("moment", recipient.c.due.type),
    recipient.c.updated,
    recipient.c.owed,
)
_next_attempt = and_(
    recipient.c.message_id == _row.c.message_id,
    recipient.c.number == _row.c.number,
    recipient.c.attempts == _row.c.attempt - 1,
    recipient.c.finished.is_(None),
)
_finish = Bulk(
    update(recipient)
    .values(
        status=_row.c.status,
        due=null(),
        attempts=_row.c.attempt,
        updated=_row.c.updated,
        finished=_row.c.updated,
        owed=_row.c.owed,
    )
    .where(_next_attempt),
    _row,
)
_keep = Bulk(
    update(recipient)
    .values(
        status=_row.c.status,
        due=_row.c.moment,
        attempts=_row.c.attempt,
        updated=_row.c.updated,
        # A delay report that is owed already stays owed.
        owed=case((_row.c.owed == "", recipient.c.owed), else_=_row.c.owed),
    )
    .where(_next_attempt),
    _row,
)
_ROW = ("message_id", "number", "attempt", "status", "due", "updated", "owed")
_HISTORY = tuple(column.name for column in attempt.columns)
_remember = insertion(attempt, *_HISTORY)

_done = item(content.c.message_id)
_needing = select(literal(1)).where(recipient.c.message_id == content.c.message_id)
_drop_content = Bulk(
    delete(content).where(
        content.c.message_id.in_(select(_done.c.message_id)),
        ~_needing.where(recipient.c.finished.is_(None)).exists(),
        ~_needing.where(recipient.c.owed != "").exists(),
    ),
    _done,
)

_work = item(destination.c.name, ("due", destination.c.ready.type))
_advance = Bulk(
    update(destination)
    .values(ready=_work.c.due)
    .where(
        destination.c.name == _work.c.name,
        destination.c.owner.is_(None),
        or_(destination.c.ready.is_(None), destination.c.ready > _work.c.due),
    ),
    _work,
)

_recorded = select(recipient.c.attempts, recipient.c.status, recipient.c.updated).where(
    recipient.c.message_id == bindparam("message_id"), recipient.c.number == bindparam("number")
)


@operation(must=True)
def settle(connection: Connection, items: Sequence[Settlement]) -> list[bool]:
    """Record outcomes; False for one that does not count because its recipient has moved on otherwise."""
    finals = [one for one in items if one.status in _FINAL]
    lasting = [one for one in items if one.status not in _FINAL] if len(finals) < len(items) else []
    changed = 0
    if finals:
        changed += _finish.run(connection, rows_of(_ROW, finals))
    if lasting:
        changed += _keep.run(connection, rows_of(_ROW, lasting))
    applied = [True] * len(items)
    counted: Sequence[Settlement] = items
    if changed != len(items):
        applied = [_is_recorded(connection, one) for one in items]
        counted = [one for one, done in zip(items, applied, strict=True) if done]
    _remember.run(connection, rows_of(_HISTORY, counted))
    if finals:
        drop_content(connection, {one.message_id for one in finals})
    if lasting:
        _return_to_line(connection, lasting)
    return applied


def _is_recorded(connection: Connection, one: Settlement) -> bool:
    """Whether the recipient's state is the one this settlement made, now or an earlier time."""
    row = connection.execute(
        _recorded, {"message_id": one.message_id, "number": one.number}
    ).one_or_none()
    return row is not None and tuple(row) == (one.attempt, one.status, one.updated)


def _return_to_line(connection: Connection, items: Iterable[Settlement]) -> None:
    """Where nobody owns the destination any more, it must be ready in time."""
    earliest: dict[str, float] = {}
    for one in items:
        if one.due is not None and one.due < earliest.get(one.destination, float("inf")):
            earliest[one.destination] = one.due
    if earliest:
        _advance.run(connection, sorted(earliest.items()))


def drop_content(connection: Connection, message_ids: Iterable[int]) -> None:
    """Drop the contents of those messages that neither a recipient nor an owed report needs."""
    _drop_content.run(connection, [(one,) for one in sorted(message_ids)])


# -- without an attempt ---

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
    rows = rows_of(fields, items)
    applied = [_expire.run(connection, [row]) == 1 for row in rows]
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
        message.c.not_before,
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


_accuse = Prepared(
    update(message).values(crashes=message.c.crashes + 1).where(message.c.id == bindparam("id_"))
)
_crashes = Prepared(select(message.c.crashes).where(message.c.id == bindparam("id_")))
_hold = (
    update(recipient)
    .values(
        status="held",
        due=null(),
        updated=bindparam("now"),
        enhanced=bindparam("code", type_=Text()),
        note=bindparam("reason", type_=Text()),
    )
    .where(recipient.c.message_id == bindparam("id_"), recipient.c.finished.is_(None))
)
_hold_all = Prepared(_hold)
_hold_one = Prepared(_hold.where(recipient.c.number == bindparam("place")))


@operation(must=True)
def crashed(connection: Connection, items: Sequence[int]) -> list[int]:
    """A process died while it worked on these messages; returns how often that happened to each."""
    counts = []
    for queue_id in items:
        _accuse.run(connection, id_=queue_id)
        found = _crashes.run(connection, id_=queue_id).fetchone()
        counts.append(found[0] if found else 0)
    return counts


@operation(must=True)
def hold(connection: Connection, items: Sequence[HoldOrder]) -> list[int]:
    """Put live recipients aside for a person; returns how many per order."""
    counts = []
    for one in items:
        values = {
            "id_": one.message_id,
            "now": one.now,
            "code": one.enhanced,
            "reason": one.text,
        }
        if one.number is None:
            counts.append(_hold_all.run(connection, **values).rowcount)
        else:
            counts.append(_hold_one.run(connection, **values, place=one.number).rowcount)
    return counts
