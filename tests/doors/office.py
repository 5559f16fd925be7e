"""A local socket over a real queue in a temporary directory, and a caller that speaks it raw."""

import asyncio
import json
import os
import random
import shutil
import socket
import sqlite3
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from functools import cache
from pathlib import Path
from typing import Any, Self

from deliveryagent.config.location import SOCKET_NAME
from deliveryagent.intake.admission import Admission, SubmitSettings, own_peer
from deliveryagent.intake.local_socket import LocalSocket
from deliveryagent.intake.queue_door import QueueDoor
from deliveryagent.intake.requests import SessionLimits
from deliveryagent.intake.session import OpenOrder, Order
from deliveryagent.intake.submit import Taker, Terms
from deliveryagent.mail.envelope import QueueId
from deliveryagent.mail.submission import StagedPart, Submission
from deliveryagent.protocol.arrival import LimitSettings
from deliveryagent.protocol.local import END_OF_CONTENT, chunk, encode_line
from deliveryagent.protocol.sending import SendRequest
from deliveryagent.queue.engine import open_writer
from deliveryagent.queue.ids import QueueIds
from deliveryagent.queue.thread import Database, StoreUnavailable
from deliveryagent.queue.upgrade import ensure

PART = 1024
ME = own_peer()
LETTER = b"Subject: test\n\nhello\n"
TERMS = Terms(hostname="mail.example.org", limits=LimitSettings(), part_size=PART)


@cache
def _template() -> Path:
    file = Path(tempfile.mkdtemp()) / "queue.sqlite3"
    engine = open_writer(f"sqlite:///{file}")
    ensure(engine)
    engine.dispose()
    return file


def fresh_queue(directory: Path) -> Path:
    """An empty queue file."""
    file = directory / "queue.sqlite3"
    if not file.exists():
        shutil.copy(_template(), file)
    return file


def rows(file: Path, query: str) -> list[tuple[Any, ...]]:
    """What a query gives now."""
    with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as connection:
        return connection.execute(query).fetchall()


def stored(file: Path) -> int:
    """How many messages are in the queue."""
    return int(rows(file, "SELECT count(*) FROM message")[0][0])


def leftovers(file: Path) -> int:
    """How many parts of contents belong to no message."""
    query = "SELECT count(*) FROM content WHERE message_id NOT IN (SELECT id FROM message)"
    return int(rows(file, query)[0][0])


def content_of(file: Path, queue_id: int | None = None) -> bytes:
    """The content of a message, or of the only one."""
    where = "" if queue_id is None else f"WHERE message_id = {queue_id}"
    query = f"SELECT data FROM content {where} ORDER BY message_id, part"
    return b"".join(data for (data,) in rows(file, query))


async def until(true: Callable[[], bool]) -> None:
    """Wait until something is true; the test's own time limit is the limit."""
    while not true():  # noqa: ASYNC110 - what is waited for is in another process or thread
        await asyncio.sleep(0.002)


class Desk:
    """A submitter over the real one that can be told to misbehave."""

    def __init__(self, door: QueueDoor) -> None:
        self.door = door
        self.failure: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.abandoned: list[int] = []
        self.submitted: list[Submission] = []
        self.tasks: set[asyncio.Future[None]] = set()

    def new_id(self) -> QueueId:
        return self.door.new_id()

    async def stage(self, part: StagedPart) -> None:
        if self.failure:
            raise self.failure
        await self.door.stage(part)

    async def abandon(self, queue_id: int) -> None:
        self.abandoned.append(queue_id)
        await self.door.abandon(queue_id)

    def submit(self, submissions: Sequence[Submission], taker: Taker) -> None:
        self.submitted += submissions
        task = asyncio.ensure_future(self._submit(submissions, taker))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _submit(self, submissions: Sequence[Submission], taker: Taker) -> None:
        await self.gate.wait()
        if self.failure:
            taker([self.failure] * len(submissions))
        else:
            self.door.submit(submissions, taker)


class Office:
    """A running local socket."""

    def __init__(self, directory: Path, desk: Desk, local: LocalSocket) -> None:
        self.queue = directory / "queue.sqlite3"
        self.socket = directory / SOCKET_NAME
        self.desk = desk
        self.local = local
        self.troubles: list[Exception] = []

    async def call(self) -> "Caller":
        """A new connection."""
        reader, writer = await asyncio.open_unix_connection(str(self.socket))
        return Caller(reader, writer)


class Caller:
    """The other end, octet by octet."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()

    def put(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self) -> dict[str, Any]:
        line = await asyncio.wait_for(self.reader.readline(), 10)
        assert line, "the connection was closed"
        found: dict[str, Any] = json.loads(line)
        return found

    async def send(self, content: bytes = LETTER, **fields: Any) -> dict[str, Any]:
        self.put(request(content, **fields))
        return await self.answer()

    async def order(self, op: str, **fields: Any) -> dict[str, Any]:
        self.put(encode_line({"op": op, **fields}))
        return await self.answer()

    async def closed(self) -> bool:
        """Whether the server ends the connection, with nothing more to say."""
        try:
            return await asyncio.wait_for(self.reader.read(1), 10) == b""
        except ConnectionError:
            return True


def request(content: bytes = LETTER, **fields: Any) -> bytes:
    """A complete request to send; recipients default to one, the sender to another."""
    line: SendRequest = {
        "op": "send",
        "sender": "shop@example.org",
        "recipients": ["kim@example.net"],
    }
    line.update(fields)  # type: ignore[typeddict-item]
    chunks = b"".join(chunk(content[n : n + 700]) for n in range(0, len(content), 700))
    return encode_line(line) + chunks + END_OF_CONTENT


@asynccontextmanager
async def open_office(
    directory: Path,
    *,
    limits: SessionLimits | None = None,
    submit: SubmitSettings | None = None,
    service_uid: int = os.geteuid(),
    orders: Mapping[str, Order] | None = None,
    open_orders: Mapping[str, OpenOrder] | None = None,
    terms: Terms = TERMS,
    inherited: socket.socket | None = None,
) -> AsyncIterator[Office]:
    """Open a local socket; it is stopped, and the store closed, at the end."""
    engine = open_writer(f"sqlite:///{fresh_queue(directory)}")
    database = Database(engine)
    clock = time.time
    door = QueueDoor(
        database=database,
        trouble=lambda: "",
        coming=lambda _: None,
        accepted=lambda _: None,
        new_id=QueueIds(last=0, clock=clock, rng=random.Random(1)),
    )
    desk = Desk(door)
    troubles: list[Exception] = []
    local = LocalSocket(
        directory / SOCKET_NAME,
        submitter=desk,
        orders=orders or {},
        open_orders=open_orders,
        admission=Admission(settings=submit or SubmitSettings(), service_uid=service_uid),
        terms=lambda: terms,
        limits=limits or SessionLimits(),
        inherited=None if inherited is None else inherited.detach(),
        trouble=troubles.append,
    )
    await local.start()
    office = Office(directory, desk, local)
    office.troubles = troubles
    try:
        yield office
    finally:
        await local.stop(grace=0.2)
        await database.close()
        engine.dispose()


UNAVAILABLE = StoreUnavailable("the disk is full")
