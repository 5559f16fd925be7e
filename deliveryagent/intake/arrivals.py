"""The connections of one listener: counted, let in, made ready, and ended.

Guarantees: no more than the limits allow, of all and of one address; who is trusted is not limited by
address. Where proxies stand in front, only they may connect, and what they say of the client is read, octet
for octet, before anything else; where TLS comes first, so it does here. Never reads a command.
"""

import asyncio
import inspect
import os
import socket
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from deliveryagent.intake.admission import credentials_of
from deliveryagent.intake.door import Door
from deliveryagent.intake.networks import plain
from deliveryagent.intake.server_tls import facts_of
from deliveryagent.protocol.session import Client, Session
from deliveryagent.protocol.smtpd_replies import reply
from deliveryagent.protocol.xclient import PROXY_LONGEST, read_proxy

if TYPE_CHECKING:
    from deliveryagent.intake.smtp_session import SmtpSession

_PROXY_TIME = 5.0  # seconds a proxy may take to say whom it speaks for (haproxy's advice)
_PAUSE = 0.1
_CROWDED = reply(421, "4.7.0", "Too many connections, try again later")
_CLOSING = reply(421, "4.3.2", "Shutting down, try again later")


class Arrivals:
    """All sessions of a door."""

    def __init__(self, door: Door) -> None:
        self.door = door
        self._sessions: dict[SmtpSession, str] = {}
        self._per_address: Counter[str] = Counter()
        self._tasks: set[asyncio.Future[Any]] = set()
        self._closing = False
        self._prepared: dict[SmtpSession, tuple[Client, str]] = {}  # whose first words are to come

    def __len__(self) -> int:
        return len(self._sessions)

    def admit(self, session: "SmtpSession", transport: asyncio.Transport) -> None:
        """A connection was made: let the session begin, or send the client away."""
        door = self.door
        if session in self._prepared:
            self._begin_prepared(session, transport)
            return
        client, local = _ends(transport)
        limits = door.limits
        crowded = not door.proxies and self._is_crowded(client)
        if self._closing or len(self._sessions) >= limits.connections or crowded:
            if not door.tls_only:
                transport.write(_CLOSING if self._closing else _CROWDED)
            door.tell("connection_refused", {"client": client.shown})
            transport.close()
            return
        self._count(session, client.address)
        if door.proxies or door.tls_only:
            connection = _taken_out(transport)
            self._hold(asyncio.create_task(self._prepare(session, connection, client, local)))
        else:
            session.begin(client, local=local, tls=None)

    def leave(self, session: "SmtpSession") -> None:
        """A session is over."""
        if self._discount(session) and session.session is not None:
            self.observe("disconnect", session.session)

    def observe(self, stage: str, session: Session, *about: object) -> None:
        """Let the hooks know that only want to know (``disconnect``, ``debug``, ``error``)."""
        if stage not in self.door.asked:
            return
        answer = self.door.ask(stage, session, *about)
        if inspect.isawaitable(answer):
            self._hold(asyncio.ensure_future(answer))

    def _hold(self, task: asyncio.Future[Any]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self, grace: float, *, at_once: bool) -> None:
        """Let nobody in any more; return when all sessions are over, after ``grace`` seconds at the latest.

        ``at_once``: those that wait for nothing are ended as soon as that is so.
        """
        self._closing = True
        deadline = asyncio.get_running_loop().time() + grace
        while self._sessions and asyncio.get_running_loop().time() < deadline:
            if at_once:
                _dismiss(list(self._sessions))
            if self._sessions:
                await asyncio.sleep(_PAUSE)
        for session in list(self._sessions):
            session.dismiss(anyway=True)
        for session in list(self._sessions):
            session.abort()
        if self._tasks:
            _, left = await asyncio.wait(self._tasks, timeout=1.0)
            for task in left:
                task.cancel()

    def _is_crowded(self, client: Client) -> bool:
        limit = self.door.limits.per_address
        if not limit or self._per_address[client.address] < limit:
            return False
        return not self.door.guard.trusts(client)

    def _count(self, session: "SmtpSession", address: str) -> None:
        self._sessions[session] = address
        self._per_address[address] += 1

    def _discount(self, session: "SmtpSession") -> bool:
        address = self._sessions.pop(session, None)
        if address is None:
            return False
        self._per_address[address] -= 1
        if not self._per_address[address]:
            del self._per_address[address]
        return True

    async def _prepare(
        self, session: "SmtpSession", connection: socket.socket, client: Client, local: str
    ) -> None:
        """Find out whom a proxy speaks for, do the handshake; then the session has a transport again."""
        door, limit = self.door, None
        context = door.tls if door.tls_only else None
        if context is not None:
            limit = door.limits.handshake_timeout
        try:
            if door.proxies:
                client = await self._behind(connection, client)
                self._recount(session, connection, client)
            self._prepared[session] = client, local
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: session, connection, ssl=context, ssl_handshake_timeout=limit
            )
        except (OSError, EOFError, ValueError) as error:  # a time limit is an OSError too
            connection.close()
            door.tell("connection_refused", {"client": client.shown, "reason": str(error)[:200]})
            session.abort()
        finally:
            self._prepared.pop(session, None)

    def _recount(self, session: "SmtpSession", connection: socket.socket, client: Client) -> None:
        """Count a session for whom the proxy speaks for; raises ``ValueError`` when there are too many."""
        if self._is_crowded(client):
            if not self.door.tls_only:
                connection.send(_CROWDED)
            raise ValueError("too many connections of this address")
        if self._discount(session):
            self._count(session, client.address)

    def _begin_prepared(self, session: "SmtpSession", transport: asyncio.Transport) -> None:
        if session not in self._sessions:  # it was ended in the meantime
            transport.abort()
            return
        client, local = self._prepared[session]
        inside = transport.get_extra_info("ssl_object")
        session.begin(client, local=local, tls=None if inside is None else facts_of(inside))

    async def _behind(self, connection: socket.socket, proxy: Client) -> Client:
        """Whom a proxy speaks for. Its header is taken off the socket before the event loop reads from it."""
        if not self.door.proxies.hold(proxy.address):
            raise ValueError("only proxies may connect here")
        loop = asyncio.get_running_loop()
        found: asyncio.Future[tuple[Client | None, int]] = loop.create_future()
        loop.add_reader(connection, _look, connection, found)
        try:
            async with asyncio.timeout(_PROXY_TIME):
                client, size = await found
        finally:
            loop.remove_reader(connection)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
        while size:
            size -= len(connection.recv(size))
        return client or proxy


