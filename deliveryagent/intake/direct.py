"""Writes messages to the queue where no service runs, under the lock a service would hold.

The same checks as on the socket, for the user who runs the command. Guarantees: an answer is given
only after the commit; many messages share one; a message that fails half way leaves at most parts
that the next service sweeps away. Holding the lock keeps a service from starting, so it is given
back as soon as the messages at hand are written.
"""

import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from typing import Self

from deliveryagent.intake.admission import own_peer
from deliveryagent.intake.submit import Reception, Terms, answer_of, receive, told
from deliveryagent.mail.submission import StagedPart, Submission
from deliveryagent.protocol.local import ServiceError
from deliveryagent.protocol.sending import SendRequest
from deliveryagent.queue import inflow, submissions
from deliveryagent.queue.engine import StoreError, open_writer, store_file
from deliveryagent.queue.ids import QueueIds
from deliveryagent.queue.lock import LockHeld, QueueLock
from deliveryagent.queue.single import Kept, execute
from deliveryagent.queue.thread import StoreUnavailable
from deliveryagent.queue.upgrade import ensure

__all__ = ["DirectQueue", "LockHeld", "StoreError", "Terms"]

_GROUP = 500  # messages, or about so many octets, written in one transaction
_GROUP_OCTETS = 8 * 1024 * 1024

Outcome = str | ServiceError
Incoming = tuple[SendRequest, bytes | Iterable[bytes]]
"""A request and its content, whole or in pieces."""


class DirectQueue:
    """The queue, open for writing until ``close``.

    Raises ``LockHeld`` when somebody else has it, and ``StoreError`` when it cannot be written.
    """

    def __init__(self, url: str, *, terms: Terms, clock: Callable[[], float] = time.time) -> None:
        self._terms = terms
        self._clock = clock
        self._peer = own_peer()
        with ExitStack() as stack:
            file = store_file(url)
            if file is not None:
                stack.enter_context(QueueLock(file))
            engine = open_writer(url)
            stack.callback(engine.dispose)
            ensure(engine)
            self._store = Kept(engine)
            stack.callback(self._store.close)
            with self._store.begin() as connection:
                last = submissions.last_id(connection)
                mark = inflow.direct_mark(connection)
            self._closing = stack.pop_all()
        rng = random.Random()  # noqa: S311 - tells ids apart, protects nothing
        self._new_id = QueueIds(last=last, clock=clock, rng=rng, mark=mark)

    def close(self) -> None:
        """Give the queue back."""
        self._closing.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def enqueue(self, messages: Iterable[Incoming]) -> Iterator[Outcome]:
        """Take over messages; yields their ids, or why one was not taken, in order."""
        group: list[Submission] = []
        octets = 0
        for request, content in messages:
            try:
                group.append(self._receive(request, content))
            except (ServiceError, StoreUnavailable) as error:
                yield from self._committed(group)
                yield told(error)
                group, octets = [], 0
                continue
            octets += sum(map(len, group[-1].parts))
            if len(group) >= _GROUP or octets >= _GROUP_OCTETS:
                yield from self._committed(group)
                group, octets = [], 0
        yield from self._committed(group)

    def _receive(self, request: SendRequest, content: bytes | Iterable[bytes]) -> Submission:
        if isinstance(content, bytes):
            return receive(
                request,
                content,
                peer=self._peer,
                terms=self._terms,
                queue_id=self._new_id(),
                now=self._clock(),
            )
        reception = Reception(
            request,
            peer=self._peer,
            terms=self._terms,
            queue_id=self._new_id(),
            now=self._clock(),
        )
        try:
            for piece in content:
                self._stage(reception.feed(piece))
            parts, submission = reception.finish()
            self._stage(parts)
        except BaseException:
            if reception.staged:
                with suppress(StoreUnavailable):
                    execute(self._store, submissions.abandon, [reception.queue_id])
            raise
        return submission

    def _stage(self, parts: list[StagedPart]) -> None:
        if parts:
            execute(self._store, submissions.stage, parts)

    def _committed(self, group: list[Submission]) -> Iterator[Outcome]:
        if not group:
            return
        try:
            answers = execute(self._store, submissions.add, group)
        except StoreUnavailable as error:
            yield from [told(error)] * len(group)
            return
        for submission, answer in zip(group, answers, strict=True):
            try:
                yield answer_of(answer, submission.envelope.key)[0]
            except ServiceError as error:
                yield error
