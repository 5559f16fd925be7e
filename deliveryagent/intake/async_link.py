"""The calling end of the local socket in an event loop: one connection, answers as they come.

What :mod:`deliveryagent.intake.link` is for callers that block. What is put at one moment goes out in one
write, so that the service reads it in one piece and shares a commit. Guarantees: answers are handed on in the
order of the requests, each once; a service that gives no sign of life for the time allowed counts as lost, and
so does one that says what nobody asked for. Never connects anew: who lost a connection knows best what to do.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Self

from deliveryagent.intake.link import LostError
from deliveryagent.intake.outgoing import ANSWER_TIME, Outgoing
from deliveryagent.protocol.local import END_OF_CONTENT, chunk, decode_line

_GATHERED = 1 << 16

Answered = Callable[[dict[str, Any]], None]


class AsyncLink(asyncio.Protocol):
    """A connection to the service; ``answered`` is called with each answer. Made by :meth:`open`.

    ``patience`` is how many seconds the service may give no sign while it owes an answer. ``lost`` says why
    the connection is of no use any more.
    """

    def __init__(self, answered: Answered, patience: float = ANSWER_TIME) -> None:
        self.lost: LostError | None = None
        self._answered = answered
        self._patience = patience
        self._owed = 0  # answers
        self._unsent = bytearray()
        self._unread = bytearray()  # the beginning of an answer
        self._writable = asyncio.Event()
        self._stirred = asyncio.Event()
        self._closed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._sign = self._loop.time()  # the last one of life, or when the first answer became owed

    @classmethod
    async def open(cls, path: str, answered: Answered, patience: float = ANSWER_TIME) -> Self:
        """Connect to the service's socket; raises ``OSError``."""
        loop = asyncio.get_running_loop()
        _, link = await loop.create_unix_connection(lambda: cls(answered, patience), path)
        return link

    async def close(self) -> None:
        """End the connection."""
        self._transport.close()
        await self._closed.wait()

    async def put(self, message: Outgoing) -> None:
        """Send a message. Small ones wait for :meth:`flush`, or until there is more.

        Raises ``LostError``, and what reading its content raises: then the connection is of no further use.
        """
        self._owe()
        self._unsent += message.line
        pieces = message.pieces()
        if isinstance(message.content, bytes):
            for piece in pieces:
                await self._add(chunk(piece))
        else:
            while piece := await asyncio.to_thread(next, pieces, b""):
                await self._add(chunk(piece))
        await self._add(END_OF_CONTENT)

    async def ask(self, line: bytes) -> None:
        """Send a request without content. Raises ``LostError``."""
        self._owe()
        self._unsent += line
        await self.flush()

    async def flush(self) -> None:
        """Send what was put; waits while the service reads more slowly. Raises ``LostError``."""
        if self.lost is None and self._unsent:
            self._transport.write(bytes(self._unsent))
            self._unsent.clear()
            await self._in_time(self._writable, self._loop.time() + self._patience)
            self._sign = self._loop.time()
        if self.lost is not None:
            raise self.lost

    async def stirred(self) -> None:
        """Wait until there were answers, or :meth:`stir` was called. Raises ``LostError``."""
        await self._in_time(self._stirred, self._sign + self._patience)
        self._stirred.clear()
        if self.lost is not None:
            raise self.lost

    def stir(self) -> None:
        """Wake up whoever waits for answers: there is something else to do."""
        self._stirred.set()

    def break_off(self, reason: object) -> None:
        """End the connection at once, whatever is on its way."""
        if self.lost is None:
            self.lost = LostError(reason)
        self._transport.abort()
        self._stirred.set()
        self._writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        self._sign = self._loop.time()
        self._unread += data
        if b"\n" not in data:
            return
        *lines, rest = self._unread.split(b"\n")
        self._unread = rest
        for line in lines:
            if self.lost is not None:
                return
            self._take(bytes(line))
        self._stirred.set()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.lost is None:
            self.lost = LostError(exc or "it closed the connection")
        for event in (self._stirred, self._writable, self._closed):
            event.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def _owe(self) -> None:
        if not self._owed:
            self._sign = self._loop.time()
        self._owed += 1

    async def _add(self, octets: bytes) -> None:
        self._unsent += octets
        if len(self._unsent) >= _GATHERED:
            await self.flush()

    def _take(self, line: bytes) -> None:
        try:
            answer = decode_line(line)
        except ValueError:
            self.break_off("it does not speak as the service does")
            return
        if not self._owed:
            self.break_off("it says what nobody asked for")
            return
        self._owed -= 1
        self._answered(answer)

    async def _in_time(self, event: asyncio.Event, deadline: float) -> None:
        if event.is_set():
            return
        try:
            async with asyncio.timeout_at(deadline):
                await event.wait()
        except TimeoutError:
            self.break_off("it gives no sign of life")
