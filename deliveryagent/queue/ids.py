"""Where queue ids come from: one source per agent, for arrivals and for the agent's own messages.

Guarantees: every id is larger than the one before, also when the clock is set back; safe on any thread.

Several writers of one PostgreSQL queue never draw the same id: each source has a ``mark`` of its own (10 bits
and one that tells agents from programs that write directly, ``queue.inflow``), and the SQL functions number
their calls in the other half of what the low 12 bits can be.
"""

import random
import threading
from collections.abc import Callable

from deliveryagent.mail.envelope import QueueId, new_queue_id


class QueueIds:
    """Draws queue ids larger than ``last``, the largest one in the store.

    ``mark`` (11 bits) tells this source from all others that write to the queue now. Without one, random bits
    of the upper half do: the lower is for the listeners of the agent, where it is the only one.
    """

    def __init__(
        self,
        *,
        last: int,
        clock: Callable[[], float],
        rng: random.Random,
        mark: int | None = None,
    ) -> None:
        self._last = last
        self._mark = mark
        self._clock = clock
        self._rng = rng
        self._lock = threading.Lock()

    def __call__(self) -> QueueId:
        """A fresh queue id."""
        with self._lock:
            mark = 1024 | self._rng.getrandbits(10) if self._mark is None else self._mark
            fresh = new_queue_id(self._clock(), mark, after=self._last)
            self._last = fresh
            return fresh
