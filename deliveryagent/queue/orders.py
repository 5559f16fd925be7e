"""What people order: retry, hold, release, bounce, delete; pause and resume.

An order on recipients is carried out in steps of bounded size, in the order of arrival, so that it neither
holds up deliveries nor needs memory for what it touches. Guarantees: what is in flight is left alone and
counted; what another agent owns at this moment is left alone and named, because it may be in flight there
(``queue.course`` asks for it back); a finished recipient never changes; what becomes due is announced; a dry
run changes nothing and counts the same. Never asks who may order: that is ``intake.admission``.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal, assert_never

import msgspec
from sqlalchemy import (
    ColumnElement,
    Connection,
    bindparam,
    case,
    func,
    literal,
    null,
    select,
    update,
)

from deliveryagent.mail.envelope import Notify
from deliveryagent.queue import news, recalls
from deliveryagent.queue.bulk import Bulk, insertion, item
from deliveryagent.queue.claims import next_work
from deliveryagent.queue.filters import Filter, FilterError
from deliveryagent.queue.operation import operation
from deliveryagent.queue.outcomes import drop_content
from deliveryagent.queue.selection import matching
from deliveryagent.queue.submissions import announce
from queue_schema.tables import destination, message, recipient

Kind = Literal["retry", "hold", "release", "bounce", "delete"]

FOREVER = 1e12
"""Until when a pause lasts that only a person ends."""

_SAMPLE = 5
_TAKES_AWAY = ("hold", "bounce", "delete")


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """One step of an order: at most ``limit`` recipients behind ``after``.

    ``skip`` are the recipients whose attempt is in flight. ``note`` is kept as the text of a hold or bounce,
    ``enhanced`` as the status code of a bounce. ``agent`` is who carries the order out, 0 for none. ``only``
    are the destinations to which the order is restricted, if any.
    """

    kind: Kind
    filter: Filter
    now: float
    skip: frozenset[tuple[int, int]] = frozenset()
    note: str = ""
    enhanced: str = "5.0.0"
    dry_run: bool = False
    after: tuple[int, int] = (0, 0)
    limit: int = 1000
    agent: int = 0
    only: tuple[str, ...] = ()


class OrderResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a step did. ``next`` is where the following step begins, None when the order is done.

    ``messages`` counts those that this step was the first to touch. ``recipients`` were changed (would be,
    when dry). ``bytes`` is the size of the messages counted. ``sample`` are some queue ids. ``owing`` are
    messages that owe a report now. ``foreign`` are destinations that other agents own, with the number of
    recipients there that were left alone.
    """

    messages: int
    recipients: int
    skipped_active: int
    bytes: int
    sample: tuple[int, ...]
    destinations: tuple[str, ...]
    owing: tuple[int, ...]
    next: tuple[int, int] | None
    foreign: dict[str, int] = {}


class Pause(msgspec.Struct, frozen=True, kw_only=True):
    """Pause a destination. ``until`` is seconds since the epoch, ``FOREVER`` until resumed."""

    name: str
    until: float
    note: str
    by: str


class Resume(msgspec.Struct, frozen=True, kw_only=True):
    """End a pause."""

    name: str
    now: float


# -- recipients ---

_how = item(
    recipient.c.message_id,
    recipient.c.number,
    ("now", recipient.c.updated.type),
    recipient.c.owed,
    recipient.c.enhanced,
    recipient.c.note,
)
_at = _how.c.now
_change = update(recipient).where(
    recipient.c.message_id == _how.c.message_id,
    recipient.c.number == _how.c.number,
    recipient.c.finished.is_(None),
)
_finish = _change.values(
    due=null(),
    updated=_at,
    finished=_at,
    owed=_how.c.owed,
    enhanced=_how.c.enhanced,
    note=_how.c.note,
)
_CHANGES: dict[Kind, Bulk] = {
    "retry": Bulk(_change.values(due=_at, updated=_at), _how),
    "hold": Bulk(
        _change.values(
            status="held",
            due=null(),
            updated=_at,
            enhanced=_how.c.enhanced,
            note=_how.c.note,
        ),
        _how,
    ),
    "release": Bulk(
        _change.values(
            status=case((recipient.c.attempts == 0, "queued"), else_="deferred"),
            due=_at,
            updated=_at,
            enhanced="",
            note="",
        ),
        _how,
    ),
    "bounce": Bulk(_finish.values(status="bounced"), _how),
    "delete": Bulk(_finish.values(status="deleted"), _how),
}
_COLUMNS = (
    *(recipient.c[name] for name in ("message_id", "number", "destination", "notify")),
    *(message.c.sender, message.c.size),
)


@operation(cap=1)
def order(connection: Connection, items: Sequence[Order]) -> list[OrderResult]:
    """Carry out one step of each order.

    Raises ``FilterError`` for a filter that cannot be understood, or that says nothing.
    """
    return [_carry_out(connection, one) for one in items]


