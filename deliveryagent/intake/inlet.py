"""The octets of one connection to the local socket, both ways.

A protocol of the event loop with a buffer that may be looked into, so that many small requests that
came in one piece are served in one turn, without a task waiting for each of their parts. Guarantees:
no more than a few hundred KiB wait to be read, whatever the other side sends; writing never waits,
:meth:`Inlet.drain` does. Never interprets what it reads.
"""

import asyncio
from collections.abc import Callable
from typing import Any

BUFFER = 1 << 16
"""Octets that may wait unread before the other side has to wait; one read of the socket comes on top."""


class GoneError(Exception):
    """The other side went away in the middle of something."""


class Inlet(asyncio.Protocol):
    """One connection. ``begin`` is called when it is there."""

    def __init__(self, begin: Callable[["Inlet"], None]) -> None:
        self.buffer = bytearray()
        self.ended = False
        """Whether nothing more will come than what is in the buffer."""
        self._begin = begin
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._paused = False
        self._lost = False
        self._coming: asyncio.Future[None] | None = None
        self._going: asyncio.Future[None] | None = None
        self.full = False
        """Whether the other side should read first what was written to it."""
        self._closed: asyncio.Future[None] = self._loop.create_future()

    # -- what the event loop calls ------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is there."""
        self._transport = transport  # type: ignore[assignment] # uvloop's does not descend from asyncio's
        self._begin(self)

    def data_received(self, data: bytes) -> None:
        """Octets came."""
        self.buffer += data
        if len(self.buffer) > BUFFER and not self._paused:
            self._paused = True
            self.transport.pause_reading()
        _wake(self._coming)

    def eof_received(self) -> bool:
        """The other side writes no more; it may still read."""
        self.ended = True
        _wake(self._coming)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        del exc
        self.ended = self._lost = True
        for waiting in (self._coming, self._going, self._closed):
            _wake(waiting)

    def pause_writing(self) -> None:
        """The other side reads too slowly."""
        self.full = True

    def resume_writing(self) -> None:
        """It has caught up."""
        self.full = False
        _wake(self._going)

    # -- reading -------------------------------------------------------------------------------------

    @property
    def transport(self) -> asyncio.Transport:
        """The connection as the event loop has it."""
        assert self._transport is not None
        return self._transport

    @property
    def connection(self) -> Any:
        """The socket, as far as the event loop shows it."""
        return self.transport.get_extra_info("socket")

    async def more(self) -> None:
        """Wait for more octets; returns as well when ``ended``."""
        if self._paused:
            self._paused = False
            self.transport.resume_reading()
        if self.ended:
            return
        self._coming = self._loop.create_future()
        try:
            await self._coming
        finally:
            self._coming = None

    def cut(self, size: int) -> bytes:
        """Take octets out of the buffer, which has that many."""
        with memoryview(self.buffer) as view:
            piece = bytes(view[:size])
        del self.buffer[:size]
        return piece

    # -- writing -------------------------------------------------------------------------------------

    @property
    def closing(self) -> bool:
        """Whether nothing more can be written."""
        return self._lost or self.transport.is_closing()

    def write(self, data: bytes) -> None:
        """Write as soon as possible; nothing happens when the other side is gone."""
        if not self.closing:
            self.transport.write(data)

    async def drain(self) -> None:
        """Wait until the other side has read most of what was written, or is gone."""
        while self.full and not self._lost:
            self._going = self._loop.create_future()
            try:
                await self._going
            finally:
                self._going = None

    async def close(self) -> None:
        """End the connection when everything is written."""
        self.transport.close()
        await asyncio.shield(self._closed)


def _wake(waiting: "asyncio.Future[None] | None") -> None:
    if waiting is not None and not waiting.done():
        waiting.set_result(None)
