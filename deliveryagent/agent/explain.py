"""The answer to ``dagent why``: why a recipient waits, what happens next, and what people can do.

A pure function of facts: :func:`explain` takes what the store and the running agent know, asks the
scheduler's own rules (``policy.gates``, ``policy.retry``, ``policy.hints``) and says it in words.
So an explanation cannot promise what the scheduler would not do.

Guarantees: every recipient, whatever its state, gets a verdict of one sentence or two; a recipient
that waits gets every shut gate. Remote text is on one line and printable. Never touches the store
or a clock.
"""

import shlex
from enum import StrEnum

import msgspec

from deliveryagent.mail.envelope import FINAL_STATUSES, Notify, RecipientStatus
from deliveryagent.mail.status import SmtpReply
from deliveryagent.policy import deadline, gates, retry
from deliveryagent.policy.classify import IN_DOUBT_TEXT
from deliveryagent.policy.gates import Gate, GateKind, Situation
from deliveryagent.policy.hints import asks_for_less, is_greylisting
from deliveryagent.policy.retry import RetrySettings
from deliveryagent.protocol.diagnosis import plain, sentence


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """The last answer for a recipient; ``code`` is 0 when no peer gave one."""

    stage: str = ""
    code: int = 0
    enhanced: str = ""
    text: str = ""
    host: str = ""

    def __bool__(self) -> bool:
        """Whether there is one."""
        return bool(self.code or self.text)


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is known of one recipient.

    ``situation`` holds what the gates need, the status included. ``running`` tells whether an agent
    works on this queue. ``reported`` is the id of the report about the final outcome, ``warned``
    whether a delay was reported. ``same_answer`` counts other recipients at this destination that
    wait with the same last answer, ``waiting`` all others that wait there. ``deliver_by`` and
    ``by_mode`` are the sender's deadline (``policy.deadline``). Times are seconds since the epoch.
    """

    queue_id: str
    number: int
    address: str
    sender: str
    arrival: float
    not_before: float = 0.0
    deliver_by: float = 0.0
    by_mode: str = ""
    attempts: int
    answer: Answer
    situation: Situation
    finished: float | None = None
    notify: Notify = Notify.DEFAULT
    warned: bool = False
    reported: str = ""
    running: bool = True
    same_answer: int = 0
    waiting: int = 0


class Cause(StrEnum):
    """What lies behind a deferral, in classes people can act on."""

    NONE = "none"  # not tried yet
    RATE = "rate"
    GREYLISTED = "greylisted"
    MAILBOX = "mailbox"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    NAMES = "names"
    SECURITY = "security"
    IN_DOUBT = "in doubt"
    LOCAL = "local"


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """The answer. Times are seconds since the epoch; ``interval`` is the later attempts' distance.

    ``next_attempt`` is the earliest time everything allows, None when that depends on a person.
    ``warning`` is when the sender will be told of the delay, ``expires`` when delivery is given up;
    None when that will not happen.
    """

    verdict: str
    cause: Cause
    gates: tuple[Gate, ...]
    next_attempt: float | None
    interval: float
    warning: float | None
    expires: float | None
    commands: tuple[str, ...]


def explain(known: Known, settings: RetrySettings) -> Explanation:
    """Why the recipient stands where it stands, and what happens next."""
    situation = known.situation
    cause = cause_of(known.answer)
    final = situation.status in FINAL_STATUSES
    shut = gates.waiting(situation)
    expires = retry.expires(
        arrival=max(known.arrival, known.not_before), sender=known.sender, settings=settings
    )
    expires = deadline.ends(expires, known.deliver_by, known.by_mode)
    return Explanation(
        verdict=_finished(known) if final else _verdict(known, cause, shut),
        cause=cause,
        gates=() if final else shut,
        next_attempt=None if final else _next_attempt(known, shut),
        interval=min(
            max(
                situation.now - max(known.arrival, known.not_before), settings.minimal_backoff_time
            ),
            settings.maximal_backoff_time,
        ),
        warning=None if final else _warning(known, settings),
        expires=None if final else expires,
        commands=tuple(_commands(known, cause, shut)),
    )


def cause_of(answer: Answer) -> Cause:
    """The class of a temporary failure."""
    if not answer:
        return Cause.NONE
    if answer.code:
        return _cause_of_reply(SmtpReply(answer.code, answer.enhanced, answer.text))
    if IN_DOUBT_TEXT in answer.text:
        return Cause.IN_DOUBT
    if answer.enhanced in {"4.4.3", "4.4.4"} or answer.enhanced.startswith("5.4."):
        return Cause.NAMES
    if answer.enhanced in {"4.7.4", "4.7.5", "4.7.0"}:
        return Cause.SECURITY
    if answer.enhanced.startswith("4.3."):
        return Cause.LOCAL
    return Cause.UNREACHABLE


def _cause_of_reply(reply: SmtpReply) -> Cause:
    if is_greylisting(reply):
        return Cause.GREYLISTED
    if asks_for_less(reply) or reply.code == 421:
        return Cause.RATE
    if reply.enhanced.startswith("4.2."):
        return Cause.MAILBOX
    return Cause.REFUSED


# -- the verdict -----------------------------------------------------------------------------------


def _verdict(known: Known, cause: Cause, shut: tuple[Gate, ...]) -> str:
    """One sentence about a recipient that lives: what only people can change comes first."""
    kinds = {gate.kind: gate for gate in shut}
    if GateKind.ACTIVE in kinds:
        return f"BEING DELIVERED: attempt {known.attempts + 1} is in flight now."
    if GateKind.HELD in kinds:
        return f"ON HOLD until released{_because(known.situation.note)}"
    if GateKind.ELSEWHERE in kinds:
        return (
            f"IN HAND: {plain(kinds[GateKind.ELSEWHERE].text)} dagent why on its host knows more."
        )
    if not known.running:
        stopped = "STOPPED: the service does not run; nothing is tried until it is started."
        return stopped if cause is Cause.NONE else f"{stopped} {_waiting(known, cause)}"
    for kind, word in _WORDS.items():
        if kind in kinds:
            return f"{word}: {plain(kinds[kind].text)}"
    if cause is Cause.NONE:
        if not shut:
            return "ABOUT TO BE TRIED: nothing stands in the way of its first attempt."
        if kinds.keys() == {GateKind.DUE}:
            return "WAITING for its time: it was to be sent no earlier."
        return f"WAITING for its first attempt. {plain(shut[0].text)}"
    return _waiting(known, cause)


_WORDS = {
    GateKind.STORE_PAUSED: "STOPPED",
    GateKind.DRAINING: "STOPPED",
    GateKind.PAUSED_DESTINATION: "PAUSED",
}


def _because(note: str) -> str:
    return f": {plain(note)}" if note else "."


def _waiting(known: Known, cause: Cause) -> str:
    """One sentence about a recipient whose attempts failed so far."""
    there = known.situation.destination or "the destination"
    answer = known.answer
    said = _said(answer)
    match cause:
        case Cause.RATE:
            return f"WAITING, not your message's fault: {there} wants mail more slowly. {said}"
        case Cause.GREYLISTED:
            return (
                f"WAITING, nothing is wrong: {there} turns away new senders for a while "
                f"(greylisting) and should take it when it comes again. {said}"
            )
        case Cause.MAILBOX:
            return f"WAITING: the mailbox does not take mail now. {said}"
        case Cause.UNREACHABLE:
            return f"WAITING: no mail server of {there} could be spoken to. {said}"
        case Cause.NAMES:
            return f"WAITING: the mail servers of {there} cannot be found out now. {said}"
        case Cause.SECURITY:
            return f"WAITING: {there} did not offer the security that is demanded. {said}"
        case Cause.IN_DOUBT:
            return (
                "IN DOUBT: the whole message was sent but no answer came, so it may have arrived; "
                f"it is sent again and may then arrive twice. {said}"
            )
        case Cause.LOCAL:
            return f"WAITING because of this system, not of {there}. {said}"
        case _:
            return f"WAITING: it was refused for now. {said}"


def _said(answer: Answer) -> str:
    """The answer as a sentence with its full stop."""
    said = sentence(answer.stage, answer.code, answer.enhanced, answer.text, answer.host)
    return said if said.endswith((".", "!", "?", "…")) else f"{said}."


def _finished(known: Known) -> str:
    """One sentence about a recipient that nothing more is done for."""
    answer, status = known.answer, known.situation.status
    said = _said(answer)
    if status is RecipientStatus.DELIVERED:
        return f"DELIVERED: {said}"
    if status is RecipientStatus.DELETED:
        return "DELETED by an operator; the sender was not told."
    told = _told(known)
    if status is RecipientStatus.EXPIRED:
        return f"GIVEN UP after {_times(known.attempts)} because its time was over. {said} {told}"
    return f"RETURNED: {said} {told}"


def _told(known: Known) -> str:
    if known.reported:
        return f"The sender was told by {known.reported}."
    if not known.sender:
        return "It has no sender who could be told."
    if not known.notify.wants(Notify.FAILURE):
        return "The sender did not want to be told."
    return "The report to the sender is being written."


def _times(attempts: int) -> str:
    return "1 attempt" if attempts == 1 else f"{attempts} attempts"


# -- what comes next -------------------------------------------------------------------------------


def _next_attempt(known: Known, shut: tuple[Gate, ...]) -> float | None:
    """When everything that opens by itself is open; None when a person has to act first."""
    if not known.running:
        return None
    moment = known.situation.now
    for gate in shut:
        if gate.kind is GateKind.ACTIVE:
            return None
        if gate.until is not None:
            moment = max(moment, gate.until)
        elif gate.kind not in _PASSING:
            return None
    return moment


_PASSING = frozenset({GateKind.WINDOW_FULL, GateKind.SUSPECT, GateKind.ELSEWHERE})
"""Gates that open by themselves, nobody knows when: soon."""


def _warning(known: Known, settings: RetrySettings) -> float | None:
    due = deadline.warning_due(
        arrival=max(known.arrival, known.not_before),
        deliver_by=known.deliver_by,
        by_mode=known.by_mode,
        settings=settings,
    )
    wanted = bool(known.sender) and known.notify.wants(Notify.DELAY) and not known.warned
    return max(due, known.situation.now) if due is not None and wanted else None


def _commands(known: Known, cause: Cause, shut: tuple[Gate, ...]) -> list[str]:
    """What people can do, the most useful first."""
    situation, kinds = known.situation, {gate.kind for gate in shut}
    if situation.status in FINAL_STATUSES:
        return [f"dagent queue show {known.queue_id}"]
    commands = []
    if not known.running:
        commands.append("systemctl start deliveryagent")
    if GateKind.HELD in kinds:
        commands.append(f"dagent queue release {known.queue_id}")
    if GateKind.PAUSED_DESTINATION in kinds:
        commands.append(f"dagent dest resume {situation.destination}")
    if GateKind.CLOSED_SITE in kinds:
        commands.append(f"dagent dest reset {situation.destination}")
    if situation.destination and known.answer:
        commands.append(f"dagent dest show {situation.destination}")
    if cause in {Cause.UNREACHABLE, Cause.NAMES, Cause.SECURITY}:
        commands.append(f"dagent probe {shlex.quote(known.address)}")
    if GateKind.DUE in kinds:
        commands.append(f"dagent queue retry {known.queue_id}")
    return commands or [f"dagent queue show {known.queue_id}"]
