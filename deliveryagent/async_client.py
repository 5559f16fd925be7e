"""Hand over mail from asyncio: ``from deliveryagent import AsyncClient``.

::

    async with AsyncClient() as mail:
        queue_id = await mail.enqueue("shop@example.org", ["kim@example.net"], message, key="order-4711")
        await mail.wait(queue_id, timeout=30)

What :class:`deliveryagent.Client` promises holds here too: a call that returns has its message on stable
storage, a service that restarts is waited for, keys make repeating safe, and where no service runs the queue is
written directly (in a thread). Calls may be made by many tasks of one event loop at once: their messages share
one connection and the commits of the service, none waits for the answer to another. A call that is cancelled
may or may not have handed over its message. Not for several event loops or threads.
"""

import asyncio
import os
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Self, Unpack

from deliveryagent import access
from deliveryagent.client import PATIENCE, PAUSE, EnqueueError, not_taken
from deliveryagent.intake.async_link import Answered, AsyncLink
from deliveryagent.intake.batch import WINDOW, doubted
from deliveryagent.intake.link import LostError
from deliveryagent.intake.outgoing import ANSWER_TIME, Outgoing, outgoing
from deliveryagent.intake.wishes import Readable, Wishes
from deliveryagent.protocol.local import ServiceError, encode_line, error_of

if TYPE_CHECKING:
    from email.message import Message

    from deliveryagent.intake.direct import DirectQueue

__all__ = ["AsyncClient", "EnqueueError", "ServiceError", "Wishes"]

_ORDERS = 20  # at a time, each over a connection of its own; a user may have a hundred


class _Errand:
    """A message on its way, and who waits for its id."""

    __slots__ = ("answer", "message", "sent", "since")

    def __init__(self, message: Outgoing, loop: asyncio.AbstractEventLoop) -> None:
        self.message = message
        self.answer: asyncio.Future[str] = loop.create_future()
        self.since = loop.time()
        self.sent = False

    @property
    def unsent(self) -> bool:
        """Whether nobody has seen it yet."""
        return not self.sent and not self.answer.done()

    def settle(self, outcome: str | Exception) -> None:
        """Tell whoever waits, if anybody still does."""
        if self.answer.done():
            return
        if isinstance(outcome, str):
            self.answer.set_result(outcome)
        else:
            self.answer.set_exception(outcome)


