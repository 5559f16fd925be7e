"""Messages one after the other over one session: what most mail is, at the least cost.

A lane carries a request with one recipient and a small content over an idle session, then the next
of the same site for which that session would have been chosen anyway. Where the peer speaks
PIPELINING and is quick, the next message's MAIL, RCPT and DATA go out in the same write as the
content and dot of the present one (RFC 2920 3.1 allows that).

Guarantees: the same answers give the same result as a ``Delivery`` would; a lane only knows the way
on which the peer says yes to everything, all else is looked up in ``protocol.dialogue`` and judged
as for any delivery. The journal knows of a request before its MAIL is written, of its dot before
that is, and of its outcome before the next dot. A message that began early and was spoilt by what
became of the one before it is offered again in another session, and nobody is blamed. Once told to
stop, or with the lease over, a lane writes no dot: it cuts the connection, even where the peer
awaits a content.
"""

import asyncio
from time import monotonic
from typing import NamedTuple, Protocol, cast

from deliveryagent.agent.delivery import Delivery, idle_session, known_way
from deliveryagent.agent.errand import TOO_LATE, Leg, Means
from deliveryagent.agent.ledger import TEXT_KEPT, Ledger
from deliveryagent.agent.lines import Lines
from deliveryagent.agent.planner import Plan
from deliveryagent.agent.session import Session
from deliveryagent.agent.stale import is_cut_short, is_farewell, is_lost
from deliveryagent.agent.visit import REPLY_KEPT
from deliveryagent.mail.delivery import (
    DeliveryRequest,
    DeliveryResult,
    Failure,
    HostTry,
    Pressure,
    RecipientResult,
    Stage,
    Verdict,
)
from deliveryagent.mail.status import SmtpReply
from deliveryagent.protocol import content, dialogue
from deliveryagent.wire.connection import HELD_LIMIT

_BRISK = 1.0  # seconds within which a peer answers, or else no message waits behind its answer
_DOT = (Stage.DOT,)
_DELIVERED, _UP, _DOT_STAGE = Verdict.DELIVERED, Pressure.UP, Stage.DOT


class Desk(Protocol):
    """The worker, as its lanes see it."""

    means: Means
    lines: Lines

    def number(self) -> int:
        """The sequence number of the next result."""

    def conclude(self, slot: int, result: DeliveryResult, *, soon: bool) -> None:
        """A request is over; with sequence number 0 it goes back untried.

        Not ``soon``: others follow, and the manager may be told together with them.
        """

    def crowd(self, site: str) -> None:
        """One more request of a site is in work than has a place of its own."""

    def vacate(self, site: str) -> None:
        """A place is free again."""


class Turn(NamedTuple):
    """A request that a lane has begun; ``early``: before the one in front of it was over."""

    request: DeliveryRequest
    slot: int
    leg: Leg
    plan: Plan
    flight: bytes
    early: bool


def begin(desk: Desk, request: DeliveryRequest, slot: int) -> "Lane | Delivery":
    """What carries out a request, noted in the journal: a lane if it can."""
    means = desk.means
    way = known_way(request, means)
    session = None if way is None else idle_session(*way, means)
    if way is None or session is None:
        return Delivery(request, slot, means)
    flight = b"" if session.needs_reset else _flight(request, session)
    if flight:
        return Lane(desk, session, Turn(request, slot, *way, flight, early=False))
    delivery = Delivery(request, slot, means)
    delivery.start_with(*way, session)
    return delivery


