"""From a request and its content to a message the queue can take over.

The same for every local way in: the socket of a running service, and a command that writes the
queue itself. Guarantees: what is handed to the queue is complete and valid, or nothing is; every
refusal is a ``ServiceError`` with the exit status of the caller and a sentence that says what was
wrong. Never decides where a message goes and never waits: content comes in as it comes, parts that
are full go out to be staged.
"""

import hashlib
import math
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass
from typing import Protocol, assert_never

import msgspec

from deliveryagent.intake.admission import Peer
from deliveryagent.mail.address import AddressError, parse_mailbox, parse_sender
from deliveryagent.mail.envelope import (
    DsnReturn,
    Envelope,
    NewRecipient,
    Notify,
    QueueId,
    format_queue_id,
)
from deliveryagent.protocol.arrival import (
    Arrival,
    Arrived,
    ContentError,
    LimitSettings,
    Stamp,
)
from deliveryagent.protocol.local import ExitCode, SendRequest, ServiceError
from deliveryagent.queue.submissions import (
    CONTENT_PART,
    Accepted,
    Answer,
    Duplicate,
    KeyConflict,
    StagedPart,
    Submission,
)
from deliveryagent.queue.thread import StoreUnavailable

_FURTHEST = 366 * 86400.0  # seconds a message may be asked to wait; more is a slip of the clock
_LONGEST_KEY = 200
_LONGEST_ENVID = 100  # RFC 3461 4.4
_MOST_TAGS = 32
_LONGEST_TAG = 256
_WISHES = {"success": Notify.SUCCESS, "failure": Notify.FAILURE, "delay": Notify.DELAY}