class AsyncClient:
    """A way into the queue for one event loop; the arguments are those of :class:`deliveryagent.Client`."""

    def __init__(
        self,
        config: str | os.PathLike[str] | None = None,
        socket: str | os.PathLike[str] | None = None,
        *,
        overrides: Sequence[str] = (),
        patience: float = PATIENCE,
    ) -> None:
        self._config = config
        self._overrides = tuple(overrides)
        self._socket = os.fspath(socket) if socket is not None else None
        self._patience = patience
        self._link: AsyncLink | None = None
        self._waiting: deque[_Errand] = deque()  # not sent, or to be sent again
        self._unanswered: deque[_Errand] = deque()
        self._heard = 0.0  # when the last answer came
        self._carrier: asyncio.Task[None] | None = None  # there while anything is on its way
        self._orders = asyncio.Semaphore(_ORDERS)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End the connection, once everything on its way has its answer. The client can be used again."""
        if self._carrier is not None:
            await asyncio.wait([self._carrier])
        link, self._link = self._link, None
        if link is not None:
            await link.close()

    async def enqueue(
        self,
        sender: str | None,
        recipients: str | Iterable[str],
        content: "bytes | bytearray | memoryview | Message[Any, Any] | Readable",
        **wishes: Unpack[Wishes],
    ) -> str:
        """Hand over one message; returns its queue id once it is on stable storage.

        The arguments are those of ``Client.enqueue``. Raises :class:`EnqueueError`.
        """
        try:
            return await self._begin(outgoing(sender, recipients, content, wishes)).answer
        except ServiceError as error:
            raise not_taken(error, (None,)) from None

    async def enqueue_many(
        self, items: Iterable[Sequence[Any]] | AsyncIterable[Sequence[Any]]
    ) -> list[str]:
        """Hand over many messages in few commits; returns their queue ids in order.

        The items are those of ``Client.enqueue_many``; they are asked for as room becomes free. Raises
        :class:`EnqueueError` when one is not taken; its ``accepted`` tells what became of those sent.
        """
        ids: list[str | None] = []
        failure: ServiceError | None = None
        under_way: deque[_Errand] = deque()

        async def settle() -> None:
            nonlocal failure
            try:
                ids.append(await under_way[0].answer)
            except ServiceError as error:
                ids.append(None)
                failure = failure or error
            under_way.popleft()

        try:
            unfit = None
            async with aclosing(_messages(items)) as messages:
                async for message in messages:
                    if isinstance(message, ServiceError):
                        unfit = message
                        break
                    under_way.append(self._begin(message))
                    while len(under_way) >= WINDOW or (under_way and under_way[0].answer.done()):
                        await settle()
                    if failure:
                        break
            while under_way and not (failure and under_way[0].unsent):
                await settle()
        finally:
            for errand in under_way:
                errand.answer.cancel()
        if unfit is not None and failure is None:
            ids.append(None)
        if problem := failure or unfit:
            raise not_taken(problem, tuple(ids))
        return [queue_id for queue_id in ids if queue_id is not None]

    async def wait(self, queue_id: str, timeout: float = 30.0) -> dict[str, Any]:  # noqa: ASYNC109
        """What has become of a message once none of its recipients waits, or after ``timeout`` seconds.

        Returns the message as ``dagent queue show --json`` prints it. Raises ``ServiceError`` when there is
        no such message, or no service that would deliver it.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while True:
            try:
                async with self._orders:
                    left = max(0.0, deadline - loop.time())
                    answer = await self._order(
                        "wait", ANSWER_TIME + left, id=queue_id, timeout=left
                    )
            except LostError:  # restarting: what is known of the message is not lost
                if loop.time() > deadline:
                    raise
                await asyncio.sleep(PAUSE)
                continue
            found: dict[str, Any] = answer["message"]
            return found

    async def order(self, op: str, patience: float = ANSWER_TIME, **fields: Any) -> dict[str, Any]:
        """Have the service carry out a request of ``protocol.local``, once, over a connection of its own.

        Raises ``ServiceError`` as ``Client.order`` does.
        """
        async with self._orders:
            return await self._order(op, patience, **fields)

    async def _order(self, op: str, patience: float, **fields: Any) -> dict[str, Any]:
        answers: list[dict[str, Any]] = []
        link = await self._service(answers.append, patience)
        try:
            await link.ask(encode_line({"op": op, **fields}))
            while not answers:
                await link.stirred()
        finally:
            link.break_off("there is nothing more to ask")
        if (error := error_of(answers[0])) is not None:
            raise error
        return answers[0]

    async def _service(self, answered: Answered, patience: float) -> AsyncLink:
        """The service, waited for while it may be restarting."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._patience
        while True:
            path, url = self._places()
            try:
                return await AsyncLink.open(path, answered, patience)
            except PermissionError:
                raise access.not_allowed(path) from None
            except OSError as error:
                missing = access.not_reached(path, error)
            if url:
                free = await asyncio.to_thread(self._nobody_has, url)
                if free:
                    raise access.none_runs()
            if loop.time() >= deadline:
                raise missing
            await asyncio.sleep(PAUSE)

    def _places(self) -> tuple[str, str]:
        """The socket, and the URL of the queue if it may be written directly."""
        if self._socket is not None:
            return self._socket, ""
        return access.socket_and_queue(self._config, self._overrides)

    def _begin(self, message: Outgoing) -> _Errand:
        """Put a message on its way."""
        loop = asyncio.get_running_loop()
        errand = _Errand(message, loop)
        self._waiting.append(errand)
        if self._carrier is None or self._carrier.done():
            self._carrier = loop.create_task(self._carry())
        elif self._link is not None:
            self._link.stir()
        return errand

    async def _carry(self) -> None:
        """Hand over everything that waits, over as many connections as it takes."""
        try:
            while self._waiting:
                try:
                    trouble = await self._attempt()
                except Exception as error:  # noqa: BLE001 - told to everybody who waits
                    self._give_up(error, patience=0.0)
                    continue
                if trouble is not None:
                    self._give_up(trouble, patience=self._patience)
                    await asyncio.sleep(PAUSE)
        finally:
            for errand in self._waiting:  # there are none, unless the event loop ends
                errand.answer.cancel()

    async def _attempt(self) -> ServiceError | None:
        """Hand over what waits; returns why that is not possible at the moment.

        Raises ``ServiceError`` for what will not change by waiting.
        """
        if self._link is None or self._link.lost is not None:
            path, url = self._places()
            try:
                self._link = await AsyncLink.open(path, self._answered)
            except PermissionError:
                raise access.not_allowed(path) from None
            except OSError as error:
                if url and await self._write(url):
                    return None
                return access.not_reached(path, error)
        try:
            await self._send_over(self._link)
        except LostError as error:
            return error
        finally:
            if self._unanswered:
                self._link.break_off("answers are left over")
                self._waiting.extendleft(reversed(self._unanswered))
                self._unanswered.clear()
        return None

    async def _send_over(self, link: AsyncLink) -> None:
        """Send what there is, and what comes meanwhile, until all has its answer; raises ``LostError``."""
        while True:
            while self._waiting and len(self._unanswered) < WINDOW:
                errand = self._waiting.popleft()
                if errand.answer.done():  # whoever asked has gone
                    continue
                self._unanswered.append(errand)
                errand.sent = True
                try:
                    await link.put(errand.message)
                except ServiceError:
                    raise
                except Exception as error:  # noqa: BLE001 - its content cannot be read
                    errand.settle(error)
                    link.break_off("a content could not be sent to its end")
            await link.flush()
            if not self._unanswered:
                return
            await link.stirred()

    def _answered(self, answer: dict[str, Any]) -> None:
        self._heard = asyncio.get_running_loop().time()
        self._unanswered.popleft().settle(error_of(answer) or str(answer.get("id")))

    def _give_up(self, error: Exception, *, patience: float) -> None:
        """Nothing can be sent, for this reason: tell everybody who has waited for so long."""
        latest = asyncio.get_running_loop().time() - patience
        errands, self._waiting = self._waiting, deque()
        for errand in errands:
            if patience and max(errand.since, self._heard) > latest:
                self._waiting.append(errand)
            elif errand.sent and isinstance(error, ServiceError):
                errand.settle(doubted(error))
            else:
                errand.settle(error)

    async def _write(self, url: str) -> bool:
        """Write everything that waits to the queue itself, if nobody has it."""
        errands = [errand for errand in self._waiting if not errand.answer.done()]
        messages = [errand.message for errand in errands]
        outcomes = await asyncio.to_thread(self._written, url, messages)
        if outcomes is None:
            return False
        for errand, outcome in zip(errands, outcomes, strict=True):
            errand.settle(outcome)
        self._waiting = deque(errand for errand in self._waiting if not errand.answer.done())
        return True

    def _written(self, url: str, messages: list[Outgoing]) -> list[str | Exception] | None:
        """In a thread: the ids, or why not; None when somebody has the queue."""
        queue = access.open_queue(url, self._config, self._overrides)
        if queue is None:
            return None
        with queue:
            try:
                return list(_put_into(queue, messages))
            except Exception:  # noqa: BLE001 - a content cannot be read; the others have keys
                return [_put_alone(queue, message) for message in messages]

    def _nobody_has(self, url: str) -> bool:
        """In a thread: whether the queue could be written directly."""
        queue = access.open_queue(url, self._config, self._overrides)
        if queue is not None:
            queue.close()
        return queue is not None


def _put_into(queue: "DirectQueue", messages: Iterable[Outgoing]) -> Iterable[str | ServiceError]:
    return queue.enqueue((one.request, one.whole() or one.pieces()) for one in messages)


def _put_alone(queue: "DirectQueue", message: Outgoing) -> str | Exception:
    try:
        return next(iter(_put_into(queue, [message])))
    except Exception as error:  # noqa: BLE001 - told to whoever waits for it
        return error


async def _messages(
    items: Iterable[Sequence[Any]] | AsyncIterable[Sequence[Any]],
) -> AsyncGenerator[Outgoing | ServiceError]:
    """Items as messages, until there is one that cannot be: why is the last that is said."""
    async for item in items if isinstance(items, AsyncIterable) else _one_by_one(items):
        try:
            yield outgoing(item[0], item[1], item[2], item[3] if len(item) > 3 else {})
        except ServiceError as error:
            yield error


async def _one_by_one(items: Iterable[Sequence[Any]]) -> AsyncGenerator[Sequence[Any]]:
    for item in items:
        yield item
