"""A bounded memory of answers with a time to live, in which no question is asked twice at once.

Guarantees: never holds more than its limit, the least recently used go first; an answer is never
given out after its time; while one caller waits for an answer, others with the same question wait
for the same one, and one of them giving up does not disturb the rest. Never looks at the wall
clock, and knows nothing of DNS.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Cache(Generic[Key, Value]):
    """Answers by question; ``clock`` counts seconds and never goes back."""

    def __init__(self, limit: int, clock: Callable[[], float]) -> None:
        self._limit = limit
        self._clock = clock
        self._kept: OrderedDict[Key, tuple[float, Value]] = OrderedDict()
        self._asked: dict[Key, asyncio.Task[Value]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, key: Key) -> tuple[Value, float] | None:
        """A remembered answer and the seconds it still holds, if there is one."""
        found = self._kept.get(key)
        if found is None:
            return None
        left = found[0] - self._clock()
        if left <= 0:
            del self._kept[key]
            return None
        self._kept.move_to_end(key)
        return found[1], left

    def keep(self, key: Key, value: Value, ttl: float) -> None:
        """Remember an answer for ``ttl`` seconds."""
        if ttl > 0:
            self._kept[key] = (self._clock() + ttl, value)
            self._kept.move_to_end(key)
            if len(self._kept) > self._limit:
                self._kept.popitem(last=False)

    async def ask(self, key: Key, question: Callable[[], Awaitable[tuple[Value, float]]]) -> Value:
        """The answer, remembered or asked for; ``question`` returns it with its time to live.

        What ``question`` raises is raised to everybody who waits, and not remembered.
        """
        found = self.find(key)
        if found is not None:
            return found[0]
        task = self._asked.get(key)
        if task is None:
            task = self._asked[key] = asyncio.ensure_future(self._fetch(key, question))
        return await asyncio.shield(task)

    async def _fetch(
        self, key: Key, question: Callable[[], Awaitable[tuple[Value, float]]]
    ) -> Value:
        try:
            value, ttl = await question()
            self.keep(key, value, ttl)
            return value
        finally:
            del self._asked[key]

    async def close(self) -> None:
        """Stop asking; whoever waits is cancelled."""
        tasks = list(self._asked.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
