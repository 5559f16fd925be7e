"""A delivery's work with one address: a session is opened or reused, the message offered, the answers judged.

Usually that is one transaction. More follow in the same session when the peer takes only so many
recipients at a time, and another session to the same address when it takes only so many messages
per session, closed an idle one, or broke a TLS session that was not demanded.

Guarantees: the journal knows of the final dot before it is written, and of every outcome as soon as
there is one; a recipient whose dot went out unanswered is offered to nobody again; each further
session of a visit follows a transaction that decided somebody, or happens once. What an outcome
means is ``policy.classify``.

RFC 5321 4.5.3.1.10 (too many recipients), RFC 9422 (LIMITS), RFC 7435 (clear text after a broken
handshake).
"""

from collections import deque
from collections.abc import AsyncIterable, Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import NamedTuple

from deliveryagent.agent.clients import Client, Clients
from deliveryagent.agent.connections import Connections
from deliveryagent.agent.frames import Event, FromWorker, Transcript
from deliveryagent.agent.journal import Journal
from deliveryagent.agent.ledger import Ledger, Source
from deliveryagent.agent.parts import Parts
from deliveryagent.agent.planner import Planner
from deliveryagent.agent.session import Session, open_session
from deliveryagent.mail.address import destination_of
from deliveryagent.mail.delivery import (
    DeliveryRequest,
    Failure,
    HostTry,
    Outcome,
    RequestRecipient,
    Stage,
    Trouble,
)
from deliveryagent.mail.envelope import format_queue_id
from deliveryagent.mail.nexthop import Endpoint, NextHop
from deliveryagent.mail.security import TlsDemand, TlsLevel
from deliveryagent.mail.status import SmtpReply
from deliveryagent.policy import tls
from deliveryagent.policy.classify import Scope
from deliveryagent.protocol import content
from deliveryagent.protocol.capabilities import Capabilities
from deliveryagent.protocol.dialogue import Answer, Exchange

_IN_CLEAR = TlsDemand(TlsLevel.NONE, "the TLS session broke before")
_BREACH = "4.5.0"  # how classify marks what no peer may say
_TEXT_KEPT = 500


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Means:
    """What the deliveries of a worker share. ``minimal_backoff`` is in seconds, ``clock`` tells
    UTC.
    """

    planner: Planner
    clients: Clients
    connections: Connections
    parts: Parts
    journal: Journal
    say: Callable[[FromWorker], None]
    clock: Callable[[], float]
    minimal_backoff: float


class Leg(NamedTuple):
    """The part of a delivery that belongs to one next hop; ``relay``: a relay of our own."""

    hop: NextHop
    client: Client
    relay: bool

    def source(self, host: int = -1, label: str = "") -> Source:
        """Where outcomes of this leg come from."""
        opportunistic = self.client.demand.level is TlsLevel.MAY
        return Source(self.client.settings, host, label, self.relay, opportunistic)


class Errand:
    """What a delivery carries from host to host.

    ``past_dot``: the answer to a final dot is awaited. ``stopped``: nothing new is to be begun.
    """

    __slots__ = ("_content", "ledger", "means", "past_dot", "request", "slot", "stopped")

    def __init__(self, request: DeliveryRequest, slot: int, means: Means) -> None:
        self.request = request
        self.slot = slot
        self.means = means
        self.ledger = Ledger(request, means.clock())
        self.past_dot = False
        self.stopped = False
        self._content: bytes | None = None

    def content(self, client: Client) -> bytes | AsyncIterable[bytes]:
        """The content in wire form: at once, or part by part."""
        limit = client.settings.line_length_limit
        if self.request.content is None:
            return self.means.parts.stream(self.request, line_limit=limit)
        if self._content is None:
            long_lines = self.request.long_lines
            self._content = content.encode(self.request.content, long_lines=long_lines, limit=limit)
        return self._content

    def dot(self, label: str) -> None:
        """The final dot is about to be written to this host."""
        self.past_dot = True
        self.means.journal.dot(self.slot, label)

    def answered(self) -> None:
        """A transaction is over; what it decided survives whatever comes next."""
        self.past_dot = False
        if self.ledger.decided and not self.ledger.over:
            self.means.journal.learned(self.slot, self.ledger.result())


