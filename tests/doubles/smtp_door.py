"""A door on a real socket, the messages of which go into a list; and clients that speak to it by octets."""

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import msgspec
import trustme

from deliveryagent.intake.arrivals import Arrivals
from deliveryagent.intake.door import Done, Door, Limits
from deliveryagent.intake.listener_settings import ServerTlsSettings
from deliveryagent.intake.server_tls import server_context
from deliveryagent.intake.smtp_session import SmtpSession
from deliveryagent.intake.spool import Spool
from deliveryagent.protocol.session import Session
from deliveryagent.protocol.smtpd_steps import Kept, Outcome, Terms
from tests.doubles.smtp_talk import NOW, TERMS, Answer, Guard, answers

PATIENCE = 20.0
"""Seconds that no test waits for, however busy the machine."""


class Parcel(msgspec.Struct, frozen=True):
    """A message that came to be stored."""

    session: Session
    sender: str
    recipients: tuple[str, ...]
    content: bytes
    helo: str


class Listening:
    """A door that is open; ``kept`` is what came, ``events`` what it told, ``troubles`` what broke."""

    def __init__(
        self, terms: Terms = TERMS, limits: Limits | None = None, *, path: str = "", **more: Any
    ) -> None:
        self.kept: list[Parcel] = []
        self.events: list[tuple[str, Mapping[str, Any]]] = []
        self.troubles: list[Exception] = []
        self.answer: Outcome | Exception | None = None
        self.held: list[Done] | None = None  # replies that wait, when it is a list
        given: dict[str, Any] = {"guard": Guard(trusted="127.")} | more
        self.door = Door(
            terms=terms,
            limits=limits or Limits(),
            keep=self._keep,
            clock=lambda: NOW,
            nonce=lambda: "nonce",
            tell=lambda kind, fields: self.events.append((kind, fields)),
            trouble=self.troubles.append,
            **given,
        )
        self.arrivals = Arrivals(self.door)
        self.path = path
        self.port = 0
        self.sessions: list[SmtpSession] = []
        self._clients: list[Client] = []

    def _session(self) -> SmtpSession:
        session = SmtpSession(self.door, self.arrivals)
        self.sessions.append(session)
        return session

    def _keep(self, session: Session, spool: Spool, done: Done) -> None:
        transaction = session.transaction
        assert transaction is not None
        whole = spool.whole()
        content = whole if isinstance(whole, bytes) else whole.read()
        addresses = tuple(one.address for one in transaction.recipients)
        self.kept.append(Parcel(session, transaction.sender, addresses, content, session.helo))
        if isinstance(self.answer, Exception):
            raise self.answer
        if self.held is not None:
            self.held.append(done)
        else:
            done(self.answer or Outcome(Kept(f"Ok: queued as {len(self.kept)}")))

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        if self.path:
            self._server = await loop.create_unix_server(self._session, self.path)
        else:
            self._server = await loop.create_server(self._session, "127.0.0.1", 0)
            self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        for client in self._clients:
            client.abort()
        self._server.close()
        await self.arrivals.close(0.0, at_once=True)
        await asyncio.sleep(0)

    async def client(
        self, *, tls: ssl.SSLContext | None = None, name: str = "", first: bytes = b""
    ) -> "Client":
        """Somebody who connects; ``first`` is said before TLS."""
        if self.path:
            reader, writer = await asyncio.open_unix_connection(self.path)
        else:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        client = Client(reader, writer)
        self._clients.append(client)
        if first:
            writer.write(first)
        if tls is not None:
            await writer.start_tls(tls, server_hostname=name or "mx.host.dev")
        return client

    async def until(self, condition: Any) -> None:
        """Wait until this is so."""
        async with asyncio.timeout(PATIENCE):
            while not condition():  # noqa: ASYNC110 - of whatever kind it is
                await asyncio.sleep(0.005)


class Client:
    """The other end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def write(self, octets: bytes) -> None:
        """Say something, without waiting for an answer."""
        self.writer.write(octets)

    async def reply(self) -> Answer:
        """The next reply."""
        octets = b""
        async with asyncio.timeout(PATIENCE):
            while True:
                line = await self.reader.readuntil(b"\r\n")
                octets += line
                if line[3:4] == b" ":
                    (one,) = answers(octets)
                    return one

    async def codes(self, *lines: str, count: int | None = None) -> list[str]:
        """The replies to some lines written at once, as code and enhanced code."""
        self.write("".join(line + "\r\n" for line in lines).encode())
        found = []
        for _ in range(len(lines) if count is None else count):
            one = await self.reply()
            found.append(f"{one.code} {one.enhanced}".strip())
        return found

    async def rest(self) -> bytes:
        """Everything until the connection ends."""
        async with asyncio.timeout(PATIENCE):
            try:
                return await self.reader.read(-1)
            except (ConnectionError, ssl.SSLError):
                return bytes(self.reader._buffer)  # type: ignore[attr-defined] # what came before

    def abort(self) -> None:
        """Go away without a word."""
        self.writer.transport.abort()

    def reset(self) -> None:
        """Go away, and let the other end know at once."""
        connection = self.writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


def certificate(folder: Path, ca: trustme.CA, *names: str) -> str:
    """A PEM file with a key and a certificate for these names."""
    path = folder / f"{names[0]}.pem"
    issued = ca.issue_cert(*names)
    issued.private_key_and_cert_chain_pem.write_to_path(str(path))
    return str(path)


def tls_of(folder: Path, ca: trustme.CA, *names: str) -> ssl.SSLContext:
    """A server's context with a certificate for each name."""
    files = tuple(certificate(folder, ca, name) for name in names)
    context = server_context(ServerTlsSettings(tls_certificate=files))
    assert context is not None
    return context


def trusting(ca: trustme.CA) -> ssl.SSLContext:
    """A client's context that believes in this authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ca.configure_trust(context)
    return context


@asynccontextmanager
async def open_door(*given: Any, **more: Any) -> AsyncIterator[Listening]:
    """A door, open; at the end nothing may have broken."""
    async with Listening(*given, **more) as listening:
        yield listening
    assert not listening.troubles, listening.troubles
    assert not len(listening.arrivals)
