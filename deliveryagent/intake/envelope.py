"""What a request says of a message besides its content, read and checked.

Guarantees: what does not make sense is refused, with the exit status of the caller and a sentence
that says what was wrong, before any content is looked at, as far as it can be known by then. Never
decides where a message goes.
"""

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

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
from deliveryagent.mail.submission import CONTENT_PART, Submission
from deliveryagent.protocol.arrival import Arrived, LimitSettings, Stamp
from deliveryagent.protocol.local import NO_RECIPIENTS, ExitCode, ServiceError
from deliveryagent.protocol.sending import SendRequest

_FURTHEST = 366 * 86400.0  # seconds a message may be asked to wait; more is a slip of the clock
_LONGEST_KEY = 200
_LONGEST_NAME = 256
_LONGEST_ENVID = 100  # RFC 3461 4.4
_MOST_TAGS = 32
_LONGEST_TAG = 256
_MODES = {"return": "R", "notify": "N"}  # RFC 2852
_WISHES = {"success": Notify.SUCCESS, "failure": Notify.FAILURE, "delay": Notify.DELAY}


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What holds for every message: this host's name, limits, and the size of a content's parts.

    ``bulk_after`` is the number of recipients that wait in the first line; the others wait in the
    bulk line (``Submission``). ``origin`` is the domain of addresses without one; empty: the host's name.
    """

    hostname: str
    limits: LimitSettings
    part_size: int = CONTENT_PART
    bulk_after: int = 0
    origin: str = ""

    @property
    def default_domain(self) -> str:
        """What an address without a domain gets."""
        return self.origin or self.hostname


class Opened:
    """A request that has been read and found good, as far as can be known without its content."""

    __slots__ = (
        "_full_name",
        "_now",
        "_peer",
        "_recipients",
        "_sender",
        "_terms",
        "_wishes",
        "from_headers",
    )

    def __init__(self, request: SendRequest, peer: Peer, terms: Terms, now: float) -> None:
        self._peer = peer
        self._terms = terms
        self._now = now
        self._sender = _sender(request, peer, terms.default_domain)
        self._recipients = list(_parsed(request.get("recipients", ()), terms))
        self.from_headers = request.get("from_headers", False)
        if not self._recipients and not self.from_headers:
            raise ServiceError(ExitCode.BAD_DATA, NO_RECIPIENTS)
        self._wishes = _wishes(request, now)
        self._full_name = _text(request.get("full_name", ""), "full name", _LONGEST_NAME)

    def stamp(self, queue_id: QueueId) -> Stamp:
        """What is written into the header section."""
        return Stamp(
            hostname=self._terms.hostname,
            queue_id=format_queue_id(queue_id),
            origin=f"from userid {self._peer.uid}",
            sender=self._sender,
            now=self._now,
            full_name=self._full_name,
        )

    def submission(
        self, queue_id: QueueId, arrived: Arrived, parts: tuple[bytes, ...]
    ) -> Submission:
        """The message as the queue takes it; ``parts`` is empty when they were staged."""
        envelope = self._envelope(arrived)
        facts = arrived.facts
        if envelope.key:
            facts = msgspec.structs.replace(facts, digest=fingerprint(envelope, facts.digest))
        return Submission(
            queue_id=queue_id,
            envelope=envelope,
            facts=facts,
            parts=parts,
            arrival=self._now,
            origin=self._peer.origin,
            bulk_after=self._terms.bulk_after,
        )

    def _envelope(self, arrived: Arrived) -> Envelope:
        if arrived.recipients:
            self._recipients += _parsed(arrived.recipients, self._terms)
        addresses = tuple(dict.fromkeys(self._recipients))  # each once, however often it is named
        if not addresses:
            raise ServiceError(
                ExitCode.BAD_DATA,
                NO_RECIPIENTS,
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
            recipients=tuple(
                [NewRecipient(address=one, notify=wishes.notify) for one in addresses]
            ),
            ret=wishes.ret,
            envid=wishes.envid,
            not_before=wishes.not_before,
            key=wishes.key,
            tags=wishes.tags,
            hold=wishes.hold,
            priority=wishes.priority,
            deliver_by=wishes.deliver_by,
            by_mode=wishes.by_mode,
            require_tls=wishes.require_tls,
        )


class _Wishes(msgspec.Struct, frozen=True, kw_only=True):
    """What a request asks for besides sender and recipients, checked."""

    notify: Notify
    ret: DsnReturn
    envid: str
    not_before: float
    hold: bool
    key: str
    tags: dict[str, str]
    priority: int = 0
    deliver_by: float = 0.0
    by_mode: str = ""
    require_tls: bool = False


_PLAIN = frozenset({"op", "sender", "recipients", "key"})
_NOTHING_ELSE = _Wishes(
    notify=Notify.DEFAULT,
    ret=DsnReturn.UNSTATED,
    envid="",
    not_before=0.0,
    hold=False,
    key="",
    tags={},
)


def _wishes(request: SendRequest, now: float) -> _Wishes:
    if request.keys() <= _PLAIN:
        key = _text(request.get("key", ""), "key", _LONGEST_KEY)
        return msgspec.structs.replace(_NOTHING_ELSE, key=key) if key else _NOTHING_ELSE
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
        priority=_priority(request.get("priority", 0)),
        require_tls=request.get("require_tls", False),
        **_deadline(request, now, not_before),
    )


def _priority(number: int) -> int:
    if not -9 <= number <= 9:
        raise _usage(f"{number} is no priority", "Priorities are from -9 to 9.")
    return number


def _deadline(request: SendRequest, now: float, not_before: float) -> dict[str, Any]:
    """Until when it is to be delivered, and what becomes of it then, as the envelope has it."""
    deliver_by, word = request.get("deliver_by", 0.0), request.get("by_mode", "notify")
    if not deliver_by:
        return {}
    if not math.isfinite(deliver_by) or not now < deliver_by <= now + _FURTHEST:
        raise _usage("the time to deliver by is over, or more than a year ahead")
    if deliver_by <= not_before:
        raise _usage("the message is to be delivered before it may be sent")
    if word not in _MODES:
        raise _usage(f'"{word}" is not what becomes of late mail', 'Use "return" or "notify".')
    return {"deliver_by": deliver_by, "by_mode": _MODES[word]}


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


def _sender(request: SendRequest, peer: Peer, domain: str) -> str:
    stated = request.get("sender")
    if stated is None and not peer.user:
        raise ServiceError(
            ExitCode.BAD_DATA,
            f"the user id {peer.uid} has no name to send from",
            "Name the sender with -f.",
        )
    try:
        if stated is None:
            return parse_mailbox(peer.user, default_domain=domain).address
        return _known_sender(stated, domain)
    except AddressError as error:
        raise ServiceError(ExitCode.BAD_DATA, f"the sender is not acceptable: {error}") from None


@lru_cache(maxsize=256)
def _known_sender(text: str, domain: str) -> str:
    """The same few senders come again and again."""
    return parse_sender(text, default_domain=domain)


def _parsed(addresses: Iterable[str], terms: Terms) -> Iterable[str]:
    for text in addresses:
        try:
            yield parse_mailbox(text, default_domain=terms.default_domain).address
        except AddressError as error:
            raise ServiceError(
                ExitCode.BAD_DATA, f"a recipient is not acceptable: {error}"
            ) from None


def fingerprint(envelope: Envelope, content: bytes) -> bytes:
    """What must be the same when a key comes again: the content, and who it is from and for."""
    people = [envelope.sender, *sorted(recipient.address for recipient in envelope.recipients)]
    return hashlib.sha256(content + "\n".join(people).encode()).digest()


def _usage(text: str, hint: str = "") -> ServiceError:
    return ServiceError(ExitCode.USAGE, text, hint)
