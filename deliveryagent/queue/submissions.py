"""New messages: what the queue takes responsibility for once the transaction is committed.

A message, its content, its recipients and the sign that their destinations have work appear together or not
at all. Content of any size arrives part by part before its message does (``stage``); what was never
completed is swept at the next start.

Guarantees: the same submission twice (an answer lost with its connection) is one message; the same key with
the same content is one message; nothing of a refused submission remains; a key that a transaction of somebody
else holds keeps no other message waiting. Never judges addresses or sizes: that is ``protocol.arrival``.
"""

from collections.abc import Iterable, Sequence

import msgspec
from sqlalchemy import Connection, bindparam, delete, func, select

from deliveryagent.mail.address import destination_of
from deliveryagent.mail.submission import (
    Accepted,
    Answer,
    Duplicate,
    KeyBusy,
    KeyConflict,
    StagedPart,
    Submission,
)
from deliveryagent.policy.precedence import first_due
from deliveryagent.queue import keys, news
from deliveryagent.queue.bulk import Bulk, Row, insertion, item
from deliveryagent.queue.operation import operation
from queue_schema.tables import (
    agent,
    arriving,
    content,
    deadline,
    destination,
    message,
    recipient,
)

_json = msgspec.json.Encoder()

_MESSAGE = (
    *("id", "sender", "size", "dotted", "eightbit", "utf8", "long_lines"),
    *("ret", "envid", "recipient_count", "origin", "tags", "not_before"),
)
_add_message = insertion(message, *_MESSAGE)
# Most messages ask for nothing of this, and do not pay for it.
_add_asking_message = insertion(
    message, *_MESSAGE, "priority", "deliver_by", "by_mode", "require_tls"
)
_add_deadline = insertion(deadline, "at", "message_id")
_add_content = insertion(content, "message_id", "part", "data")
_add_recipient = insertion(
    recipient,
    *("message_id", "number", "address", "destination", "bulk", "status", "due", "updated"),
    *("notify", "orcpt"),
)
_add_arriving = insertion(arriving, "message_id", "started")
_announce = insertion(
    destination,
    *("name", "ready"),
    ending="ON CONFLICT (name) DO UPDATE SET ready = excluded.ready "
    "WHERE destination.ready IS NULL OR destination.ready > excluded.ready",
)
_acquaint = insertion(destination, "name")

_id = item(message.c.id)
_arrived = Bulk(delete(arriving).where(arriving.c.message_id.in_(select(_id.c.id))), _id)
_forget_parts = Bulk(
    delete(content).where(
        content.c.message_id.in_(select(_id.c.id)),
        ~select(message.c.id).where(message.c.id == content.c.message_id).exists(),
    ),
    _id,
)
_known = select(message.c.id, message.c.sender, message.c.size, message.c.recipient_count).where(
    message.c.id.in_(bindparam("ids", expanding=True))
)


@operation()
def add(connection: Connection, items: Sequence[Submission]) -> list[Answer]:
    """Take messages over; each answer says under which id the message is in the queue now."""
    if not any(one.envelope.key for one in items):
        _insert(connection, items)
        return [Accepted(one.queue_id) for one in items]
    answers = _answers_by_key(connection, items)
    fresh: list[Submission] = []
    refused: list[int] = []
    for one, answer in zip(items, answers, strict=True):
        if type(answer) is Accepted:
            fresh.append(one)
        else:
            refused.append(one.queue_id)
    _insert(connection, fresh)
    if refused:
        abandon(connection, refused)
    return answers


def _answers_by_key(connection: Connection, items: Sequence[Submission]) -> list[Answer]:
    """Who has the keys after we have tried to take them."""
    holders, busy = keys.take(
        connection,
        [
            (one.envelope.key, one.queue_id, one.facts.digest, one.arrival)
            for one in items
            if one.envelope.key
        ],
    )
    answers: list[Answer] = []
    for one in items:
        queue_id, digest = holders.get(one.envelope.key, (one.queue_id, b""))
        if queue_id != one.queue_id:
            same = digest == one.facts.digest
            answers.append(Duplicate(queue_id) if same else KeyConflict(queue_id))
        else:
            answers.append(KeyBusy() if one.envelope.key in busy else Accepted(queue_id))
    return answers


def _insert(connection: Connection, items: Sequence[Submission]) -> None:
    added = _add_messages(connection, items)
    fresh = added == len(items)
    if not fresh:
        _recognise(connection, items)
    _add_content.run(
        connection,
        [
            (one.queue_id, part, data)
            for one in items
            for part, data in enumerate(one.parts if one.facts.size else (b"",))
        ],
    )
    staged = [(one.queue_id,) for one in items if one.facts.size and not one.parts]
    if staged:
        _arrived.run(connection, staged)
    rows = [row for one in items for row in _recipient_rows(one)]
    (_add_recipient.add if fresh else _add_recipient.run)(connection, rows)
    announce(connection, ((row[3], row[6]) for row in rows))


