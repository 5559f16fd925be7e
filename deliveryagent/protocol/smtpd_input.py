"""What a client has sent and nobody has read yet, given out as the conversation asks for it.

Guarantees: any way the octets came gives the same lines and contents; a line over its limit is read past,
however long it is, and told as None; a line that ends in a lone LF keeps it, so that it can be refused. Never
waits: ``MISSING`` says that more has to come first.
"""

from collections.abc import Callable
from typing import Final

from deliveryagent.protocol.smtpd_steps import Chunk, Line, Read


class Missing:
    """More has to come first."""


MISSING: Final = Missing()
_PIECE = 1 << 16

Write = Callable[[bytes], None]


class Input:
    """The octets of one connection; ``buffer`` is what has not been read."""

    __slots__ = ("_left", "_long", "buffer")

    def __init__(self) -> None:
        self.buffer = bytearray()
        self._long = False  # the line at the beginning is longer than it may be
        self._left = -1  # octets of a chunk, while one is read

    def line(self, step: Line) -> bytes | Missing | None:
        """The next line, without its CRLF."""
        buffer = self.buffer
        end = buffer.find(b"\n")
        if end < 0:
            if len(buffer) >= step.limit:
                self._long = True
                buffer.clear()
            return MISSING
        if end + 1 == len(buffer):  # as most clients send it: one line, and they wait
            line = bytes(buffer)
            buffer.clear()
        else:
            line = bytes(memoryview(buffer)[: end + 1])
            del buffer[: end + 1]
        if self._long or end >= step.limit:
            self._long = False
            return None
        return line[:-2] if line.endswith(b"\r\n") else line

    def read(self, step: Read, write: Write) -> Missing | None:
        """Content up to the final dot, handed to ``write`` in pieces."""
        buffer, done = self.buffer, False
        while not done:
            size = len(buffer)
            piece, done = step.stream.take(buffer)
            if piece:
                write(piece)
            if not done and len(buffer) == size:
                return MISSING
        return None

    def chunk(self, step: Chunk, write: Write) -> Missing | None:
        """The octets of a chunk, handed to ``write`` in pieces."""
        if self._left < 0:
            self._left = step.size
        buffer = self.buffer
        while self._left:
            if not buffer:
                return MISSING
            size = min(self._left, len(buffer), _PIECE)
            piece = step.stream.chunk(bytes(memoryview(buffer)[:size]))
            del buffer[:size]
            self._left -= size
            if piece:
                write(piece)
        self._left = -1
        if step.last and (piece := step.stream.finish_chunks()):
            write(piece)
        return None
