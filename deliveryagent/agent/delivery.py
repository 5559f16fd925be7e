"""One delivery request: its next hops in order, at each the hosts in order, at each a conversation.

An idle session to one of the best hosts is used first; otherwise addresses are dialled one after
the other, within the limits of addresses and sessions. Recipients that a host refuses for now go to
the next one; who is left when no host is left is deferred with the last reason. Fallback relays
come after the request's own next hops, unless this host is itself an MX host of the domain.

Guarantees: every recipient is answered for exactly once; once a final dot went out without an
answer, no other host gets the message. What outcomes mean is ``policy.classify``; what happens at
one address is ``visit``.
"""

import asyncio
from functools import lru_cache
from typing import NamedTuple, cast

from deliveryagent.agent.errand import Errand, Leg, Means
from deliveryagent.agent.planner import Plan
from deliveryagent.agent.session import Session
from deliveryagent.agent.visit import Visit
from deliveryagent.mail.delivery import (
    DeliveryRequest,
    DeliveryResult,
    Failure,
    RequestRecipient,
    Stage,
    Trouble,
)
from deliveryagent.mail.nexthop import NextHop, NextHopError, parse_next_hops
from deliveryagent.policy.classify import judge_route
from deliveryagent.protocol.dialogue import Exchange


class Start(NamedTuple):
    """Where a delivery begins that has its first visit made, or even behind it."""

    leg: Leg
    plan: Plan
    visit: Visit
    session: Session | None
    waiting: list[RequestRecipient]


