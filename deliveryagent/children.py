"""Processes of our own: started, heard, watched, restarted with growing pauses.

A child is a Python module that is given one end of a socket pair and speaks frames (``protocol.framing``) over
it. Guarantees: whatever it said before it ended is heard before the next one starts; a child that shows no
sign of life for ``SILENCE`` seconds is killed. Never knows what is said.
"""

import asyncio
import contextlib
import gc
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar, cast

import msgspec

from deliveryagent.protocol.framing import FrameError, Unframer, encode

SILENCE = 60.0  # seconds without a beat until a child counts as stuck
_SLOWEST_RESTART = 30.0
_LAST_WORDS = 2.0  # seconds to read what a child said before it ended
_LOOK = 1.0  # seconds between looks for signs of life
_MERCY = 5.0  # seconds between the signal that leaves a trace and the one that cannot be missed

Said = TypeVar("Said")


class Child(asyncio.Protocol, Generic[Said]):
    """One place for a process, life after life; ``decoder`` reads what it says.

    ``ready`` and ``draining`` belong to those who know what is said: it serves; it was told to end.
    """

    def __init__(self, decoder: msgspec.msgpack.Decoder[Said]) -> None:
        self.pid = 0
        self.ready = False
        self.draining = False
        self.restarts = 0
        self.last_beat = 0.0
        self.heard_out = asyncio.Event()  # the other end is closed, and everything it sent was read
        self._decoder = decoder
        self._unframer = Unframer()
        self._outbox: list[Any] = []
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()

    def begin(self, pid: int) -> None:
        """A new process takes this place."""
        self.pid = pid
        self.alive()
        self.heard_out.clear()
        self._unframer = Unframer()
        self._outbox.clear()

    def end(self) -> None:
        """The process is gone."""
        self.pid, self.ready = 0, False
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    def hear(self, said: list[Said]) -> None:
        """What came in one read of the socket pair."""
        raise AssertionError(f"{type(self).__name__} does not listen to {said}")

    def alive(self) -> None:
        """It showed a sign of life."""
        self.last_beat = self._loop.time()

    @property
    def unsent(self) -> int:
        """Octets said to it that wait because it does not read."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def say(self, frame: Any) -> None:
        """Send a frame; everything said in one turn of the event loop leaves in one write."""
        if not self._outbox:
            self._loop.call_soon(self._flush)
        self._outbox.append(frame)

    def _flush(self) -> None:
        outbox, self._outbox = self._outbox, []
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(encode(outbox))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self.heard_out.set()

    def data_received(self, data: bytes) -> None:
        try:
            said = self._unframer.feed(data, self._decoder)
        except FrameError:
            if self._transport is not None:
                self._transport.abort()
        else:
            self.hear(said)

    def kill(self, signum: int) -> None:
        """Send a signal to the process, if there is one."""
        if self.pid:
            try:
                os.kill(self.pid, signum)
            except ProcessLookupError:
                return


async def spawn(
    child: Child[Any], module: str, arguments: Sequence[str], *, keep: Sequence[int] = ()
) -> asyncio.subprocess.Process:
    """Begin a life: ``python -m module LINK_FD arguments``; the descriptors ``keep`` stay open in it.

    Raises ``OSError`` when the system has no room for a process.
    """
    ours, theirs = socket.socketpair()
    try:
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                module,
                str(theirs.fileno()),
                *arguments,
                pass_fds=[theirs.fileno(), *keep],
                stdin=asyncio.subprocess.DEVNULL,
            )
    except BaseException:
        ours.close()
        raise
    child.begin(process.pid)
    ours.setblocking(False)
    await asyncio.get_running_loop().create_connection(lambda: child, sock=ours)
    return process


async def outlive(child: Child[Any], process: asyncio.subprocess.Process) -> int:
    """Watch over a life to its end; returns the exit status."""
    watchdog = asyncio.create_task(_watch(child))
    try:
        code = await process.wait()
    finally:
        watchdog.cancel()
    with contextlib.suppress(TimeoutError):  # what it said last may still be on its way
        async with asyncio.timeout(_LAST_WORDS):
            await child.heard_out.wait()
    child.end()
    return code


async def _watch(child: Child[Any]) -> None:
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(_LOOK)
        if loop.time() - child.last_beat > SILENCE:
            child.kill(signal.SIGABRT)
            await asyncio.sleep(_MERCY)
            child.kill(signal.SIGKILL)


async def keep(
    child: Child[Any], life: Callable[[], Awaitable[int]], over: Callable[[], bool]
) -> None:
    """Let one ``life`` follow the other until it is ``over``.

    After a life that ended well (0), or lasted, the next begins at once; else after a pause that grows.
    """
    loop = asyncio.get_running_loop()
    pause = 0.0
    while not over():
        started = loop.time()
        code = await life()
        child.restarts += 1
        healthy = code == 0 or loop.time() - started > _SLOWEST_RESTART
        pause = 0.0 if healthy else min(_SLOWEST_RESTART, max(0.1, pause * 2))
        if not over():
            await asyncio.sleep(pause)


def spare_collector() -> None:
    """What exists by now lives as long as the process: the garbage collector need not look at it again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
