"""A receiving host that accepts everything, as fast as Python can: ``python -m benchmarks.receiver``.

It stands where smtp-sink is missing, and wherever more must be known than a number: when each
message was accepted, what happens inside TLS, what a host does that drags its feet. One line
``mesg=N`` with the running count goes to standard output, ended by a carriage return, as smtp-sink
does.

Speaks PIPELINING and 8BITMIME, STARTTLS when it has a certificate. With ``--record``, a line
``time recipient`` is written for each recipient, ``time`` being the monotonic clock (the same for
all processes of a machine) just before the final reply. ``--delay`` is how many seconds each reply
takes. Keeps no content and judges nothing.
"""

import argparse
import asyncio
import os
import ssl
import time
from pathlib import Path
from typing import Any, cast

import uvloop

_END = b"\r\n.\r\n"
_COUNT_EVERY = 0.002
_BACKLOG = 1024


class House:
    """What all conversations share."""

    def __init__(self, *, delay: float, record: int | None, tls: ssl.SSLContext | None) -> None:
        self.delay = delay
        self.record = record
        self.tls = tls
        self.messages = 0
        keywords = ["sink.bench.test", "PIPELINING", "8BITMIME"]
        self.hello = _lines(keywords if tls is None else [*keywords, "STARTTLS"])
        self.hello_inside = _lines(keywords)


def _lines(words: list[str]) -> bytes:
    head = "".join(f"250-{word}\r\n" for word in words[:-1])
    return (head + f"250 {words[-1]}\r\n").encode()


class Conversation(asyncio.Protocol):
    """One connection."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._buffer = bytearray()
        self._recipients: list[bytes] = []
        self._content = False
        self._searched = 0
        self._inside = False
        self._shaking: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._say([b"220 sink.bench.test ESMTP\r\n"])

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        replies: list[bytes] = []
        while self._shaking is None:
            reply = self._finish() if self._content else self._command()
            if reply is None:
                break
            replies.append(reply)
        self._say(replies)

    def _say(self, replies: list[bytes]) -> None:
        if not replies or self._transport is None:
            return
        if not self._house.delay:
            self._transport.write(b"".join(replies))
            return
        loop = asyncio.get_running_loop()
        for number, reply in enumerate(replies, 1):
            loop.call_later(number * self._house.delay, self._say_late, reply)

    def _say_late(self, reply: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(reply)

    def _command(self) -> bytes | None:
        """The reply to the next command, None when it is not complete."""
        end = self._buffer.find(b"\n")
        if end < 0:
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        match line[:4].upper():
            case b"RCPT":
                self._recipients.append(line[line.find(b"<") + 1 : line.find(b">")])
            case b"DATA":
                self._content = True
                self._searched = 0
                return b"354 go on\r\n"
            case b"EHLO":
                return self._house.hello_inside if self._inside else self._house.hello
            case b"QUIT":
                asyncio.get_running_loop().call_soon(self._close)
                return b"221 bye\r\n"
            case b"STAR" if self._house.tls is not None and not self._inside:
                self._start_tls(self._house.tls)
                return None
        return b"250 ok\r\n"

    def _finish(self) -> bytes | None:
        """The final reply, None when the content is not complete."""
        buffer = self._buffer
        if buffer.startswith(b".\r\n"):
            del buffer[:3]
        else:
            end = buffer.find(_END, max(0, self._searched - len(_END)))
            if end < 0:
                self._searched = len(buffer)
                return None
            del buffer[: end + len(_END)]
        self._content = False
        house = self._house
        house.messages += 1
        if house.record is not None:
            now = time.monotonic()
            lines = "".join(f"{now:.6f} {one.decode()}\n" for one in self._recipients)
            os.write(house.record, lines.encode())
        self._recipients.clear()
        return b"250 ok\r\n"

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _start_tls(self, context: ssl.SSLContext) -> None:
        self._say([b"220 go on\r\n"])
        self._buffer.clear()
        self._inside = True
        self._shaking = asyncio.create_task(self._shake_hands(context))

    async def _shake_hands(self, context: ssl.SSLContext) -> None:
        loop = asyncio.get_running_loop()
        transport = cast("asyncio.Transport", self._transport)
        try:
            self._transport = await loop.start_tls(transport, self, context, server_side=True)
        except OSError:
            transport.abort()
            return
        self._shaking = None
        self.data_received(b"")


async def _serve(arguments: argparse.Namespace) -> None:
    context: ssl.SSLContext | None = None
    if arguments.certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(arguments.certificate)
    flags = os.O_CREAT | os.O_WRONLY | os.O_APPEND
    record = os.open(arguments.record, flags, 0o644) if arguments.record else None
    house = House(delay=arguments.delay, record=record, tls=context)
    loop = asyncio.get_running_loop()
    for listen in arguments.listen:
        address, _, port = listen.rpartition(":")
        await loop.create_server(lambda: Conversation(house), address, int(port), backlog=_BACKLOG)
    seen = -1
    while True:
        if house.messages != seen:
            seen = house.messages
            os.write(1, b"mesg=%d\r" % seen)
        await asyncio.sleep(_COUNT_EVERY)


def read_record(path: Path) -> list[tuple[float, str]]:
    """What ``--record`` wrote so far: moments and recipients, in order of acceptance."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="ascii").rpartition("\n")[0].splitlines()
    return [(float(moment), who) for moment, _, who in (line.partition(" ") for line in lines)]


def main() -> None:
    """Listen until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--listen", action="append", required=True, metavar="ADDRESS:PORT")
    parser.add_argument("--delay", type=float, default=0.0, metavar="SECONDS")
    parser.add_argument("--record", default="", metavar="FILE")
    parser.add_argument("--certificate", default="", metavar="PEM")
    arguments: Any = parser.parse_args()
    uvloop.run(_serve(arguments))


if __name__ == "__main__":
    main()
