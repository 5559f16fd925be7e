"""From a request and its content to a message the queue can take over.

The same for every local way in: the socket of a running service, and a command that writes the
queue itself. Guarantees: what is handed to the queue is complete and valid, or nothing is; every
refusal is a ``ServiceError`` with the exit status of the caller and a sentence that says what was
wrong. Never decides where a message goes and never waits: content comes in as it comes, parts that
are full go out to be staged.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, assert_never

from deliveryagent.intake.admission import Peer
from deliveryagent.intake.envelope import Opened, Terms
from deliveryagent.mail.envelope import QueueId, format_queue_id
from deliveryagent.mail.submission import (
    Accepted,
    Answer,
    Duplicate,
    KeyBusy,
    KeyConflict,
    StagedPart,
    Submission,
)
from deliveryagent.protocol.arrival import Arrival, ContentError
from deliveryagent.protocol.letter import take
from deliveryagent.protocol.local import ExitCode, ServiceError
from deliveryagent.protocol.sending import SendRequest
from deliveryagent.queue.thread import StoreUnavailable

__all__ = [
    "InternalError",
    "Reception",
    "Submitter",
    "Taker",
    "Terms",
    "answer_of",
    "receive",
    "told",
]

Taker = Callable[[list[Answer | Exception]], None]


class Submitter(Protocol):
    """What the intake needs of the queue. What returns an awaitable raises ``StoreUnavailable``."""

    def new_id(self) -> QueueId:
        """A fresh queue id, larger than all before."""

    def stage(self, part: StagedPart) -> Awaitable[None]:
        """Keep one part of a content that is still arriving."""

    def abandon(self, queue_id: int) -> Awaitable[None]:
        """Forget the staged parts of a message that will not come."""

    def submit(self, submissions: Sequence[Submission], taker: Taker) -> None:
        """Take over messages; ``taker`` gets the answers in order after the commit, or why not."""


class Reception:
    """One message being received: ``feed`` its content as it comes, then ``finish``.

    Raises ``ServiceError``, in the constructor for what can be known before the content. What
    ``feed`` returns is to be staged, in order; nothing else is kept of a message until ``finish``.
    """

    def __init__(
        self, request: SendRequest, *, peer: Peer, terms: Terms, queue_id: QueueId, now: float
    ) -> None:
        self._now = now
        self.queue_id = queue_id
        self.staged = 0
        self._opened = Opened(request, peer, terms, now)
        self._arrival = Arrival(
            self._opened.stamp(queue_id),
            limits=terms.limits,
            part_size=terms.part_size,
            read_recipients=self._opened.from_headers,
        )

    def feed(self, data: bytes) -> list[StagedPart]:
        """Take octets of the content; returns the parts that are full."""
        try:
            return self._numbered(self._arrival.feed(data))
        except ContentError as error:
            raise _refused(error) from None

    def finish(self) -> tuple[list[StagedPart], Submission]:
        """The last parts to be staged, if any was before, and the message."""
        try:
            parts, arrived = self._arrival.finish()
        except ContentError as error:
            raise _refused(error) from None
        whole = () if self.staged else tuple(parts)
        submission = self._opened.submission(self.queue_id, arrived, whole)
        return self._numbered(parts) if self.staged else [], submission

    def _numbered(self, parts: list[bytes]) -> list[StagedPart]:
        first = self.staged
        self.staged += len(parts)
        return [
            StagedPart(queue_id=self.queue_id, part=first + place, data=data, started=self._now)
            for place, data in enumerate(parts)
        ]


def receive(
    request: SendRequest,
    content: bytes,
    *,
    peer: Peer,
    terms: Terms,
    queue_id: QueueId,
    now: float,
) -> Submission:
    """A message whose content is there as a whole, smaller than a part. Raises ``ServiceError``."""
    opened = Opened(request, peer, terms, now)
    try:
        parts, arrived = take(
            content,
            opened.stamp(queue_id),
            limits=terms.limits,
            part_size=terms.part_size,
            read_recipients=opened.from_headers,
        )
    except ContentError as error:
        raise _refused(error) from None
    return opened.submission(queue_id, arrived, tuple(parts))


def answer_of(answer: Answer, key: str) -> tuple[str, bool]:
    """The id a message has now, and whether it was known before; raises ``ServiceError``."""
    match answer:
        case Accepted(queue_id):
            return format_queue_id(queue_id), False
        case Duplicate(queue_id):
            return format_queue_id(queue_id), True
        case KeyConflict(queue_id):
            raise ServiceError(
                ExitCode.BAD_DATA,
                f'the key "{key}" belongs to another message: {format_queue_id(queue_id)}',
                "Use a new key, or send exactly what was sent before.",
            )
        case KeyBusy():
            raise ServiceError(
                ExitCode.TRY_LATER,
                f'another transaction that is not finished uses the key "{key}"',
                "Nothing was taken; try again.",
            )
        case _:
            assert_never(answer)


class InternalError(ServiceError):
    """A fault of this program, as a caller is told of it: without details."""

    def __init__(self) -> None:
        super().__init__(
            ExitCode.FAILED, "internal error", "The log of the service has the details."
        )


def told(error: Exception) -> ServiceError:
    """What a caller is told of an error; those of other rooms may carry a ``code`` and a ``hint``."""
    if isinstance(error, ServiceError):
        return error
    if isinstance(error, StoreUnavailable):
        text = f"the queue cannot be written: {error}"
        return ServiceError(ExitCode.TRY_LATER, text, "Nothing was taken; try again later.")
    code = getattr(error, "code", None)
    if isinstance(code, int):
        return ServiceError(code, str(error), str(getattr(error, "hint", "")))
    return InternalError()


def _refused(error: ContentError) -> ServiceError:
    return ServiceError(ExitCode.BAD_DATA, str(error), error.hint)
