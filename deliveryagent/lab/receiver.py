"""A receiving host of the lab: SMTP or LMTP on loopback, friendly or with every fault there is.

What it does to a recipient is chosen by the address (``lab.behaviour``), what it does to everybody
by its ``HostSettings``. It speaks PIPELINING, SIZE, 8BITMIME, SMTPUTF8, DSN and ENHANCEDSTATUSCODES
(RFC 2920, 1870, 6152, 6531, 3461, 2034), STARTTLS (RFC 3207) when it has a certificate, and LMTP
(RFC 2033).

Guarantees: replies keep the order of the commands; a content is on record (``lab.arrivals``) before
its final reply is written; without a ledger it only counts, which makes it a sink for measurements.
Bounded per connection: command lines of 4 KiB, content of ``size_limit``. Never relays, never looks
at DNS.
"""

import asyncio
import random
from types import TracebackType
from typing import Self

from deliveryagent.lab.arrivals import Ledger
from deliveryagent.lab.session import HostSettings, House, Session


class Receiver:
    """The server, an asynchronous context manager; ``house`` holds its counters.

    ``port`` 0 takes a free one; ``path`` is a Unix socket instead. Raises ``OSError`` when the
    address is taken.
    """

    def __init__(
        self,
        settings: HostSettings,
        *,
        ledger: Ledger | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        path: str = "",
        rng: random.Random | None = None,
    ) -> None:
        self.host = host
        self.port = port
        self.path = path
        delays = rng or random.Random()  # noqa: S311 - delays are no secrets
        self.house = House(settings=settings, ledger=ledger, rng=delays)
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        if self.path:
            self._server = await loop.create_unix_server(lambda: Session(self.house), self.path)
        else:
            self._server = await loop.create_server(
                lambda: Session(self.house), self.host, self.port, backlog=1024
            )
            self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._server is not None:
            self._server.close()
        for session in list(self.house.open):
            session.abort()
        if self._server is not None:
            await self._server.wait_closed()
        await asyncio.sleep(0)
