"""The conversation with a peer as generators that never see a socket.

A generator yields steps and receives, for each, a tuple of outcomes; its return value is the result.
``wire.connection.Connection.play`` is the player.

=========  =====================================================  ==========================================
step       the player                                             sends back
=========  =====================================================  ==========================================
Flight     writes ``data`` at once, reads one reply per stage     ``n`` replies, or fewer and one ``Failure``
Content    writes the content (it may hold small content back     nothing, or what ended it: a ``Failure``,
           and write it together with the dot)                    before it a reply that came too early
Dot        marks the journal, writes the dot, reads ``replies``   as for Flight
=========  =====================================================  ==========================================

The ``Failure`` comes last, after every reply that arrived before it; a 421 ends a step early and is followed
by one too. ``n`` replies followed by PROTOCOL mean that the peer said more than it was asked: none of them
can be trusted to answer the command it stands beside. Pipelining (RFC 2920) is only the size of a
flight, LMTP (RFC 2033) only the number of replies after the dot.

Guarantees: a transaction gives every recipient exactly one ``Answer``, in the order given; a message counts
as taken only by a 2xx at stage DOT after at least one recipient was accepted; a lone dot (all recipients
refused, DATA accepted all the same) never delivers; whatever cannot be sent safely is answered without a
word to the peer. Judging answers is ``policy.classify``; nothing here knows about other hosts.
"""

from collections.abc import Collection, Generator, Sequence

import msgspec

from deliveryagent.mail.delivery import (
    DeliveryRequest,
    Failure,
    Outcome,
    RequestRecipient,
    Stage,
    Trouble,
)
from deliveryagent.mail.status import SmtpReply
from deliveryagent.protocol import capabilities as offers
from deliveryagent.protocol import commands, offer
from deliveryagent.protocol.capabilities import Capabilities
from deliveryagent.protocol.offer import Line, Offer

RSET, MAIL, RCPT, DATA, DOT = Stage.RSET, Stage.MAIL, Stage.RCPT, Stage.DATA, Stage.DOT
# Looking a member up in its enumeration costs more than all else that is done with a reply.


class Flight(msgspec.Struct, frozen=True, gc=False):
    """Commands to write at once, and the stage of each reply to await, in order.

    No ``data``: only read (the greeting). No ``stages``: only write.
    """

    data: bytes
    stages: tuple[Stage, ...]


class Content(msgspec.Struct, frozen=True, gc=False):
    """Send the content, without the final dot."""


class Dot(msgspec.Struct, frozen=True, gc=False):
    """Send the final dot and await that many replies.

    ``lone``: nobody was accepted and no content was sent; the dot only ends what the peer believes to be a
    message, so there is nothing to mark in the journal.
    """

    replies: int
    lone: bool = False


Step = Flight | Content | Dot
Outcomes = tuple[Outcome, ...]


class Hello(msgspec.Struct, frozen=True, gc=False):
    """How the introduction went: ``capabilities`` if the peer can be used, and the last outcome."""

    capabilities: Capabilities | None
    outcome: Outcome


class Answer(msgspec.Struct, frozen=True, gc=False):
    """The outcome that decides about a recipient, and the stage it belongs to."""

    stage: Stage
    outcome: Outcome

    @property
    def delivered(self) -> bool:
        """Whether the peer took the message for this recipient."""
        return (
            self.stage is Stage.DOT
            and isinstance(self.outcome, SmtpReply)
            and self.outcome.positive
        )


