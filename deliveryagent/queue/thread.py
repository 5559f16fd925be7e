"""Database thread."""

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeVar

from sqlalchemy import Engine

from deliveryagent.queue.operation import Operation

X = TypeVar("X")
R = TypeVar("R")


class StoreUnavailable(Exception):
    """The store cannot record anything now; ``str()`` is a sentence with the reason."""


class Database:
    """One thread, one connection, one transaction at a time. Create and use it on the event loop's thread."""

    def __init__(
        self, engine: Engine, *, on_state: Callable[[bool, str], None] = lambda writable, reason: None
    ) -> None: ...

    def submit(self, operation: Operation[X, R], item: X) -> "asyncio.Future[R]":
        raise NotImplementedError

    def submit_many(
        self,
        operation: Operation[X, R],
        items: Sequence[X],
        callback: Callable[[list[R | Exception]], None],
    ) -> None:
        raise NotImplementedError

    async def close(self, grace: float = 10.0) -> None:
        """Run what is pending, give up on what cannot be recorded after ``grace`` seconds, end the thread."""
