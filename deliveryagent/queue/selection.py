"""Recipients that a filter means, and messages by their ids, for the database thread.

What ``queue.search`` gives to readers, as statements that those who change the queue build on. Guarantees:
selects in the order of arrival; changes nothing.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, FromClause, Select, and_, select, text, tuple_

from deliveryagent.queue.filters import Filter, conditions
from deliveryagent.queue.operation import operation
from deliveryagent.queue.reader import Reader
from deliveryagent.queue.search import Shown, show
from queue_schema.tables import attempt, message, recipient

_latest = and_(
    attempt.c.message_id == recipient.c.message_id,
    attempt.c.number == recipient.c.number,
    attempt.c.attempt == recipient.c.attempts,
)


def with_last_answer(rows: FromClause) -> FromClause:
    """Recipients (and whatever they were joined with before) with their message and latest attempt."""
    return rows.join(message, message.c.id == recipient.c.message_id).outerjoin(attempt, _latest)


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
    meant = conditions(wanted)
    query = (
        select(*columns)
        .select_from(with_last_answer(source))
        .where(tuple_(place.c.message_id, place.c.number) > tuple_(*after))
        .where(text(meant.text).bindparams(**meant.values))
        .order_by(place.c.message_id, place.c.number)
    )
    return query.where(line.c.finished.is_(None)) if wanted.live_only else query


@operation(writes=False)
def shown_by_id(connection: Connection, items: Sequence[int]) -> list[Shown | None]:
    """Messages by their ids, for those who ask on the database thread."""
    reader = Reader.over(connection)
    return [show(reader, queue_id) for queue_id in items]
