"""What the database thread runs: an operation on the queue and the items it takes.

An operation is a function ``f(connection, items) -> results``, one result per item in the same order. It runs
inside a transaction that others share, so it never commits, never rolls back and never waits for anything but
the database. Guarantees of every operation in this room: it can be repeated after a failure whose effect is
unknown (a commit that lost its connection) without doing anything twice.
"""

from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Generic, TypeVar

from sqlalchemy import Connection

X = TypeVar("X")
R = TypeVar("R")


class Fenced(Exception):  # noqa: N818 - a state, seen by people as such
    """Others were given what was ours: this process may write nothing any more (raised by a fence)."""


class Turn(IntEnum):
    """When an operation runs among those that share a transaction; within a turn, as they came."""

    FACTS = 0  # what happened: outcomes, custody given back
    CHANGES = 1
    REPORTS = 2  # sees every fact and change handed in before it
    QUESTIONS = 3


class Operation(Generic[X, R]):
    """A function on the queue with what the database thread must know of it.

    ``must``: its items are facts that happened (an outcome, a lease given back); they are kept and retried
    until they are recorded, where others fail with ``StoreUnavailable``. ``writes``: it changes the store, so
    its success shows that the store can be written. ``cap``: the most items of it in one transaction.
    """

    __slots__ = ("cap", "must", "name", "run", "turn", "writes")

    def __init__(
        self,
        run: Callable[[Connection, Sequence[X]], list[R]],
        *,
        must: bool = False,
        writes: bool = True,
        reports: bool = False,
        cap: int = 1000,
    ) -> None:
        self.run = run
        self.name = run.__name__
        self.must = must
        self.writes = writes
        self.cap = cap
        if must:
            self.turn = Turn.FACTS
        elif not writes:
            self.turn = Turn.QUESTIONS
        else:
            self.turn = Turn.REPORTS if reports else Turn.CHANGES

    def __call__(self, connection: Connection, items: Sequence[X]) -> list[R]:
        """Run it in the caller's transaction."""
        return self.run(connection, items)

    def __repr__(self) -> str:
        return f"<operation {self.name}>"


def operation(
    *, must: bool = False, writes: bool = True, reports: bool = False, cap: int = 1000
) -> Callable[[Callable[[Connection, Sequence[X]], list[R]]], Operation[X, R]]:
    """Make a function an :class:`Operation`; ``reports`` puts it behind all that change something."""

    def wrap(run: Callable[[Connection, Sequence[X]], list[R]]) -> Operation[X, R]:
        return Operation(run, must=must, writes=writes, reports=reports, cap=cap)

    return wrap
