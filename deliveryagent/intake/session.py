"""One connection to the local socket: its requests in order, its answers in the same order.

Messages of one connection are read while those before them wait for their commit, so that many
share one. Guarantees: an answer to ``send`` goes out only after the commit; a message that does not
come completely leaves nothing behind; whatever the other side sends, only its own connection
suffers. Never believes what a caller says about itself.
"""

import asyncio
import select
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import msgspec

from deliveryagent.intake.admission import Admission, Peer
from deliveryagent.intake.requests import GoneError, RequestReader, SessionLimits
from deliveryagent.intake.submit import (
    InternalError,
    Reception,
    Submitter,
    Terms,
    answer_of,
    told,
)
from deliveryagent.protocol.local import (
    ExitCode,
    SendRequest,
    ServiceError,
    encode_line,
    error_fields,
)
from deliveryagent.queue.submissions import Answer, Submission
from deliveryagent.queue.thread import StoreUnavailable

Order = Callable[[dict[str, Any], str], Awaitable[dict[str, Any]]]
"""Carries out one request of an administrator, whose name it gets; the result joins ``"ok"``."""

OpenOrder = Callable[[dict[str, Any], Peer], Awaitable[dict[str, Any]]]
"""Carries out one request of anybody who may send; has to see for itself what is the caller's."""

X = TypeVar("X")

_SEND_FIELDS = SendRequest.__optional_keys__
_UNREAD_ANSWERS = 1 << 16  # octets; the event loop's own measure of a full pipe
_GLANCE = 1.0  # seconds between looks whether somebody still waits for the end of a long order


@dataclass(frozen=True, kw_only=True)
class Counter:
    """What every session works with.

    ``orders`` are the requests for administrators, ``open_orders`` those for everybody who may
    send. ``trouble`` is told of faults of this program.
    """

    submitter: Submitter
    terms: Callable[[], Terms]
    orders: Mapping[str, Order]
    open_orders: Mapping[str, OpenOrder]
    admission: Admission
    limits: SessionLimits
    clock: Callable[[], float]
    trouble: Callable[[Exception], None]


class Backlog:
    """How many octets of content, of all connections, wait for a commit."""

    def __init__(self) -> None:
        self.octets = 0


class _Pending(NamedTuple):
    """A request whose answer is not written yet, since those before it have to be first."""

    answer: "asyncio.Future[Answer]"
    key: str = ""
    octets: int = 0


