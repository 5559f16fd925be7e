"""Reads requests and contents from one connection, within limits of time and memory.

Guarantees: a connection holds at most a few hundred KiB unread, whatever the other side sends; only
a few at a time may send a long request line; nobody keeps a connection busy longer than the limits
say, however slowly it sends. Never interprets what it reads (``protocol.local`` has the format).
"""

import asyncio
from dataclasses import dataclass

from deliveryagent.protocol.local import CHUNK_LIMIT, LINE_LIMIT, ExitCode, ServiceError

BUFFER = 1 << 16
"""The limit of the stream reader; it holds at most twice as much."""


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


class GoneError(Exception):
    """The other side went away in the middle of something."""


class RequestReader:
    """The reading half of a connection. ``long_lines`` is shared by all."""

    def __init__(
        self, stream: asyncio.StreamReader, limits: SessionLimits, long_lines: asyncio.Semaphore
    ) -> None:
        self._stream = stream
        self._limits = limits
        self._long_lines = long_lines
        self._left_of_chunk = 0
        self._allowance = 0.0
        self._in_content = False

    @property
    def ended(self) -> bool:
        """Whether the other side will send nothing more and all it sent was read."""
        return self._stream.at_eof()

    async def line(self, *, first: bool) -> bytes:
        """The next request line; empty when the connection ended before one began.

        Raises ``GoneError``, also when it comes too slowly, and ``ServiceError`` for a line that is
        too long.
        """
        limit = self._limits.request_time if first else self._limits.idle_time
        try:
            async with asyncio.timeout(limit):
                try:
                    return await self._stream.readuntil(b"\n")
                except asyncio.LimitOverrunError as overrun:
                    return await self._long_line(overrun)
        except asyncio.IncompleteReadError as end:
            if end.partial:
                raise GoneError from None
            return b""
        except (TimeoutError, ConnectionError):
            # No answer: it would be taken for that to the request that is on its way.
            raise GoneError from None

    async def _long_line(self, overrun: asyncio.LimitOverrunError) -> bytes:
        """A line beyond the buffer: how many may be read at a time is limited."""
        async with self._long_lines:
            pieces: list[bytes] = []
            total = 0
            while True:
                pieces.append(await self._stream.readexactly(overrun.consumed))
                total += overrun.consumed
                if total > LINE_LIMIT:
                    raise ServiceError(
                        ExitCode.BAD_DATA,
                        f"a request line of more than {LINE_LIMIT} octets",
                        "Send to fewer recipients at a time.",
                    )
                try:
                    return b"".join([*pieces, await self._stream.readuntil(b"\n")])
                except asyncio.LimitOverrunError as again:
                    overrun = again

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
        except (asyncio.IncompleteReadError, ConnectionError):
            raise GoneError from None
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
            length = int.from_bytes(await self._stream.readexactly(4), "big")
            if length > CHUNK_LIMIT:
                raise ServiceError(ExitCode.USAGE, f"a chunk of {length} octets")
            if not length:
                return b""
            self._left_of_chunk = length
        piece = await self._stream.read(min(self._left_of_chunk, BUFFER))
        if not piece:
            raise GoneError
        self._left_of_chunk -= len(piece)
        return piece
