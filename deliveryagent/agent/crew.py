"""The delivery workers as processes: how many there are, what they are told, and who hears them.

Guarantees: what a dead worker had in flight is handed back together with its journal before its successor
starts; the rest is that of ``children``. Never decides about mail.
"""

import asyncio
import math
import signal
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from deliveryagent import children
from deliveryagent.agent import frames
from deliveryagent.agent.frames import FromWorker
from deliveryagent.children import Child


class CrewOwner(Protocol):
    """What the crew tells the manager."""

    def worker_said(self, worker: "Worker", frame: FromWorker) -> None:
        """A frame arrived."""

    def worker_died(self, worker: "Worker", journal: Path) -> None:
        """The process is gone; its journal stays until the manager has dealt with it."""

    def worker_not_started(self, worker: "Worker", error: OSError) -> None:
        """The system could not give us a process; it is tried again."""


class Worker(Child[FromWorker]):
    """One worker process as the manager sees it."""

    def __init__(self, index: int, owner: CrewOwner) -> None:
        super().__init__(frames.from_worker_decoder)
        self.index = index
        self.in_flight = 0
        self.sessions = 0
        self.lag = 0.0
        self.wanted: deque[frames.Fetch] = deque()  # parts of contents it asked for (``servings``)
        self.reading = 0  # parts being read for it
        self._owner = owner

    def begin(self, pid: int) -> None:
        """A new process takes this place."""
        super().begin(pid)
        self.in_flight = self.sessions = 0
        self.lag = 0.0
        self.wanted.clear()

    def hear(self, said: list[FromWorker]) -> None:
        """Tell the manager, frame by frame."""
        for frame in said:
            if isinstance(frame, frames.Beat):
                self.alive()
                self.lag, self.sessions = frame.lag, frame.sessions
            self._owner.worker_said(self, frame)


class Crew:
    """All workers of this agent."""

    def __init__(
        self,
        owner: CrewOwner,
        *,
        count: int,
        settings: Callable[[], bytes],
        journals: Path,
    ) -> None:
        self.workers: list[Worker] = []
        self._owner = owner
        self._count = count
        self._settings = settings
        self._journals = journals
        self._stopping = False
        self._lease = math.inf
        self._next_index = 0
        self._leaving: deque[Worker] = deque(maxlen=1000)
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Start all workers; each is looked after until it is replaced or :meth:`drain` is called."""
        for _ in range(self._count):
            worker = Worker(self._next_index, self._owner)
            self._next_index += 1
            self.workers.append(worker)
            task = asyncio.create_task(self._look_after(worker), name=f"worker-{worker.index}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _look_after(self, worker: Worker) -> None:
        async def life() -> int:
            # A successor never writes into its predecessor's journal: that one may not be settled yet.
            path = self._journals / f"worker-{worker.index}-{time.time_ns()}.journal"
            code = await self._live(worker, path)
            self._owner.worker_died(worker, path)
            return code

        await children.keep(worker, life, lambda: self._stopping or worker.draining)

    async def _live(self, worker: Worker, path: Path) -> int:
        """One life of a worker; returns the exit status, -1 when it could not even be born."""
        try:
            process = await self._spawn(worker, path)
        except OSError as error:
            self._owner.worker_not_started(worker, error)
            return -1
        return await children.outlive(worker, process)

    async def _spawn(self, worker: Worker, path: Path) -> asyncio.subprocess.Process:
        process = await children.spawn(worker, "deliveryagent.agent.worker", [str(path)])
        worker.say(frames.Configure(self._settings()))
        if self._lease < math.inf:
            worker.say(frames.Lease(self._lease))
        return process

    def replace(self, grace: float) -> None:
        """Start workers with the present settings; the old ones finish what they are at and end."""
        old, self.workers = self.workers, []
        self._dismiss(old, grace)
        self.start()

    async def drain(self, grace: float) -> None:
        """Let all workers finish: no new work, cut what has not reached its final dot after the grace."""
        self._stopping = True
        self._dismiss(self.workers, grace)
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _dismiss(self, workers: list[Worker], grace: float) -> None:
        for worker in workers:
            worker.draining = True
            worker.say(frames.Drain(grace))
            self._leaving.append(worker)

    @property
    def everyone(self) -> set[Worker]:
        """All workers that may have sessions, those that are leaving too."""
        return {worker for worker in (*self.workers, *self._leaving) if worker.pid}

    def lease(self, until: float) -> None:
        """Tell all workers, now and later, until when they may deliver (see ``frames.Lease``)."""
        self._lease = until
        for worker in self.everyone:
            worker.say(frames.Lease(until))

    def kill(self) -> None:
        """End all workers at once; their journals tell what they were at."""
        self._stopping = True
        for worker in self.everyone:
            worker.kill(signal.SIGKILL)