def _carry_out(connection: Connection, wanted: Order) -> OrderResult:
    if wanted.filter.says_nothing:
        raise FilterError("which messages? name them by id or condition, or say all")
    query = matching(wanted.filter, *_COLUMNS, after=wanted.after).where(_applicable(wanted.kind))
    if wanted.only:
        query = query.where(recipient.c.destination.in_(wanted.only))
    rows = connection.execute(query.limit(wanted.limit)).all()
    elsewhere = set[str]()
    if wanted.kind in _TAKES_AWAY and not wanted.dry_run:
        names = {row.destination for row in rows}
        elsewhere = recalls.foreign(connection, names, wanted.agent)
    foreign = Counter(row.destination for row in rows if row.destination in elsewhere)
    chosen = [
        row
        for row in rows
        if row.destination not in elsewhere and (row.message_id, row.number) not in wanted.skip
    ]
    owing: tuple[int, ...] = ()
    if chosen and not wanted.dry_run:
        owing = _apply(connection, wanted, chosen)
    sizes = {row.message_id: row.size for row in chosen if row.message_id != wanted.after[0]}
    last = (rows[-1].message_id, rows[-1].number) if rows else (0, 0)
    return OrderResult(
        messages=len(sizes),
        recipients=len(chosen),
        skipped_active=len(rows) - len(chosen) - foreign.total(),
        bytes=sum(sizes.values()),
        sample=tuple(sizes)[:_SAMPLE],
        destinations=tuple(sorted({row.destination for row in chosen})),
        owing=owing,
        next=last if len(rows) == wanted.limit else None,
        foreign=dict(foreign),
    )


def _applicable(kind: Kind) -> ColumnElement[bool]:
    match kind:
        case "retry" | "hold":
            return recipient.c.due.is_not(None)
        case "release":
            return recipient.c.status == "held"
        case "bounce" | "delete":
            return recipient.c.finished.is_(None)
        case _:
            assert_never(kind)


def _apply(connection: Connection, wanted: Order, chosen: Sequence[Any]) -> tuple[int, ...]:
    """Change the recipients and what depends on them; returns the messages that owe a report now."""
    kind, owing = wanted.kind, set[int]()
    enhanced = wanted.enhanced if kind == "bounce" else ""
    note = wanted.note or {"hold": "put on hold", "bounce": "cancelled"}.get(kind, "")
    rows = []
    for row in chosen:
        owed = ""
        if kind == "bounce" and row.sender and Notify(row.notify).wants(Notify.FAILURE):
            owed = "failure"
            owing.add(row.message_id)
        rows.append((row.message_id, row.number, wanted.now, owed, enhanced, note))
    _CHANGES[kind].run(connection, rows)
    if kind in ("retry", "release"):
        announce(connection, ((row.destination, wanted.now) for row in chosen))
    elif kind in ("bounce", "delete"):
        drop_content(connection, {row.message_id for row in chosen})
    return tuple(sorted(owing))


# -- destinations ---

_PAUSED = ("paused_until", "pause_note", "paused_by")
_set_pause = ", ".join(f"{name} = excluded.{name}" for name in _PAUSED)
_pause_destination = insertion(
    destination, "name", *_PAUSED, ending=f"ON CONFLICT (name) DO UPDATE SET {_set_pause}"
)
_ended = {"paused_until": null(), "pause_note": "", "paused_by": ""}
_known = select(func.count()).where(destination.c.name == bindparam("wanted"))
_resume_destination = (
    update(destination)
    .values(
        **_ended,
        # An owner is told by ``ready`` that there is something to look at again.
        ready=case(
            (destination.c.owner.is_(None), next_work(literal(0.0))), else_=bindparam("now")
        ),
    )
    .where(destination.c.name == bindparam("wanted"))
)
_was_paused = select(func.count()).where(
    destination.c.name == bindparam("wanted"), destination.c.paused_until.is_not(None)
)


@operation()
def pause(connection: Connection, items: Sequence[Pause]) -> list[bool]:
    """Pause destinations; whether each was known before."""
    answers = []
    for one in items:
        answers.append(bool(connection.scalar(_known, {"wanted": one.name})))
        _pause_destination.run(connection, [(one.name, one.until, one.note, one.by)])
    if connection.dialect.name == "postgresql":
        recalls.ask(connection, [[one.name for one in items]])
    return answers


@operation()
def resume(connection: Connection, items: Sequence[Resume]) -> list[bool]:
    """End pauses, and let what waited for some other reason be looked at now; whether there was one."""
    answers = []
    for one in items:
        values = {"wanted": one.name}
        answers.append(bool(connection.scalar(_was_paused, values)))
        connection.execute(_resume_destination, values | {"now": one.now})
    recalls.forget(connection, {one.name for one in items})
    news.tell(connection, "mail")
    return answers
