"""Reads requests and contents from one connection, within limits of time and memory.

Guarantees: a connection holds at most a few hundred KiB unread, whatever the other side sends; only
a few at a time may send a long request line; nobody keeps a connection busy longer than the limits
say, however slowly it sends. Never interprets what it reads (``protocol.local`` has the format).
"""

import asyncio
from dataclasses import dataclass

from deliveryagent.intake.inlet import BUFFER, GoneError, Inlet
from deliveryagent.protocol.local import (
    CHUNK_LIMIT,
    END_OF_CONTENT,
    LINE_LIMIT,
    ExitCode,
    ServiceError,
)

_SEND = b'{"op":"send",'
_LENGTH = 4


@dataclass(frozen=True, kw_only=True)
class SessionLimits:
    """What one connection, and all together, may cost. Times are seconds, sizes octets.

    The content of a message must come within ``content_time`` plus its size at
    ``slowest_content`` octets a second. ``pending`` messages of a connection may wait for their
    commit, and no more is read while all connections have ``pending_octets`` waiting.
    """

    request_time: float = 30.0
    idle_time: float = 300.0
    content_time: float = 60.0
    slowest_content: float = 1000.0
    answer_time: float = 60.0
    connections: int = 500
    connections_per_user: int = 100
    long_lines: int = 8
    pending: int = 256
    pending_octets: int = 32 * 1024 * 1024


class RequestReader:
    """The reading half of a connection. ``long_lines`` is shared by all."""

    def __init__(self, inlet: Inlet, limits: SessionLimits, long_lines: asyncio.Semaphore) -> None:
        self._inlet = inlet
        self._limits = limits
        self._long_lines = long_lines
        self._left_of_chunk = 0
        self._allowance = 0.0
        self._in_content = False

    @property
    def ended(self) -> bool:
        """Whether the other side will send nothing more and all it sent was read."""
        return self._inlet.ended and not self._inlet.buffer

    def message(self) -> tuple[bytes, bytes] | None:
        """The next request, if it is one to send that is here completely, with its content.

        Sees only what came in one chunk and the usual form; everything else is read in pieces.
        """
        buffer = self._inlet.buffer
        if not buffer.startswith(_SEND):
            return None
        begin = buffer.find(b"\n") + 1 + _LENGTH
        end = begin + int.from_bytes(buffer[begin - _LENGTH : begin], "big")
        if begin <= _LENGTH or buffer[end : end + _LENGTH] != END_OF_CONTENT or begin == end:
            return None
        with memoryview(buffer) as view:
            found = bytes(view[: begin - _LENGTH]), bytes(view[begin:end])
        del buffer[: end + _LENGTH]
        return found

    async def line(self, *, first: bool) -> bytes:
        """The next request line; empty when the connection ended before one began.

        Raises ``GoneError``, also when it comes too slowly, and ``ServiceError`` for a line that is
        too long.
        """
        end = self._inlet.buffer.find(b"\n")
        if end >= 0:
            return self._inlet.cut(end + 1)
        limit = self._limits.request_time if first else self._limits.idle_time
        try:
            async with asyncio.timeout(limit):
                return await self._coming_line()
        except TimeoutError:
            # No answer: it would be taken for that to the request that is on its way.
            raise GoneError from None

    async def _coming_line(self) -> bytes:
        inlet = self._inlet
        while (end := inlet.buffer.find(b"\n")) < 0:
            if inlet.ended:
                if inlet.buffer:
                    raise GoneError
                return b""
            if len(inlet.buffer) > BUFFER:
                async with self._long_lines:
                    return await self._long_line()
            await inlet.more()
        return inlet.cut(end + 1)

    async def _long_line(self) -> bytes:
        """A line beyond the buffer: how many may be read at a time is limited."""
        inlet, pieces, total = self._inlet, [], 0
        while (end := inlet.buffer.find(b"\n")) < 0:
            pieces.append(inlet.cut(len(inlet.buffer)))
            total += len(pieces[-1])
            if total > LINE_LIMIT:
                raise ServiceError(
                    ExitCode.BAD_DATA,
                    f"a request line of more than {LINE_LIMIT} octets",
                    "Send to fewer recipients at a time.",
                )
            if inlet.ended:
                raise GoneError
            await inlet.more()
        return b"".join([*pieces, inlet.cut(end + 1)])

    def begin_content(self) -> None:
        """A content comes next."""
        self._in_content = True
        self._left_of_chunk = 0
        self._allowance = self._limits.content_time

    async def piece(self) -> bytes:
        """The next piece of the content, at most ``BUFFER`` octets; empty at its end.

        Raises ``GoneError`` when the connection ends before the content does, and ``ServiceError``
        when it comes too slowly. Only time spent here counts.
        """
        loop = asyncio.get_running_loop()
        begun = loop.time()
        try:
            async with asyncio.timeout(self._allowance):
                piece = await self._next_piece()
        except TimeoutError:
            raise ServiceError(
                ExitCode.TRY_LATER, "the content came too slowly; nothing was taken"
            ) from None
        self._in_content = bool(piece)
        self._allowance += len(piece) / self._limits.slowest_content - (loop.time() - begun)
        return piece

    async def discard(self, limit: int) -> None:
        """Read the rest of the content, if any is left, and forget it.

        Raises ``ServiceError`` when it is more than ``limit`` octets (0: no limit).
        """
        total = 0
        while self._in_content and (piece := await self.piece()):
            total += len(piece)
            if limit and total > limit:
                raise ServiceError(ExitCode.BAD_DATA, "the content goes on for too long")

    async def _next_piece(self) -> bytes:
        if not self._left_of_chunk:
            await self._here(_LENGTH)
            length = int.from_bytes(self._inlet.cut(_LENGTH), "big")
            if length > CHUNK_LIMIT:
                raise ServiceError(ExitCode.USAGE, f"a chunk of {length} octets")
            if not length:
                return b""
            self._left_of_chunk = length
        await self._here(1)
        piece = self._inlet.cut(min(self._left_of_chunk, BUFFER, len(self._inlet.buffer)))
        self._left_of_chunk -= len(piece)
        return piece

    async def _here(self, count: int) -> None:
        """Wait until so many octets are in the buffer."""
        while len(self._inlet.buffer) < count:
            if self._inlet.ended:
                raise GoneError
            await self._inlet.more()
