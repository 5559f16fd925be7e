"""Milters for tests: one that says what a script has it say, and programs that are installed here or not."""

import asyncio
import functools
import os
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, ParamSpec

from deliveryagent.intake.message import Message
from deliveryagent.intake.milter_talk import MilterTalk
from deliveryagent.protocol.milter import Step
from deliveryagent.protocol.session import Client, Recipient, Session, Transaction

LETTER = (
    b"From: kim@example.org\r\nTo: lee@example.net\r\nSubject: one\r\n two\r\n"
    b"Date: Mon, 02 Mar 2026 10:00:00 +0000\r\nMessage-ID: <1@example.org>\r\n\r\nHello\r\n.\r\n"
)


P = ParamSpec("P")


def in_a_loop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """A test that is a coroutine function; what it leaves open is closed, and its peers end."""

    @functools.wraps(test)
    def run(*args: P.args, **given: P.kwargs) -> None:
        async def main() -> None:
            try:
                await test(*args, **given)
            finally:
                while _sessions:
                    for note in _sessions.pop().notes.values():
                        if isinstance(note, MilterTalk):
                            note.close()
                others = asyncio.all_tasks() - {asyncio.current_task()}
                if others:
                    await asyncio.wait(others, timeout=10)

        asyncio.run(main())

    return run


_sessions: list[Session] = []


def session(**facts: object) -> Session:
    """A session as it is after EHLO."""
    known = {
        "kind": "submission",
        "client": Client(address="192.0.2.7", port=40001),
        "hostname": "mx.example.org",
        "local": "192.0.2.1:587",
        "helo": "client.example.org",
        "verb": "EHLO",
    }
    made = Session(**{**known, **facts})  # type: ignore[arg-type]
    _sessions.append(made)
    return made


def begin(
    where: Session, *recipients: str, sender: str = "kim@example.org", raw: bytes = LETTER
) -> Message:
    """A message at hand, all of which has come."""
    transaction = Transaction(
        sender=sender,
        queue_id="4QzX1",
        recipients=[Recipient(address=one, given=one) for one in recipients],
    )
    where.transaction = transaction
    return Message(where, transaction, raw)


class Scripted:
    """A milter that answers each command as ``answers`` says, by letter; "c" to all others.

    ``heard`` has every packet of every connection, ``steps`` are what it asks for.
    """

    def __init__(
        self,
        answers: dict[bytes, bytes | Callable[[bytes], bytes]] | None = None,
        *,
        steps: int = 0,
        symbols: bytes = b"",
        negotiation: bytes | None = None,
    ) -> None:
        self.answers = answers or {}
        self.steps = steps
        self.heard: list[bytes] = []
        self.connections = 0
        terms = struct.pack("!III", 6, 0x1FF, steps) + symbols
        self.negotiation = packed(b"O" + terms) if negotiation is None else negotiation

    def said(self, letter: bytes) -> list[bytes]:
        """What came with this letter."""
        return [one[1:] for one in self.heard if one[:1] == letter]

    @property
    def letters(self) -> str:
        """All letters but those of macros."""
        return "".join(chr(one[0]) for one in self.heard if one[:1] != b"D")

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.connections += 1
        try:
            while True:
                (size,) = struct.unpack("!I", await reader.readexactly(4))
                packet = await reader.readexactly(size)
                self.heard.append(packet)
                letter = packet[:1]
                if letter == b"O":
                    writer.write(self.negotiation)
                elif letter not in b"DAQK" and not self._silent(letter):
                    answer = self.answers.get(letter, packed(b"c"))
                    writer.write(answer if isinstance(answer, bytes) else answer(packet))
                await writer.drain()
        except (OSError, EOFError):
            pass
        finally:
            writer.close()

    def _silent(self, letter: bytes) -> bool:
        quiet = {b"L": Step.NR_HDR, b"N": Step.NR_EOH, b"B": Step.NR_BODY, b"C": Step.NR_CONN}
        return bool(self.steps & quiet.get(letter, Step(0)))


def packed(*packets: bytes) -> bytes:
    """With their lengths."""
    return b"".join(struct.pack("!I", len(one)) + one for one in packets)


@asynccontextmanager
async def listening(milter: Scripted, path: Path) -> AsyncIterator[str]:
    """Its address while it runs."""
    server = await asyncio.start_unix_server(milter.serve, path)
    try:
        yield f"unix:{path}"
    finally:
        server.close()


def free_port() -> int:
    """A port nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def installed(name: str) -> str | None:
    """Where a program is, also one for the administrator."""
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


@contextmanager
def running(command: list[str], path: str | int) -> Iterator[subprocess.Popen[bytes]]:
    """A program that listens at a Unix socket, or a port of 127.0.0.1, once this begins."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _wait_for(process, path)
            yield process
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait_for(process: subprocess.Popen[bytes], path: str | int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, "it ended before it listened"
        family = socket.AF_UNIX if isinstance(path, str) else socket.AF_INET
        with socket.socket(family) as probe:
            try:
                probe.connect(path if isinstance(path, str) else ("127.0.0.1", path))
            except OSError:
                time.sleep(0.05)
                continue
        return
    raise AssertionError("it does not listen")
