"""The manager's end of one real worker process.

    async with WorkerProcess(settings, journal) as worker:
        worker.say(frames.Deliver(request))
        result = await worker.result(request.serial)

Contents that are fetched come from ``contents`` (queue id to parts). Results are settled at once unless
``settles`` is false.
"""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from deliveryagent.agent import frames
from deliveryagent.agent.worker_settings import WorkerSettings
from deliveryagent.mail.delivery import DeliveryResult

ROOT = Path(__file__).parents[2]
Frame = TypeVar("Frame", bound=frames.FromWorker)


class WorkerProcess(asyncio.Protocol):
    """See the module. ``heard`` are all frames in order, ``status`` the exit status once it has one."""

    def __init__(
        self,
        settings: WorkerSettings,
        journal: Path,
        *,
        contents: dict[int, list[bytes]] | None = None,
        settles: bool = True,
    ) -> None:
        self.heard: list[frames.FromWorker] = []
        self.contents = contents or {}
        self.settles = settles
        self.status: int | None = None
        self.pid = 0
        self._settings = settings
        self._journal = journal
        self._unframer = frames.Unframer()
        self._news = asyncio.Event()

    async def __aenter__(self) -> Self:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "deliveryagent.agent.worker",
                str(theirs.fileno()),
                str(self._journal),
                pass_fds=[theirs.fileno()],
                cwd=ROOT,
            )
        self.pid = self._process.pid
        ours.setblocking(False)
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_connection(lambda: self, sock=ours)
        self.say(frames.Configure(self._settings.encode()))
        await self.frame(frames.Ready)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process.returncode is None:
            self.kill()
        await self._process.wait()
        self._transport.abort()

    def say(self, *said: frames.ToWorker) -> None:
        """Send frames in one write."""
        self._transport.write(frames.encode(said))

    async def until(self, true: Callable[[], bool], limit: float = 10.0) -> None:
        """Wait until frames have made something true."""
        async with asyncio.timeout(limit):
            while not true():
                self._news.clear()
                await self._news.wait()

    async def frame(self, kind: type[Frame]) -> Frame:
        """The first frame of a kind, awaited if need be."""
        await self.until(lambda: any(isinstance(f, kind) for f in self.heard))
        return next(f for f in self.heard if isinstance(f, kind))

    async def result(self, serial: int) -> DeliveryResult:
        """The result of one request."""
        await self.until(lambda: serial in self.results)
        return self.results[serial]

    @property
    def results(self) -> dict[int, DeliveryResult]:
        """The results so far, by serial."""
        found = [f.result for f in self.heard if isinstance(f, frames.Result)]
        assert len({result.serial for result in found}) == len(found), "a request answered twice"
        return {result.serial: result for result in found}

    def kill(self) -> None:
        """End the process as the out-of-memory killer would."""
        os.kill(self.pid, signal.SIGKILL)

    def hang_up(self) -> None:
        """Vanish as a killed manager does."""
        self._transport.abort()

    async def exit_status(self, limit: float = 10.0) -> int:
        """Wait for the end of the process."""
        async with asyncio.timeout(limit):
            return await self._process.wait()

    def data_received(self, data: bytes) -> None:
        for frame in self._unframer.feed(data, frames.from_worker_decoder):
            self.heard.append(frame)
            if isinstance(frame, frames.Fetch):
                parts = self.contents.get(frame.queue_id, [])
                data_ = parts[frame.part] if frame.part < len(parts) else None
                self.say(frames.Part(frame.queue_id, frame.part, data_))
            elif isinstance(frame, frames.Result) and self.settles and frame.result.sequence:
                self.say(frames.Settled(frame.result.sequence))
        self._news.set()
