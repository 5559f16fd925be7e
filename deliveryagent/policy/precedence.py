"""Who goes first: the priority of a message among those that wait for the same destination (RFC 6710).

A level of priority is worth an hour of waiting: a message goes before all that have not waited for so much
longer than it has. So a higher one goes first in any line shorter than that, and a lower one is never kept
waiting for ever. Of a message with a priority above 0 the stored due time of the first attempt is put earlier
by that much, which is its place in the line; one below 0 waits in the bulk line, from which less is fetched as
long as it waits in memory, behind whoever came up to that much later.

Guarantees: a message without a priority is not touched by any of this; nothing is tried before the time it
was to wait for. Never reads a clock.
"""

from deliveryagent.mail.envelope import arrival_of

HEAD_START = 3600.0
"""Seconds that a level of priority is worth."""

LOWEST, HIGHEST = -9, 9


def first_due(arrival: float, not_before: float, priority: int) -> float:
    """The due time of the first attempt: the place in the line of its destination.

    >>> first_due(10_000.0, 0.0, 0), first_due(10_000.0, 0.0, 2), first_due(10_000.0, 20_000.0, 9)
    (10000.0, 2800.0, 20000.0)
    """
    return max(arrival - HEAD_START * max(0, priority), not_before)


def due_since(due: float, message_id: int, priority: int) -> float:
    """Since when an attempt is due: never before the message came, whatever its place in the line."""
    return max(due, arrival_of(message_id)) if priority > 0 else due


def rank(due: float, message_id: int, priority: int) -> float:
    """The place among those in memory, smaller is earlier: when it would be due if it had no priority.

    A later attempt keeps the priority of the message.
    """
    return due_since(due, message_id, priority) - HEAD_START * priority