def _taken_out(transport: asyncio.Transport) -> socket.socket:
    """The connection of a transport that was just made, which is closed before it has read anything.

    To pause reading would be the usual way, but uvloop begins to read when ``connection_made`` returns.
    """
    connection = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
    connection.setblocking(False)
    transport.set_protocol(asyncio.Protocol())
    transport.abort()
    return connection


def _look(connection: socket.socket, found: "asyncio.Future[tuple[Client | None, int]]") -> None:
    """Look at what has come, without taking it."""
    if found.done():
        return
    try:
        data = connection.recv(PROXY_LONGEST, socket.MSG_PEEK)
        client, size = read_proxy(data)
    except BlockingIOError:
        return
    except (OSError, ValueError) as error:
        found.set_exception(error)
        return
    if not data:
        found.set_exception(ValueError("the connection ended before a PROXY header"))
    elif size:
        found.set_result((client, size))
    elif connection.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) > len(data):
        found.set_exception(ValueError("the connection ended within a PROXY header"))
    else:  # what was looked at is still there: wake up for more only, or for the end
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, len(data) + 1)


def _dismiss(sessions: "Iterable[SmtpSession]") -> None:
    for session in sessions:
        session.dismiss()


def _ends(transport: asyncio.Transport) -> tuple[Client, str]:
    """Who is at the other end, and how our own is called."""
    peer = transport.get_extra_info("peername")
    own = transport.get_extra_info("sockname")
    if isinstance(peer, tuple):
        return Client(address=plain(peer[0]), port=peer[1]), f"{plain(own[0])}:{own[1]}"
    descriptor = os.dup(transport.get_extra_info("socket").fileno())
    with socket.socket(fileno=descriptor) as connection:
        _, uid, _ = credentials_of(connection)
    return Client(uid=uid), str(own or "")