class Exchange(msgspec.Struct, frozen=True, gc=False):
    """What a transaction came to.

    ``answers`` has one entry per recipient, in the order given. ``reusable``: the conversation is in step
    and may go on (the connection may have been closed since; ``Connection.closed_by_peer`` tells);
    ``needs_reset``: the next transaction must begin with RSET. ``dot_sent``: the final dot went out for at
    least one recipient, so an answer at stage DOT that is a ``Failure`` leaves the message in doubt.
    ``answered``: the peer said anything at all; when not, and the connection was an old one, it had
    probably been closed while idle. ``dsn``: the peer takes over the duty to report (RFC 3461); when not, a
    wished-for success is to be reported as relayed by us.
    """

    answers: tuple[Answer, ...]
    reusable: bool
    needs_reset: bool
    dot_sent: bool
    answered: bool
    dsn: bool


def greeting() -> Generator[Step, Outcomes, Outcome]:
    """Await the greeting; any reply is returned, judging its class is left to the caller."""
    return _sole((yield Flight(b"", (Stage.GREETING,))))


def hello(
    name: str,
    *,
    lmtp: bool = False,
    own_names: Collection[str] = frozenset(),
    discard: Collection[str] = frozenset(),
) -> Generator[Step, Outcomes, Hello]:
    """Introduce ourselves as ``name``: EHLO and, if that is refused but not with 421, HELO; LMTP only LHLO.

    A peer that calls itself by one of ``own_names`` (lower case, no final dot; empty to switch this off) is
    ourselves: ``Failure`` LOOP. ``discard`` names keywords in capitals that are ignored in the offer.
    """
    verb = "LHLO" if lmtp else "EHLO"
    outcome = _sole((yield Flight(commands.hello(verb, name), (Stage.EHLO,))))
    if isinstance(outcome, SmtpReply) and not outcome.positive and outcome.code != 421 and not lmtp:
        verb = "HELO"
        outcome = _sole((yield Flight(commands.hello(verb, name), (Stage.EHLO,))))
    if isinstance(outcome, Failure) or not outcome.positive:
        return Hello(None, outcome)
    if offers.peer_name(outcome) in own_names:
        text = f"the host calls itself {offers.peer_name(outcome)}, which is this host's own name"
        return Hello(None, Failure(Trouble.LOOP, text))
    if verb == "HELO":
        return Hello(Capabilities(name=offers.peer_name(outcome)), outcome)
    return Hello(offers.parse(outcome, lmtp=lmtp, discard=discard), outcome)


def starttls() -> Generator[Step, Outcomes, Outcome]:
    """Ask for TLS; only after a 2xx may the handshake begin, and then nothing read before it counts."""
    return _sole((yield Flight(commands.STARTTLS, (Stage.STARTTLS,))))


def transaction(
    request: DeliveryRequest,
    recipients: Sequence[RequestRecipient],
    capabilities: Capabilities,
    *,
    reset: bool = False,
    now: float = 0.0,
) -> Generator[Step, Outcomes, Exchange]:
    """Send one message to some of its recipients, in one transaction.

    Of ``request`` the sender, size, ret, envid and the facts ``eightbit`` and ``utf8`` (the headers are not
    ASCII) are read; ``recipients`` are at least one and at most ``capabilities.rcptmax``. ``reset`` begins
    with RSET, in the same flight where the peer allows it. Answers that were given without asking the peer:
    TOO_LARGE, NEEDS_8BIT and its like, NEEDS_UTF8 (for one recipient at stage RCPT, for all at stage MAIL),
    LOCAL for an address that is none. ``now`` (seconds since the epoch) is for what has a deadline.
    """
    tally = Tally(len(recipients), needs_reset=reset, dsn=capabilities.dsn)
    lines = tally.begin(offer.make(request, recipients, capabilities, now=now))
    if not lines:
        return tally.exchange()
    if reset:
        lines.insert(0, (RSET, -1, commands.RSET))
    lines.append((DATA, -1, commands.DATA))
    for flight in offer.flights(lines, pipelining=capabilities.pipelining):
        if tally.hopeless(flight):
            break
        outcomes = yield Flight(
            b"".join([line for _, _, line in flight]), tuple([stage for stage, _, _ in flight])
        )
        tally.absorb(flight, outcomes)
        if tally.broken is not None:
            return tally.exchange()
    if not tally.go_ahead:
        return tally.exchange()
    if tally.refused is not None or not tally.accepted:
        # An LMTP peer owes one reply per accepted recipient, so here none; that it stays in step after
        # breaking the rules once is not to be hoped for.
        outcomes = yield Dot(replies=0 if capabilities.lmtp else 1, lone=True)
        tally.close_lone(outcomes)
        return tally.exchange()
    outcomes = yield Content()
    if outcomes:
        tally.cut(Stage.CONTENT, outcomes[0])
        return tally.exchange()
    tally.dot_sent = True
    outcomes = yield Dot(replies=len(tally.accepted) if capabilities.lmtp else 1)
    tally.conclude(outcomes, lmtp=capabilities.lmtp)
    return tally.exchange()


