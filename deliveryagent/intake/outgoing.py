"""Messages as an application has them, on their way into the queue.

Turns what Python programs hold (octets, objects of the ``email`` package, files) into requests, and
keeps book of many that are sent without waiting for each answer. Guarantees: a message that has no
answer can be sent again, and its key lets the queue know it again; answers are told apart by their
order alone. Light to import; never connects to anything.
"""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypedDict

from deliveryagent.intake.link import Link, LostError
from deliveryagent.protocol.local import (
    ExitCode,
    SendRequest,
    ServiceError,
    encode_line,
    error_of,
)

if TYPE_CHECKING:
    from datetime import datetime

    from deliveryagent.intake.direct import DirectQueue

ANSWER_TIME = 180.0
"""Seconds without any sign until a service counts as stuck."""

_CHUNK = 1 << 16
_WINDOW = 128  # messages on the way without an answer; their answers fit in the socket's buffer


class Readable(Protocol):
    """A binary file that can be read again from where it stands."""

    def read(self, size: int = ..., /) -> bytes: ...
    def seek(self, offset: int, /) -> int: ...
    def tell(self) -> int: ...


class Wishes(TypedDict, total=False):
    """What may be said of a message besides sender, recipients and content.

    ``key``: sent again with the same key, sender, recipients and content, it is the same message.
    ``at``: not before this moment (an aware ``datetime``, or seconds since the epoch). ``tags``:
    names and values that are kept with it. ``dsn``: the reports wanted, ``"never"`` or some of
    ``success``, ``failure``, ``delay``; ``ret``: what a report returns, ``"full"`` or ``"hdrs"``;
    ``envid``: an identifier for reports. ``hold``: keep it until it is released. ``from_headers``:
    take recipients from To, Cc and Bcc as well.
    """

    key: str | None
    at: "datetime | float | None"
    tags: Mapping[str, str] | None
    dsn: str | Iterable[str] | None
    ret: str | None
    envid: str | None
    hold: bool
    from_headers: bool


_WISHES = frozenset(Wishes.__optional_keys__)


class Outgoing(NamedTuple):
    """A message that can be sent as often as needed; ``line`` is the request as it is sent."""

    request: SendRequest
    line: bytes
    content: "bytes | Readable"
    start: int

    def pieces(self) -> Iterator[bytes]:
        """The content from its beginning; raises ``OSError`` when a file cannot be read."""
        if isinstance(self.content, bytes):
            for place in range(0, len(self.content), _CHUNK):
                yield self.content[place : place + _CHUNK]
            return
        self.content.seek(self.start)
        while piece := self.content.read(_CHUNK):
            yield piece


def outgoing(
    sender: str | None, recipients: str | Iterable[str], content: Any, wishes: Wishes
) -> Outgoing:
    """A message as the service takes it.

    Raises ``ServiceError`` for what the service could not even be told, ``TypeError`` for misuse.
    """
    if unknown := wishes.keys() - _WISHES:
        raise TypeError(f"there is no argument {', '.join(sorted(unknown))}")
    to = [recipients] if isinstance(recipients, str) else list(recipients)
    dsn = wishes.get("dsn") or ""
    request: SendRequest = {
        "op": "send",
        "recipients": to,
        "from_headers": bool(wishes.get("from_headers")),
        "dsn": dsn if isinstance(dsn, str) else ",".join(dsn),
        "ret": wishes.get("ret") or "",
        "envid": wishes.get("envid") or "",
        "not_before": _seconds(wishes.get("at")),
        "hold": bool(wishes.get("hold")),
        "key": wishes.get("key") or os.urandom(16).hex(),
        "tags": dict(wishes.get("tags") or {}),
    }
    if sender is not None:
        request["sender"] = sender
    try:
        line = encode_line(request)
    except UnicodeEncodeError:
        raise ServiceError(ExitCode.BAD_DATA, "an address or text is not valid UTF-8") from None
    international = not all(address.isascii() for address in (sender or "", *to))
    octets = _octets(content, international=international)
    return Outgoing(request, line, octets, 0 if isinstance(octets, bytes) else octets.tell())


