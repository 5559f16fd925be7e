"""From a message at the end of its content to what the queue takes.

Guarantees: every message gets its Received field, with the protocol it came by and the TLS that protected it
(RFC 5321 4.4, RFC 8314 4.3); missing fields are added to submissions only (RFC 6409 8); what the queue would
not take is refused with the reply that says why. Never stores anything.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import msgspec

from deliveryagent.intake.envelope import fingerprint
from deliveryagent.intake.message import Message
from deliveryagent.mail.envelope import Envelope, NewRecipient, QueueId, format_queue_id
from deliveryagent.mail.submission import Submission
from deliveryagent.mail.verdict import Reject
from deliveryagent.protocol import helo
from deliveryagent.protocol.arrival import Arrival, Arrived, ContentError, LimitSettings, Stamp
from deliveryagent.protocol.letter import take
from deliveryagent.protocol.session import Client, Session, Transaction

_CODES = {"5.3.4": 552}
_PART = b"\ncontent-type:"  # nothing is nested deeper than there are such lines
_SHORTEST_PART = len("content-type:message/rfc822\r\n\r\n")
_LONGEST_KEY = 200


@dataclass(frozen=True, kw_only=True)
class TakingTerms:
    """What holds for every message of a listener.

    ``bulk_after`` is that of ``queue.submissions.Submission``, ``key_header`` the name of the field that makes
    two sendings one message, or empty. ``clean``: contents come with CRLF line ends only, others are refused.
    """

    hostname: str
    limits: LimitSettings
    part_size: int
    bulk_after: int
    nesting_limit: int
    key_header: str
    clean: bool = False


class RefusedError(Exception):
    """The message cannot be taken; ``reply`` says why."""

    def __init__(self, reply: Reject) -> None:
        super().__init__(reply.text)
        self.reply = reply


class Taking:
    """One message on its way into the queue: ``parts`` of a large content first, then ``submission``.

    Both raise ``RefusedError``. A content smaller than a part has no parts.
    """

    def __init__(
        self, message: Message, terms: TakingTerms, *, queue_id: QueueId, now: float
    ) -> None:
        self._message = message
        self._terms = terms
        self._now = now
        self.queue_id = queue_id
        self.stamp = _stamp(message.session, message.transaction, terms, queue_id, now)
        self._arrived: Arrived | None = None

    @property
    def large(self) -> bool:
        """Whether its content is handed over in parts."""
        return self._message.size >= self._terms.part_size // 2

    def parts(self) -> Iterator[bytes]:
        """The content of a large message in wire form, part by part."""
        terms = self._terms
        arrival = Arrival(self.stamp, limits=terms.limits, part_size=terms.part_size)
        self._check_nesting(sum(piece.lower().count(_PART) for piece in self._message.pieces()))
        try:
            for piece in self._message.pieces():
                yield from arrival.feed(piece)
            rest, self._arrived = arrival.finish()
        except ContentError as error:
            raise _refused(error) from None
        yield from rest

    def submission(self) -> Submission:
        """The message as the queue takes it; of a large one, after all its parts."""
        terms, transaction = self._terms, self._message.transaction
        parts: tuple[bytes, ...] = ()
        arrived = self._arrived
        if arrived is None:
            content = self._message.content
            if len(content) > terms.nesting_limit * _SHORTEST_PART:
                self._check_nesting(content.lower().count(_PART))
            try:
                whole, arrived = take(
                    content,
                    self.stamp,
                    limits=terms.limits,
                    part_size=terms.part_size,
                    clean=terms.clean,
                    keyed=bool(terms.key_header),
                )
            except ContentError as error:
                raise _refused(error) from None
            parts = tuple(whole)
        envelope = _envelope(transaction, self._key())
        facts = arrived.facts
        if envelope.key:
            facts = msgspec.structs.replace(facts, digest=fingerprint(envelope, facts.digest))
        return Submission(
            queue_id=self.queue_id,
            envelope=envelope,
            facts=facts,
            parts=parts,
            arrival=self._now,
            origin=_origin(self._message.session),
            bulk_after=terms.bulk_after,
        )

    def _check_nesting(self, nesting: int) -> None:
        limit = self._terms.nesting_limit
        if limit and nesting > limit and depth_of(self._message.pieces(), limit) > limit:
            text = f"MIME parts are nested more than {limit} deep"
            raise RefusedError(Reject(code=554, enhanced="5.6.0", text=text))

    def _key(self) -> str:
        if not self._terms.key_header:
            return ""
        value = self._message.header(self._terms.key_header)
        if not value:
            return ""
        if len(value) > _LONGEST_KEY or not value.isprintable():
            text = f"{self._terms.key_header} is longer than {_LONGEST_KEY} characters, or no text"
            raise RefusedError(Reject(code=554, enhanced="5.6.0", text=text))
        return f"{_origin(self._message.session)} {value}"


def depth_of(pieces: Iterator[bytes], limit: int) -> int:
    """How deep MIME parts of a content may be nested: every boundary opens a level until it is closed.

    An upper bound, from lines alone; asked for contents with suspiciously many parts only. Looks no further
    once it is more than ``limit``.
    """
    open_boundaries: list[bytes] = []
    deepest = 0
    for line in _lines(pieces):
        found = _BOUNDARY.search(line)
        if found is not None:
            open_boundaries.append(found[1] or found[2])
            deepest = max(deepest, len(open_boundaries))
            if deepest > limit:
                break
        elif line.startswith(b"--") and line.rstrip().endswith(b"--"):
            name = line.rstrip()[2:-2]
            if name in open_boundaries:
                del open_boundaries[open_boundaries.index(name) :]
    return deepest


_BOUNDARY = re.compile(rb'\bboundary\s*=\s*(?:"([^"]{1,70})"|([^\s;"]{1,70}))', re.IGNORECASE)


def _lines(pieces: Iterator[bytes]) -> Iterator[bytes]:
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        yield from lines
        rest = rest[-1000:]
    yield rest


def _envelope(transaction: Transaction, key: str) -> Envelope:
    recipients = [
        NewRecipient(address=one.address, notify=one.notify, orcpt=one.orcpt)
        for one in transaction.recipients
    ]
    if len(recipients) > 1:  # each once, however often it was named
        first = {one.address: one for one in reversed(recipients)}
        recipients = list(reversed(first.values()))
    return Envelope(
        sender=transaction.sender,
        recipients=tuple(recipients),
        ret=transaction.ret,
        envid=transaction.envid,
        not_before=transaction.not_before,
        key=key,
        tags=transaction.tags,
        hold=transaction.hold,
        priority=transaction.priority,
        deliver_by=transaction.deliver_by,
        by_mode=transaction.by_mode,
        require_tls=transaction.require_tls,
    )


def _origin(session: Session) -> str:
    """How the queue remembers who handed it over."""
    if session.user:
        return f"user={session.user}"
    return session.client.shown if session.client.uid >= 0 else f"client={session.client.shown}"


def _stamp(
    session: Session, transaction: Transaction, terms: TakingTerms, queue_id: QueueId, now: float
) -> Stamp:
    trace = _trace(
        session.helo,
        session.client,
        terms.hostname,
        session.protocol,
        session.tls.cipher if session.tls else "",
    )
    return Stamp(
        hostname=terms.hostname,
        queue_id=format_queue_id(queue_id),
        origin="",
        sender=transaction.sender,
        now=now,
        trace=trace,
        complete=session.kind == "submission",
    )


@lru_cache(maxsize=1024)
def _trace(name: str, client: Client, hostname: str, protocol: str, cipher: str) -> str:
    """What the Received field says up to the queue id; the same for all messages of a session."""
    literal = f"[IPv6:{client.address}]" if ":" in client.address else f"[{client.address}]"
    known = f"{helo.shown(client.name)} {literal}".strip() if client.address else client.shown
    tls = f" tls {cipher}" if cipher else ""
    return (
        f"from {helo.shown(name)} ({known})\n"
        f"\tby {hostname} (deliveryagent) with {protocol}{tls}\n\t"
    )


def _refused(error: ContentError) -> RefusedError:
    code = _CODES.get(error.enhanced, 554)
    return RefusedError(Reject(code=code, enhanced=error.enhanced, text=str(error)))
