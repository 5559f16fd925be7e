"""A receiving host that writes everything down as it came: commands with their parameters, contents, octets.

With ``lenient`` it takes for the end of the data whatever any receiver is known to have taken for it, which
is what SMTP smuggling lives on (CVE-2023-51764 and its kin). Runs in the test's event loop; see ``Background``.
"""

import asyncio
import re
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

_STRICT = re.compile(rb"\r\n\.\r\n")
# A full stop, with or without NULs around it, between any two things that somebody takes for a line's end.
_LENIENT = re.compile(rb"(?:\r+\n|\n|\r)\x00?\.\x00?(?:\r+\n|\n|\r(?=[^\n]))")
_KEYWORDS = (
    b"PIPELINING",
    b"8BITMIME",
    b"SMTPUTF8",
    b"DSN",
    b"SIZE 50000000",
    b"ENHANCEDSTATUSCODES",
)


@dataclass
class Received:
    """One message. ``mail`` and ``rcpt`` are the command lines; ``content`` is without dot-stuffing."""

    mail: str
    rcpt: list[str] = field(default_factory=list)
    stuffed: bytes = b""

    @property
    def content(self) -> bytes:
        text = (b"\r\n" + self.stuffed).replace(b"\r\n.", b"\r\n")
        return text.removeprefix(b"\r\n")

    @property
    def body(self) -> bytes:
        return self.content.partition(b"\r\n\r\n")[2]

    def header(self, name: str) -> str:
        """The value of the first field of this name, unfolded."""
        head = self.content.partition(b"\r\n\r\n")[0] + b"\r\n"
        found = re.search(
            rb"(?mi)^" + name.encode() + rb":[ \t]*((?:.*\r\n)(?:[ \t].*\r\n)*)", head
        )
        return " ".join(found[1].decode().split()) if found else ""


class MailSink:
    """See the module. ``messages`` are those that came, ``octets`` all that was sent, by connection."""

    def __init__(self, *, lenient: bool = False) -> None:
        self.end = _LENIENT if lenient else _STRICT
        self.messages: list[Received] = []
        self.octets: list[bytearray] = []
        self.port = 0
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.close()
        for writer in list(self._writers):
            writer.close()
        await asyncio.sleep(0.01)

    def to(self, address: str) -> list[Received]:
        """The messages for one recipient, in the order they came."""
        return [one for one in self.messages if any(f"<{address}>" in rcpt for rcpt in one.rcpt)]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        octets = bytearray()
        self.octets.append(octets)
        self._writers.add(writer)
        talk = _Talk(self)
        writer.write(b"220 sink.test ESMTP\r\n")
        try:
            while data := await reader.read(1 << 16):
                octets += data
                writer.write(talk.hear(data))
                await writer.drain()
                if talk.over:
                    break
        except ConnectionError:
            pass
        finally:
            self._writers.discard(writer)
            writer.close()


class _Talk:
    def __init__(self, sink: MailSink) -> None:
        self._sink = sink
        self._buffer = bytearray()
        self._current: Received | None = None
        self._in_content = False
        self.over = False

    def hear(self, data: bytes) -> bytes:
        self._buffer += data
        out = b""
        while (reply := self._content() if self._in_content else self._line()) is not None:
            out += reply
        return out

    def _content(self) -> bytes | None:
        found = self._sink.end.search(b"\r\n" + self._buffer)
        if found is None:
            return None
        assert self._current is not None
        self._current.stuffed = bytes(self._buffer[: max(0, found.start() - 2)]) + b"\r\n"
        del self._buffer[: found.end() - 2]
        self._sink.messages.append(self._current)
        self._current, self._in_content = None, False
        return b"250 2.0.0 Ok\r\n"

    def _line(self) -> bytes | None:
        end = self._buffer.find(b"\n")
        if end < 0:
            return None
        line = self._buffer[:end].rstrip(b"\r").decode("utf-8", "replace")
        del self._buffer[: end + 1]
        match line[:4].upper():
            case "EHLO":
                return b"250-sink.test\r\n250-" + b"\r\n250-".join(_KEYWORDS) + b"\r\n250 HELP\r\n"
            case "MAIL":
                self._current = Received(line)
            case "RCPT" if self._current is not None:
                self._current.rcpt.append(line)
            case "DATA" if self._current is not None:
                self._in_content = True
                return b"354 Go ahead\r\n"
            case "QUIT":
                self.over = True
                return b"221 2.0.0 Bye\r\n"
        return b"250 2.0.0 Ok\r\n"
