"""Where mail comes from: Postfix's smtp-source, and a sender of our own for what it cannot do.

Ours pipelines MAIL, RCPT and DATA over sessions it keeps, gives every message the recipients it is
told, and raises ``Failure`` at the first reply that is no yes. It runs in this process.
"""

import asyncio
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator
from typing import cast

import uvloop

from benchmarks.letters import SENDER, Letter
from benchmarks.programs import Failure

SESSIONS = 20
_LIMIT = 1800.0


def load(
    port: int, *, messages: int, size: int, address: str = "127.0.0.1", keep: bool = True
) -> float | None:
    """Messages per second of smtp-source with 20 sessions; None where it is missing.

    ``keep`` sends all messages of a session over one connection. ``size`` is of the content after
    the header smtp-source adds.
    """
    program = shutil.which("smtp-source")
    if program is None:
        return None
    command = [program, *(["-d"] if keep else []), "-s", str(SESSIONS), "-m", str(messages)]
    command += ["-l", str(size), "-f", SENDER, "-t", "recipient@d0.test", f"{address}:{port}"]
    started = time.monotonic()
    subprocess.run(command, check=True, timeout=_LIMIT)
    return messages / (time.monotonic() - started)


def send(port: int, letters: Iterable[Letter], *, sessions: int = SESSIONS) -> float:
    """Hand all letters to a server on loopback; seconds it took."""
    started = time.monotonic()
    uvloop.run(_send(port, iter(letters), sessions))
    return time.monotonic() - started


async def _send(port: int, letters: Iterator[Letter], sessions: int) -> None:
    loop = asyncio.get_running_loop()
    opened = [
        loop.create_connection(lambda: _Session(letters), "127.0.0.1", port)
        for _ in range(sessions)
    ]
    pairs = await asyncio.gather(*opened)
    try:
        await asyncio.gather(*(session.done for _, session in pairs))
    finally:
        for transport, _ in pairs:
            transport.close()


class _Session(asyncio.Protocol):
    """One connection; takes the next letter when it has delivered one."""

    def __init__(self, letters: Iterator[Letter]) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._letters = letters
        self._buffer = b""
        self._steps = self._converse()
        self._wanted = next(self._steps)
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(Failure(f"the server ended a connection: {exc}"))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while not self.done.done():
            line, found, rest = self._buffer.partition(b"\n")
            if not found:
                return
            self._buffer = rest
            if line[3:4] == b"-":
                continue
            if line[:1] not in b"23":
                self.done.set_exception(Failure(f"the server says {line.decode().strip()}"))
                return
            self._wanted -= 1
            if self._wanted == 0:
                try:
                    self._wanted = next(self._steps)
                except StopIteration:
                    self.done.set_result(None)

    def _write(self, data: bytes) -> None:
        assert self._transport is not None
        self._transport.write(data)

    def _converse(self) -> Iterator[int]:
        """Write a flight, yield how many replies it takes."""
        yield 1
        self._write(b"EHLO source.bench.test\r\n")
        yield 1
        for sender, recipients, content in self._letters:
            to = "".join(f"RCPT TO:<{one}>\r\n" for one in recipients)
            self._write(f"MAIL FROM:<{sender}>\r\n{to}DATA\r\n".encode())
            yield len(recipients) + 2
            self._write(content + b".\r\n")
            yield 1
        self._write(b"QUIT\r\n")
        yield 1
