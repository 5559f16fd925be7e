"""Forgetting: finished messages after their retention, old idempotency keys, idle destinations and sites.

Works in small steps behind a cursor that goes round and round over the old messages, so that one long-lived
message in a thousand never makes the others stay, and no step is felt by deliveries. Guarantees: nothing that
lives, owes a report or ended within the retention is touched.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, bindparam, delete, or_, select, tuple_

from deliveryagent.mail.envelope import first_queue_id
from deliveryagent.queue.bulk import Bulk, item
from deliveryagent.queue.operation import operation
from queue_schema.tables import (
    attempt,
    content,
    deadline,
    destination,
    message,
    recipient,
    site,
    submission_key,
)

_RECIPIENTS = 2000  # removed in one step, unless a single message has more
_SITE_MEMORY = 86_400.0  # seconds after which an unused site's window says nothing any more
_IDLE_ROWS = 1000


class Purge(msgspec.Struct, frozen=True, kw_only=True):
    """One small step of forgetting: what ended before ``before`` goes; looked for behind ``cursor``."""

    now: float
    before: float
    cursor: int = 0
    limit: int = 200


class Purged(msgspec.Struct, frozen=True):
    """What a step removed and where the next one goes on; ``cursor`` is 0 when the round is complete."""

    messages: int
    recipients: int
    cursor: int


_old = (
    select(message.c.id, message.c.recipient_count)
    .where(message.c.id > bindparam("cursor"), message.c.id < bindparam("born_before"))
    .order_by(message.c.id)
    .limit(bindparam("limit"))
)
_kept = (
    select(recipient.c.message_id)
    .where(
        recipient.c.message_id.in_(bindparam("ids", expanding=True)),
        or_(
            recipient.c.finished.is_(None),
            recipient.c.finished >= bindparam("before"),
            recipient.c.owed != "",
        ),
    )
    .distinct()
)
_gone = item(message.c.id)
_ids = select(_gone.c.id)
_times = select(message.c.deliver_by, message.c.id).where(
    message.c.id.in_(_ids), message.c.deliver_by > 0
)
_REMOVALS = (
    Bulk(delete(deadline).where(tuple_(deadline.c.at, deadline.c.message_id).in_(_times)), _gone),
    *(
        Bulk(delete(column.table).where(column.in_(_ids)), _gone)
        for column in (
            *(attempt.c.message_id, recipient.c.message_id, content.c.message_id),
            message.c.id,
        )
    ),
)
_old_keys = delete(submission_key).where(
    submission_key.c.key.in_(
        select(submission_key.c.key)
        .where(submission_key.c.created < bindparam("before"))
        .limit(_IDLE_ROWS)
    )
)
_idle_destinations = delete(destination).where(
    destination.c.ready.is_(None),
    destination.c.owner.is_(None),
    destination.c.paused_until.is_(None),
    ~select(recipient.c.number)
    .where(recipient.c.destination == destination.c.name, recipient.c.due.is_not(None))
    .exists(),
)
_idle_sites = delete(site).where(
    site.c.updated < bindparam("long_ago"),
    or_(site.c.closed_until.is_(None), site.c.closed_until < bindparam("now")),
)


@operation(cap=1)
def purge(connection: Connection, items: Sequence[Purge]) -> list[Purged]:
    """Take one step; a complete round also clears away keys, destinations and sites of no more use."""
    return [_step(connection, one) for one in items]


def _step(connection: Connection, wanted: Purge) -> Purged:
    born_before = first_queue_id(wanted.before)
    rows = connection.execute(
        _old, {"cursor": wanted.cursor, "born_before": born_before, "limit": wanted.limit}
    ).all()
    counted = 0
    looked_at: list[Any] = []
    for row in rows:
        if looked_at and counted + row.recipient_count > _RECIPIENTS:
            break
        looked_at.append(row)
        counted += row.recipient_count
    if not looked_at:
        _clear(connection, wanted)
        return Purged(0, 0, 0)
    ids = [row.id for row in looked_at]
    kept = set(connection.scalars(_kept, {"ids": ids, "before": wanted.before}))
    gone = [row for row in looked_at if row.id not in kept]
    for removal in _REMOVALS if gone else ():
        removal.run(connection, [(row.id,) for row in gone])
    complete = len(looked_at) == len(rows) < wanted.limit
    if complete:
        _clear(connection, wanted)
    recipients = sum(row.recipient_count for row in gone)
    return Purged(len(gone), recipients, 0 if complete else ids[-1])


def _clear(connection: Connection, wanted: Purge) -> None:
    connection.execute(_old_keys, {"before": wanted.before})
    connection.execute(_idle_destinations)
    connection.execute(_idle_sites, {"long_ago": wanted.now - _SITE_MEMORY, "now": wanted.now})
