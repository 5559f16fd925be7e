"""Where queue ids come from: one source per agent, for arrivals and for the agent's own messages.

Guarantees: every id is larger than the one before, also when the clock is set back; safe on any thread.
"""

import random
import threading
from collections.abc import Callable

from deliveryagent.mail.envelope import QueueId, new_queue_id


class QueueIds:
    """Draws queue ids larger than ``last``, the largest one in the store."""

    def __init__(self, *, last: int, clock: Callable[[], float], rng: random.Random) -> None:
        self._last = last
        self._clock = clock
        self._rng = rng
        self._lock = threading.Lock()

    def __call__(self) -> QueueId:
        """A fresh queue id."""
        with self._lock:
            fresh = new_queue_id(self._clock(), self._rng.getrandbits(12), after=self._last)
            self._last = fresh
            return fresh
