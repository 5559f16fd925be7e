"""A mail server on loopback that does what its script says, however rude, and remembers everything.

    async with ScriptedPeer({"MAIL": "450 4.7.1 not now"}) as peer:
        ...  # talk to 127.0.0.1, peer.port, or dial peer.endpoint
    assert peer.received == ["EHLO me.example", "MAIL FROM:<a@example.org>", "QUIT"]
    assert peer.messages[0].recipients == ["b@example.net"]

The script says what happens at each command; without an entry the peer is a well-behaved server. Keys are
``CONNECT`` (the greeting), the verbs in capitals, ``HANDSHAKE`` (instead of TLS), ``CONTENT`` (when the
first octets of content arrive), ``DOT``; ``"RCPT b@example.net"`` and ``"MAIL a@example.org"`` and, for LMTP,
``"DOT b@example.net"`` are more special than the verb alone. Values are an action, or a list of actions, one
for each time, the last of them for ever:

* text: a reply; CRLF is added, line breaks inside become CRLF
* ``Raw(octets)``, ``Drip(text, every)`` (octet by octet), ``Endless(line)`` (for ever)
* ``Stall()`` (silence and, at CONTENT, no reading), ``Close(last_words)``, ``Reset()``
* ``Pause(seconds, then)``: another action, later
"""

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import trustme

from deliveryagent.mail.nexthop import Endpoint

EXTENSIONS = ("PIPELINING", "8BITMIME", "SMTPUTF8", "DSN", "ENHANCEDSTATUSCODES", "SIZE 10240000")


@dataclass(frozen=True)
class Raw:
    """Exactly these octets."""

    octets: bytes


@dataclass(frozen=True)
class Drip:
    """A reply (CRLF is added) octet by octet, one every so many seconds."""

    text: str
    every: float = 0.02


@dataclass(frozen=True)
class Endless:
    """The same octets again and again."""

    octets: bytes


@dataclass(frozen=True)
class Stall:
    """Nothing, for ever."""


@dataclass(frozen=True)
class Close:
    """The end of the connection, after a reply if there are last words."""

    last_words: str = ""


@dataclass(frozen=True)
class Reset:
    """A TCP reset."""


@dataclass(frozen=True)
class Pause:
    """Another action after some seconds."""

    seconds: float
    then: "Action"


Action = str | Raw | Drip | Endless | Stall | Close | Reset | Pause
Script = Mapping[str, object]
"""Actions or sequences of actions; anything else is refused when the peer is made."""


@dataclass
class Message:
    """A message the peer took or refused at its final dot; ``raw`` as on the wire, without the dot."""

    sender: str
    recipients: list[str]
    raw: bytes
    mail: str = ""
    rcpts: list[str] = field(default_factory=list)

    @property
    def content(self) -> bytes:
        """The content with the doubled dots taken away."""
        lines = self.raw.split(b"\r\n")
        return b"\r\n".join([line.removeprefix(b".") for line in lines])