OPENING = (MAIL, RCPT, DATA)
"""The stages of :func:`opening`."""


def opening(request: DeliveryRequest, capabilities: Capabilities) -> bytes:
    """The one flight with which :func:`transaction` begins for a message to one recipient.

    Empty where it would begin in another way: the peer wants commands one by one, or would not be asked.
    """
    if not capabilities.pipelining or len(request.recipients) != 1 or request.handling is not None:
        return b""
    flight = offer.brief(request, capabilities)
    if flight:
        return flight + commands.DATA
    lines = offer.make(request, request.recipients, capabilities).lines
    if len(lines) != 2:
        return b""
    flight = lines[0][2] + lines[1][2] + commands.DATA
    return flight if len(flight) <= offer.FLIGHT_LIMIT else b""


def agreed(outcomes: Outcomes) -> bool:
    """Whether the answer to an :func:`opening` is a yes to everything: the content comes next."""
    if len(outcomes) != 3:
        return False
    mail, rcpt, data = outcomes
    return (
        isinstance(mail, SmtpReply)
        and isinstance(rcpt, SmtpReply)
        and isinstance(data, SmtpReply)
        and mail.code < 300
        and rcpt.code < 300
        and 300 <= data.code < 400
    )


def rehearsal(
    request: DeliveryRequest, recipients: Sequence[RequestRecipient], capabilities: Capabilities
) -> Generator[Step, Outcomes, Exchange]:
    """A transaction that ends before DATA: what the peer would say to these recipients; nothing is sent.

    An accepted recipient's answer is the 2xx at stage RCPT.
    """
    tally = Tally(len(recipients), needs_reset=False, dsn=capabilities.dsn)
    for line in tally.begin(offer.make(request, recipients, capabilities)):
        if tally.hopeless([line]):
            break
        tally.absorb([line], (yield Flight(line[2], (line[0],))), keep=True)
        if tally.broken is not None:
            break
    return tally.exchange()