class Visit:
    """See the module's description.

    Afterwards ``got_in`` says whether a session got past its opening, ``final`` that no other host
    of this next hop is to be asked, ``kept`` is the key of the session if it was left in good
    order.
    """

    __slots__ = (
        "_clear", "_demand", "_endpoint", "_errand", "_leg", "_worse", "final", "got_in", "kept",
    )  # fmt: skip

    def __init__(self, errand: Errand, leg: Leg, endpoint: Endpoint, *, best: int) -> None:
        self._errand = errand
        self._leg = leg
        self._endpoint = endpoint
        self._worse = endpoint.preference > best
        self._demand = leg.client.demand_unix if endpoint.path else leg.client.demand
        self._clear = False
        self.got_in = False
        self.final = False
        self.kept: Hashable = None

    async def run(self, session: Session | None) -> None:
        """Offer the message to everybody undecided; ``session`` is an idle one, if there was one."""
        errand = self._errand
        waiting = errand.ledger.undecided
        while waiting and not errand.stopped:
            if session is None:
                session = await self._open(len(waiting))
            if session is None:
                if self._clear and self._demand is not _IN_CLEAR:
                    self._demand = _IN_CLEAR
                    continue
                return
            self.got_in = True
            waiting = await self._converse(session, waiting)
            if waiting:
                session.leave()
                session = None
                self._demand = _IN_CLEAR if self._clear else self._demand
        if session is not None:
            self._keep(session)

    def _keep(self, session: Session) -> None:
        if self._demand is _IN_CLEAR:
            # It must not serve messages that have not tried TLS themselves.
            session.leave()
        elif self._errand.means.connections.put(session):
            self.kept = session.key

    async def _open(self, waiting: int) -> Session | None:
        client, endpoint = self._leg.client, self._endpoint
        opened = await open_session(
            endpoint,
            client.profile,
            self._demand,
            next_hop=self._errand.request.next_hop,
            own_names=client.own_names(endpoint),
            listener=self._listener(),
        )
        if isinstance(opened, Session):
            return opened
        stage, outcome = opened.stage, opened.outcome
        if isinstance(outcome, Failure) and outcome.trouble is Trouble.LOOP and self._worse:
            outcome = Failure(Trouble.LOOP, outcome.text, "4.4.6")
        ledger = self._errand.ledger
        source = self._leg.source(len(ledger.tries), str(endpoint))
        times = (opened.connect, opened.setup, 0.0)
        ledger.tries.append(_host_try(endpoint, "", 0, times, Answer(stage, outcome)))
        judgement = ledger.apply_to_all(stage, outcome, source)
        self.final = judgement.scope is Scope.DESTINATION
        if stage is Stage.CONNECT:
            self._say_connect_failed(outcome)
        elif judgement.enhanced == _BREACH:
            self._say_breach(opened.transcript())
        self._clear = opened.tls and self._goes_on_in_clear(stage, outcome, waiting)
        return None

    async def _converse(
        self, session: Session, waiting: list[RequestRecipient]
    ) -> list[RequestRecipient]:
        """Transactions in one session; returns who should be offered to this host in another one."""
        errand, ledger = self._errand, self._errand.ledger
        began, fresh = monotonic(), session.uses == 0
        source = self._leg.source(len(ledger.tries), session.label)
        groups = deque(split(waiting, session.capabilities))
        exchange: Exchange | None = None
        reused, rest = not fresh, list[RequestRecipient]()
        while groups and not errand.stopped:
            group = groups.popleft()
            exchange = await session.transact(
                errand.request,
                group,
                errand.content(self._leg.client),
                on_dot=lambda: errand.dot(source.label),
            )
            if reused and is_stale(exchange):
                errand.past_dot = False
                return waiting
            reused = False
            again = self._judge(session, group, exchange, source)
            if again:
                groups.appendleft(again)
            errand.answered()
            if groups and not session.usable:
                rest = [recipient for group in groups for recipient in group]
                break
        if exchange is not None:
            connect, setup = (session.connect, session.setup) if fresh else (0.0, 0.0)
            times = (connect, setup, monotonic() - began)
            last = exchange.answers[-1]
            ledger.tries.append(_host_try(self._endpoint, session.tls, session.uses, times, last))
            if rest or session.secured:
                rest = self._rest(session, exchange, group, rest, source)
        return rest

    def _judge(
        self,
        session: Session,
        group: Sequence[RequestRecipient],
        exchange: Exchange,
        source: Source,
    ) -> list[RequestRecipient]:
        """Judge the answers; returns the recipients that were merely too many for one transaction."""
        ledger = self._errand.ledger
        again: list[RequestRecipient] = []
        breach = False
        for recipient, answer in zip(group, exchange.answers, strict=True):
            stage, outcome = answer.stage, answer.outcome
            if (
                stage is Stage.RCPT
                and ledger.judge(stage, outcome, source).again
                and any(a.delivered for a in exchange.answers)
            ):
                again.append(recipient)
                continue
            judgement = ledger.apply(recipient, stage, outcome, source, relayed=not exchange.dsn)
            if not judgement.reusable:
                session.spoil()
            self.final = self.final or judgement.scope is Scope.DESTINATION
            breach = breach or judgement.enhanced == _BREACH
        if breach:
            self._say_breach(session.transcript())
        return again

    def _rest(
        self,
        session: Session,
        exchange: Exchange,
        group: Sequence[RequestRecipient],
        rest: list[RequestRecipient],
        source: Source,
    ) -> list[RequestRecipient]:
        """Who should be offered to the same host once more, after a session that is over.

        ``group`` are those of the last transaction, ``rest`` those it did not come to.
        """
        broken = next((a for a in exchange.answers if isinstance(a.outcome, Failure)), None)
        if broken is not None and session.secured:
            answers = zip(group, exchange.answers, strict=True)
            lost = [r for r, answer in answers if isinstance(answer.outcome, Failure)] + rest
            self._clear = self._goes_on_in_clear(broken.stage, broken.outcome, len(lost))
            if self._clear:
                return lost
        if not rest or (broken is None and any(a.delivered for a in exchange.answers)):
            return rest
        text = f"{source.label} ended the session before this recipient was offered"
        failure = Failure(Trouble.LOST, text)
        for recipient in rest:
            self._errand.ledger.apply(recipient, Stage.MAIL, failure, source)
        return []

    def _goes_on_in_clear(self, stage: Stage, outcome: Outcome, undecided: int) -> bool:
        if not isinstance(outcome, Failure) or self._demand is _IN_CLEAR:
            return False
        return tls.redials_in_clear(
            self._demand,
            stage=stage,
            trouble=outcome.trouble,
            undecided=undecided,
            age=self._errand.ledger.started - self._errand.request.arrival,
            minimal_backoff=self._errand.means.minimal_backoff,
        )

    # -- what is told ---

    def _listener(self) -> Callable[[str], None] | None:
        debug = self._leg.client.debug
        if not debug.watches(self._endpoint, self._errand.request.domain):
            return None
        say, peer = self._errand.means.say, str(self._endpoint)

        def hear(line: str) -> None:
            if debug.shows(line):
                say(Event("dialogue", {"peer": peer, "line": line}))

        return hear

    def _say_connect_failed(self, outcome: Outcome) -> None:
        fields = {
            "id": format_queue_id(self._errand.request.queue_id),
            "host": self._endpoint.host,
            "ip": self._endpoint.ip or self._endpoint.path,
            "port": str(self._endpoint.port),
            "reason": outcome.text,
        }
        self._errand.means.say(Event("connect_failed", fields))

    def _say_breach(self, lines: list[str]) -> None:
        queue_id = self._errand.request.queue_id
        self._errand.means.say(Transcript(str(self._endpoint), queue_id, lines))


