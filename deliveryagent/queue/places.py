"""Where recipients that live are found for lists, when the order of arrival would lead past many others.

Lists follow everything that lives, in the order of arrival: that shows the first page at once, unless hardly
anything of it is meant. Of a destination that has not much waiting, the places are taken from its waiting line
and from what is on hold instead, and put in order here. Guarantees: costs what the destination has waiting,
not what the queue holds; says so when that is too much. Changes nothing.
"""

from deliveryagent.mail.address import destination_of
from deliveryagent.queue.filters import Filter
from deliveryagent.queue.reader import Reader

FEW = 20_000
"""Recipients of a destination beyond which a list follows the order of arrival after all."""

Place = tuple[int, int]
"""A recipient: its message's id, its number."""


def of_destination(reader: Reader, wanted: Filter, after: Place) -> list[Place] | None:
    """Everything that lives at the destination a filter names, behind ``after``, in the order of arrival.

    None when it names none, or when there are more than ``FEW``.
    """
    if not (wanted.live_only and (wanted.domain or wanted.to)):
        return None
    name = wanted.domain.lower().rstrip(".") or destination_of(wanted.to)
    asked = {"name": name, "after_id": after[0], "after_number": after[1], "most": FEW + 1}
    rows = [
        *reader.rows(
            "SELECT message_id, number FROM recipient WHERE destination = :name "
            "AND due IS NOT NULL AND (message_id, number) > (:after_id, :after_number) LIMIT :most",
            **asked,
        ),
        *reader.rows(
            "SELECT message_id, number FROM recipient WHERE status = 'held' AND destination = :name "
            "AND (message_id, number) > (:after_id, :after_number) LIMIT :most",
            **asked,
        ),
    ]
    return sorted((row[0], row[1]) for row in rows) if len(rows) <= FEW else None
