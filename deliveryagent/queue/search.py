"""Looking into the queue: lists, one message with its history, counts.

Everything here reads with a connection of its own (``reader.open_queue``), so it works while the service
runs and while it does not, and without SQLAlchemy, which would take longer to load than the rest takes.
Guarantees: lists come in the order of arrival, page by page, and cost what they show, not what the queue or
its history holds; counting stops where it would keep people waiting; nothing is changed. What is in flight
right now only the service knows.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import msgspec

from deliveryagent.mail.address import destination_of
from deliveryagent.mail.envelope import (
    MOST_ALIVE,
    QueueId,
    RecipientStatus,
    arrival_of,
    lifetime_start,
    queue_id_range,
)
from deliveryagent.queue import places
from deliveryagent.queue.answers import LAST_ANSWER, WITH_LAST_ANSWER
from deliveryagent.queue.filters import Condition, Filter, FilterError, conditions
from deliveryagent.queue.reader import Reader

__all__ = ["Filter", "FilterError"]

HISTORY_DEPTH = 100_000
"""How many of the latest recipients ``history`` looks at, besides those that wait."""

COUNTED = 100_000
"""Recipients after which ``counts`` stops counting."""

_LINE_DEPTH = 50_000  # recipients of a destination looked at before all of them are
_ALL = 1 << 62
_PART = 500  # recipients of a destination read at once

_json = msgspec.json.Encoder()


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
    priority: int = 0
    deliver_by: float = 0.0
    by_mode: str = ""
    require_tls: bool = False
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
    """How much lives: recipients that wait, that are due now, that are held; reports not yet written.

    ``whole`` is false when the queue is too long to count: then it is at least so many of each.
    """

    waiting: int
    due: int
    held: int
    owed: int
    oldest: float | None
    whole: bool = True


_RECIPIENT = (
    *("number", "address", "destination", "status", "attempts", "due", "updated", "finished"),
    *("notify", "orcpt", "owed", "reported", "warned"),
)
_MESSAGE = (
    *("id", "sender", "size", "recipient_count", "origin", "tags", "ret", "envid", "crashes"),
    *("not_before", "priority", "deliver_by", "by_mode", "require_tls"),
)
_COLUMNS = ", ".join(
    [
        *(f"message.{name}" for name in _MESSAGE),
        *(
            f"recipient.{name}" for name in _RECIPIENT
        ),  # with the answer: ``FoundRecipient`` in order
        *(f"{text} AS {name}" for name, text in LAST_ANSWER.items()),
    ]
)
_SELECT = f"SELECT {_COLUMNS} FROM recipient {WITH_LAST_ANSWER}"
# Live recipients are found by the index that holds nothing else, however long the history is.
_OF_LINE = (
    "JOIN recipient ON recipient.message_id = line.message_id AND recipient.number = line.number "
    f"{WITH_LAST_ANSWER}"
)
_SELECT_LIVE = f"SELECT {_COLUMNS} FROM recipient AS line {_OF_LINE}"
_TRIED = ", ".join(Tried.__struct_fields__)


def find(
    reader: Reader, wanted: Filter, limit: int, after: tuple[int, int] = (0, 0)
) -> list[Found]:
    """Messages in the order of arrival with up to ``limit`` recipients that the filter means.

    The next page goes on behind ``(queue_id, number)`` of the last recipient; a message that crosses the
    border of a page appears on both. Raises ``FilterError``.
    """
    meant = conditions(wanted)
    near = places.of_destination(reader, wanted, after)
    if near is not None:
        return _grouped(reader, _among(reader, near, meant, limit))
    select, place, live = (_SELECT, "recipient", "")
    if wanted.live_only:
        select, place = (_SELECT_LIVE, "line")
        held = set(wanted.status) == {RecipientStatus.HELD.value}
        live = "line.status = 'held' AND " if held else "line.finished IS NULL AND "
    rows = reader.rows(
        f"{select} WHERE {live}({place}.message_id, {place}.number) > (:after_id, :after_number) "
        f"AND {meant.text} ORDER BY {place}.message_id, {place}.number LIMIT :limit",
        **meant.values,
        after_id=after[0],
        after_number=after[1],
        limit=limit,
    )
    return _grouped(reader, rows)


def _among(reader: Reader, near: Sequence[places.Place], meant: Condition, limit: int) -> list[Any]:
    """Rows of up to ``limit`` of these recipients, as far as they are meant."""
    rows: list[Any] = []
    for start in range(0, len(near), _PART):
        if len(rows) >= limit:
            break
        rows += reader.rows(
            f"SELECT {_COLUMNS} FROM {reader.places} AS line {_OF_LINE} WHERE {meant.text} "
            "ORDER BY line.message_id, line.number",
            **meant.values,
            places=_json.encode(near[start : start + _PART]).decode(),
        )
    return rows[:limit]


def show(reader: Reader, queue_id: int, *, limit: int = 1000, after: int = 0) -> Shown | None:
    """A message with up to ``limit`` recipients behind number ``after`` and their attempts."""
    rows = reader.rows(
        f"{_SELECT} WHERE recipient.message_id = :id AND recipient.number > :after "
        "ORDER BY recipient.number LIMIT :limit",
        id=queue_id,
        after=after,
        limit=limit,
    )
    if not rows:
        return None
    (found,) = _grouped(reader, rows)
    numbers = [one.number for one in found.recipients]
    tries = reader.rows(
        f"SELECT {_TRIED} FROM attempt WHERE message_id = :id "
        "AND number BETWEEN :first AND :last ORDER BY number, attempt",
        id=queue_id,
        first=numbers[0],
        last=numbers[-1],
    )
    attempts: dict[int, list[Tried]] = {}
    for row in tries:
        one = Tried(*row)
        attempts.setdefault(one.number, []).append(one)
    return Shown(message=found, attempts={number: tuple(a) for number, a in attempts.items()})


def history(reader: Reader, address: str, limit: int) -> list[Found]:
    """The latest messages to an address, latest first, among the latest ``HISTORY_DEPTH`` recipients."""
    latest = reader.rows(
        "SELECT message_id, number FROM ("
        "SELECT message_id, number, address FROM recipient "
        "ORDER BY message_id DESC, number DESC LIMIT :depth) AS latest "
        "WHERE lower(address) = :whom LIMIT :limit",
        whom=address.lower(),
        depth=HISTORY_DEPTH,
        limit=limit,
    )
    line = (
        "SELECT message_id, number, address FROM recipient "
        "WHERE due IS NOT NULL AND destination = :at LIMIT :depth"
    )
    place = (
        f"SELECT message_id, number FROM ({line}) AS line WHERE lower(address) = :whom LIMIT :limit"
    )
    wanted = {"whom": address.lower(), "at": destination_of(address), "limit": limit}
    waiting = reader.rows(place, **wanted, depth=_LINE_DEPTH)
    if not latest and not waiting:  # it may stand far behind in a long line
        waiting = reader.rows(place, **wanted, depth=_ALL)
    found = {tuple(row) for row in (*latest, *waiting)}
    rows: list[Any] = []
    for queue_id, number in sorted(found, reverse=True)[:limit]:
        rows += reader.rows(
            f"{_SELECT} WHERE recipient.message_id = :id AND recipient.number = :number",
            id=queue_id,
            number=number,
        )
    return _grouped(reader, rows)


def _grouped(reader: Reader, rows: Sequence[Any]) -> list[Found]:
    width = len(_MESSAGE)
    found: list[Found] = []
    groups: Iterator[tuple[tuple[Any, ...], Iterator[Any]]]
    groups = groupby(rows, key=lambda row: tuple(row[:width]))
    for head, group in groups:
        recipients = tuple(
            FoundRecipient(**dict(zip(FoundRecipient.__struct_fields__, row[width:], strict=True)))
            for row in group
        )
        facts = dict(zip(_MESSAGE, head, strict=True))
        queue_id = facts.pop("id")
        facts["require_tls"] = bool(facts["require_tls"])  # SQLite has numbers
        states = {one.status for one in recipients}
        if len(recipients) != facts["recipient_count"]:
            states |= _states(reader, queue_id)
        status = next(state.value for state in MOST_ALIVE if state in states)
        found.append(Found(queue_id=queue_id, **facts, status=status, recipients=recipients))
    return found


def _states(reader: Reader, queue_id: int) -> set[str]:
    rows = reader.rows("SELECT DISTINCT status FROM recipient WHERE message_id = :id", id=queue_id)
    return {status for (status,) in rows}


def resolve_prefix(reader: Reader, prefix: str, limit: int = 10) -> list[QueueId]:
    """The ids that begin with ``prefix``, at most ``limit``; raises ``ValueError`` for impossible ones."""
    low, high = queue_id_range(prefix)
    rows = reader.rows(
        "SELECT id FROM message WHERE id BETWEEN :low AND :high ORDER BY id LIMIT :limit",
        low=low,
        high=high - 1,
        limit=limit,
    )
    return [QueueId(one) for (one,) in rows]


def beginning(reader: Reader, queue_id: int) -> bytes | None:
    """The first part of a content: its header section and more; None when it was dropped."""
    data = reader.value("SELECT data FROM content WHERE message_id = :id AND part = 0", id=queue_id)
    return None if data is None else bytes(data)


def counts(reader: Reader, now: float, *, most: int = COUNTED) -> Counts:
    """How much lives in the queue. Beyond ``most`` recipients only so many are looked at."""
    ((waiting, due),) = reader.rows(
        "SELECT count(*), count(*) FILTER (WHERE due <= :now) FROM "
        "(SELECT due FROM recipient WHERE due IS NOT NULL LIMIT :most) AS line",
        now=now,
        most=most,
    )
    held = reader.value(
        "SELECT count(*) FROM (SELECT 1 FROM recipient WHERE status = 'held' LIMIT :most) AS line",
        most=most,
    )
    oldest = reader.value("SELECT min(message_id) FROM recipient WHERE finished IS NULL")
    return Counts(
        waiting=waiting,
        due=due,
        held=held,
        owed=reader.value(
            "SELECT count(*) FROM (SELECT 1 FROM recipient WHERE owed <> '' LIMIT :most) AS line",
            most=most,
        ),
        oldest=None if oldest is None else arrival_of(oldest),
        whole=max(waiting, held) < most,
    )
