"""The way of an address, tried for real without sending anything: ``dagent probe``.

Takes the same steps as a delivery, with the worker's own parts and settings: route, name service, order of
the hosts, connection, greeting, EHLO, STARTTLS, and if wished MAIL FROM and RCPT TO; then it leaves. Hosts are
tried until one would take the message, or all have been asked. Judging their answers is ``policy.classify``.

Guarantees: DATA is never sent; nothing a peer does raises; nothing is stored. An accepted RCPT does not prove
that the mailbox exists.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable

import msgspec

from deliveryagent.agent.clients import Client, Clients
from deliveryagent.agent.planner import Planner
from deliveryagent.agent.session import Refused, Session, open_session
from deliveryagent.agent.worker_settings import WorkerSettings
from deliveryagent.mail.address import destination_of
from deliveryagent.mail.delivery import (
    DeliveryRequest,
    Failure,
    Outcome,
    RequestRecipient,
    Stage,
    Verdict,
)
from deliveryagent.mail.nexthop import Endpoint, NextHop, parse_next_hops
from deliveryagent.mail.status import SmtpReply
from deliveryagent.policy import targets
from deliveryagent.policy.classify import Judgement, classify, judge_route
from deliveryagent.policy.routing import Router
from deliveryagent.resolver.lookup import Resolver

_LINGER = 0.05  # seconds for closed connections to let go of their sockets before the loop ends


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """An outcome and its stage; ``code`` is 0 when no reply but trouble decided."""

    stage: str
    code: int
    enhanced: str
    text: str


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """A host of the next hop as the name service gives it; ``trouble`` when it has no address."""

    name: str
    preference: int
    addresses: tuple[str, ...]
    trouble: str = ""


class HostProbe(msgspec.Struct, frozen=True, kw_only=True):
    """One address that was dialled.

    ``outcome`` is what ended it, None when it went as far as it was meant to. ``ready`` says that a real
    attempt would hand the message over here; ``verdict`` is what it would conclude otherwise. Times are
    seconds. ``offers`` are the EHLO keywords with their parameters.
    """

    host: str
    ip: str
    port: int
    preference: int
    ready: bool
    outcome: Said | None
    verdict: str
    connect: float = 0.0
    setup: float = 0.0
    tls: str = ""
    offers: tuple[str, ...] = ()


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """One next hop on the way: who is behind it, and how far it went.

    ``outcome`` is set when there was nobody to dial, with what a delivery would conclude in ``verdict``.
    ``site`` is the name concurrency is counted under.
    """

    next_hop: str
    site: str
    implicit_mx: bool
    hosts: tuple[Host, ...]
    probes: tuple[HostProbe, ...]
    outcome: Said | None = None
    verdict: str = ""


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """The whole way. ``route`` is the index of the route, -1 for none; ``ready`` says that mail would go."""

    address: str
    destination: str
    route: int
    next_hop: str
    tls_level: str
    tls_reason: str
    ways: tuple[Way, ...]
    ready: bool
    verdict: str
    asked_recipient: bool


class Rehearsal:
    """Probes addresses with the settings of a worker; use it inside one event loop."""

    def __init__(
        self,
        settings: WorkerSettings,
        router: Router,
        *,
        rng: random.Random,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._clients = Clients(settings)
        self._resolver = Resolver(settings.dns)
        self._planner = Planner(self._resolver, rng)
        self._router = router

    async def close(self) -> None:
        """Wait for farewells and stop asking the name service."""
        await asyncio.gather(*self._clients.goodbyes, return_exceptions=True)
        await self._resolver.close()
        await asyncio.sleep(_LINGER)

    async def probe(self, address: str, *, sender: str, rcpt: bool) -> Probe:
        """Go the way of an address; ``rcpt`` asks about the recipient too."""
        destination = destination_of(address)
        looped = False
        routed = self._router.route(address, destination)
        hops = deque(parse_next_hops(routed.next_hop))
        client = self._clients.of(routed.index, "lmtp" if hops[0].transport == "lmtp" else "smtp")
        hops += [hop for hop in client.fallback if hop not in hops]
        demand = client.demand_unix if hops[0].path else client.demand
        request = _request(
            address, destination, sender, next_hop=routed.next_hop, now=self._clock()
        )
        ways: list[Way] = []
        while hops:
            hop = hops.popleft()
            way = await self._way(hop, routed.index, request, rcpt=rcpt, last=not hops)
            ways.append(way)
            if way.outcome is not None and way.outcome.enhanced == _LOOP and not looped:
                looped = True
                hops = deque(self._clients.best_mx_transport)
            elif _settles(way):
                break
        return Probe(
            address=address,
            destination=destination,
            route=routed.index,
            next_hop=routed.next_hop,
            tls_level=demand.level.value,
            tls_reason=demand.provenance,
            ways=tuple(ways),
            ready=_ready(ways[-1]),
            verdict=_conclusion(ways[-1]),
            asked_recipient=rcpt,
        )

    async def _way(
        self, hop: NextHop, route: int, request: DeliveryRequest, *, rcpt: bool, last: bool
    ) -> Way:
        if hop.final:
            return _nobody(hop, Stage.ROUTE, judge_route(hop))
        client = self._clients.of(route, hop.transport)
        hosts, implicit, site = await self._hosts(hop, client)
        plan = await self._planner.plan(hop, client)
        if isinstance(plan, Failure):
            judgement = classify(Stage.RESOLVE, plan, last_host=last, settings=client.settings)
            return _nobody(hop, Stage.RESOLVE, judgement, hosts=hosts, implicit=implicit, site=site)
        endpoints = plan.endpoints()
        sessions, limit = 0, client.settings.mx_session_limit
        probes: list[HostProbe] = []
        for endpoint in endpoints:
            final = last and (endpoint is endpoints[-1] or (limit and sessions + 1 >= limit))
            probe = await self._dial(endpoint, client, request, rcpt=rcpt, last=bool(final))
            probes.append(probe)
            sessions += bool(probe.offers)
            if probe.ready or probe.verdict != _NEXT or (limit and sessions >= limit):
                break
        return Way(
            next_hop=str(hop), site=site, implicit_mx=implicit, hosts=hosts, probes=tuple(probes)
        )

    async def _hosts(self, hop: NextHop, client: Client) -> tuple[tuple[Host, ...], bool, str]:
        if hop.path:
            return (), False, str(hop)
        found = await self._resolver.next_hop(hop, protocols=client.settings.inet_protocols)
        if isinstance(found, Failure):
            return (), False, ""
        hosts = tuple(
            Host(
                name=host.name,
                preference=host.preference,
                addresses=host.addresses,
                trouble=host.trouble.text if host.trouble is not None else "",
            )
            for host in sorted(found.hosts, key=lambda host: host.preference)
        )
        return hosts, found.implicit, targets.site_name(found, hop)

    async def _dial(
        self,
        endpoint: Endpoint,
        client: Client,
        request: DeliveryRequest,
        *,
        rcpt: bool,
        last: bool,
    ) -> HostProbe:
        demand = client.demand_unix if endpoint.path else client.demand
        session = await open_session(
            endpoint, client.profile, demand, own_names=client.own_names(endpoint)
        )
        if isinstance(session, Refused):
            judgement = classify(
                session.stage,
                session.outcome,
                last_host=last,
                settings=client.settings,
                opportunistic=not demand.required,
            )
            return _probe(endpoint, session, _said(session.stage, session.outcome), judgement)
        stage: Stage = Stage.EHLO
        outcome: Outcome | None = None
        if rcpt:
            exchange = await session.rehearse(request, request.recipients)
            answer = exchange.answers[0]
            stage, outcome = answer.stage, answer.outcome
        session.leave()
        if outcome is None:
            return _probe(endpoint, session, None, None)
        if isinstance(outcome, SmtpReply) and outcome.positive:
            return _probe(endpoint, session, _said(stage, outcome), None)
        judgement = classify(stage, outcome, last_host=last, settings=client.settings)
        return _probe(endpoint, session, _said(stage, outcome), judgement)


_LOOP = "5.4.6"
_NEXT = "the next host is tried"
_VERDICTS = {
    Verdict.NEXT_HOST: _NEXT,
    Verdict.DEFERRED: "it would be tried again later",
    Verdict.BOUNCED: "it would be returned to its sender",
    Verdict.IN_DOUBT: "it would be tried again later",
    Verdict.RETURNED: "it would be tried again later",
    Verdict.HELD: "it would be put on hold",
    Verdict.DELIVERED: "it would be taken",
}


def _request(
    address: str, destination: str, sender: str, *, next_hop: str, now: float
) -> DeliveryRequest:
    return DeliveryRequest(
        serial=0,
        queue_id=0,
        sender=sender,
        recipients=(RequestRecipient(1, address, 1),),
        domain=destination,
        next_hop=next_hop,
        route=-1,
        size=1024,
        dotted=False,
        eightbit=False,
        utf8=not (address.isascii() and sender.isascii()),
        long_lines=False,
        ret="",
        envid="",
        arrival=now,
        due=now,
        content=None,
    )


def _nobody(
    hop: NextHop,
    stage: Stage,
    judgement: Judgement,
    *,
    hosts: tuple[Host, ...] = (),
    implicit: bool = False,
    site: str = "",
) -> Way:
    return Way(
        next_hop=str(hop),
        site=site,
        implicit_mx=implicit,
        hosts=hosts,
        probes=(),
        outcome=Said(stage=stage, code=0, enhanced=judgement.enhanced, text=judgement.text),
        verdict=_VERDICTS[judgement.verdict],
    )


def _probe(
    endpoint: Endpoint,
    session: Session | Refused,
    said: Said | None,
    judgement: Judgement | None,
) -> HostProbe:

    return HostProbe(
        host=endpoint.path or endpoint.host,
        ip=endpoint.ip,
        port=endpoint.port,
        preference=endpoint.preference,
        ready=judgement is None,
        outcome=said,
        verdict=_VERDICTS[judgement.verdict if judgement is not None else Verdict.DELIVERED],
        connect=session.connect,
        setup=session.setup,
        tls=session.tls if isinstance(session, Session) else "",
        offers=_offers(session) if isinstance(session, Session) else (),
    )


def _said(stage: Stage, outcome: Outcome) -> Said:
    if isinstance(outcome, SmtpReply):
        return Said(stage=stage, code=outcome.code, enhanced=outcome.enhanced, text=outcome.text)
    return Said(stage=stage, code=0, enhanced="", text=outcome.text)


def _offers(session: Session) -> tuple[str, ...]:
    return tuple(
        f"{word} {parameters}".strip() for word, parameters in session.capabilities.keywords.items()
    )


def _settles(way: Way) -> bool:
    """Whether a real attempt would go no further than this next hop."""
    return _ready(way) or (way.probes[-1].verdict if way.probes else way.verdict) != _NEXT


def _ready(way: Way) -> bool:
    """Whether mail would leave the queue this way now."""
    if way.probes:
        return way.probes[-1].ready
    return way.verdict == _VERDICTS[Verdict.DELIVERED]


def _conclusion(way: Way) -> str:
    """What a message would come to now, in a sentence, from the last next hop on the way."""
    if way.probes:
        probe = way.probes[-1]
        where = f"{probe.host}[{probe.ip}]:{probe.port}" if probe.ip else probe.host
        if probe.ready:
            return f"a message would be handed to {where} now"
        return f"no host takes a message now; {probe.verdict}"
    if way.outcome is None:
        return "there is no address to dial"
    said = f"{way.outcome.enhanced} {way.outcome.text}".strip()
    if way.outcome.stage == Stage.ROUTE:
        return f"a route decides: {said}; {way.verdict}"
    return f"there is nobody to hand a message to: {said}; {way.verdict}"