def _host_try(
    endpoint: Endpoint,
    encryption: str,
    uses: int,
    times: tuple[float, float, float],
    answer: Answer,
) -> HostTry:
    outcome = answer.outcome
    code, enhanced = (outcome.code, outcome.enhanced) if isinstance(outcome, SmtpReply) else (0, "")
    return HostTry(
        endpoint.host,
        endpoint.ip or endpoint.path,
        endpoint.port,
        encryption,
        uses,
        *times,
        answer.stage,
        code,
        enhanced,
        outcome.text[:_TEXT_KEPT],
    )


def is_stale(exchange: Exchange) -> bool:
    """Whether an old session turned out to be of no use before the peer took notice of this message.

    It was closed, or it is closed now (421), or refuses to begin anew (RSET); a silent peer is
    another matter.
    """
    for answer in exchange.answers:
        stage, outcome = answer.stage, answer.outcome
        if isinstance(outcome, SmtpReply):
            if stage is not Stage.RSET and not (stage is Stage.MAIL and outcome.code == 421):
                return False
        elif stage is not Stage.RSET and (
            stage is not Stage.MAIL or outcome.trouble not in _CLOSED
        ):
            return False
    return True


_CLOSED = (Trouble.LOST, Trouble.PROTOCOL)


def split(
    recipients: Sequence[RequestRecipient], capabilities: Capabilities
) -> Iterator[Sequence[RequestRecipient]]:
    """Groups that the peer takes in one transaction (RFC 9422 RCPTMAX and RCPTDOMAINMAX)."""
    most, domains_most = capabilities.rcptmax, capabilities.rcptdomainmax
    if (not most or len(recipients) <= most) and not domains_most:
        yield recipients
        return
    group: list[RequestRecipient] = []
    domains: set[str] = set()
    for recipient in recipients:
        domain = destination_of(recipient.address)
        crowded = domains_most and domain not in domains and len(domains) >= domains_most
        if group and (crowded or (most and len(group) >= most)):
            yield group
            group, domains = [], set()
        group.append(recipient)
        domains.add(domain)
    yield group