class ScriptedPeer:
    """See the module. ``tls`` offers STARTTLS; ``path`` makes it a Unix socket; ``split`` cuts what it
    writes into pieces of that many octets, ``merge`` keeps replies back while more commands are at hand.

    ``received`` are all commands of all sessions, ``segments`` the octets as they arrived, ``messages`` what
    came between DATA and the dot, ``clients`` the addresses that connected, ``lost`` how many sessions ended
    without QUIT.
    """

    def __init__(
        self,
        script: Script | None = None,
        *,
        lmtp: bool = False,
        extensions: Sequence[str] = EXTENSIONS,
        name: str = "peer.example",
        tls: bool = False,
        host: str = "127.0.0.1",
        port: int = 0,
        path: Path | None = None,
        split: int = 0,
        merge: bool = False,
    ) -> None:
        self.script = {key: _actions(value) for key, value in (script or {}).items()}
        self.lmtp = lmtp
        self.extensions = (*extensions, "STARTTLS") if tls else tuple(extensions)
        self.name = name
        self.tls = tls
        self.host = host
        self.path = path
        self.split = split
        self.merge = merge
        self.port = port
        self.received: list[str] = []
        self.segments: list[bytes] = []
        self.messages: list[Message] = []
        self.clients: list[str] = []
        self.lost = 0
        self._sessions: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def endpoint(self) -> Endpoint:
        """What to dial."""
        transport: Literal["smtp", "lmtp"] = "lmtp" if self.lmtp else "smtp"
        if self.path is not None:
            return Endpoint("localhost", "", 0, path=str(self.path), transport=transport)
        return Endpoint("mx.example", self.host, self.port, transport=transport)

    async def __aenter__(self) -> Self:
        if self.path is not None:
            self._server = await asyncio.start_unix_server(self._accept, self.path)
        else:
            self._server = await asyncio.start_server(self._accept, self.host, self.port)
            self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        for session in self._sessions:
            session.cancel()
        await asyncio.gather(*self._sessions, return_exceptions=True)

    def verbs(self) -> list[str]:
        """The first words of all commands, in order."""
        return [line.split(" ", 1)[0].upper() for line in self.received]

    def next_action(self, key: str, detail: str = "") -> Action | None:
        """What the script wants now, the more special entry first."""
        for name in (f"{key} {detail}", key):
            if actions := self.script.get(name):
                return actions.pop(0) if len(actions) > 1 else actions[0]
        return None

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._sessions.add(task)
        address = writer.get_extra_info("peername")
        self.clients.append(address[0] if isinstance(address, tuple) else str(address))
        session = _Session(self, reader, writer)
        try:
            await session.run()
        except (_Over, ConnectionError, ssl.SSLError):
            pass
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            self.lost += not session.finished
            self._sessions.discard(task)
            with contextlib.suppress(Exception):
                writer.close()


class _Over(Exception):  # noqa: N818
    """The session has ended."""


