"""The transport of one session of a listener: octets in and out, TLS, and when to stop reading.

Guarantees: no more is read than fits in the buffer while nobody asks for it, or while the client does not
read what was written; a connection that ended tells so once. Never interprets an octet.
"""

import asyncio
from abc import ABC, abstractmethod
from typing import cast

from deliveryagent.intake.door import Door
from deliveryagent.intake.server_tls import facts_of
from deliveryagent.protocol.session import TlsFacts
from deliveryagent.protocol.smtpd_input import Input

_LINGER = 30.0  # seconds in which a client may still read the last words
_BUFFER = 1 << 16  # octets that wait unread before the client has to


class SmtpWire(asyncio.Protocol, ABC):
    """A connection. Who inherits says what to do when it is there, when octets came, and when it is gone."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._loop = asyncio.get_running_loop()
        self._input = Input()
        self._transport: asyncio.Transport | None = None
        self._ended = False  # the client writes no more
        self._held = False  # reading is paused
        self._full = False  # the client does not read

    @abstractmethod
    def _connected(self, transport: asyncio.Transport) -> None:
        """Somebody connected."""

    @abstractmethod
    def _heard(self) -> bool:
        """Octets came, or may be answered again; returns whether they were waited for."""

    @abstractmethod
    def _gone(self) -> None:
        """The connection is over."""

    # -- what the event loop calls ------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Somebody connected."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name
        self._connected(self._transport)

    def data_received(self, data: bytes) -> None:
        """Octets came."""
        self._input.buffer += data
        if not self._heard() and len(self._input.buffer) > _BUFFER:
            self._hold_back()

    def eof_received(self) -> bool:
        """The client writes no more. It may still read, though not under TLS."""
        self._ended = True
        self._heard()
        return not (self._transport is None or self._transport.get_extra_info("ssl_object"))

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        del exc
        self._transport = None
        self._gone()

    def pause_writing(self) -> None:
        """The client does not read its replies."""
        self._full = True
        self._hold_back()

    def resume_writing(self) -> None:
        """It has caught up."""
        self._full = False
        self._heard()

    # -- what sessions do with it -------------------------------------------------------------------

    def _write(self, out: bytearray) -> None:
        if out and self._transport is not None:
            self._transport.write(bytes(out))
        out.clear()

    def _hold_back(self) -> None:
        if not self._held and self._transport is not None:
            self._held = True
            self._transport.pause_reading()

    def _want_more(self) -> None:
        if self._ended:
            self._close()
        elif self._held and not self._full and self._transport is not None:
            self._held = False
            self._transport.resume_reading()

    def _close(self) -> None:
        """End the connection when everything is written."""
        transport = self._transport
        self._gone()
        if transport is not None:
            transport.close()
            if transport.get_write_buffer_size():
                # A client that never reads the rest would keep the connection for ever.
                self._loop.call_later(_LINGER, transport.abort)

    def abort(self) -> None:
        """End it, whatever it is at."""
        transport = self._transport
        self._gone()
        if transport is not None:
            transport.abort()

    async def handshake(self) -> TlsFacts:
        """Turn TLS on. A client with which that fails is gone, and nobody waits for an answer."""
        door, transport = self._door, self._transport
        try:
            assert door.tls is not None
            assert transport is not None
            secured = await self._loop.start_tls(
                transport,
                self,
                door.tls,
                server_side=True,
                ssl_handshake_timeout=door.limits.handshake_timeout,
            )
            assert secured is not None
        except Exception as error:  # noqa: BLE001 - whatever it was, nothing more may be said in clear
            door.tell("tls_failed", {"client": self.shown, "reason": str(error)[:200]})
            self.abort()
            raise asyncio.CancelledError from None
        self._transport, self._held = secured, False
        return facts_of(secured.get_extra_info("ssl_object"))

    @property
    @abstractmethod
    def shown(self) -> str:
        """How the log names the client."""
