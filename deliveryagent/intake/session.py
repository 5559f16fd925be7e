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
from typing import Any

from deliveryagent.intake.admission import Admission, Peer
from deliveryagent.intake.inlet import GoneError, Inlet
from deliveryagent.intake.requests import RequestReader, SessionLimits
from deliveryagent.intake.submit import (
    InternalError,
    Reception,
    Submitter,
    Terms,
    answer_of,
    receive,
    told,
)
from deliveryagent.mail.envelope import format_queue_id
from deliveryagent.mail.submission import Accepted, Answer, Submission
from deliveryagent.protocol.local import (
    ExitCode,
    ServiceError,
    accepted_line,
    encode_line,
    error_fields,
)
from deliveryagent.protocol.sending import SendRequest, read_op, read_order, read_send
from deliveryagent.queue.thread import StoreUnavailable

Order = Callable[[dict[str, Any], str], Awaitable[dict[str, Any]]]
"""Carries out one request of an administrator, whose name it gets; the result joins ``"ok"``."""

OpenOrder = Callable[[dict[str, Any], Peer], Awaitable[dict[str, Any]]]
"""Carries out one request of anybody who may send; has to see for itself what is the caller's."""

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


class _Pending:
    """A request whose answer is not written yet, since those before it have to be first."""

    __slots__ = ("answer", "key", "octets")

    def __init__(self, key: str = "", octets: int = 0) -> None:
        self.answer: Answer | Exception | None = None
        self.key = key
        self.octets = octets


