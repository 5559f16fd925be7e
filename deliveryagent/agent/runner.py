"""A task that carries out one delivery or lane after the other; cheaper than a task for each.

Guarantees: a fault in one piece of work ends that piece only; what a lane left is carried out
before anything new. Never chooses what is next.
"""

import asyncio
from collections import deque
from typing import Protocol, cast

from deliveryagent.agent.delivery import Delivery
from deliveryagent.agent.lane import Lane

Work = Delivery | Lane


class Master(Protocol):
    """The worker, as its runners see it."""

    free: "list[Runner]"

    def next_work(self) -> Work | None:
        """What is to be done next."""

    def finish(self, delivery: Delivery) -> None:
        """A delivery is over."""

    def report_fault(self, error: BaseException) -> None:
        """A fault of this program."""


class Runner:
    """See the module's description. ``task`` is the task; ``work`` is None while there is none."""

    __slots__ = ("_begun", "_left", "_loop", "_master", "_wake", "task", "work")

    def __init__(self, master: Master, work: Work) -> None:
        self._master = master
        self._loop = asyncio.get_running_loop()
        self._wake: asyncio.Future[None] | None = None
        self._begun = False  # inside run(), which alone knows what to do when the task is cancelled
        self._left: deque[Delivery] = deque()
        self.work: Work | None = work
        self.task = self._loop.create_task(self._run())

    def take(self, work: Work) -> None:
        """Wake up and carry this out."""
        self.work = work
        cast("asyncio.Future[None]", self._wake).set_result(None)

    def cut(self) -> None:
        """End what has not reached its final dot."""
        for delivery in self._left:
            delivery.stop()
        if self.work is not None:
            self.work.stop()
            if self._begun and not self.work.past_dot:
                self.task.cancel()

    async def _run(self) -> None:
        while True:
            work = cast("Work", self.work)
            self._begun = True
            try:
                await work.run()
            except Exception as error:  # noqa: BLE001 - the one place where a fault in a delivery ends
                self._master.report_fault(error)
            self._begun = False
            if isinstance(work, Delivery):
                self._master.finish(work)
            else:
                self._left += work.left
            self.work = self._left.popleft() if self._left else self._master.next_work()
            if self.work is None:
                self._wake = self._loop.create_future()
                self._master.free.append(self)
                await self._wake
