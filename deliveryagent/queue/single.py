"""One operation in a transaction of its own, for programs without a database thread.

Guarantees: an answer is given after the commit only; a commit that lost its connection is resolved by doing the
same again, which changes nothing if it happened (see ``operation``).
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, TypeVar

from sqlalchemy import Connection, Engine

from deliveryagent.queue import faults
from deliveryagent.queue.operation import Operation
from deliveryagent.queue.thread import StoreUnavailable

X = TypeVar("X")
R = TypeVar("R")

_RESOLVE_TIME = 15.0  # seconds to find out what became of a commit
_REPEAT_TIME = 1.0  # seconds for transactions that the database wants repeated
_PAUSE = 0.05


class Store(Protocol):
    """Where transactions can be begun: an engine, or :class:`Kept`."""

    def begin(self) -> AbstractContextManager[Connection]:
        """A transaction, committed at the end of the block."""


class Kept:
    """A store whose one connection stays open between transactions, with all statements prepared.

    Closing SQLite's last connection writes back the whole log. A connection with an error is not used again.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._connection: Connection | None = None

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """A transaction, committed at the end of the block."""
        connection = self._connection = self._connection or self._engine.connect()
        try:
            with connection.begin():
                yield connection
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give the connection back."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def execute(engine: Store, operation: Operation[X, R], items: Sequence[X]) -> list[R]:
    """Run an operation at once. Raises ``StoreUnavailable`` when the store is in trouble."""
    deadline = 0.0
    while True:
        committing = False
        try:
            with engine.begin() as connection:
                answers = operation(connection, items)
                committing = True
        except Exception as error:
            reason = faults.trouble(error)
            if not reason:
                raise
            if not deadline and committing and faults.unanswered(error):
                deadline = time.monotonic() + _RESOLVE_TIME
            elif not deadline and faults.repeatable(error):
                deadline = time.monotonic() + _REPEAT_TIME
            if time.monotonic() >= deadline:
                raise StoreUnavailable(reason) from error
        else:
            return answers
        time.sleep(_PAUSE)
