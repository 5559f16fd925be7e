"""Reports that are owed to senders, on their way into the queue.

An outcome records a debt (``recipient.owed``); this pays it: reads what the report must say, lets the
composer write it, adds it to the queue like any other message, and marks the debt as paid, all in one
transaction. Guarantees: a debt is paid once, whatever dies in between and whoever else pays; the content a
report may return is kept until the report is written; reading is bounded however many recipients a message
has.
"""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, bindparam, literal_column, select, update

from deliveryagent.mail.submission import Submission
from deliveryagent.queue import submissions
from deliveryagent.queue.answers import LAST_ANSWER
from deliveryagent.queue.bulk import Bulk, item
from deliveryagent.queue.operation import operation
from deliveryagent.queue.outcomes import drop_content
from deliveryagent.queue.selection import with_last_answer
from queue_schema.tables import content, message, recipient

RECIPIENTS = 1000
"""How many recipients one report speaks of at most."""

_KINDS = ("failure", "delay", "success")


class OwedRecipient(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One recipient of a report: its last answer and state. Times in seconds since the epoch."""

    number: int
    address: str
    destination: str
    orcpt: str
    notify: int
    status: str
    attempts: int
    due: float | None
    updated: float
    stage: str
    code: int
    enhanced: str
    text: str
    host: str


class ReportFacts(msgspec.Struct, frozen=True, kw_only=True):
    """All that a report of one kind needs of its message.

    ``kind`` is failure, delay or success. ``content`` is the first part of the content, empty when it is
    unreadable; ``complete`` says that it is all of it.
    """

    kind: str
    queue_id: int
    sender: str
    size: int
    eightbit: bool
    utf8: bool
    ret: str
    envid: str
    origin: str
    not_before: float = 0.0
    priority: int = 0
    deliver_by: float = 0.0
    by_mode: str = ""
    require_tls: bool = False
    recipients: tuple[OwedRecipient, ...]
    content: bytes
    complete: bool


class Report(msgspec.Struct, frozen=True):
    """Write what a message owes. ``compose`` makes the report, or None when nobody may get one."""

    message_id: int
    compose: Callable[[ReportFacts], Submission | None]


class Written(msgspec.Struct, frozen=True):
    """The ids of the reports that are in the queue now; ``more``: the message owes further ones."""

    reports: tuple[int, ...]
    more: bool


_FACTS = (
    *("id", "sender", "size", "eightbit", "utf8", "ret", "envid", "origin", "not_before"),
    *("priority", "deliver_by", "by_mode", "require_tls"),
)
_owed = (
    select(
        recipient.c.owed,
        *(recipient.c[name] for name in ("number", "address", "destination", "orcpt", "notify")),
        *(recipient.c[name] for name in ("status", "attempts", "due", "updated")),
        *(literal_column(text).label(name) for name, text in LAST_ANSWER.items()),
    )
    .select_from(with_last_answer(recipient))
    .where(recipient.c.message_id == bindparam("wanted"), recipient.c.owed != "")
    .order_by(recipient.c.number)
    .limit(RECIPIENTS)
)
_message = (
    select(*(message.c[name] for name in _FACTS))
    .where(message.c.id == bindparam("wanted"))
    # Another agent may be about to write the same report: one after the other, then.
    .with_for_update(key_share=True)
)
_beginning = select(content.c.data).where(
    content.c.message_id == bindparam("wanted"), content.c.part == 0
)
_debtors = (
    select(recipient.c.message_id)
    .where(recipient.c.owed != "")
    .distinct()
    .order_by(recipient.c.message_id)
)
_debt = item(recipient.c.message_id, recipient.c.number, ("report", recipient.c.reported.type))
_mark = update(recipient).where(
    recipient.c.message_id == _debt.c.message_id, recipient.c.number == _debt.c.number
)
_pay = Bulk(_mark.values(owed="", reported=_debt.c.report), _debt)
_pay_delay = Bulk(_mark.values(owed="", warned=_debt.c.report), _debt)


@operation(cap=100, reports=True)
def write(connection: Connection, items: Sequence[Report]) -> list[Written]:
    """Write the reports that messages owe: one per kind, of at most ``RECIPIENTS`` recipients each."""
    return [_write(connection, one) for one in items]


def _write(connection: Connection, wanted: Report) -> Written:
    head = connection.execute(_message, {"wanted": wanted.message_id}).one_or_none()
    rows = connection.execute(_owed, {"wanted": wanted.message_id}).all()
    if head is None or not rows:
        return Written((), more=False)
    facts = dict(zip(_FACTS, head, strict=True))
    beginning = connection.scalar(_beginning, {"wanted": wanted.message_id})
    data = b"" if beginning is None else bytes(beginning)
    ids: list[int] = []
    for kind in _KINDS:
        group = tuple(_recipient(row) for row in rows if row.owed == kind)
        if not group:
            continue
        report = wanted.compose(
            ReportFacts(
                kind=kind,
                queue_id=facts["id"],
                **{name: facts[name] for name in _FACTS[1:]},
                recipients=group,
                content=data,
                complete=len(data) == facts["size"],
            )
        )
        if report is not None:
            submissions.add(connection, [report])
            ids.append(report.queue_id)
        report_id = None if report is None else report.queue_id
        paid = [(wanted.message_id, one.number, report_id) for one in group]
        (_pay_delay if kind == "delay" else _pay).run(connection, paid)
    drop_content(connection, [wanted.message_id])
    return Written(tuple(ids), more=len(rows) == RECIPIENTS)


def _recipient(row: Any) -> OwedRecipient:
    return OwedRecipient(**dict(zip(OwedRecipient.__struct_fields__, tuple(row)[1:], strict=True)))


@operation(writes=False)
def pending(connection: Connection, items: Sequence[None]) -> list[list[int]]:
    """The messages that owe a report, in the order of arrival."""
    return [list(connection.scalars(_debtors)) for _ in items]
