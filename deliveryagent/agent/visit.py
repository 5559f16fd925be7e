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

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from time import monotonic

from deliveryagent.agent.errand import Errand, Leg
from deliveryagent.agent.frames import Event, Transcript
from deliveryagent.agent.ledger import Source
from deliveryagent.agent.session import Session, open_session
from deliveryagent.agent.stale import is_cut_short, is_stale
from deliveryagent.mail.address import destination_of
from deliveryagent.mail.delivery import (
    Failure,
    HostTry,
    Outcome,
    RequestRecipient,
    Stage,
    Trouble,
)
from deliveryagent.mail.envelope import format_queue_id
from deliveryagent.mail.nexthop import Endpoint
from deliveryagent.mail.security import TlsDemand, TlsLevel
from deliveryagent.mail.status import SmtpReply
from deliveryagent.policy import tls
from deliveryagent.policy.classify import Scope
from deliveryagent.protocol.capabilities import Capabilities
from deliveryagent.protocol.dialogue import Answer, Exchange

_IN_CLEAR = TlsDemand(TlsLevel.NONE, "the TLS session broke before")
_BREACH = "4.5.0"  # how classify marks what no peer may say
REPLY_KEPT = 500


class Visit:
    """See the module's description.

    Afterwards ``got_in`` says whether a session got past its opening, ``final`` that no other host
    of this next hop is to be asked, ``kept`` is the key of the session if it was left in good
    order. ``endpoint`` is the address.
    """

    __slots__ = (
        "_clear", "_demand", "_errand", "_leg", "_worse", "endpoint", "final", "got_in", "kept",
    )  # fmt: skip

    def __init__(self, errand: Errand, leg: Leg, endpoint: Endpoint, *, best: int) -> None:
        self._errand = errand
        self._leg = leg
        self.endpoint = endpoint
        self._worse = endpoint.preference > best
        self._demand = leg.client.demand_unix if endpoint.path else leg.client.demand
        self._clear = False
        self.got_in = False
        self.final = False
        self.kept: Hashable = None

    async def run(self, session: Session | None) -> None:
        """Offer the message to everybody undecided; ``session`` is an idle one, if there was one."""
        await self.go_on(session, self._errand.ledger.undecided)

    async def go_on(self, session: Session | None, waiting: list[RequestRecipient]) -> None:
        """The same for those who wait to be offered here."""
        errand = self._errand
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
        errand = self._errand
        if self._demand is _IN_CLEAR:
            # It must not serve messages that have not tried TLS themselves.
            session.leave()
        elif errand.means.connections.put(session):
            self.kept = session.key

    async def _open(self, waiting: int) -> Session | None:
        client, endpoint, site = self._leg.client, self.endpoint, self._errand.request.site
        self._errand.means.connections.fit(site)
        await asyncio.sleep(0)  # what was ended in this turn says QUIT before the next is dialled
        opened = await open_session(
            endpoint,
            client.profile,
            self._demand,
            site=site,
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
        ledger.tries.append(host_try(endpoint, "", 0, times, Answer(stage, outcome)))
        judgement = ledger.apply_to_all(stage, outcome, source)
        self.final = judgement.scope is Scope.DESTINATION
        if stage is Stage.CONNECT:
            self._say_connect_failed(outcome)
        elif judgement.enhanced == _BREACH:
            self._say_breach(opened.transcript())
        self._clear = opened.tls and self._goes_on_in_clear(stage, outcome, waiting)
        return None

    def look_back(
        self, session: Session, exchange: Exchange, *, early: bool
    ) -> list[RequestRecipient]:
        """Take in a transaction that was held in a reused session for the only recipient there is.

        ``early``: it began before the one before it was over. Returns who should be offered to this
        host in another session.
        """
        errand, waiting = self._errand, self._errand.ledger.undecided
        self.got_in = True
        if is_stale(exchange) or (early and is_cut_short(exchange)):
            return waiting
        source = self._leg.source(len(errand.ledger.tries), session.label)
        self._judge(session, waiting, exchange, source)
        errand.answered()
        self._note(session, exchange, (0.0, 0.0, session.took))
        if not session.secured:
            return []
        again = self._rest(session, exchange, waiting, [], source)
        self._demand = _IN_CLEAR if self._clear else self._demand
        return again

    async def _converse(
        self, session: Session, waiting: list[RequestRecipient]
    ) -> list[RequestRecipient]:
        """Transactions in one session; returns who should be offered to this host in another one."""
        errand, ledger = self._errand, self._errand.ledger
        began, fresh = monotonic(), session.uses == 0
        source = self._leg.source(len(ledger.tries), session.label)
        errand.host = session.label
        groups = deque(split(waiting, session.capabilities))
        exchange: Exchange | None = None
        reused, rest = not fresh, list[RequestRecipient]()
        while groups and not errand.stopped:
            group = groups.popleft()
            exchange = await session.transact(
                errand.request,
                group,
                errand.content(self._leg.client),
                on_dot=errand.dot,
                now=errand.means.clock(),
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
            session.took = monotonic() - began
            self._note(session, exchange, (connect, setup, session.took))
            if rest or session.secured:
                rest = self._rest(session, exchange, group, rest, source)
        return rest

    def _note(
        self, session: Session, exchange: Exchange, times: tuple[float, float, float]
    ) -> None:
        """This host has been tried."""
        last = exchange.answers[-1]
        tried = host_try(self.endpoint, session.tls, session.uses, times, last)
        self._errand.ledger.tries.append(tried)

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
        if not debug.watches(self.endpoint, self._errand.request.domain):
            return None
        say, peer = self._errand.means.say, str(self.endpoint)

        def hear(line: str) -> None:
            if debug.shows(line):
                say(Event("dialogue", {"peer": peer, "line": line}))

        return hear

    def _say_connect_failed(self, outcome: Outcome) -> None:
        fields = {
            "id": format_queue_id(self._errand.request.queue_id),
            "host": self.endpoint.host,
            "ip": self.endpoint.ip or self.endpoint.path,
            "port": str(self.endpoint.port),
            "reason": outcome.text,
        }
        self._errand.means.say(Event("connect_failed", fields))

    def _say_breach(self, lines: list[str]) -> None:
        queue_id = self._errand.request.queue_id
        self._errand.means.say(Transcript(str(self.endpoint), queue_id, lines))


def host_try(
    endpoint: Endpoint,
    encryption: str,
    uses: int,
    times: tuple[float, float, float],
    answer: Answer,
) -> HostTry:
    """What is told of one host; ``times`` are those of connecting, setting up and transfer."""
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
        outcome.text[:REPLY_KEPT],
    )


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
