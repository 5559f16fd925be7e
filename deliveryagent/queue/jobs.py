"""What is handed to the database thread, and what shares a transaction there.

A job may be cut into several transactions, and many jobs may share one. Guarantees: items and answers keep
their order. Never runs anything.
"""

from collections.abc import Callable, Sequence
from typing import Any

from deliveryagent.queue.operation import Operation


class Job:
    """Items of one operation that were handed over together, and the answers so far."""

    __slots__ = ("answers", "deliver", "items", "operation", "taken")

    def __init__(
        self,
        operation: Operation[Any, Any],
        items: Sequence[Any],
        deliver: Callable[[list[Any]], None],
    ) -> None:
        self.operation = operation
        self.items = items
        self.deliver = deliver
        self.taken = 0  # items that are in a transaction or answered
        self.answers: list[Any] = []


class Group:
    """Items of one operation inside one transaction, with the jobs they come from.

    ``must``: they have to be recorded, because they are facts, or because they may be recorded already.
    """

    __slots__ = ("answers", "items", "must", "operation", "shares")

    def __init__(self, operation: Operation[Any, Any]) -> None:
        self.operation = operation
        self.must = operation.must
        self.items: list[Any] = []
        self.shares: list[tuple[Job, int]] = []
        self.answers: list[Any] = []

    def room(self) -> int:
        """How many more items may come in."""
        return self.operation.cap - len(self.items)

    def take(self, job: Job, count: int) -> None:
        """The next items of a job come in."""
        self.items.extend(job.items[job.taken : job.taken + count])
        job.taken += count
        self.shares.append((job, count))
