"""Does the queue keep its promises? Every invariant as a question that finds the rows that break it.

What the schema itself forbids (an unknown state, a waiting recipient without a due time) is asked again,
because a damaged file or a foreign program may have got around it. Guarantees: changes nothing; a problem
comes with its number of rows and some of them, so that people can look. Reads everything: this is for people
and tests, not for the running service.
"""

from typing import Any

import msgspec
from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    and_,
    case,
    func,
    literal,
    or_,
    select,
    text,
)
from sqlalchemy.exc import DatabaseError

from deliveryagent.mail.envelope import Notify, format_queue_id
from deliveryagent.queue.inflow import arrival
from queue_schema import functions
from queue_schema.tables import (
    agent,
    arriving,
    attempt,
    content,
    deadline,
    destination,
    message,
    recipient,
)

POSTPONED = 86_400.0
"""Seconds by which a closed site may put off what waits for it, at most."""

_SAMPLE = 5


class Problem(msgspec.Struct, frozen=True):
    """An invariant that does not hold: a word for programs, a sentence, how many rows, and some of them."""

    code: str
    text: str
    rows: int
    sample: tuple[str, ...]


def problems(connection: Connection, now: float) -> list[Problem]:
    """Every invariant that does not hold; an empty list is the good answer."""
    found = _damage(connection)
    found += _functions(connection)
    for code, sentence, query in _questions(now, connection.dialect.name):
        try:
            rows = connection.scalar(select(func.count()).select_from(query.subquery())) or 0
            sample = connection.execute(query.limit(_SAMPLE)).all() if rows else []
        except DatabaseError:
            if found:
                continue  # a damaged file cannot answer everything
            raise
        if rows:
            found.append(Problem(code, sentence, rows, tuple(_shown(*row) for row in sample)))
    return found


def _shown(key: object) -> str:
    return format_queue_id(key) if isinstance(key, int) else str(key)


def _damage(connection: Connection) -> list[Problem]:
    if connection.dialect.name != "sqlite":
        return []
    try:
        rows = [row[0] for row in connection.execute(text("PRAGMA quick_check(100)"))]
    except DatabaseError as error:
        rows = [str(error.orig)]
    if rows == ["ok"]:
        return []
    return [Problem("damaged", "the queue file is damaged", len(rows), tuple(rows[:_SAMPLE]))]


def _functions(connection: Connection) -> list[Problem]:
    """What is wrong with the SQL functions that applications call."""
    if connection.dialect.name != "postgresql":
        return []
    missing, other = functions.differences(connection)
    found = [
        ("functions_missing", "SQL functions are missing: run dagent db migrate", missing),
        (
            "functions_other",
            "SQL functions are not those of this program: dagent db migrate",
            other,
        ),
    ]
    return [
        Problem(code, text, len(names), names[:_SAMPLE]) for code, text, names in found if names
    ]


def _questions(now: float, kind: str) -> list[tuple[str, str, Select[Any]]]:
    """A word and a sentence for each problem, and the query for the keys of the rows that show it."""
    return [
        *_about_messages(now),
        *_about_deadlines(now),
        *_about_recipients(),
        *_about_reports(),
        *_about_destinations(now, kind),
    ]


def _about_messages(now: float) -> list[tuple[str, str, Select[Any]]]:
    count = (
        select(func.count())
        .where(recipient.c.message_id == message.c.id)
        .correlate(message)
        .scalar_subquery()
    )
    stored = (
        select(func.coalesce(func.sum(func.length(content.c.data)), 0))
        .where(content.c.message_id == message.c.id)
        .correlate(message)
        .scalar_subquery()
    )
    any_part = _rows(content, content.c.message_id == message.c.id)
    lives = _rows(recipient, recipient.c.message_id == message.c.id, recipient.c.finished.is_(None))
    owes = _rows(recipient, recipient.c.message_id == message.c.id, recipient.c.owed != "")
    no_message = ~_rows(message, message.c.id == content.c.message_id)
    not_arriving = ~_rows(arriving, arriving.c.message_id == content.c.message_id)
    ids = select(message.c.id)
    return [
        (
            "recipients_missing",
            "a message has fewer or more recipients than it came with",
            ids.where(message.c.recipient_count != count),
        ),
        ("content_missing", "a living message has no content", ids.where(lives, ~any_part)),
        (
            "content_size",
            "the stored content of a living message has another size than it came with",
            ids.where(lives, any_part, message.c.size != stored),
        ),
        (
            "content_unneeded",
            "content is kept that no recipient and no report needs",
            ids.where(~lives, ~owes, any_part),
        ),
        (
            "content_orphaned",
            "content belongs to no message, and none is arriving",
            select(content.c.message_id).where(no_message, not_arriving).distinct(),
        ),
        (
            "arrival_abandoned",
            "a message began to arrive more than a day ago",
            select(arriving.c.message_id).where(arriving.c.started < now - 86_400),
        ),
    ]