class Session:
    """One connection. ``run`` is its task; ``close`` asks it to end as soon as nobody is harmed."""

    def __init__(
        self,
        counter: Counter,
        reader: RequestReader,
        writer: asyncio.StreamWriter,
        *,
        peer: Peer,
        backlog: Backlog,
    ) -> None:
        self._counter = counter
        self._reader = reader
        self._writer = writer
        self._peer = peer
        self._backlog = backlog
        self._pending: deque[_Pending] = deque()
        self._answered = asyncio.Event()
        self._waiting = True  # for a request
        self._closing = False
        self._task: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Serve requests until the other side ends the connection, or has to be cut off."""
        self._task = asyncio.current_task()
        try:
            await self._serve_all()
        except GoneError:
            pass
        except asyncio.CancelledError:
            if not self._closing:
                raise
        except Exception as error:  # noqa: BLE001 - a fault here must end one connection only
            self._answer_with(self._told(error))
        self._waiting = False
        await self._settle()
        with suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(self._counter.limits.answer_time):
                await self._writer.drain()
                self._writer.close()
                await self._writer.wait_closed()

    def close(self) -> None:
        """Take no further request; what was received completely is still answered."""
        self._closing = True
        if self._waiting and not self._pending and self._task is not None:
            self._task.cancel()

    async def _serve_all(self) -> None:
        first = True
        while not self._closing and (line := await self._reader.line(first=first)):
            self._waiting = first = False
            op, fields = _read(line)
            if op == "send":
                await self._send(_read_send(line), unknown=fields.keys() - _SEND_FIELDS)
            else:
                await self._settle()
                self._write(await self._order(op, _read_order(line)))
            await self._make_room()
            self._waiting = True

    # -- mail -------------------------------------------------------------------------------------

    async def _send(self, request: SendRequest, *, unknown: set[str]) -> None:
        """Receive one message; its answer follows when the queue has it."""
        self._reader.begin_content()
        reception: Reception | None = None
        try:
            reception = self._begin(request, unknown)
            submission = await self._receive(reception)
        except BaseException as error:
            if reception is not None and reception.staged:
                with suppress(StoreUnavailable):  # swept later
                    await self._counter.submitter.abandon(reception.queue_id)
            if not isinstance(error, ServiceError | StoreUnavailable):
                raise
            await self._discard_rest(error)
            self._answer_with(error)
            return
        octets = sum(map(len, submission.parts))
        self._backlog.octets += octets
        answer = asyncio.ensure_future(self._counter.submitter.submit(submission))
        self._expect(_Pending(answer, submission.envelope.key, octets))

    def _begin(self, request: SendRequest, unknown: set[str]) -> Reception:
        if not self._counter.admission.may_send(self._peer):
            raise ServiceError(
                ExitCode.NOT_PERMITTED,
                "you are not allowed to send mail from this host",
                "The setting is submit.allow.",
            )
        if unknown:
            raise ServiceError(
                ExitCode.USAGE, f"unknown fields: {', '.join(sorted(unknown))[:200]}"
            )
        counter = self._counter
        return Reception(
            request,
            peer=self._peer,
            terms=counter.terms(),
            queue_id=counter.submitter.new_id(),
            now=counter.clock(),
        )

    async def _receive(self, reception: Reception) -> Submission:
        while piece := await self._reader.piece():
            for part in reception.feed(piece):
                await self._counter.submitter.stage(part)
        parts, submission = reception.finish()
        for part in parts:
            await self._counter.submitter.stage(part)
        return submission

    async def _discard_rest(self, error: ServiceError | StoreUnavailable) -> None:
        """Read past the content of a refused message, so that the next request is found."""
        limit = self._counter.terms().limits.message_size_limit
        try:
            await self._reader.discard(limit)
        except ServiceError:
            raise told(error) from None

    # -- other requests ---------------------------------------------------------------------------

    async def _order(self, op: str, fields: dict[str, Any]) -> dict[str, Any]:
        try:
            result = await self._attended(self._permitted(op, fields))
        except GoneError:
            raise
        except Exception as error:  # noqa: BLE001 - told to the caller, whatever it is
            return error_fields(self._told(error))
        return {"ok": True} | result

    def _permitted(self, op: str, fields: dict[str, Any]) -> Awaitable[dict[str, Any]]:
        """The order, begun; raises ``ServiceError`` when there is none or it is not allowed."""
        counter, peer = self._counter, self._peer
        if op in counter.open_orders and counter.admission.may_send(peer):
            return counter.open_orders[op](fields, peer)
        if op not in counter.orders and op not in counter.open_orders:
            raise ServiceError(ExitCode.USAGE, f'the service knows no request "{op[:40]}"')
        if op in counter.open_orders or not peer.admin:
            raise ServiceError(
                ExitCode.NOT_PERMITTED,
                "only administrators of the mail service may do that",
                "Join the group that submit.admin_group names, or use sudo.",
            )
        return counter.orders[op](fields, peer.user or peer.origin)

    async def _attended(self, order: Awaitable[dict[str, Any]]) -> dict[str, Any]:
        """The result of an order, given up when nobody is there any more to read it."""
        task = asyncio.ensure_future(order)
        try:
            while not task.done():
                await asyncio.wait({task}, timeout=_GLANCE)
                if self._reader.ended and _hung_up(self._writer):
                    raise GoneError
        finally:
            task.cancel()
        return task.result()

    # -- answers ----------------------------------------------------------------------------------

    def _answer_with(self, error: ServiceError | StoreUnavailable) -> None:
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        answer.set_exception(error)
        self._expect(_Pending(answer))

    def _expect(self, pending: _Pending) -> None:
        self._pending.append(pending)
        pending.answer.add_done_callback(self._flush)

    def _flush(self, _done: "asyncio.Future[Answer]") -> None:
        """Write every answer that is there and has none before it to wait for."""
        lines: list[bytes] = []
        while self._pending and self._pending[0].answer.done():
            pending = self._pending.popleft()
            self._backlog.octets -= pending.octets
            lines.append(encode_line(self._outcome(pending)))
        if lines:
            self._answered.set()
            if not self._writer.is_closing():
                self._writer.write(b"".join(lines))
            if self._closing:
                self.close()

    def _outcome(self, pending: _Pending) -> dict[str, Any]:
        try:
            queue_id, known = answer_of(pending.answer.result(), pending.key)
        except Exception as error:  # noqa: BLE001 - told to the caller, whatever it is
            return error_fields(self._told(error))
        return {"ok": True, "id": queue_id} | ({"duplicate": True} if known else {})

    def _told(self, error: Exception) -> ServiceError:
        """What the caller is told; a fault of this program is also reported."""
        answer = told(error)
        if isinstance(answer, InternalError) and answer is not error:
            self._counter.trouble(error)
        return answer

    def _write(self, answer: dict[str, Any]) -> None:
        if not self._writer.is_closing():
            self._writer.write(encode_line(answer))

    async def _settle(self) -> None:
        """Wait until every answer is written."""
        while self._pending:
            self._answered.clear()
            await self._answered.wait()

    async def _make_room(self) -> None:
        """Read no more while too much waits for a commit, or answers are not read."""
        limits = self._counter.limits
        while len(self._pending) >= limits.pending or (
            self._pending and self._backlog.octets > limits.pending_octets
        ):
            self._answered.clear()
            await self._answered.wait()
        if self._writer.transport.get_write_buffer_size() > _UNREAD_ANSWERS:
            try:
                async with asyncio.timeout(limits.answer_time):
                    await self._writer.drain()
            except (TimeoutError, ConnectionError):
                raise GoneError from None


def _reading(decode: Callable[[bytes], X]) -> Callable[[bytes], X]:
    """Decoding of a request line, where a line that is no request ends the connection.

    What follows such a line cannot be told from a content.
    """

    def read(line: bytes) -> X:
        try:
            return decode(line)
        except (ValueError, RecursionError) as error:
            raise ServiceError(ExitCode.USAGE, f"not a request: {error}") from None

    return read


_fields_of = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_text_of = msgspec.json.Decoder(str).decode


@_reading
def _read(line: bytes) -> tuple[str, dict[str, msgspec.Raw]]:
    """What is asked for, and the names of all fields, which may be more than are known."""
    fields = _fields_of(line)
    return _text_of(fields.get("op", b'""')), fields


_read_send = _reading(msgspec.json.Decoder(SendRequest).decode)
_read_order = _reading(msgspec.json.Decoder(dict[str, Any]).decode)


def _hung_up(writer: asyncio.StreamWriter) -> bool:
    """Whether the other side has closed both directions, not only its writing one."""
    connection = writer.get_extra_info("socket")
    if connection is None or connection.fileno() < 0:
        return True
    poll = select.poll()
    poll.register(connection.fileno(), 0)
    return any(event & select.POLLHUP for _, event in poll.poll(0))
