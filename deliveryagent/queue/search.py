"""Looking into the queue: lists, one message with its history, counts and shapes.

Everything here reads with a connection of its own (``engine.open_reader``), so it works while the service
runs and while it does not. Guarantees: lists come in the order of arrival, page by page, and cost what they
show, not what the queue or its history holds; nothing is changed. What is in flight right now only the
service knows.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise
from typing import Any, Literal

import msgspec
from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Select,
    and_,
    case,
    desc,
    func,
    select,
    tuple_,
)

from deliveryagent.mail.envelope import (
    MOST_ALIVE,
    QueueId,
    arrival_of,
    first_queue_id,
    lifetime_start,
    queue_id_range,
)
from deliveryagent.queue.answers import LAST_ANSWER, with_last_answer
from deliveryagent.queue.filters import Filter, FilterError, conditions
from deliveryagent.queue.operation import operation
from queue_schema.tables import attempt, content, destination, message, recipient

__all__ = ["Filter", "FilterError"]

SHAPE_MINUTES = (5, 10, 20, 40, 80, 160, 320, 640, 1280)
"""The upper bounds of the age buckets of ``shape``; the last bucket is everything older."""

HISTORY_DEPTH = 200_000
"""How many of the latest recipients ``history`` looks at."""


class FoundRecipient(msgspec.Struct, frozen=True, kw_only=True):
    """A recipient with its last answer; ``stage`` is empty when there was none. Times since the epoch."""

    number: int
    address: str
    destination: str
    status: str
    attempts: int
    due: float | None
    updated: float
    finished: float | None
    notify: int
    orcpt: str
    owed: str
    reported: int | None
    warned: int | None
    stage: str
    code: int
    enhanced: str
    text: str
    host: str


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A message with those of its recipients that were asked for.

    ``status`` is that of the message: the most alive of all its recipients, shown or not.
    """

    queue_id: int
    sender: str
    size: int
    recipient_count: int
    origin: str
    tags: str
    ret: str
    envid: str
    crashes: int
    not_before: float = 0.0
    status: str
    recipients: tuple[FoundRecipient, ...]

    @property
    def lifetime_start(self) -> float:
        """From when its lifetime counts, in seconds since the epoch."""
        return lifetime_start(self.queue_id, self.not_before)

    @property
    def arrival(self) -> float:
        """When the message was taken over, in seconds since the epoch."""
        return arrival_of(self.queue_id)


class Tried(msgspec.Struct, frozen=True):
    """One attempt as it is kept; times in seconds, ``trail`` a JSON list of earlier hosts or empty."""

    number: int
    attempt: int
    started: float
    decision: str
    stage: str
    code: int
    enhanced: str
    text: str
    host: str
    ip: str
    port: int
    tls: str
    queue_time: float
    connect_time: float
    setup_time: float
    transfer_time: float
    trail: str


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """A message with recipients and all their attempts, by recipient number."""

    message: Found
    attempts: dict[int, tuple[Tried, ...]]


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """How much lives: recipients that wait, that are due now, that are held; reports not yet written."""

    waiting: int
    due: int
    held: int
    owed: int
    oldest: float | None


class ShapeRow(msgspec.Struct, frozen=True):
    """One line of the shape: recipients waiting per age bucket, youngest first."""

    name: str
    total: int
    buckets: tuple[int, ...]


_RECIPIENT = (
    *(recipient.c[name] for name in ("number", "address", "destination", "status", "attempts")),
    *(recipient.c[name] for name in ("due", "updated", "finished", "notify", "orcpt", "owed")),
    *(recipient.c[name] for name in ("reported", "warned")),
    *LAST_ANSWER,
)
"""The fields of ``FoundRecipient`` in order."""

_MESSAGE = tuple(
    message.c[name]
    for name in (
        *("id", "sender", "size", "recipient_count", "origin", "tags", "ret", "envid", "crashes"),
        "not_before",
    )
)


