"""The delivery workers as processes: started, watched, restarted with growing pauses.

Guarantees: what a dead worker had in flight is handed back together with its journal before its successor
starts; a worker that shows no sign of life for ``SILENCE`` seconds is killed. Never decides about mail.
"""

import asyncio
import contextlib
import math
import os
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, cast

from deliveryagent.agent import frames
from deliveryagent.agent.frames import FromWorker, ToWorker

SILENCE = 60.0  # seconds without a beat until a worker counts as stuck
_SLOWEST_RESTART = 30.0
_LAST_WORDS = 2.0  # seconds to read what a worker said before it ended


class CrewOwner(Protocol):
    """What the crew tells the manager."""

    def worker_said(self, worker: "Worker", frame: FromWorker) -> None:
        """A frame arrived."""

    def worker_died(self, worker: "Worker", journal: Path) -> None:
        """The process is gone; its journal stays until the manager has dealt with it."""

    def worker_not_started(self, worker: "Worker", error: OSError) -> None:
        """The system could not give us a process; it is tried again."""


class Worker(asyncio.Protocol):
    """One worker process as the manager sees it."""

    def __init__(self, index: int, owner: CrewOwner) -> None:
        self.index = index
        self.pid = 0
        self.ready = False
        self.draining = False
        self.in_flight = 0
        self.sessions = 0
        self.lag = 0.0
        self.restarts = 0
        self.wanted: deque[frames.Fetch] = deque()  # parts of contents it asked for (``servings``)
        self.reading = 0  # parts being read for it
        self.last_beat = 0.0
        self.heard_out = asyncio.Event()  # the other end is closed, and everything it sent was read
        self._owner = owner
        self._unframer = frames.Unframer()
        self._outbox: list[ToWorker] = []
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()

    def begin(self, pid: int) -> None:
        """A new process takes this place."""
        self.pid, self.last_beat = pid, self._loop.time()
        self.in_flight = self.sessions = 0
        self.lag = 0.0
        self.heard_out.clear()
        self._unframer = frames.Unframer()
        self._outbox.clear()
        self.wanted.clear()

    def end(self) -> None:
        """The process is gone."""
        self.pid, self.ready = 0, False
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    @property
    def unsent(self) -> int:
        """Octets said to it that wait because it does not read."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def say(self, frame: ToWorker) -> None:
        """Send a frame; everything said in one turn of the event loop leaves in one write."""
        if not self._outbox:
            self._loop.call_soon(self._flush)
        self._outbox.append(frame)

    def _flush(self) -> None:
        outbox, self._outbox = self._outbox, []
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(frames.encode(outbox))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self.heard_out.set()

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._unframer.feed(data, frames.from_worker_decoder):
                if isinstance(frame, frames.Beat):
                    self.last_beat = self._loop.time()
                    self.lag, self.sessions = frame.lag, frame.sessions
                self._owner.worker_said(self, frame)
        except frames.FrameError:
            if self._transport is not None:
                self._transport.abort()

    def kill(self, signum: int) -> None:
        """Send a signal to the process, if there is one."""
        if self.pid:
            try:
                os.kill(self.pid, signum)
            except ProcessLookupError:
                return


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
        loop = asyncio.get_running_loop()
        pause = 0.0
        while not self._is_over(worker):
            started = loop.time()
            # A successor never writes into its predecessor's journal: that one may not be settled yet.
            path = self._journals / f"worker-{worker.index}-{time.time_ns()}.journal"
            code = await self._live(worker, path)
            self._owner.worker_died(worker, path)
            worker.restarts += 1
            healthy = code == 0 or loop.time() - started > _SLOWEST_RESTART
            pause = 0.0 if healthy else min(_SLOWEST_RESTART, max(0.1, pause * 2))
            if not self._is_over(worker):
                await asyncio.sleep(pause)

    def _is_over(self, worker: Worker) -> bool:
        return self._stopping or worker.draining

    async def _live(self, worker: Worker, path: Path) -> int:
        """One life of a worker; returns the exit status, -1 when it could not even be born."""
        try:
            process = await self._spawn(worker, path)
        except OSError as error:
            self._owner.worker_not_started(worker, error)
            return -1
        watchdog = asyncio.create_task(self._watch(worker))
        code = await process.wait()
        watchdog.cancel()
        with contextlib.suppress(TimeoutError):  # what it said last may still be on its way
            async with asyncio.timeout(_LAST_WORDS):
                await worker.heard_out.wait()
        worker.end()
        return code

    async def _spawn(self, worker: Worker, path: Path) -> asyncio.subprocess.Process:
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "deliveryagent.agent.worker",
                str(theirs.fileno()),
                str(path),
                pass_fds=[theirs.fileno()],
                stdin=asyncio.subprocess.DEVNULL,
            )
        worker.begin(process.pid)
        ours.setblocking(False)
        await asyncio.get_running_loop().create_connection(lambda: worker, sock=ours)
        worker.say(frames.Configure(self._settings()))
        if self._lease < math.inf:
            worker.say(frames.Lease(self._lease))
        return process

    async def _watch(self, worker: Worker) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(1.0)
            if loop.time() - worker.last_beat > SILENCE:
                worker.kill(signal.SIGABRT)
                await asyncio.sleep(5.0)
                worker.kill(signal.SIGKILL)

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
