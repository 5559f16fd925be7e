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
    update,
)

from deliveryagent.mail.envelope import FINAL_STATUSES
from deliveryagent.queue.bulk import Bulk, Prepared, insertion, item, rows_of
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
# The usual end, with the fewest values: delivered, and nothing owed.
_end = item(recipient.c.message_id, recipient.c.number, attempt.c.attempt, recipient.c.updated)
_deliver = Bulk(
    update(recipient)
    .values(
        status="delivered",
        due=null(),
        attempts=_end.c.attempt,
        updated=_end.c.updated,
        finished=_end.c.updated,
        owed="",
    )
    .where(
        recipient.c.message_id == _end.c.message_id,
        recipient.c.number == _end.c.number,
        recipient.c.attempts == _end.c.attempt - 1,
        recipient.c.finished.is_(None),
    ),
    _end,
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
_END = ("message_id", "number", "attempt", "updated")
_ROW = ("message_id", "number", "attempt", "status", "due", "updated", "owed")
_HISTORY = tuple(column.name for column in attempt.columns)
_remember = insertion(attempt, *_HISTORY)

_done = item(content.c.message_id)
_needing = select(literal(1)).where(recipient.c.message_id == content.c.message_id)
_line_up = Bulk(
    select(message.c.id)
    .select_from(_done)
    .join(message, message.c.id == _done.c.message_id)
    .where(message.c.recipient_count > 1)
    .order_by(message.c.id)
    .with_for_update(of=message, key_share=True),
    _done,
)
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
    finals: Sequence[Settlement] = items
    lasting: Sequence[Settlement] = ()
    usual = [one for one in items if one.status == "delivered" and not one.owed]
    changed = _deliver.run(connection, rows_of(_END, usual))
    if len(usual) < len(items):
        finals = [one for one in items if one.status in _FINAL]
        lasting = [one for one in items if one.status not in _FINAL]
        others = [one for one in finals if one.status != "delivered" or one.owed]
        changed += _finish.run(connection, rows_of(_ROW, others))
    if lasting:
        changed += _keep.run(connection, rows_of(_ROW, lasting))
    applied = [True] * len(items)
    if changed == len(items):
        _remember.add(connection, rows_of(_HISTORY, items))
    else:
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
    rows = [(one,) for one in sorted(message_ids)]
    if connection.dialect.name == "postgresql":
        # Two agents that end the last two recipients of a message must not both take the other's for alive.
        for _ in _line_up.answers(connection, rows):
            pass
    _drop_content.run(connection, rows)


# -- without an attempt ---

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
