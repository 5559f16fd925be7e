"""A listener process that speaks no protocol of mail: what a connection says is what the process does.

``python -m tests.doubles.listener_double LINK_FD LISTEN_FD``. Each line of a connection is an order, and is
answered by one line. With a banner of ``refuse`` it says that it cannot accept connections, with ``crash`` it
ends before it could say so.
"""

import asyncio
import os
import random
import signal
import socket
import sys
import time
from typing import Any

from deliveryagent.intake import frames
from deliveryagent.intake.listener_terms import ListenerTerms
from deliveryagent.mail.envelope import ContentFacts, Envelope, NewRecipient
from deliveryagent.mail.submission import StagedPart, Submission
from deliveryagent.protocol.framing import Unframer, encode
from deliveryagent.queue.ids import QueueIds

try:  # as the real one: a closing server of asyncio's drops who was accepted last
    from uvloop import new_event_loop
except ImportError:
    from asyncio import new_event_loop  # type: ignore[assignment] # called the same way


class Process:
    """The whole process."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.waiting: dict[int, asyncio.Future[Any]] = {}
        self.sessions = self.taken = self.serial = 0
        self.idle = asyncio.Event()
        self.idle.set()
        self.ids = QueueIds(last=0, clock=time.time, rng=random.Random(), mark=0)
        self.terms: ListenerTerms | None = None
        self.mark = -1
        self.server: asyncio.Server | None = None

    def say(self, *said: Any) -> None:
        self.writer.write(encode(said))

    async def listen(self, listening: socket.socket) -> None:
        unframer = Unframer()
        while data := await self.reader.read(65536):
            for frame in unframer.feed(data, frames.to_listener_decoder):
                if isinstance(frame, frames.Configure):
                    await self.begin(frame, listening)
                elif isinstance(frame, frames.Finish):
                    assert self.server is not None
                    self.server.close()
                    asyncio.get_running_loop().create_task(self.leave(frame.grace))
                else:
                    self.waiting.pop(frame.serial).set_result(frame)
        os._exit(0)  # nobody is there any more

    async def leave(self, grace: float) -> None:
        for _ in range(20):  # who was accepted last is not yet a session
            await asyncio.sleep(0.01)
        try:
            async with asyncio.timeout(grace):
                await self.idle.wait()
        except TimeoutError:
            pass
        os._exit(0)

    async def begin(self, frame: frames.Configure, listening: socket.socket) -> None:
        self.terms = ListenerTerms.decode(frame.settings)
        self.mark = frame.mark
        self.ids = QueueIds(last=frame.last, clock=time.time, rng=random.Random(), mark=frame.mark)
        if self.terms.listener.banner == "crash":
            os._exit(9)
        if self.terms.listener.banner == "refuse":
            self.say(frames.Ready("the certificate is of no use"))
            return
        self.server = await asyncio.start_server(self.serve, sock=listening)
        self.say(frames.Ready(), frames.Beat(0, 0))
        asyncio.get_running_loop().create_task(self.beat())

    async def beat(self) -> None:
        while True:
            self.say(frames.Beat(self.sessions, self.taken))
            await asyncio.sleep(0.1)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.sessions += 1
        self.idle.clear()
        try:
            while line := await reader.readline():
                writer.write((await self.answer(line.decode().split())).encode() + b"\n")
        except ConnectionError:
            pass
        self.sessions -= 1
        if not self.sessions:
            self.idle.set()
        writer.close()

    async def answer(self, words: list[str]) -> str:
        assert self.terms is not None
        match words:
            case ["who"]:
                return f"{os.getpid()} {self.mark} {self.terms.listener.banner}"
            case ["passphrase"]:
                return self.terms.passphrase
            case ["send", count, *key]:
                letters = [self.letter(key=" ".join(key)) for _ in range(int(count))]
                replies = await asyncio.gather(*(self.ask(frames.Take, one) for one in letters))
                self.taken += sum(isinstance(one, frames.Taken) for one in replies)
                return " ".join(map(shown, replies))
            case ["stage", what]:
                letter = self.letter(staged=True)
                part = StagedPart(
                    queue_id=letter.queue_id,
                    part=0,
                    data=b"Subject: x\r\n\r\n",
                    started=time.time(),
                )
                reply = await self.ask(frames.Stage, part)
                if what == "whole":
                    reply = await self.ask(frames.Take, letter)
                elif what == "abandon":
                    self.say(frames.Abandon(letter.queue_id))
                return shown(reply)
            case ["die"]:
                os._exit(7)
            case ["freeze"]:
                os.kill(os.getpid(), signal.SIGSTOP)
        return "?"

    async def ask(self, frame: type[Any], value: Any) -> Any:
        self.serial += 1
        future = self.waiting[self.serial] = asyncio.get_running_loop().create_future()
        self.say(frame(self.serial, value))
        return await future

    def letter(self, key: str = "", *, staged: bool = False) -> Submission:
        content = b"Subject: x\r\n\r\n" if staged else b"Subject: x\r\n\r\nhello\r\n"
        return Submission(
            queue_id=self.ids(),
            envelope=Envelope(
                sender="joe@example.org",
                recipients=(NewRecipient(address="kim@example.net"),),
                key=key,
            ),
            facts=ContentFacts(size=len(content), digest=os.urandom(8)),
            parts=() if staged else (content,),
            arrival=time.time(),
            origin="listener",
        )


def shown(reply: Any) -> str:
    if isinstance(reply, frames.Taken):
        return f"taken:{reply.queue_id}" + (":again" if reply.duplicate else "")
    return f"refused:{reply.code}:{reply.text.replace(' ', '_')}"


async def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    link = socket.socket(fileno=int(sys.argv[1]))
    listening = socket.socket(fileno=int(sys.argv[2]))
    reader, writer = await asyncio.open_connection(sock=link)
    await Process(reader, writer).listen(listening)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main())
