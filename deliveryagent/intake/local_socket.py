"""The Unix socket through which programs on this host hand over mail and give orders.

``protocol.local`` describes what is said on it. Guarantees: the socket file is there from ``start``
to ``stop`` and only then; who connects is known from the kernel; the number of connections, of one
user and of all, is limited, and root and the service's user always get in. ``stop`` ends at once
what can be ended without harm and gives the rest a short time. Never delivers, never touches the
store itself.
"""

import asyncio
import os
import socket
import time
from collections import Counter as Tally
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from deliveryagent.intake.admission import Admission, Peer, peer_of
from deliveryagent.intake.inlet import Inlet
from deliveryagent.intake.listening import adopt, listen, remove
from deliveryagent.intake.requests import RequestReader, SessionLimits
from deliveryagent.intake.session import Backlog, Counter, OpenOrder, Order, Session
from deliveryagent.intake.submit import Submitter, Terms
from deliveryagent.protocol.local import ExitCode, ServiceError, encode_line, error_fields

_NO_LIMITS = SessionLimits()


class LocalSocket:
    """The listening socket and its connections. All methods belong to one event loop.

    ``inherited`` is the descriptor of a socket that already listens (socket activation); ``path``
    is then not touched. ``terms`` is asked for every message, so that a reload changes them.
    ``trouble`` hears of faults of this program; by default the event loop does.
    """

    def __init__(
        self,
        path: Path,
        *,
        submitter: Submitter,
        orders: Mapping[str, Order],
        admission: Admission,
        terms: Callable[[], Terms],
        open_orders: Mapping[str, OpenOrder] | None = None,
        inherited: int | None = None,
        limits: SessionLimits = _NO_LIMITS,
        clock: Callable[[], float] = time.time,
        trouble: Callable[[Exception], None] | None = None,
    ) -> None:
        self._path = path
        self._inherited = inherited
        self._admission = admission
        self._limits = limits
        self._counter = Counter(
            submitter=submitter,
            terms=terms,
            orders=orders,
            open_orders={"ping": _ping} | dict(open_orders or {}),
            admission=admission,
            limits=limits,
            clock=clock,
            trouble=trouble or _tell_loop,
        )
        self._backlog = Backlog()
        self._long_lines = asyncio.Semaphore(limits.long_lines)
        self._server: asyncio.Server | None = None
        self._made: os.stat_result | None = None
        self._sessions: dict[asyncio.Task[None], Session] = {}
        self._per_user: Tally[int] = Tally()
        self._closing = False

    @property
    def connections(self) -> int:
        """How many there are now."""
        return len(self._sessions)

    async def start(self) -> None:
        """Begin to listen; raises ``OSError`` when the socket cannot be had."""
        if self._inherited is None:
            listening = listen(self._path)
            self._made = self._path.stat()
        else:
            listening = adopt(self._inherited)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: Inlet(self._admit), sock=listening)

    async def stop(self, grace: float = 5.0) -> None:
        """Take no more requests; those that are being received get ``grace`` seconds to end."""
        self._closing = True
        if self._made is not None:
            remove(self._path, self._made)
        if self._server is not None:
            self._server.close()
        for session in self._sessions.values():
            session.close()
        if self._sessions:
            await asyncio.wait(self._sessions, timeout=grace)
        for task in self._sessions:
            task.cancel()
        await asyncio.gather(*self._sessions, return_exceptions=True)

    # -- connections ------------------------------------------------------------------------------

    def _admit(self, inlet: Inlet) -> None:
        try:
            peer = self._identified(inlet)
        except OSError:
            inlet.transport.abort()
            return
        if not self._has_room(peer):
            error = ServiceError(ExitCode.TRY_LATER, "too many connections", "Try again later.")
            inlet.write(encode_line(error_fields(error)))
            inlet.transport.close()
            return
        reader = RequestReader(inlet, self._limits, self._long_lines)
        session = Session(self._counter, inlet, reader, peer=peer, backlog=self._backlog)
        task = asyncio.create_task(session.run())
        self._sessions[task] = session
        self._per_user[peer.uid] += 1

        def ended(task: asyncio.Task[None]) -> None:
            del self._sessions[task]
            self._per_user[peer.uid] -= 1
            inlet.transport.abort()  # for who does not read; a session that ended well has closed
            if not task.cancelled() and (error := task.exception()) is not None:
                self._report(error)

        task.add_done_callback(ended)

    def _identified(self, inlet: Inlet) -> Peer:
        # A copy of the descriptor: what the event loop hands out need not be a whole socket.
        descriptor = os.dup(inlet.connection.fileno())
        with socket.socket(fileno=descriptor) as connection:
            peer = peer_of(connection)
        return self._admission.with_rights(peer)

    def _has_room(self, peer: Peer) -> bool:
        if self._closing:
            return False
        if peer.uid in (0, self._admission.service_uid):
            return True
        limits = self._limits
        alone = self._per_user[peer.uid] < limits.connections_per_user
        return alone and self.connections < limits.connections

    def _report(self, error: BaseException) -> None:
        if isinstance(error, Exception):
            self._counter.trouble(error)


async def _ping(_fields: dict[str, Any], _peer: Peer) -> dict[str, Any]:
    """Whether somebody answers."""
    return {}


def _tell_loop(error: Exception) -> None:
    asyncio.get_running_loop().call_exception_handler(
        {"message": "fault in the local socket", "exception": error}
    )