class Tally:
    """Who has been answered what, in the course of one transaction."""

    __slots__ = (
        "accepted", "answered", "answers", "broken", "data", "dot_sent", "dsn", "go_ahead", "needs_reset",
        "refused", "reusable",
    )  # fmt: skip

    def __init__(self, recipients: int, *, needs_reset: bool, dsn: bool) -> None:
        self.answers: list[Answer | None] = [None] * recipients
        self.accepted: list[int] = []
        self.refused: Answer | None = None  # MAIL was: it answers for everybody
        self.data: Answer | None = None  # DATA was: it answers for the accepted
        self.broken: Answer | None = None  # the conversation ended: it answers for the rest
        self.go_ahead = False  # the peer awaits content
        self.dot_sent = False
        self.answered = False
        self.reusable = True
        self.needs_reset = needs_reset
        self.dsn = dsn

    def begin(self, message: Offer) -> list[Line]:
        """Note what is settled without asking the peer; returns the lines to send."""
        if message.unsuitable is not None:
            self.refused = Answer(MAIL, message.unsuitable)
        for index, failure in message.unsent.items():
            self.answers[index] = Answer(RCPT, failure)
        return message.lines

    def hopeless(self, flight: list[Line]) -> bool:
        """Whether the flight need not be sent: MAIL was refused, or DATA is all it has and for nobody."""
        return self.refused is not None or (flight[0][0] is DATA and not self.accepted)

    def absorb(self, flight: list[Line], outcomes: Outcomes, *, keep: bool = False) -> None:
        """Take the outcomes of a flight in; ``keep`` makes a recipient's acceptance its answer."""
        over = outcomes[-1] if len(outcomes) > len(flight) else None
        if over is not None:
            self.cut(flight[-1][0], over)
        if isinstance(over, Failure) and over.trouble is Trouble.PROTOCOL:
            self.answers = [None] * len(self.answers)
            self.refused = None
            return
        for (stage, index, _), outcome in zip(flight, outcomes, strict=False):
            if isinstance(outcome, Failure):
                self.cut(stage, outcome)
                return
            self.answered = True
            code = outcome.code
            if code == 421 or (stage is RSET and code >= 300):
                self.cut(stage, outcome)
                return
            if code < 400 and (code < 300) is (stage is DATA):
                # What a peer that lost its way awaits next is anybody's guess.
                self.reusable = False
            if stage is RCPT:
                if code < 300 and self.refused is None:
                    self.accepted.append(index)
                if code >= 300 or keep:
                    self.answers[index] = Answer(stage, outcome)
            elif stage is DATA:
                self.go_ahead = 300 <= code < 400
                if not self.go_ahead:
                    self.data = Answer(stage, outcome)
            else:
                self.needs_reset = stage is MAIL
                if code >= 300:
                    self.refused = Answer(stage, outcome)

    def cut(self, stage: Stage, outcome: Outcome) -> None:
        """The conversation ended at that stage."""
        self.broken = Answer(stage, outcome)
        self.reusable = False

    def close_lone(self, outcomes: Outcomes) -> None:
        """Take in what the peer said to a lone dot: nothing that counts for a recipient."""
        self.reusable = self.reusable and len(outcomes) == 1 and _in_step(outcomes[0])

    def conclude(self, outcomes: Outcomes, *, lmtp: bool) -> None:
        """Take in the replies to the final dot: for all accepted, or for each its own."""
        last = len(outcomes) - 1 if lmtp else 0
        for place, index in enumerate(self.accepted):
            self.answers[index] = Answer(DOT, outcomes[min(place, last)])
        self.needs_reset = False
        for outcome in outcomes:
            if isinstance(outcome, Failure) or outcome.code >= 300:
                self.needs_reset = True
                self.reusable = self.reusable and _in_step(outcome)

    def exchange(self) -> Exchange:
        """The result; whoever has no answer of his own gets the one that ended the transaction."""
        if self.refused is not None:
            answers = (self.refused,) * len(self.answers)
        elif None in self.answers:
            rest = self.broken or self.data or NOT_ASKED
            answers = tuple([answer or rest for answer in self.answers])
        else:
            answers = tuple(self.answers)  # type: ignore[arg-type]  # no None is left
        return Exchange(
            answers, self.reusable, self.needs_reset, self.dot_sent, self.answered, self.dsn
        )


NOT_ASKED = Answer(
    Stage.MAIL, Failure(Trouble.LOCAL, "the peer was not asked about this recipient")
)
"""Stands where no other answer was found; reaching it would be a fault of this module."""


def _in_step(outcome: Outcome) -> bool:
    """Whether the conversation can go on after this answer to a dot."""
    return isinstance(outcome, SmtpReply) and not outcome.intermediate and outcome.code != 421


def _sole(outcomes: Outcomes) -> Outcome:
    """The outcome of a flight of one: a refusal stands, a yes with something behind it does not."""
    first = outcomes[0]
    return outcomes[-1] if isinstance(first, SmtpReply) and first.code < 400 else first
