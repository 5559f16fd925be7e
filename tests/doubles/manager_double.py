"""The manager's end of one worker.

    async with WorkerProcess(settings, journal) as worker:
        worker.say(frames.Deliver(request))
        result = await worker.result(request.serial)

``WorkerProcess`` is a real process on a real socket pair, ``WorkerInside`` the same worker in the test's own
event loop. Contents that are fetched come from ``contents`` (queue id to parts). Results are settled at once
unless ``settles`` is false.
"""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar, cast

import msgspec

from deliveryagent.agent import frames
from deliveryagent.agent.manager_link import ManagerLink
from deliveryagent.agent.worker import Worker
from deliveryagent.agent.worker_settings import WorkerSettings
from deliveryagent.mail.delivery import DeliveryResult

ROOT = Path(__file__).parents[2]
Frame = TypeVar("Frame", bound=frames.FromWorker)


class Ears:
    """What a worker says, and the answers it needs. ``heard`` are all frames in order."""

    def __init__(self, *, contents: dict[int, list[bytes]] | None, settles: bool) -> None:
        self.heard: list[frames.FromWorker] = []
        self.contents = contents or {}
        self.settles = settles
        self._news = asyncio.Event()

    def say(self, *said: frames.ToWorker) -> None:
        """Send frames at once."""
        raise AssertionError

    async def until(self, true: Callable[[], bool], limit: float = 20.0) -> None:
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
        found = [r for f in self.heard if isinstance(f, frames.Results) for r in f.results]
        assert len({result.serial for result in found}) == len(found), "a request answered twice"
        return {result.serial: result for result in found}

    def hear(self, frame: frames.FromWorker) -> None:
        """The worker said something."""
        self.heard.append(frame)
        if isinstance(frame, frames.Fetch):
            parts = self.contents.get(frame.queue_id, [])
            data = parts[frame.part] if frame.part < len(parts) else None
            self.say(frames.Part(frame.queue_id, frame.part, data))
        elif isinstance(frame, frames.Results) and self.settles:
            self.say(frames.Settled(max(result.sequence for result in frame.results)))
        self._news.set()


class WorkerInside(Ears):
    """A worker without a process of its own."""

    def __init__(
        self,
        settings: WorkerSettings,
        journal: Path,
        *,
        contents: dict[int, list[bytes]] | None = None,
        settles: bool = True,
    ) -> None:
        super().__init__(contents=contents, settles=settles)
        self._settings = settings
        self._journal = journal

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        link = cast("ManagerLink", _Link(self))
        self.worker = Worker(self._settings, self._journal, link)
        self.worker.begin()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.say(frames.Drain(0.0))
        await self.worker.over
        await self.worker.leave()

    def say(self, *said: frames.ToWorker) -> None:
        for frame in said:
            self._loop.call_soon(self.worker.hear, frame)


class _Link:
    """What a worker inside takes for its link."""

    def __init__(self, ears: Ears) -> None:
        self.say = ears.hear

    def report(self, result: bytes, *, soon: bool = True) -> None:
        self.say(frames.Results([msgspec.msgpack.decode(result, type=DeliveryResult)]))

    def listen(self, _: Worker) -> None:
        return

    async def close(self, _: float) -> None:
        return


class WorkerProcess(asyncio.Protocol, Ears):
    """See the module. ``pid`` is the process, ``status`` its exit status once it has one."""

    def __init__(
        self,
        settings: WorkerSettings,
        journal: Path,
        *,
        contents: dict[int, list[bytes]] | None = None,
        settles: bool = True,
    ) -> None:
        Ears.__init__(self, contents=contents, settles=settles)
        self.pid = 0
        self._settings = settings
        self._journal = journal
        self._unframer = frames.Unframer()

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
        self._transport.write(frames.encode(said))

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
            self.hear(frame)