def matching(wanted: Filter, *columns: ColumnElement[Any], after: tuple[int, int]) -> Select[Any]:
    """Columns of the recipients that a filter means, behind ``after``, in the order of arrival."""
    # Live recipients are found by the index that holds nothing else, however long the history is.
    line = recipient.alias("line")
    source: FromClause = recipient
    place: FromClause = recipient
    if wanted.live_only:
        place = line
        source = line.join(
            recipient,
            and_(recipient.c.message_id == line.c.message_id, recipient.c.number == line.c.number),
        )
    query = (
        select(*columns)
        .select_from(with_last_answer(source))
        .where(tuple_(place.c.message_id, place.c.number) > tuple_(*after), *conditions(wanted))
        .order_by(place.c.message_id, place.c.number)
    )
    return query.where(line.c.finished.is_(None)) if wanted.live_only else query


def find(
    connection: Connection, wanted: Filter, limit: int, after: tuple[int, int] = (0, 0)
) -> list[Found]:
    """Messages in the order of arrival with up to ``limit`` recipients that the filter means.

    The next page goes on behind ``(queue_id, number)`` of the last recipient; a message that crosses the
    border of a page appears on both. Raises ``FilterError``.
    """
    rows = connection.execute(matching(wanted, *_MESSAGE, *_RECIPIENT, after=after).limit(limit))
    return _grouped(connection, rows.all())


def show(
    connection: Connection, queue_id: int, *, limit: int = 1000, after: int = 0
) -> Shown | None:
    """A message with up to ``limit`` recipients behind number ``after`` and their attempts."""
    rows = connection.execute(
        select(*_MESSAGE, *_RECIPIENT)
        .select_from(with_last_answer(recipient))
        .where(recipient.c.message_id == queue_id, recipient.c.number > after)
        .order_by(recipient.c.number)
        .limit(limit)
    ).all()
    if not rows:
        return None
    (found,) = _grouped(connection, rows)
    numbers = [one.number for one in found.recipients]
    tries = connection.execute(
        select(*(attempt.c[name] for name in Tried.__struct_fields__))
        .where(
            attempt.c.message_id == queue_id,
            attempt.c.number.between(numbers[0], numbers[-1]),
        )
        .order_by(attempt.c.number, attempt.c.attempt)
    )
    attempts: dict[int, list[Tried]] = {}
    for row in tries:
        attempts.setdefault(row.number, []).append(Tried(*row))
    return Shown(message=found, attempts={number: tuple(a) for number, a in attempts.items()})


def history(connection: Connection, address: str, limit: int) -> list[Found]:
    """The latest messages to an address, latest first, among the latest ``HISTORY_DEPTH`` recipients."""
    domain = conditions(Filter(to=address))
    latest = (
        select(recipient.c.message_id, recipient.c.number, recipient.c.address)
        .order_by(desc(recipient.c.message_id), desc(recipient.c.number))
        .limit(HISTORY_DEPTH)
        .subquery("latest")
    )
    keys = (
        select(latest.c.message_id, latest.c.number)
        .where(func.lower(latest.c.address) == address.lower())
        .limit(limit)
    )
    waiting = (
        select(recipient.c.message_id, recipient.c.number)
        .where(recipient.c.due.is_not(None), *domain)
        .limit(limit)
    )
    places = {tuple(row) for query in (keys, waiting) for row in connection.execute(query)}
    rows: list[Any] = []
    for queue_id, number in sorted(places, reverse=True)[:limit]:
        rows += connection.execute(
            select(*_MESSAGE, *_RECIPIENT)
            .select_from(with_last_answer(recipient))
            .where(recipient.c.message_id == queue_id, recipient.c.number == number)
        ).all()
    return _grouped(connection, rows)