class Lane:
    """See the module's description.

    ``past_dot``: the answer to a final dot is awaited. ``left`` are the deliveries that need more than
    this session, to be carried out when the lane is over.
    """

    __slots__ = (
        "_desk", "_loop", "_next", "_present", "_session", "_shy", "_stopped", "_until", "left",
        "past_dot",
    )  # fmt: skip

    def __init__(self, desk: Desk, session: Session, first: Turn) -> None:
        self._desk = desk
        self._session = session
        self._until = session.opened + session.reuse.connection_reuse_time_limit
        self._shy = desk.means.connections.shy(session.key)
        self._present: Turn | None = first
        self._next: Turn | None = None
        self._loop = asyncio.get_running_loop()
        self._stopped = False
        self.past_dot = False
        self.left: list[Delivery] = []

    def stop(self) -> None:
        """Write no final dot any more."""
        self._stopped = True
        for delivery in self.left:
            delivery.stop()

    async def run(self) -> None:
        """Until nobody waits whom the session suits.

        May be cancelled after :meth:`stop` was called, unless ``past_dot``. A fault of this program
        defers the request it struck, gives back the one behind it, and is raised.
        """
        site = cast("Turn", self._present).request.site
        try:
            await self._run()
        except asyncio.CancelledError:
            self._session.cut()
            self._give_back()
            if not self._stopped:
                raise
            cast("asyncio.Task[None]", asyncio.current_task()).uncancel()
        except Exception as error:
            self._session.cut()
            if self._present is not None:
                self._conclude(self._present, error)
                self._present = None
            self._give_back()
            raise
        finally:
            self._desk.means.connections.put(self._session)
            self._desk.vacate(site)

    async def _run(self) -> None:
        session, connection = self._session, self._session.connection
        while (turn := self._present) is not None:
            if self._stopped:
                session.cut()
                self._give_back()
                return
            began, started = monotonic(), self._desk.means.clock()
            session.uses += 1
            if turn.early:
                outcomes = connection.heard(3) or await connection.replies(dialogue.OPENING)
            else:
                outcomes = connection.speak(turn.flight)
                outcomes = outcomes or await connection.replies(dialogue.OPENING)
            answered: dialogue.Outcomes | None = None
            if dialogue.agreed(outcomes) and connection.in_step:
                if not self._end(turn):
                    return
                answered = await connection.replies(_DOT, final=True)
                self.past_dot = False
            session.took = monotonic() - began
            self._desk.lines.took(turn.request.site, session.took)
            taken = None if answered is None else _taken(answered)
            if taken is not None:
                self._delivered(turn, taken, started)
            else:
                await self._unusual(turn, outcomes, answered)
            self._present, self._next = self._next, None
            if self._present is None:
                self._present = self._pick(turn, early=False)

    def _end(self, turn: Turn) -> bool:
        """Write content, dot, and the beginning of the next message; False if that must not be."""
        means, session = self._desk.means, self._session
        body = wire_content(turn)
        ahead = b""
        if not self._shy and session.took <= _BRISK:
            self._next = self._pick(turn, early=True)
            if self._next is not None:
                ahead = self._next.flight
        if self._stopped or means.lease.over:
            session.cut()
            self._give_back()
            return False
        means.journal.dot(turn.slot, session.label)
        self.past_dot = True
        session.connection.end(body, ahead)
        return True

    def _pick(self, present: Turn, *, early: bool) -> Turn | None:
        """The next request of the site, begun in the journal, if it is one for this lane."""
        session = self._session
        if (
            self.left
            or self._stopped
            or not (early or (session.usable and not session.needs_reset))
        ):
            return None
        last, means = present.request, self._desk.means
        line = self._desk.lines.next_of(last.site)
        if line is None or session.uses >= session.most or self._loop.time() >= self._until:
            return None
        request = line.waiting[0]
        leg, plan = present.leg, present.plan
        here = request.next_hop, request.route, request.domain
        if here != (last.next_hop, last.route, last.domain) or plan.until <= monotonic():
            way = known_way(request, means)
            if way is None:
                return None
            leg, plan = way
        if not plan.leads_to(session.key) or not (flight := _flight(request, session)):
            return None
        slot = means.journal.start(request)
        if slot is None:
            return None
        line.waiting.popleft()
        return Turn(request, slot, leg, plan, flight, early)

    def _delivered(self, turn: Turn, reply: SmtpReply, started: float) -> None:
        """The peer said yes to everything; what ``policy.classify`` makes of that is no question."""
        session, request = self._session, turn.request
        session.needs_reset = False
        endpoint, text = session.endpoint, reply.text
        tried = HostTry(
            endpoint.host,
            endpoint.ip or endpoint.path,
            endpoint.port,
            session.tls,
            session.uses,
            0.0,
            0.0,
            session.took,
            _DOT_STAGE,
            reply.code,
            reply.enhanced,
            text[:REPLY_KEPT],
        )
        recipient = RecipientResult(
            request.recipients[0].number,
            _DELIVERED,
            _DOT_STAGE,
            reply.code,
            reply.enhanced or "2.0.0",
            text[:TEXT_KEPT],
            0,
            not session.capabilities.dsn,
        )
        result = DeliveryResult(
            request.serial,
            request.queue_id,
            (recipient,),
            (tried,),
            _UP,
            "",
            started,
            self._desk.number(),
        )
        self._desk.conclude(turn.slot, result, soon=self._next is None)

    async def _unusual(
        self,
        turn: Turn,
        outcomes: dialogue.Outcomes,
        answered: dialogue.Outcomes | None,
    ) -> None:
        """Go on as the dialogue has it; decide at once what can be, and leave the rest."""
        desk, session = self._desk, self._session
        delivery = Delivery(turn.request, turn.slot, desk.means)
        heard = (outcomes,) if answered is None else (outcomes, (), answered)
        cut = not session.sound  # for what became of the message before
        exchange = await session.carry_on(turn.request, heard, wire_content(turn), on_dot=_no_dot)
        delivery.start_after(turn.leg, turn.plan, session, exchange, early=turn.early)
        broken = turn.early and is_cut_short(exchange) and not is_farewell(exchange)
        if (broken and not cut) or (self._next is not None and answered and is_lost(exchange)):
            desk.means.connections.note_shy(session.key)
        if not session.sound:
            session.cut()
        if delivery.over:
            result = delivery.result(0 if delivery.untried else desk.number())
            desk.conclude(turn.slot, result, soon=True)
        else:
            self.left.append(delivery)
            desk.crowd(turn.request.site)
            if self._stopped:
                delivery.stop()

    def _give_back(self) -> None:
        """What was begun goes back as if it had not been tried."""
        for turn in (self._present, self._next):
            if turn is not None:
                self._conclude(turn, None)
        self._present = self._next = None

    def _conclude(self, turn: Turn, error: Exception | None) -> None:
        ledger = Ledger(turn.request, self._desk.means.clock())
        if error is None:
            ledger.stop()
            self._desk.conclude(turn.slot, ledger.result(), soon=True)
        else:
            ledger.give_up(error)
            self._desk.conclude(turn.slot, ledger.result(self._desk.number()), soon=True)


def wire_content(turn: Turn) -> bytes:
    """The content in wire form."""
    request = turn.request
    limit = turn.leg.client.settings.line_length_limit
    return content.encode(request.content or b"", long_lines=request.long_lines, limit=limit)


def _flight(request: DeliveryRequest, session: Session) -> bytes:
    """How a message begins that a lane can carry; empty for any other."""
    text = request.content
    if text is None or len(text) != request.size or len(text) > HELD_LIMIT:
        return b""
    return dialogue.opening(request, session.capabilities)


def _no_dot() -> Failure:
    """Where a lane has no more to write than the end of a dialogue."""
    return TOO_LATE


def _taken(answered: dialogue.Outcomes) -> SmtpReply | None:
    """The plain yes to a dot, if it is one."""
    reply = answered[0]
    if len(answered) == 1 and isinstance(reply, SmtpReply) and reply.code < 300:
        return reply
    return None
