"""Who waits for a message: each is woken whenever something of it was recorded.

Guarantees: costs nothing per message that nobody watches; a watcher that goes away leaves nothing behind.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class Watchers:
    """The events of those who watch, by message."""

    def __init__(self) -> None:
        self._events: dict[int, list[asyncio.Event]] = {}

    @contextmanager
    def watch(self, queue_id: int) -> Iterator[asyncio.Event]:
        """An event that is set whenever something of this message was recorded."""
        event = asyncio.Event()
        self._events.setdefault(queue_id, []).append(event)
        try:
            yield event
        finally:
            left = self._events[queue_id]
            left.remove(event)
            if not left:
                del self._events[queue_id]

    def tell(self, queue_id: int) -> None:
        """Something of this message was recorded."""
        for event in self._events.get(queue_id, ()):
            event.set()
