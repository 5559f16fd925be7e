"""A worker's end of the socket pair to its manager: frames in, frames out.

Guarantees: everything said in one turn of the event loop leaves in one write, a result that others
will follow some milliseconds later at most; frames that come
before anybody listens are kept in order; what is no frame ends the connection. Never decides
anything.
"""

import asyncio
from collections import deque
from enum import Enum
from typing import Protocol, cast

from deliveryagent.agent import frames

GATHERED = 0.004  # seconds for which results are gathered at most
MANY_RESULTS = 64  # that are not kept waiting


class Flushes(Enum):
    """Whether what was said is going to be written."""

    NOT = 0
    LATER = 1
    SOON = 2


class Listener(Protocol):
    """Who takes the manager's frames."""

    def hear(self, frame: frames.ToWorker) -> None:
        """The manager said something."""

    def orphaned(self) -> None:
        """The manager is gone."""


class ManagerLink(asyncio.Protocol):
    """See the module's description."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._unframer = frames.Unframer()
        self._outbox: list[frames.FromWorker] = []
        self._flushes = Flushes.NOT
        self._timer: asyncio.TimerHandle | None = None
        self._results: list[bytes] = []
        self._early: deque[frames.ToWorker] = deque()
        self._listener: Listener | None = None
        self._transport: asyncio.Transport | None = None
        self._first: asyncio.Future[None] = self._loop.create_future()
        self._closed: asyncio.Future[None] = self._loop.create_future()

    async def settings(self) -> bytes | None:
        """What the manager says first; None when it went away instead, or said something else."""
        await asyncio.wait((self._first, self._closed), return_when=asyncio.FIRST_COMPLETED)
        first = self._early.popleft() if self._early else None
        return first.settings if isinstance(first, frames.Configure) else None

    def listen(self, listener: Listener) -> None:
        """From now on frames go to ``listener``, beginning with those that came early."""
        self._listener = listener
        while self._early:
            listener.hear(self._early.popleft())
        if self._closed.done():
            listener.orphaned()

    def say(self, frame: frames.FromWorker) -> None:
        """Tell the manager."""
        if self._flushes is not Flushes.SOON:
            self._flushes = Flushes.SOON
            self._loop.call_soon(self._flush)
        self._outbox.append(frame)

    def report(self, result: bytes, *, soon: bool = True) -> None:
        """Tell the manager how a delivery ended, together with others that end in this turn.

        Not ``soon``: there is other work yet, and waking the manager is not free, so a few
        milliseconds are waited for more. ``result`` is a ``DeliveryResult`` in MessagePack.
        """
        self._results.append(result)
        if self._flushes is Flushes.SOON:
            return
        if soon or len(self._results) >= MANY_RESULTS:
            self._flushes = Flushes.SOON
            self._loop.call_soon(self._flush)
        elif self._flushes is Flushes.NOT:
            self._flushes = Flushes.LATER
            self._timer = self._loop.call_later(GATHERED, self._flush)

    async def close(self, limit: float) -> None:
        """Let what was said go out, for at most ``limit`` seconds."""
        self._flush()
        if self._transport is not None:
            self._transport.close()
            await asyncio.wait((self._closed,), timeout=limit)

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._flushes = Flushes.NOT
        outbox, self._outbox = self._outbox, []
        results, self._results = self._results, []
        octets = frames.encode(outbox) if outbox else b""
        if results:
            octets += frames.encode_results(results)
        if self._transport is not None and octets:
            self._transport.write(octets)

    # asyncio calls these

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is ready."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Octets arrived."""
        try:
            for frame in self._unframer.feed(data, frames.to_worker_decoder):
                if self._listener is not None:
                    self._listener.hear(frame)
                else:
                    self._early.append(frame)
                    if not self._first.done():
                        self._first.set_result(None)
        except frames.FrameError:
            cast("asyncio.Transport", self._transport).abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """The manager is gone, or this end was closed."""
        self._transport = None
        if not self._closed.done():
            self._closed.set_result(None)
        if self._listener is not None:
            self._listener.orphaned()