def _grouped(connection: Connection, rows: Sequence[Any]) -> list[Found]:
    width = len(_MESSAGE)
    found: list[Found] = []
    groups: Iterator[tuple[tuple[Any, ...], Iterator[Any]]]
    groups = groupby(rows, key=lambda row: tuple(row)[:width])
    for head, group in groups:
        recipients = tuple(
            FoundRecipient(
                **dict(zip(FoundRecipient.__struct_fields__, tuple(row)[width:], strict=True))
            )
            for row in group
        )
        facts = dict(zip((column.name for column in _MESSAGE), head, strict=True))
        queue_id = facts.pop("id")
        states = {one.status for one in recipients}
        if len(recipients) != facts["recipient_count"]:
            states |= _states(connection, queue_id)
        status = next(state.value for state in MOST_ALIVE if state in states)
        found.append(Found(queue_id=queue_id, **facts, status=status, recipients=recipients))
    return found


def _states(connection: Connection, queue_id: int) -> set[str]:
    states = select(recipient.c.status).where(recipient.c.message_id == queue_id).distinct()
    return set(connection.scalars(states))


def resolve_prefix(connection: Connection, prefix: str, limit: int = 10) -> list[QueueId]:
    """The ids that begin with ``prefix``, at most ``limit``; raises ``ValueError`` for impossible ones."""
    low, high = queue_id_range(prefix)
    ids = select(message.c.id).where(message.c.id.between(low, high - 1))
    return [QueueId(one) for one in connection.scalars(ids.order_by(message.c.id).limit(limit))]


def beginning(connection: Connection, queue_id: int) -> bytes | None:
    """The first part of a content: its header section and more; None when it was dropped."""
    data = connection.scalar(
        select(content.c.data).where(content.c.message_id == queue_id, content.c.part == 0)
    )
    return None if data is None else bytes(data)


def counts(connection: Connection, now: float) -> Counts:
    """How much lives in the queue."""
    total = select(func.count())
    waiting = connection.scalar(total.where(recipient.c.due.is_not(None))) or 0
    live = connection.scalar(
        select(func.count(recipient.c.message_id)).where(recipient.c.finished.is_(None))
    )
    oldest = connection.scalar(
        select(func.min(recipient.c.message_id)).where(recipient.c.finished.is_(None))
    )
    return Counts(
        waiting=waiting,
        due=connection.scalar(total.where(recipient.c.due <= now)) or 0,
        held=(live or 0) - waiting,
        owed=connection.scalar(total.where(recipient.c.owed != "")) or 0,
        oldest=None if oldest is None else arrival_of(oldest),
    )


def shape(
    connection: Connection,
    now: float,
    by: Literal["destination", "site", "sender"] = "destination",
    limit: int = 100,
) -> list[ShapeRow]:
    """Waiting recipients by age of their message, the fullest lines first (as qshape counts)."""
    name: ColumnElement[str] = recipient.c.destination
    source: FromClause = recipient
    if by == "site":
        name = func.coalesce(destination.c.site, "")
        source = recipient.outerjoin(destination, destination.c.name == recipient.c.destination)
    elif by == "sender":
        name = message.c.sender
        source = recipient.join(message, message.c.id == recipient.c.message_id)
    born = [first_queue_id(now - minutes * 60) for minutes in SHAPE_MINUTES]
    waiting = (
        select(name.label("name"), recipient.c.message_id.label("id"))
        .select_from(source)
        .where(recipient.c.due.is_not(None))
        .subquery("waiting")
    )
    younger = [func.sum(case((waiting.c.id >= first, 1), else_=0)) for first in born]
    rows = connection.execute(
        select(waiting.c.name, func.count(), *younger)
        .group_by(waiting.c.name)
        .order_by(desc(func.count()), waiting.c.name)
        .limit(limit)
    )
    shaped = []
    for label, total, *within in rows:
        edges = [0, *within, total]
        buckets = tuple(b - a for a, b in pairwise(edges))
        shaped.append(ShapeRow(label, total, buckets))
    return shaped


@operation(writes=False)
def shown_by_id(connection: Connection, items: Sequence[int]) -> list[Shown | None]:
    """Messages by their ids, for those who ask on the database thread."""
    return [show(connection, queue_id) for queue_id in items]