class Delivery:
    """See the module's description; ``slot`` is the request's place in the journal."""

    __slots__ = ("_errand", "_is_mx", "_start")

    def __init__(self, request: DeliveryRequest, slot: int, means: Means) -> None:
        self._errand = Errand(request, slot, means)
        self._is_mx = False  # this host is an MX host of the domain
        self._start: Start | None = None

    def start_with(self, leg: Leg, plan: Plan, session: Session) -> None:
        """The first next hop is known, and this idle session leads to it."""
        visit = Visit(self._errand, leg, session.endpoint, best=plan.best)
        self._start = Start(leg, plan, visit, session, self._errand.ledger.undecided)

    def start_after(
        self, leg: Leg, plan: Plan, session: Session, exchange: Exchange, *, early: bool
    ) -> None:
        """The first transaction was held already, see ``Visit.look_back``; :attr:`over` may be true."""
        visit = Visit(self._errand, leg, session.endpoint, best=plan.best)
        waiting = visit.look_back(session, exchange, early=early)
        self._start = Start(leg, plan, visit, None, waiting)

    @property
    def over(self) -> bool:
        """Whether everybody is decided."""
        return self._errand.ledger.over

    def dot(self) -> Failure | None:
        """See ``Errand.dot``."""
        return self._errand.dot()

    @property
    def slot(self) -> int:
        """Its place in the journal."""
        return self._errand.slot

    @property
    def site(self) -> str:
        """The site it counts for, empty for none."""
        return self._errand.request.site

    @property
    def past_dot(self) -> bool:
        """Whether the answer to a final dot is awaited; such a delivery is not to be cancelled."""
        return self._errand.past_dot

    @property
    def untried(self) -> bool:
        """Whether the request goes back as if it had never come."""
        return self._errand.ledger.untried

    def stop(self) -> None:
        """Begin nothing any more; whoever is undecided goes back untried."""
        self._errand.stopped = True

    def result(self, sequence: int) -> DeliveryResult:
        """What became of the recipients."""
        return self._errand.ledger.result(sequence)

    async def run(self) -> None:
        """Do all there is to do; afterwards :meth:`result` is complete.

        May be cancelled after :meth:`stop` was called, unless ``past_dot``. A fault of this program
        defers whoever is undecided, and is raised.
        """
        errand = self._errand
        try:
            await self._travel()
        except asyncio.CancelledError:
            if not errand.stopped:
                raise
            cast("asyncio.Task[None]", asyncio.current_task()).uncancel()
        except Exception as error:
            errand.ledger.give_up(error)
            raise
        if errand.stopped:
            errand.ledger.stop()
        else:
            errand.ledger.conclude()

    async def _travel(self) -> None:
        """Next hop after next hop, until nobody is left."""
        errand, request = self._errand, self._errand.request
        clients = errand.means.clients
        if self._start is not None:
            leg, plan, visit, session, waiting = self._start
            self._is_mx = plan.are_mx
            await visit.go_on(session, waiting)
            await self._visit_all(leg, plan, visit)
            hops = _parsed(request.next_hop)[1:]
        else:
            trouble, hops = _next_hops(request)
            if trouble is not None:
                leg = Leg(NextHop("smtp"), clients.of(request.route, "smtp"), relay=True)
                errand.ledger.apply_to_all(Stage.ROUTE, trouble, leg.source())
                return
        fallback: tuple[NextHop, ...] | None = None
        while not (errand.ledger.over or errand.stopped):
            if not hops:
                if fallback is None and not self._is_mx:
                    hops = fallback = self._fallback()
                if not hops:
                    return
            hop = hops[0]
            if hop.final:
                errand.ledger.settle_all(judge_route(hop))
                return
            relay = fallback is not None or hop.host != request.domain
            leg = Leg(hop, clients.of(request.route, hop.transport), relay)
            hops = await self._try(leg) + hops[1:]

    def _fallback(self) -> tuple[NextHop, ...]:
        """The relays for what cannot be delivered now; mail for a Unix socket has none."""
        request = self._errand.request
        first = _parsed(request.next_hop)[0]
        if first.path or first.final:
            return ()
        return self._errand.means.clients.of(request.route, first.transport).fallback

    async def _try(self, leg: Leg) -> tuple[NextHop, ...]:
        """Work on one next hop; returns those to try in its place."""
        errand = self._errand
        plan = await errand.means.planner.plan(leg.hop, leg.client)
        if isinstance(plan, Plan):
            self._is_mx = self._is_mx or plan.are_mx
            session = idle_session(leg, plan, errand.means)
            visit = None
            if session is not None:
                visit = Visit(errand, leg, session.endpoint, best=plan.best)
                await visit.run(session)
            await self._visit_all(leg, plan, visit)
            return ()
        if plan.trouble is Trouble.LOOP and not self._is_mx:
            instead = errand.means.clients.best_mx_transport
            self._is_mx = True
            if instead:
                return instead
        self._is_mx = self._is_mx or plan.trouble is Trouble.PRIMARY_UNREACHABLE
        errand.ledger.apply_to_all(Stage.RESOLVE, plan, leg.source())
        return ()

    async def _visit_all(self, leg: Leg, plan: Plan, first: Visit | None) -> None:
        """The addresses of a next hop in their order; ``first`` was a visit with an idle session."""
        errand, connections = self._errand, self._errand.means.connections
        limit = leg.client.settings.mx_session_limit
        used = None
        sessions, better_are_dead = 0, True
        if first is not None:
            used, sessions, better_are_dead = first.endpoint, 1, False
            if first.final:
                return
        for endpoint in () if errand.ledger.over else plan.endpoints():
            if errand.ledger.over or errand.stopped or (limit and sessions >= limit):
                return
            if used is not None and (endpoint.ip, endpoint.path) == (used.ip, used.path):
                continue
            visit = Visit(errand, leg, endpoint, best=plan.best)
            await visit.run(None)
            if visit.got_in:
                sessions += 1
                if better_are_dead and endpoint.preference > plan.best and visit.kept is not None:
                    seconds = leg.client.settings.connection_reuse_time_limit
                    way = (leg.hop, leg.client.profile.policy)
                    connections.note_detour(way, visit.kept, seconds)
                better_are_dead = False
            if visit.final:
                return


def known_way(request: DeliveryRequest, means: Means) -> tuple[Leg, Plan] | None:
    """The way to a request's first next hop, where it is known without asking anybody."""
    trouble, hops = _next_hops(request)
    if trouble is not None or hops[0].final:
        return None
    hop = hops[0]
    client = means.clients.of(request.route, hop.transport)
    plan = means.planner.known(hop, client)
    return None if plan is None else (Leg(hop, client, hop.host != request.domain), plan)


def idle_session(leg: Leg, plan: Plan, means: Means) -> Session | None:
    """An idle session to one of the best hosts, or on a detour noted for this next hop."""
    way = (leg.hop, leg.client.profile.policy)
    return cast("Session | None", means.connections.take(plan.keys(), way))


def _next_hops(request: DeliveryRequest) -> tuple[Failure | None, tuple[NextHop, ...]]:
    """Where the request is to go, or why it cannot go anywhere."""
    if request.content is not None and len(request.content) != request.size:
        text = "corrupt: the stored content has not the size it should have"
        return Failure(Trouble.CORRUPT, text), ()
    try:
        return None, _parsed(request.next_hop)
    except NextHopError as error:
        return Failure(Trouble.LOCAL, str(error)), ()


@lru_cache(maxsize=10_000)
def _parsed(text: str) -> tuple[NextHop, ...]:
    return parse_next_hops(text)
