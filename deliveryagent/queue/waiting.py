"""Everything that waits, in few columns, for ``mailq``: the whole queue has to go by quickly.

Guarantees: recipients come in the order of arrival, page by page, at a cost of what is shown; nothing is
changed. What is in flight only the service knows.
"""

from typing import NamedTuple

from deliveryagent.mail.envelope import QueueId
from deliveryagent.queue.answers import LAST_ANSWER, WITH_LAST_ANSWER
from deliveryagent.queue.reader import Reader


class Waiting(NamedTuple):
    """A recipient that lives, with its message and its last answer (``queue.answers``)."""

    queue_id: QueueId
    number: int
    sender: str
    size: int
    address: str
    status: str
    ip: str
    stage: str
    code: int
    enhanced: str
    text: str
    host: str


_COLUMNS = ", ".join(
    [
        *("recipient.message_id", "recipient.number", "message.sender", "message.size"),
        *("recipient.address", "recipient.status", "coalesce(attempt.ip, '')"),
        *LAST_ANSWER.values(),
    ]
)
# Live recipients are found by the index that holds nothing else, however long the history is.
_WAITING = (
    f"SELECT {_COLUMNS} FROM recipient AS line "
    "JOIN recipient ON recipient.message_id = line.message_id AND recipient.number = line.number "
    f"{WITH_LAST_ANSWER} WHERE line.finished IS NULL "
    "AND (line.message_id, line.number) > (:after_id, :after_number) "
    "ORDER BY line.message_id, line.number LIMIT :limit"
)


def waiting(reader: Reader, limit: int, after: tuple[int, int] = (0, 0)) -> list[Waiting]:
    """Up to ``limit`` recipients behind the one with this queue id and number."""
    found = reader.rows(_WAITING, after_id=after[0], after_number=after[1], limit=limit)
    return [Waiting._make(row) for row in found]