def _add_messages(connection: Connection, items: Sequence[Submission]) -> int:
    """Add the rows of messages; returns how many were not there before."""
    plain: list[Row] = []
    asking: list[Row] = []
    deadlines: list[Row] = []
    for one in items:
        envelope = one.envelope
        if envelope.priority or envelope.deliver_by or envelope.require_tls:
            by = envelope.deliver_by, envelope.by_mode
            asking.append((*_message_row(one), envelope.priority, *by, envelope.require_tls))
            if envelope.deliver_by:
                deadlines.append((envelope.deliver_by, one.queue_id))
        else:
            plain.append(_message_row(one))
    added = _add_message.run(connection, plain)
    if asking:
        added += _add_asking_message.run(connection, asking)
        _add_deadline.run(connection, deadlines)
    return added


def _message_row(one: Submission) -> Row:
    envelope, facts = one.envelope, one.facts
    return (
        one.queue_id,
        envelope.sender,
        facts.size,
        facts.dotted,
        facts.eightbit,
        facts.utf8_headers,
        facts.long_lines,
        str(envelope.ret),
        envelope.envid,
        len(envelope.recipients),
        one.origin,
        _json.encode(envelope.tags).decode() if envelope.tags else "{}",
        envelope.not_before,
    )


def _recipient_rows(one: Submission) -> list[Row]:
    envelope = one.envelope
    status, due = "queued", max(one.arrival, envelope.not_before)
    small = one.bulk_after or len(envelope.recipients)
    if envelope.priority > 0:
        due = first_due(one.arrival, envelope.not_before, envelope.priority)
    elif envelope.priority < 0:
        small = 0
    return [
        (
            one.queue_id,
            number,
            new.address,
            destination_of(new.address),
            number > small,
            "held" if envelope.hold else status,
            None if envelope.hold else due,
            one.arrival,
            int(new.notify),
            new.orcpt,
        )
        for number, new in enumerate(envelope.recipients, start=1)
    ]


def _recognise(connection: Connection, items: Sequence[Submission]) -> None:
    """Some ids are in the queue already: that is well if it is the same message, and a mistake if not."""
    rows = connection.execute(_known, {"ids": [one.queue_id for one in items]})
    stored = {queue_id: (sender, size, count) for queue_id, sender, size, count in rows}
    for one in items:
        facts = (one.envelope.sender, one.facts.size, len(one.envelope.recipients))
        if stored.get(one.queue_id) != facts:
            raise ValueError(f"the queue id {one.queue_id} belongs to another message")


def announce(connection: Connection, work: Iterable[tuple[str, float | None]]) -> None:
    """Say of destinations that they have work due at these times (None: nothing due, but known).

    Other agents hear of it when one of them may be the first to know.
    """
    earliest: dict[str, float] = {}
    known: set[str] = set()
    for name, due in work:
        if due is None:
            known.add(name)
        elif due < earliest.get(name, float("inf")):
            earliest[name] = due
    # Always in the same order, so that two agents never wait for each other in a circle.
    if earliest and _announce.run(connection, sorted(earliest.items())):
        news.tell(connection, "mail")
    if known:
        _acquaint.run(connection, [(name,) for name in sorted(known)])


@operation(cap=16)
def stage(connection: Connection, items: Sequence[StagedPart]) -> list[None]:
    """Keep parts of contents that are still arriving; the same part twice is kept once."""
    first = [(one.queue_id, one.started) for one in items if one.part == 0]
    if first:
        _add_arriving.run(connection, first)
    _add_content.run(connection, [(one.queue_id, one.part, one.data) for one in items])
    return [None] * len(items)


@operation()
def abandon(connection: Connection, items: Sequence[int]) -> list[None]:
    """Forget what was staged under these ids; messages that are complete are left alone."""
    rows = [(queue_id,) for queue_id in items]
    _forget_parts.run(connection, rows)
    _arrived.run(connection, rows)
    return [None] * len(items)


_SWEEP = 64


@operation()
def sweep_arriving(connection: Connection, items: Sequence[None]) -> list[int]:
    """Forget everything that was arriving when its agent ended; returns how many messages that were.

    Where other agents are at work, what arrives may be theirs: then nothing is forgotten.
    """
    if (connection.scalar(select(func.count()).select_from(agent)) or 0) > 1:
        return [0] * len(items)
    ids = connection.scalars(select(arriving.c.message_id)).all()
    for start in range(0, len(ids), _SWEEP):
        abandon(connection, ids[start : start + _SWEEP])
    return [len(ids)] * len(items)


@operation()
def sweep_abandoned(connection: Connection, items: Sequence[float]) -> list[int]:
    """Forget what began to arrive before each time and never did completely; how many messages."""
    swept = []
    for before in items:
        old = select(arriving.c.message_id).where(arriving.c.started < before).limit(_SWEEP)
        ids = connection.scalars(old).all()
        abandon(connection, ids)
        swept.append(len(ids))
    return swept


@operation(writes=False)
def newest(connection: Connection, items: Sequence[None]) -> list[int]:
    """The largest queue id in use, 0 in an empty queue: new ones must be larger."""
    return [last_id(connection)] * len(items)


def last_id(connection: Connection) -> int:
    """The largest queue id in use, 0 in an empty queue."""
    ids = [
        connection.scalar(select(func.max(column)))
        for column in (message.c.id, arriving.c.message_id)
    ]
    return max(queue_id or 0 for queue_id in ids)