class Submitter(Protocol):
    """What the intake needs of the queue. Each method raises ``StoreUnavailable``."""

    def new_id(self) -> QueueId:
        """A fresh queue id, larger than all before."""

    def stage(self, part: StagedPart) -> Awaitable[None]:
        """Keep one part of a content that is still arriving."""

    def abandon(self, queue_id: int) -> Awaitable[None]:
        """Forget the staged parts of a message that will not come."""

    def submit(self, submission: Submission) -> Awaitable[Answer]:
        """Take over a message; the answer comes after the commit."""


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What holds for every message: this host's name, limits, and the size of a content's parts.

    ``bulk_after`` is the number of recipients that wait in the first line; the others wait in the
    bulk line (``Submission``).
    """

    hostname: str
    limits: LimitSettings
    part_size: int = CONTENT_PART
    bulk_after: int = 0


class Reception:
    """One message being received: ``feed`` its content as it comes, then ``finish``.

    Raises ``ServiceError``, in the constructor for what can be known before the content. What
    ``feed`` returns is to be staged, in order; nothing else is kept of a message until ``finish``.
    """

    def __init__(
        self, request: SendRequest, *, peer: Peer, terms: Terms, queue_id: QueueId, now: float
    ) -> None:
        self._request = request
        self._peer = peer
        self._terms = terms
        self._now = now
        self.queue_id = queue_id
        self.staged = 0
        self._sender = _sender(request, peer, terms.hostname)
        self._recipients = list(_parsed(request.get("recipients", ()), terms))
        from_headers = request.get("from_headers", False)
        if not self._recipients and not from_headers:
            raise ServiceError(ExitCode.BAD_DATA, "the message has no recipients")
        self._wishes = _wishes(request, now)
        stamp = Stamp(
            hostname=terms.hostname,
            queue_id=format_queue_id(queue_id),
            origin=f"from userid {peer.uid}",
            sender=self._sender,
            now=now,
        )
        self._arrival = Arrival(
            stamp, limits=terms.limits, part_size=terms.part_size, read_recipients=from_headers
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
        envelope = self._envelope(arrived)
        facts = arrived.facts
        if envelope.key:
            facts = msgspec.structs.replace(facts, digest=_fingerprint(envelope, facts.digest))
        submission = Submission(
            queue_id=self.queue_id,
            envelope=envelope,
            facts=facts,
            parts=() if self.staged else tuple(parts),
            arrival=self._now,
            origin=self._peer.origin,
            bulk_after=self._terms.bulk_after,
        )
        return self._numbered(parts) if self.staged else [], submission

    def _numbered(self, parts: list[bytes]) -> list[StagedPart]:
        first = self.staged
        self.staged += len(parts)
        return [
            StagedPart(queue_id=self.queue_id, part=first + place, data=data, started=self._now)
            for place, data in enumerate(parts)
        ]

    def _envelope(self, arrived: Arrived) -> Envelope:
        if arrived.recipients:
            self._recipients += _parsed(arrived.recipients, self._terms)
        addresses = tuple(dict.fromkeys(self._recipients))  # each once, however often it is named
        if not addresses:
            raise ServiceError(
                ExitCode.BAD_DATA,
                "the message has no recipients",
                "The header section has no address in To, Cc or Bcc; name them as arguments.",
            )
        limit = self._terms.limits.recipient_limit
        if limit and len(addresses) > limit:
            raise ServiceError(
                ExitCode.BAD_DATA,
                f"the message has {len(addresses)} recipients, more than {limit}",
                "The limit is queue.recipient_limit.",
            )
        wishes = self._wishes
        return Envelope(
            sender=self._sender,
            recipients=tuple(NewRecipient(address=a, notify=wishes.notify) for a in addresses),
            ret=wishes.ret,
            envid=wishes.envid,
            not_before=wishes.not_before,
            key=wishes.key,
            tags=wishes.tags,
            hold=wishes.hold,
        )


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


class _Wishes(msgspec.Struct, frozen=True, kw_only=True):
    """What a request asks for besides sender and recipients, checked."""

    notify: Notify
    ret: DsnReturn
    envid: str
    not_before: float
    hold: bool
    key: str
    tags: dict[str, str]


def _wishes(request: SendRequest, now: float) -> _Wishes:
    not_before = request.get("not_before", 0.0)
    if not math.isfinite(not_before) or not_before > now + _FURTHEST:
        raise _usage("the time to send is more than a year ahead")
    return _Wishes(
        notify=parse_notify(request.get("dsn", "")),
        ret=_ret(request.get("ret", "")),
        envid=_ascii_text(request.get("envid", ""), "envelope id", _LONGEST_ENVID),
        not_before=not_before if not_before > now else 0.0,
        hold=request.get("hold", False),
        key=_text(request.get("key", ""), "key", _LONGEST_KEY),
        tags=_tags(request.get("tags", {})),
    )


def parse_notify(text: str) -> Notify:
    """The reports a sender wants (RFC 3461 4.1), from ``"never"`` or ``"success,delay"``.

    >>> parse_notify("success, delay"), parse_notify("")
    (<Notify.SUCCESS|DELAY: 10>, <Notify.DEFAULT: 0>)
    """
    if not text.strip():
        return Notify.DEFAULT
    words = [word.strip().lower() for word in text.split(",")]
    if words == ["never"]:
        return Notify.NEVER
    wish = Notify.DEFAULT
    for word in words:
        if word not in _WISHES:
            raise _usage(
                f'"{word}" is no kind of report' if word != "never" else '"never" stands alone',
                'Write "never", or a list of success, failure and delay.',
            )
        wish |= _WISHES[word]
    return wish


def _ret(text: str) -> DsnReturn:
    try:
        return DsnReturn(text.upper())
    except ValueError:
        raise _usage(f'"{text}" is not what a report can return', 'Use "full" or "hdrs".') from None


def _tags(tags: dict[str, str]) -> dict[str, str]:
    if len(tags) > _MOST_TAGS:
        raise _usage(f"more than {_MOST_TAGS} tags")
    for name, value in tags.items():
        _text(value, f'value of the tag "{name[:40]}"', _LONGEST_TAG)
        if not _text(name, "name of a tag", _LONGEST_TAG):
            raise _usage("a tag without a name")
    return tags


def _text(text: str, what: str, longest: int) -> str:
    if len(text) > longest:
        raise _usage(f"the {what} has more than {longest} characters")
    if not text.isprintable():
        raise _usage(f"the {what} has characters that cannot be printed")
    return text


def _ascii_text(text: str, what: str, longest: int) -> str:
    if not text.isascii():
        raise _usage(f"the {what} has characters beyond ASCII")
    return _text(text, what, longest)


def _sender(request: SendRequest, peer: Peer, hostname: str) -> str:
    stated = request.get("sender")
    if stated is None and not peer.user:
        raise ServiceError(
            ExitCode.BAD_DATA,
            f"the user id {peer.uid} has no name to send from",
            "Name the sender with --from.",
        )
    try:
        if stated is None:
            return parse_mailbox(peer.user, default_domain=hostname).address
        return parse_sender(stated, default_domain=hostname)
    except AddressError as error:
        raise ServiceError(ExitCode.BAD_DATA, f"the sender is not acceptable: {error}") from None


def _parsed(addresses: Iterable[str], terms: Terms) -> Iterable[str]:
    for text in addresses:
        try:
            yield parse_mailbox(text, default_domain=terms.hostname).address
        except AddressError as error:
            raise ServiceError(
                ExitCode.BAD_DATA, f"a recipient is not acceptable: {error}"
            ) from None


def _fingerprint(envelope: Envelope, content: bytes) -> bytes:
    """What must be the same when a key comes again: the content, and who it is from and for."""
    people = [envelope.sender, *sorted(recipient.address for recipient in envelope.recipients)]
    return hashlib.sha256(content + "\n".join(people).encode()).digest()


def _usage(text: str, hint: str = "") -> ServiceError:
    return ServiceError(ExitCode.USAGE, text, hint)


def _refused(error: ContentError) -> ServiceError:
    return ServiceError(ExitCode.BAD_DATA, str(error), error.hint)