class Session:
    """One connection. ``run`` is its task; ``close`` asks it to end as soon as nobody is harmed."""

    def __init__(
        self,
        counter: Counter,
        inlet: Inlet,
        reader: RequestReader,
        *,
        peer: Peer,
        backlog: Backlog,
    ) -> None:
        self._counter = counter
        self._inlet = inlet
        self._reader = reader
        self._peer = peer
        self._backlog = backlog
        self._pending: deque[_Pending] = deque()
        self._answered = asyncio.Event()
        self._waiting = True  # for a request
        self._closing = False
        self._task: asyncio.Task[None] | None = None
        self._may_send = counter.admission.may_send(peer)

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
        with suppress(TimeoutError):
            async with asyncio.timeout(self._counter.limits.answer_time):
                await self._inlet.drain()
                await self._inlet.close()

    def close(self) -> None:
        """Take no further request; what was received completely is still answered."""
        self._closing = True
        if self._waiting and not self._pending and self._task is not None:
            self._task.cancel()

    async def _serve_all(self) -> None:
        first = True
        while not self._closing:
            if self._take_whole():
                first = False
            elif line := await self._reader.line(first=first):
                self._waiting = first = False
                op = read_op(line)
                if op == "send":
                    request, unknown = read_send(line)
                    await self._send(request, unknown=unknown)
                else:
                    await self._settle()
                    self._write(await self._order(op, read_order(line)))
            else:
                return
            await self._make_room()
            self._waiting = True

    # -- mail -------------------------------------------------------------------------------------

    def _take_whole(self) -> bool:
        """Take every message that is here already, as far as there is room; whether there was one.

        They are handed to the queue together, those before and those behind a refused one.
        """
        taken = False
        fresh: list[Submission] = []
        octets, terms = 0, self._counter.terms()
        try:
            while self._has_room(len(fresh), octets) and (found := self._reader.message()):
                taken = True
                line, content = found
                request, unknown = read_send(line)
                try:
                    self._check(unknown)
                    fresh.append(self._whole(request, content, terms))
                    octets += len(content)
                except ServiceError as error:
                    self._submit(fresh)
                    fresh, octets = [], 0
                    self._answer_with(error)
        finally:
            self._submit(fresh)
        return taken

    def _whole(self, request: SendRequest, content: bytes, terms: Terms) -> Submission:
        return receive(
            request,
            content,
            peer=self._peer,
            terms=terms,
            queue_id=self._counter.submitter.new_id(),
            now=self._counter.clock(),
        )

    async def _send(self, request: SendRequest, *, unknown: set[str]) -> None:
        """Receive one message; its answer follows when the queue has it."""
        self._reader.begin_content()
        reception: Reception | None = None
        try:
            self._check(unknown)
            counter = self._counter
            reception = Reception(
                request,
                peer=self._peer,
                terms=counter.terms(),
                queue_id=counter.submitter.new_id(),
                now=counter.clock(),
            )
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
        self._submit([submission])

    def _check(self, unknown: set[str]) -> None:
        """Raise ``ServiceError`` for a message that must not even be looked at."""
        if not self._may_send:
            raise ServiceError(
                ExitCode.NOT_PERMITTED,
                "you are not allowed to send mail from this host",
                "The setting is submit.allow.",
            )
        if unknown:
            raise ServiceError(
                ExitCode.USAGE, f"unknown fields: {', '.join(sorted(unknown))[:200]}"
            )

    async def _receive(self, reception: Reception) -> Submission:
        while piece := await self._reader.piece():
            for part in reception.feed(piece):
                await self._counter.submitter.stage(part)
        parts, submission = reception.finish()
        for part in parts:
            await self._counter.submitter.stage(part)
        return submission

    def _submit(self, submissions: list[Submission]) -> None:
        """Hand messages to the queue; their answers follow when it has them."""
        if not submissions:
            return
        waiting = []
        for submission in submissions:
            octets = sum(map(len, submission.parts))
            self._backlog.octets += octets
            waiting.append(_Pending(submission.envelope.key, octets))
        self._pending += waiting

        def taken(answers: list[Answer | Exception]) -> None:
            for pending, answer in zip(waiting, answers, strict=True):
                pending.answer = answer
            self._flush()

        self._counter.submitter.submit(submissions, taken)

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
        if op in counter.open_orders and self._may_send:
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
                if self._reader.ended and _hung_up(self._inlet.connection):
                    raise GoneError
        finally:
            task.cancel()
        return task.result()

    # -- answers ----------------------------------------------------------------------------------

    def _answer_with(self, error: ServiceError | StoreUnavailable) -> None:
        pending = _Pending()
        pending.answer = error
        self._pending.append(pending)
        self._flush()

    def _flush(self) -> None:
        """Write every answer that is there and has none before it to wait for."""
        lines: list[bytes] = []
        while self._pending and self._pending[0].answer is not None:
            pending = self._pending.popleft()
            self._backlog.octets -= pending.octets
            lines.append(self._line_of(pending.answer, pending.key))
        if lines:
            self._answered.set()
            self._inlet.write(b"".join(lines))
            if self._closing:
                self.close()

    def _line_of(self, answer: Answer | Exception | None, key: str) -> bytes:
        if type(answer) is Accepted:
            return accepted_line(format_queue_id(answer.queue_id))
        assert answer is not None
        if isinstance(answer, Exception):
            return encode_line(error_fields(self._told(answer)))
        try:
            queue_id, known = answer_of(answer, key)
        except ServiceError as error:
            return encode_line(error_fields(error))
        return encode_line({"ok": True, "id": queue_id} | ({"duplicate": True} if known else {}))

    def _told(self, error: Exception) -> ServiceError:
        """What the caller is told; a fault of this program is also reported."""
        answer = told(error)
        if isinstance(answer, InternalError) and answer is not error:
            self._counter.trouble(error)
        return answer

    def _write(self, answer: dict[str, Any]) -> None:
        self._inlet.write(encode_line(answer))

    async def _settle(self) -> None:
        """Wait until every answer is written."""
        while self._pending:
            self._answered.clear()
            await self._answered.wait()

    def _has_room(self, more: int = 0, octets: int = 0) -> bool:
        """Whether one more message may wait for its commit, besides ``more`` of so many octets."""
        limits = self._counter.limits
        waiting = len(self._pending) + more
        full = self._backlog.octets + octets > limits.pending_octets
        return waiting < limits.pending and not (waiting and full)

    async def _make_room(self) -> None:
        """Read no more while too much waits for a commit, or answers are not read."""
        while not self._has_room():
            self._answered.clear()
            await self._answered.wait()
        if self._inlet.full:
            try:
                async with asyncio.timeout(self._counter.limits.answer_time):
                    await self._inlet.drain()
            except TimeoutError:
                raise GoneError from None


def _hung_up(connection: Any) -> bool:
    """Whether the other side has closed both directions, not only its writing one."""
    if connection is None or connection.fileno() < 0:
        return True
    poll = select.poll()
    poll.register(connection.fileno(), 0)
    return any(event & select.POLLHUP for _, event in poll.poll(0))
