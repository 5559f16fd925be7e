"""The account of one delivery: who is still undecided, what was answered to the others, and by whom.

Guarantees: every recipient of the request is decided exactly once, and the result names each once.
An outcome that leaves room for another host is only remembered; when no host is left it is judged
again as the last one, so the reason people see is that of the last host. Judging itself is
``policy.classify``.
"""

from typing import NamedTuple

from deliveryagent.mail.delivery import (
    DeliveryRequest,
    DeliveryResult,
    Failure,
    HostTry,
    Outcome,
    Pressure,
    RecipientResult,
    RequestRecipient,
    Stage,
    Trouble,
    Verdict,
)
from deliveryagent.mail.status import SmtpReply
from deliveryagent.policy.classify import Judgement, RefusalSettings, Scope, classify, pressure_of

TEXT_KEPT = 2000  # characters of an answer that are reported
_REASON_KEPT = 300
_STOPPED = "stopped before the message was handed over"
_FAULT = "a fault of this program: "


class Source(NamedTuple):
    """Where outcomes come from: the settings that judge them, and the host.

    ``host`` is the index of its try, -1 for none; ``label`` names it to people. ``relay``: it
    belongs to a relay of our own. ``opportunistic``: TLS is used because it is offered, not because
    it is demanded.
    """

    settings: RefusalSettings
    host: int = -1
    label: str = ""
    relay: bool = False
    opportunistic: bool = False


class Ledger:
    """See the module's description.

    ``started`` is when the request was taken up. ``open`` are the undecided recipients by number.
    ``tries`` are the hosts contacted so far. ``untried``: nobody's fate but to go back is decided.
    """

    __slots__ = (
        "_burden", "_known", "_pressures", "_reasons", "_results", "open", "request", "started", "tries",
        "untried",
    )  # fmt: skip

    def __init__(self, request: DeliveryRequest, started: float) -> None:
        self.request = request
        self.started = started
        self.tries: list[HostTry] = []
        self._results: dict[int, RecipientResult] = {}
        self._reasons: dict[int, tuple[Stage, Outcome, Source]] = {}
        self.open = {recipient.number: recipient for recipient in request.recipients}
        self._pressures: list[Pressure] = []
        self._burden: dict[Pressure, str] = {}
        self.untried = True
        self._known: tuple[Stage, Outcome, Source, Judgement] | None = None

    @property
    def undecided(self) -> list[RequestRecipient]:
        """Whose fate is open, in the order of the request."""
        return list(self.open.values())

    @property
    def over(self) -> bool:
        """Whether everybody is decided."""
        return not self.open

    @property
    def decided(self) -> bool:
        """Whether anything is decided yet."""
        return bool(self._results)

    def judge(self, stage: Stage, outcome: Outcome, source: Source) -> Judgement:
        """What an outcome means while other hosts may be left; its pressure is noted."""
        known = self._known
        if known is not None and known[1] is outcome and known[0] is stage and known[2] is source:
            return known[3]
        judgement = classify(
            stage,
            outcome,
            last_host=False,
            settings=source.settings,
            relay=source.relay,
            opportunistic=source.opportunistic,
        )
        self._pressures.append(judgement.pressure)
        if judgement.pressure in (Pressure.SLOW, Pressure.DOWN):
            self._burden.setdefault(judgement.pressure, _reason(outcome, source))
        self._known = (stage, outcome, source, judgement)
        return judgement

    def apply(
        self,
        recipient: RequestRecipient,
        stage: Stage,
        outcome: Outcome,
        source: Source,
        *,
        relayed: bool = False,
    ) -> Judgement:
        """Judge an outcome for one undecided recipient, and decide unless other hosts may help."""
        judgement = self.judge(stage, outcome, source)
        if judgement.verdict is Verdict.NEXT_HOST:
            self._reasons[recipient.number] = (stage, outcome, source)
        else:
            self._decide(recipient, stage, outcome, judgement, source.host, relayed=relayed)
            del self.open[recipient.number]
        return judgement

    def apply_to_all(self, stage: Stage, outcome: Outcome, source: Source) -> Judgement:
        """Judge an outcome for everybody who is undecided."""
        judgement = self.judge(stage, outcome, source)
        for recipient in self.undecided:
            self.apply(recipient, stage, outcome, source)
        return judgement

    def settle_all(self, judgement: Judgement) -> None:
        """Decide for everybody who is undecided without any host."""
        self.untried = self.untried and judgement.verdict is Verdict.RETURNED
        for number in self.open:
            self._results[number] = RecipientResult(
                number,
                judgement.verdict,
                Stage.ROUTE,
                0,
                judgement.enhanced,
                judgement.text[:TEXT_KEPT],
            )
        self.open.clear()

    def conclude(self) -> None:
        """No host is left: the last reason of each undecided recipient decides."""
        for recipient in self.undecided:
            stage, outcome, source = self._reasons.get(recipient.number, _NOBODY)
            judgement = classify(
                stage,
                outcome,
                last_host=True,
                settings=source.settings,
                relay=source.relay,
                opportunistic=source.opportunistic,
            )
            self._decide(recipient, stage, outcome, judgement, source.host)
        self.open.clear()

    def stop(self) -> None:
        """The work ends here: the undecided go back as if they had not been tried."""
        self.settle_all(_judgement(Verdict.RETURNED, "4.3.2", _STOPPED))

    def give_up(self, error: BaseException) -> None:
        """A fault of ours ends the work: the undecided are deferred."""
        self.settle_all(_judgement(Verdict.DEFERRED, "4.3.0", _FAULT + type(error).__name__))

    def result(self, sequence: int = 0) -> DeliveryResult:
        """What is decided, as the manager and the journal are told."""
        pressure = pressure_of(self._pressures)
        results = self._results
        recipients = self.request.recipients
        return DeliveryResult(
            self.request.serial,
            self.request.queue_id,
            tuple([results[r.number] for r in recipients if r.number in results]),
            tuple(self.tries),
            pressure,
            self._burden.get(pressure, ""),
            self.started,
            sequence,
        )

    def _decide(
        self,
        recipient: RequestRecipient,
        stage: Stage,
        outcome: Outcome,
        judgement: Judgement,
        host: int,
        *,
        relayed: bool = False,
    ) -> None:
        self.untried = self.untried and judgement.verdict is Verdict.RETURNED
        self._results[recipient.number] = RecipientResult(
            recipient.number,
            judgement.verdict,
            stage,
            outcome.code if isinstance(outcome, SmtpReply) else 0,
            judgement.enhanced,
            judgement.text[:TEXT_KEPT],
            host,
            relayed and judgement.verdict is Verdict.DELIVERED,
            judgement.retry_after,
        )


def _judgement(verdict: Verdict, enhanced: str, text: str) -> Judgement:
    return Judgement(verdict, Scope.DESTINATION, enhanced, text)


def _reason(outcome: Outcome, source: Source) -> str:
    """One line about what burdens a site."""
    if isinstance(outcome, SmtpReply):
        return f"{source.label} said: {outcome}"[:_REASON_KEPT]
    return outcome.text[:_REASON_KEPT]


_NOBODY = (
    Stage.ROUTE,
    Failure(Trouble.LOCAL, "no host was asked"),
    Source(RefusalSettings()),
)