def _seconds(moment: "datetime | float | None") -> float:
    if moment is None:
        return 0.0
    if isinstance(moment, int | float):
        return float(moment)
    if moment.tzinfo is None:
        raise ServiceError(ExitCode.USAGE, "the time to send has no time zone")
    return moment.timestamp()


def _octets(content: Any, *, international: bool) -> "bytes | Readable":
    if isinstance(content, bytes | bytearray | memoryview):
        return bytes(content)
    if hasattr(content, "as_bytes"):
        # As smtplib.send_message does it: header fields in UTF-8 only when an address needs it.
        policy = content.policy.clone(linesep="\r\n")
        if international and hasattr(policy, "utf8"):
            policy = policy.clone(utf8=True)
        octets: bytes = content.as_bytes(policy=policy)
        return octets
    if hasattr(content, "read") and hasattr(content, "seek"):
        file: Readable = content
        return file
    raise TypeError("a message is octets, an email.message.EmailMessage, or a binary file")


class Batch:
    """Messages on their way: what is not sent yet, what has no answer yet, and the answers.

    ``ids`` has an entry for each answer: the id, or None when the message was not taken. After the
    first of those no more are sent. ``failure`` says why.
    """

    def __init__(self, items: Iterable[Sequence[Any]]) -> None:
        self.ids: list[str | None] = []
        self.failure: ServiceError | None = None
        self._items = iter(items)
        self._again: deque[Outgoing] = deque()
        self._in_doubt = False  # something was sent and lost its answer
        self._unfit: ServiceError | None = None  # why the last message did not become a request
        self._unanswered: deque[Outgoing] = deque()
        self._exhausted = False

    def complete(self) -> bool:
        """Whether everything has its answer. Otherwise there is a message that can be sent."""
        if not self._again and not self._unanswered and (message := self._next()):
            self._again.append(message)
        if self._again or self._unanswered:
            return False
        if self._unfit is not None:
            self._note(self._unfit)
            self._unfit = None
        return True

    def send_over(self, link: Link) -> None:
        """Send what there is and take the answers; raises ``LostError``."""
        broken = False
        while True:
            while not broken and len(self._unanswered) < _WINDOW and (message := self._next()):
                self._unanswered.append(message)
                try:
                    link.put(message.line, message.pieces())
                except LostError:
                    broken = True  # but what was answered before can still be read
            if not self._unanswered:
                return
            answer = link.answer(ANSWER_TIME)
            self._unanswered.popleft()
            self._note(error_of(answer) or str(answer.get("id")))

    def put_into(self, queue: "DirectQueue") -> None:
        """Write everything to the queue itself."""
        for answer in queue.enqueue((m.request, m.pieces()) for m in self._remaining()):
            self._note(answer)

    def lost(self) -> None:
        """The connection broke: what has no answer has to be sent again."""
        self._in_doubt = self._in_doubt or bool(self._unanswered)
        self._again.extendleft(reversed(self._unanswered))
        self._unanswered.clear()

    def give_up(self, error: ServiceError) -> None:
        """Nothing more can be sent, for this reason."""
        if self._in_doubt:
            text = f"{error.text}; it may have taken what was sent to it before"
            error = ServiceError(error.code, text, "With a key of your own, repeating is safe.")
        self._exhausted = True
        self.failure = self.failure or error
        self.ids += [None] * len(self._again)
        self._again.clear()

    def _remaining(self) -> Iterator[Outgoing]:
        while (message := self._next()) is not None:
            yield message

    def _next(self) -> Outgoing | None:
        if self._again:
            return self._again.popleft()
        item = None if self._exhausted else next(self._items, None)
        if item is None:
            self._exhausted = True
            return None
        try:
            return outgoing(item[0], item[1], item[2], item[3] if len(item) > 3 else {})
        except ServiceError as error:
            self._exhausted = True
            self._unfit = error
            return None

    def _note(self, outcome: str | ServiceError) -> None:
        self._in_doubt = False
        if isinstance(outcome, ServiceError):
            self._exhausted = True
            self.failure = self.failure or outcome
            self.ids.append(None)
        else:
            self.ids.append(outcome)