class _Session:
    """One connection of a peer."""

    def __init__(
        self, peer: ScriptedPeer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.peer = peer
        self.reader = reader
        self.writer = writer
        self.finished = False
        self.kept = b""
        self.buffer = b""
        self.message = Message("", [], b"")

    async def run(self) -> None:
        """Greet, then answer commands until the end."""
        await self.act("CONNECT", "220 peer.example ESMTP")
        while True:
            line = (await self.line()).decode("utf-8", "replace")
            self.peer.received.append(line)
            verb, _, argument = line.partition(" ")
            await self.command(verb.upper(), argument)

    async def command(self, verb: str, argument: str) -> None:
        """Answer one command."""
        address = argument.partition("<")[2].partition(">")[0]
        match verb:
            case "EHLO" | "LHLO":
                lines = [self.peer.name, *self.peer.extensions]
                text = "\n".join([*(f"250-{line}" for line in lines[:-1]), f"250 {lines[-1]}"])
                await self.act(verb, text)
            case "STARTTLS":
                if (await self.act(verb, "220 2.0.0 go on")).startswith("220"):
                    await self.shake_hands()
            case "MAIL":
                if (await self.act(verb, "250 2.1.0 fine", address)).startswith("2"):
                    self.message = Message(address, [], b"", mail=argument)
            case "RCPT":
                if (await self.act(verb, "250 2.1.5 fine", address)).startswith("2"):
                    self.message.recipients.append(address)
                    self.message.rcpts.append(argument)
            case "DATA":
                refused = not self.message.recipients
                text = "503 5.5.1 for whom?" if refused else "354 end with a dot"
                if (await self.act(verb, text)).startswith("354"):
                    await self.take_content()
            case "QUIT":
                self.finished = True
                await self.act(verb, "221 2.0.0 bye")
                raise _Over
            case "HELO" | "RSET" | "NOOP":
                await self.act(verb, f"250 {self.peer.name}")
            case _:
                await self.act(verb, "502 5.5.2 what?")

    async def take_content(self) -> None:
        """Read up to the dot and answer: once, or with LMTP once for each recipient."""
        await self.flush()
        if "CONTENT" in self.peer.script:
            if not self.buffer:
                await self.more()
            await self.act("CONTENT", "")
        raw = bytearray(b"\r\n" + self.buffer)
        start = 0
        while (end := raw.find(b"\r\n.\r\n", start)) < 0:
            start = max(0, len(raw) - 4)
            self.buffer = b""
            await self.more()
            raw += self.buffer
        self.buffer = bytes(raw[end + 5 :])
        message, self.message = self.message, Message("", [], b"")
        message.raw = bytes(raw[2 : end + 2])
        self.peer.messages.append(message)
        for address in message.recipients if self.peer.lmtp else [""]:
            await self.act("DOT", "250 2.0.0 taken", address)

    async def shake_hands(self) -> None:
        """Become the server side of TLS."""
        await self.flush()
        if "HANDSHAKE" in self.peer.script:
            await self.act("HANDSHAKE", "")
            await self.flush()
        self.buffer = b""
        await self.writer.start_tls(server_context())

    async def act(self, key: str, otherwise: str, detail: str = "") -> str:
        """Do what the script says, or the usual; returns the reply that was given."""
        action = self.peer.next_action(key, detail)
        return await self.perform(otherwise if action is None else action)

    async def perform(self, action: Action) -> str:
        """Do one thing; returns the octets of a reply as text."""
        match action:
            case str():
                return await self.put(_wire(action)) if action else ""
            case Raw(octets):
                return await self.put(octets)
            case Drip(text, every):
                await self.flush()
                for octet in _wire(text):
                    await self.write(bytes([octet]))
                    await asyncio.sleep(every)
                return text
            case Endless(octets):
                while True:
                    await self.write(octets * 64)
            case Stall():
                await self.flush()
                self.writer.transport.pause_reading()  # type: ignore[attr-defined]
                await asyncio.sleep(3600)
                raise _Over
            case Close(last_words):
                await self.put(_wire(last_words) if last_words else b"")
                await self.flush()
                raise _Over
            case Reset():
                await self.flush()
                self.reset()
                raise _Over
            case Pause(seconds, then):
                await self.flush()
                await asyncio.sleep(seconds)
                return await self.perform(then)

    def reset(self) -> None:
        """Send RST instead of FIN."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def put(self, octets: bytes) -> str:
        """Write a reply, now or together with those that follow at once."""
        self.kept += octets
        if not (self.peer.merge and b"\n" in self.buffer):
            await self.flush()
        return octets.decode("utf-8", "replace")

    async def flush(self) -> None:
        """Write what was kept back."""
        octets, self.kept = self.kept, b""
        step = self.peer.split or len(octets) or 1
        for start in range(0, len(octets), step):
            await self.write(octets[start : start + step])
            if self.peer.split:
                await asyncio.sleep(0)

    async def write(self, octets: bytes) -> None:
        """Write to the socket, no faster than the client reads."""
        if octets:
            self.writer.write(octets)
            await self.writer.drain()

    async def line(self) -> bytes:
        """The next line, without its CRLF; a lone CR or LF stays in it for tests to find."""
        while b"\r\n" not in self.buffer:
            await self.more()
        line, _, self.buffer = self.buffer.partition(b"\r\n")
        return line

    async def more(self) -> None:
        """Read what is there."""
        await self.flush()
        data = await self.reader.read(65536)
        if not data:
            raise _Over
        self.peer.segments.append(data)
        self.buffer += data


def _wire(text: str) -> bytes:
    return text.replace("\n", "\r\n").encode() + b"\r\n"


def _actions(value: object) -> list[Action]:
    actions: list[Action] = []
    for action in value if isinstance(value, list | tuple) else [value]:
        if not isinstance(action, Action):
            raise TypeError(f"{action!r} is nothing a peer can do")
        actions.append(action)
    return actions


@cache
def authority() -> trustme.CA:
    """The authority that signs the peers' certificates."""
    return trustme.CA()


@cache
def server_context() -> ssl.SSLContext:
    """TLS as the peers speak it, with a certificate for ``mx.example``."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority().issue_cert("mx.example").configure_cert(context)
    return context
