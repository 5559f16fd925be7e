"""The shape of the queue: how much waits for whom, and since when.

Everything that waits is counted: that takes one pass over an index that holds all it needs (by sender, and the
messages in their order). Guarantees: one statement each, which Ctrl-C ends and for which nobody else waits.
"""

from itertools import pairwise
from typing import Literal

import msgspec

from deliveryagent.mail.envelope import first_queue_id
from deliveryagent.queue.reader import Reader

SHAPE_MINUTES = (5, 10, 20, 40, 80, 160, 320, 640, 1280)
"""The upper bounds of the age buckets of ``shape``; the last bucket is everything older."""


class ShapeRow(msgspec.Struct, frozen=True):
    """One line of the shape: recipients waiting per age bucket, youngest first."""

    name: str
    total: int
    buckets: tuple[int, ...]


_DUE = "recipient.due IS NOT NULL"
_NOT_HELD = (
    "(recipient.message_id, recipient.number) NOT IN "
    "(SELECT message_id, number FROM recipient WHERE status = 'held')"
)
_NAMES = {
    "destination": ("recipient.destination", "", _DUE),
    "site": (
        "coalesce(destination.site, '')",
        "LEFT JOIN destination ON destination.name = recipient.destination",
        _DUE,
    ),
    # In the order of arrival, that of the messages in the store.
    "sender": (
        "message.sender",
        "JOIN message ON message.id = recipient.message_id",
        f"recipient.finished IS NULL AND {_NOT_HELD}",
    ),
}


def shape(
    reader: Reader,
    now: float,
    by: Literal["destination", "site", "sender"] = "destination",
    limit: int = 100,
) -> list[ShapeRow]:
    """Waiting recipients by age of their message, the fullest lines first (as qshape counts)."""
    name, join, waits = _NAMES[by]
    edges = {
        f"born_{'abcdefghi'[n]}": first_queue_id(now - m * 60) for n, m in enumerate(SHAPE_MINUTES)
    }
    younger = ", ".join(f"count(*) FILTER (WHERE id >= :{edge})" for edge in edges)
    rows = reader.rows(
        f"SELECT name, count(*) AS total, {younger} FROM ("
        f"SELECT {name} AS name, recipient.message_id AS id FROM recipient {join} "
        f"WHERE {waits}) AS waiting "
        "GROUP BY name ORDER BY total DESC, name LIMIT :limit",
        limit=limit,
        **edges,
    )
    return [_shape_row(*row) for row in rows]


def _shape_row(name: str, total: int, *within: int) -> ShapeRow:
    edges = [0, *within, total]
    return ShapeRow(name, total, tuple(b - a for a, b in pairwise(edges)))


def fullest(reader: Reader, limit: int) -> list[tuple[str, int]]:
    """Destinations with the number of recipients that wait there, the fullest first."""
    rows = reader.rows(
        "SELECT destination, count(*) AS total FROM recipient WHERE due IS NOT NULL "
        "GROUP BY destination ORDER BY total DESC, destination LIMIT :limit",
        limit=limit,
    )
    return [(name, total) for name, total in rows]