def _about_deadlines(now: float) -> list[tuple[str, str, Select[Any]]]:
    lives = _rows(recipient, recipient.c.message_id == message.c.id, recipient.c.finished.is_(None))
    timed = _rows(
        deadline, deadline.c.at == message.c.deliver_by, deadline.c.message_id == message.c.id
    )
    stands = or_(message.c.deliver_by > now, message.c.by_mode.in_(("R", "RT")))
    return [
        (
            "deadline_missing",
            "a living message has a time to be delivered by, and nobody will look at it then",
            select(message.c.id).where(message.c.deliver_by > 0, stands, lives, ~timed),
        ),
    ]


def _about_recipients() -> list[tuple[str, str, Select[Any]]]:
    tried = (
        select(func.count())
        .where(
            attempt.c.message_id == recipient.c.message_id, attempt.c.number == recipient.c.number
        )
        .correlate(recipient)
        .scalar_subquery()
    )
    ids = select(recipient.c.message_id)
    waits = recipient.c.status.in_(("queued", "deferred"))
    lives = or_(waits, recipient.c.status == "held")
    no_message = ~_rows(message, message.c.id == recipient.c.message_id)
    return [
        (
            "recipient_orphaned",
            "a recipient belongs to no message",
            ids.where(no_message),
        ),
        (
            "attempt_orphaned",
            "an attempt belongs to no recipient",
            select(attempt.c.message_id).where(
                ~_rows(
                    recipient,
                    recipient.c.message_id == attempt.c.message_id,
                    recipient.c.number == attempt.c.number,
                )
            ),
        ),
        (
            "attempts_differ",
            "a recipient's count of attempts is not that of its history",
            ids.where(recipient.c.attempts != tried),
        ),
        (
            "due_missing",
            "a waiting recipient has no due time, or another one has",
            ids.where(or_(and_(waits, recipient.c.due.is_(None)), and_(~waits, _is_due))),
        ),
        (
            "finish_missing",
            "a final state has no finishing time, or a living one has",
            ids.where(or_(and_(~lives, ~_is_over), and_(lives, _is_over))),
        ),
    ]


def _about_reports() -> list[tuple[str, str, Select[Any]]]:
    ids = select(recipient.c.message_id)
    failed = recipient.c.status.in_(("bounced", "expired"))
    with_message = ids.join(message, message.c.id == recipient.c.message_id)
    return [
        (
            "report_missing",
            "a failure was neither reported to the sender nor is it owed",
            with_message.where(
                failed,
                message.c.sender != "",
                _wants_failure,
                recipient.c.owed == "",
                recipient.c.reported.is_(None),
            ),
        ),
        (
            "report_forbidden",
            "a report is owed, or was sent, to nobody or to somebody who wants none",
            with_message.where(
                or_(recipient.c.owed != "", recipient.c.reported.is_not(None)),
                or_(message.c.sender == "", _wants_nothing),
            ),
        ),
        (
            "report_doubled",
            "a report is owed that was written already",
            ids.where(
                or_(
                    and_(recipient.c.owed != "", recipient.c.reported.is_not(None)),
                    and_(recipient.c.owed == "delay", recipient.c.warned.is_not(None)),
                )
            ),
        ),
    ]


_is_due: ColumnElement[bool] = recipient.c.due.is_not(None)
_is_over: ColumnElement[bool] = recipient.c.finished.is_not(None)
_wants_failure = or_(
    recipient.c.notify == Notify.DEFAULT.value,
    recipient.c.notify.op("&")(Notify.FAILURE.value) != 0,
)
_wants_nothing = recipient.c.notify.op("&")(Notify.NEVER.value) != 0


def _about_destinations(now: float, kind: str) -> list[tuple[str, str, Select[Any]]]:
    waiting = (
        select(recipient.c.destination, func.min(recipient.c.due).label("due"))
        .where(_is_due)
        .group_by(recipient.c.destination)
        .subquery("waiting")
    )
    # A closed site or a pause may put a destination off, but not for ever.
    paused = func.coalesce(destination.c.paused_until, 0.0)
    latest = case((paused > now + POSTPONED, paused), else_=now + POSTPONED)
    too_late = and_(destination.c.ready > waiting.c.due, destination.c.ready > latest)
    places = (
        select(waiting.c.destination)
        .select_from(waiting)
        .outerjoin(destination, destination.c.name == waiting.c.destination)
    )
    if kind == "postgresql":  # what a transaction of an application left is about to be carried on
        places = places.where(~_rows(arrival, arrival.c.destination == waiting.c.destination))
    owned = select(destination.c.name).where(destination.c.owner.is_not(None))
    registered = _rows(agent, agent.c.id == destination.c.owner)
    return [
        (
            "destination_unknown",
            "recipients wait for a destination that has no row: nobody will look after them",
            places.where(destination.c.name.is_(None)),
        ),
        (
            "destination_asleep",
            "a destination has recipients waiting, no owner, and is not ready in time",
            places.where(
                destination.c.name.is_not(None),
                destination.c.owner.is_(None),
                or_(destination.c.ready.is_(None), too_late),
            ),
        ),
        ("owner_unknown", "a destination is owned by no known agent", owned.where(~registered)),
    ]


def _rows(table: Any, *where: ColumnElement[bool]) -> ColumnElement[bool]:
    return select(literal(1)).select_from(table).where(*where).exists()
