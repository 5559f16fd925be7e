"""What an outcome means: delivered, try the next host, later, never, or nobody knows.

One answer of a peer, or one way an attempt broke, goes in with its stage; out comes a judgement: what becomes
of the recipients it concerns, which those are, what the site's window should learn, and whether the session
may carry another transaction. ``docs/error-table.md`` is the same table for people; a test keeps both alike.

Guarantees: total over every stage, reply code and trouble. 421 never bounces. Only a positive reply to the
final dot delivers. Once the dot is out, nothing but a 4xx or 5xx reply lets another host have the message.
``NEXT_HOST`` is never said of the last host. Never looks at reply text to tell failure from success, only to
see a wish to slow down, a delay, or a full transaction.

RFC 5321 4.2, 4.5.3.1.10, 4.5.4.1; RFC 3463; RFC 1047; RFC 7505. Departures from Postfix's table stand in the
document.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, NamedTuple, assert_never

import msgspec

from deliveryagent.mail.delivery import Failure, Outcome, Pressure, Stage, Trouble, Verdict
from deliveryagent.mail.nexthop import NextHop
from deliveryagent.mail.status import SmtpReply, split_enhanced
from deliveryagent.policy.hints import asks_for_less, is_greylisting, is_one_too_many
from deliveryagent.policy.retry import parse_retry_after
from deliveryagent.setting import key

IN_DOUBT_TEXT = "message may be sent more than once"


@dataclass(frozen=True, kw_only=True)
class RefusalSettings:
    """How far a host may speak for the others when it refuses a session from the start."""

    skip_4xx_greeting: Annotated[
        bool,
        key(
            "Try the next host when one greets with 4xx. When false, the mail is deferred at once.",
            postfix="smtp_skip_4xx_greeting",
        ),
    ] = True
    skip_5xx_greeting: Annotated[
        bool,
        key(
            "Try the next host when one refuses the greeting or HELO with 5xx, and defer when all do. "
            "When false, the mail bounces at once.",
            postfix="smtp_skip_5xx_greeting",
        ),
    ] = True


class Scope(StrEnum):
    """Whom a judgement concerns."""

    RECIPIENT = "recipient"  # this one; the transaction goes on
    MESSAGE = "message"  # all recipients of the transaction; the session may go on
    HOST = "host"  # the session is over; other hosts may do better
    DESTINATION = "destination"  # no host of this next hop is asked any more


class Judgement(msgspec.Struct, frozen=True):
    """What becomes of the recipients in ``scope``.

    ``enhanced`` is always set. ``text`` is one line or more, without code and enhanced code. ``retry_after``
    is the delay in seconds the peer stated, 0 if none. ``again`` means: this recipient was one too many for
    the transaction; if others were accepted, offer it in another transaction, and let ``verdict`` count only
    if none was.
    """

    verdict: Verdict
    scope: Scope
    enhanced: str
    text: str
    pressure: Pressure = Pressure.NONE
    reusable: bool = False
    retry_after: float = 0.0
    again: bool = False


class Fate(StrEnum):
    """How a rule decides between the hosts that are left and the end of the attempt."""

    SOFT = "soft"  # next host, else deferred
    LAST = "last"  # next host, else bounced
    DEFER = "defer"  # deferred, whatever hosts are left
    BOUNCE = "bounce"  # bounced, whatever hosts are left
    HOLD = "hold"  # put aside for a person
    RETURN = "return"  # not attempted


class Rule(NamedTuple):
    """One row of the table. ``enhanced`` empty means the peer's own code."""

    fate: Fate
    scope: Scope
    pressure: Pressure
    enhanced: str = ""
    reusable: bool = False


_RECIPIENT, _MESSAGE, _HOST, _DESTINATION = Scope
_SOFT, _LAST, _DEFER, _BOUNCE, _HOLD, _RETURN = Fate
_UP, _NONE, _SLOW, _DOWN = Pressure

REPLIES: dict[tuple[Stage, int], Rule] = {
    # (stage, first digit): 4 is "not now", 5 is "never"
    (Stage.GREETING, 4): Rule(_SOFT, _HOST, _DOWN),
    (Stage.GREETING, 5): Rule(_SOFT, _HOST, _DOWN),
    (Stage.EHLO, 4): Rule(_SOFT, _HOST, _DOWN),
    (Stage.EHLO, 5): Rule(_SOFT, _HOST, _DOWN),
    (Stage.STARTTLS, 4): Rule(_SOFT, _HOST, _DOWN),
    (Stage.STARTTLS, 5): Rule(_BOUNCE, _MESSAGE, _NONE),
    (Stage.AUTH, 4): Rule(_SOFT, _HOST, _DOWN),
    (Stage.AUTH, 5): Rule(_SOFT, _HOST, _DOWN),
    (Stage.MAIL, 4): Rule(_SOFT, _MESSAGE, _NONE, reusable=True),
    (Stage.MAIL, 5): Rule(_BOUNCE, _MESSAGE, _UP, reusable=True),
    (Stage.RCPT, 4): Rule(_SOFT, _RECIPIENT, _NONE, reusable=True),
    (Stage.RCPT, 5): Rule(_BOUNCE, _RECIPIENT, _UP, reusable=True),
    (Stage.DATA, 4): Rule(_SOFT, _MESSAGE, _NONE, reusable=True),
    (Stage.DATA, 5): Rule(_BOUNCE, _MESSAGE, _UP, reusable=True),
    # An early answer while the content is on its way: where the peer stopped reading is unknown.
    (Stage.CONTENT, 4): Rule(_SOFT, _MESSAGE, _NONE),
    (Stage.CONTENT, 5): Rule(_BOUNCE, _MESSAGE, _NONE),
    (Stage.DOT, 4): Rule(_SOFT, _MESSAGE, _NONE, reusable=True),
    (Stage.DOT, 5): Rule(_BOUNCE, _MESSAGE, _UP, reusable=True),
    # The transaction was over before: what these answer to decides about no mail.
    (Stage.RSET, 4): Rule(_SOFT, _HOST, _NONE),
    (Stage.RSET, 5): Rule(_SOFT, _HOST, _NONE),
    (Stage.QUIT, 4): Rule(_SOFT, _HOST, _NONE),
    (Stage.QUIT, 5): Rule(_SOFT, _HOST, _NONE),
}

CLOSING = Rule(_SOFT, _HOST, _SLOW)
"""421 after the greeting: the host ends the session (RFC 5321 3.8)."""

OVER_HOST_SIZE = Rule(_LAST, _MESSAGE, _NONE, reusable=True)
"""552 or 5.3.4 to MAIL: this host's limit, said in a reply instead of the EHLO answer (RFC 1870 6.1)."""

STORAGE = Rule(_SOFT, _RECIPIENT, _NONE, reusable=True)
"""552 to RCPT means 452 (RFC 5321 4.5.3.1.10)."""

UNEXPECTED = Rule(_SOFT, _HOST, _NONE, "4.5.0")
"""A reply of a class the command does not have, such as 250 to DATA or 354 to RCPT."""

TROUBLES: dict[Trouble, Rule] = {
    Trouble.DNS_TEMPORARY: Rule(_SOFT, _DESTINATION, _DOWN, "4.4.3"),
    Trouble.DNS_FAILED: Rule(_LAST, _DESTINATION, _NONE, "5.4.3"),
    Trouble.DNS_INVALID: Rule(_LAST, _DESTINATION, _NONE, "5.4.4"),
    Trouble.HOST_NOT_FOUND: Rule(_LAST, _DESTINATION, _NONE, "5.4.4"),
    Trouble.NULL_MX: Rule(_LAST, _DESTINATION, _NONE, "5.1.10"),
    Trouble.LOOP: Rule(_BOUNCE, _DESTINATION, _NONE, "5.4.6"),
    Trouble.PRIMARY_UNREACHABLE: Rule(_SOFT, _DESTINATION, _DOWN, "4.4.4"),
    Trouble.NO_ADDRESS_FAMILY: Rule(_SOFT, _DESTINATION, _DOWN, "4.4.4"),
    Trouble.CONNECT_FAILED: Rule(_SOFT, _HOST, _DOWN, "4.4.1"),
    Trouble.BIND_FAILED: Rule(_SOFT, _HOST, _NONE, "4.4.0"),
    Trouble.TIMEOUT: Rule(_SOFT, _HOST, _DOWN, "4.4.2"),
    Trouble.LOST: Rule(_SOFT, _HOST, _DOWN, "4.4.2"),
    Trouble.PROTOCOL: Rule(_SOFT, _HOST, _NONE, "4.5.0"),
    Trouble.TLS_UNAVAILABLE: Rule(_SOFT, _HOST, _DOWN, "4.7.4"),
    Trouble.TLS_FAILED: Rule(_SOFT, _HOST, _DOWN, "4.7.5"),
    Trouble.TLS_UNTRUSTED: Rule(_SOFT, _HOST, _DOWN, "4.7.5"),
    Trouble.AUTH_UNAVAILABLE: Rule(_SOFT, _HOST, _DOWN, "4.7.0"),
    Trouble.TOO_LARGE: Rule(_LAST, _MESSAGE, _NONE, "5.3.4", reusable=True),
    Trouble.NEEDS_UTF8: Rule(_LAST, _MESSAGE, _NONE, "5.6.7", reusable=True),
    Trouble.NEEDS_8BIT: Rule(_LAST, _MESSAGE, _NONE, "5.6.3", reusable=True),
    Trouble.NEEDS_DELIVERBY: Rule(_LAST, _MESSAGE, _NONE, "5.3.3", reusable=True),
    Trouble.NEEDS_REQUIRETLS: Rule(_LAST, _MESSAGE, _NONE, "5.7.30", reusable=True),
    Trouble.NEEDS_PROTECTION: Rule(_LAST, _MESSAGE, _NONE, "5.7.10", reusable=True),
    Trouble.LATE: Rule(_DEFER, _MESSAGE, _NONE, "4.4.7", reusable=True),
    Trouble.LOCAL: Rule(_DEFER, _MESSAGE, _NONE, "4.3.0"),
    Trouble.CORRUPT: Rule(_HOLD, _MESSAGE, _NONE, "4.3.0"),
    Trouble.CRASHED: Rule(_DEFER, _MESSAGE, _NONE, "4.3.0"),
    Trouble.SHUTDOWN: Rule(_RETURN, _MESSAGE, _NONE, "4.3.2"),
}

_OURS_TO_REPAIR = frozenset(
    {Trouble.DNS_FAILED, Trouble.DNS_INVALID, Trouble.HOST_NOT_FOUND, Trouble.NULL_MX, Trouble.LOOP}
)  # hard faults of a relay's name are faults of our configuration: they must not bounce mail

_OPENING = frozenset({Stage.CONNECT, Stage.GREETING, Stage.EHLO, Stage.STARTTLS, Stage.AUTH})


def classify(
    stage: Stage,
    outcome: Outcome,
    *,
    last_host: bool,
    settings: RefusalSettings,
    relay: bool = False,
    opportunistic: bool = False,
) -> Judgement:
    """Judge one outcome at one stage.

    ``last_host`` says that no other address or next hop is left for this attempt. ``relay``: the next hop is
    our own relay or fallback relay, so that an impossible name is a fault of the configuration.
    ``opportunistic``: TLS was tried because it was offered, not because it was demanded.
    """
    if isinstance(outcome, SmtpReply):
        if stage is Stage.DOT and outcome.positive:
            return Judgement(
                Verdict.DELIVERED,
                Scope.MESSAGE,
                outcome.status(),
                outcome.text,
                pressure=Pressure.UP,
                reusable=True,
            )
        return _judge_reply(stage, outcome, last_host, settings)
    return _judge_failure(stage, outcome, last_host, relay=relay, opportunistic=opportunistic)


def pressure_of(pressures: Iterable[Pressure]) -> Pressure:
    """What a whole request says about the site, from what its judgements said one by one.

    A session that ran to completion outweighs hosts that could not be used, as in Postfix; together with a
    wish to slow down it says nothing. Only a request in which no host was of use counts as DOWN.
    """
    seen = set(pressures)
    if Pressure.SLOW in seen:
        return Pressure.NONE if Pressure.UP in seen else Pressure.SLOW
    if Pressure.UP in seen:
        return Pressure.UP
    return Pressure.DOWN if seen == {Pressure.DOWN} else Pressure.NONE


def judge_route(hop: NextHop) -> Judgement:
    """What an ``error:``, ``hold:`` or ``discard:`` next hop does with its mail.

    ``error:4.x.x text`` defers. Raises ``ValueError`` for a next hop that contacts somebody.
    """
    match hop.transport:
        case "error":
            temporary, text = split_enhanced(450, hop.text)
            permanent, text = split_enhanced(550, text) if not temporary else ("", text)
            verdict = Verdict.DEFERRED if temporary else Verdict.BOUNCED
            return Judgement(
                verdict,
                Scope.DESTINATION,
                temporary or permanent or "5.0.0",
                text or "a route of this system refuses mail for this address",
            )
        case "hold":
            return Judgement(
                Verdict.HELD, Scope.DESTINATION, "4.3.0", hop.text or "put on hold by a route"
            )
        case "discard":
            return Judgement(
                Verdict.DELIVERED, Scope.DESTINATION, "2.0.0", hop.text or "discarded by a route"
            )
        case _:
            raise ValueError(f"{hop} does not decide by itself")


def _judge_reply(
    stage: Stage, reply: SmtpReply, last_host: bool, settings: RefusalSettings
) -> Judgement:
    rule = _rule_for(stage, reply, settings)
    if rule is UNEXPECTED:
        return _unexpected(stage, reply, last_host)
    verdict = _verdict(rule.fate, last_host=last_host)
    enhanced = reply.status()
    if verdict is not Verdict.BOUNCED and enhanced.startswith("5") and rule.fate is not Fate.LAST:
        enhanced = "4" + enhanced[1:]
    if rule.fate is Fate.LAST and enhanced == "5.0.0":
        enhanced = "5.3.4"
    full = stage is Stage.RCPT and is_one_too_many(reply)
    return Judgement(
        verdict,
        rule.scope,
        enhanced,
        reply.text,
        pressure=Pressure.NONE if full else _pressure(rule, reply),
        reusable=rule.reusable and not _speaks_against_us(reply.code),
        retry_after=parse_retry_after(reply.text) if reply.transient else 0.0,
        again=full,
    )


def _rule_for(stage: Stage, reply: SmtpReply, settings: RefusalSettings) -> Rule:
    if stage is Stage.GREETING and reply.transient and not settings.skip_4xx_greeting:
        return Rule(Fate.DEFER, Scope.DESTINATION, Pressure.DOWN)
    if stage in (Stage.GREETING, Stage.EHLO) and reply.permanent and not settings.skip_5xx_greeting:
        return Rule(Fate.BOUNCE, Scope.DESTINATION, Pressure.NONE)
    if reply.code == 421 and stage is not Stage.GREETING:
        return CLOSING
    if stage is Stage.MAIL and (reply.code == 552 or reply.enhanced == "5.3.4"):
        return OVER_HOST_SIZE
    if stage is Stage.RCPT and reply.code == 552:
        return STORAGE
    return REPLIES.get((stage, reply.code // 100), UNEXPECTED)


def _unexpected(stage: Stage, reply: SmtpReply, last_host: bool) -> Judgement:
    text = f"unexpected reply {reply}"
    if stage is Stage.DOT:
        return _in_doubt(text, "4.5.0", Pressure.NONE)
    pressure = Pressure.DOWN if stage in _OPENING else Pressure.NONE
    return Judgement(
        _verdict(UNEXPECTED.fate, last_host=last_host),
        UNEXPECTED.scope,
        UNEXPECTED.enhanced,
        text,
        pressure=pressure,
    )


def _judge_failure(
    stage: Stage, failure: Failure, last_host: bool, *, relay: bool, opportunistic: bool
) -> Judgement:
    rule = TROUBLES[failure.trouble]
    if stage is Stage.DOT:
        enhanced = "4.5.0" if failure.trouble is Trouble.PROTOCOL else "4.4.2"
        return _in_doubt(failure.text, enhanced, rule.pressure)
    fate, enhanced, text = rule.fate, rule.enhanced, failure.text
    if failure.enhanced.startswith("4"):
        enhanced = failure.enhanced
        fate = Fate.SOFT if fate in (Fate.LAST, Fate.BOUNCE) else fate
    elif failure.enhanced and rule.enhanced.startswith("5"):
        enhanced = failure.enhanced  # more exact, but nothing temporary becomes permanent by it
    if relay and failure.trouble in _OURS_TO_REPAIR and fate is not Fate.SOFT:
        fate, enhanced, text = Fate.SOFT, "4.3.5", f"configuration problem: {failure.text}"
    pressure = rule.pressure
    if opportunistic and failure.trouble is Trouble.TLS_FAILED:
        pressure = Pressure.NONE  # the site works, and will be spoken to in clear
    elif failure.trouble is Trouble.PROTOCOL and stage in _OPENING:
        pressure = Pressure.DOWN
    elif failure.trouble is Trouble.TIMEOUT and stage is Stage.CONNECT and not failure.enhanced:
        enhanced = "4.4.1"
    scope = Scope.HOST if failure.trouble is Trouble.LOOP and stage is Stage.EHLO else rule.scope
    return Judgement(
        _verdict(fate, last_host=last_host),
        scope,
        enhanced,
        text,
        pressure=pressure,
        reusable=rule.reusable,
    )


def _in_doubt(text: str, enhanced: str, pressure: Pressure) -> Judgement:
    """The dot went out and nobody knows what became of it (RFC 1047): wait, and do not ask another host."""
    return Judgement(
        Verdict.IN_DOUBT, Scope.MESSAGE, enhanced, f"{text} -- {IN_DOUBT_TEXT}", pressure=pressure
    )


def _verdict(fate: Fate, *, last_host: bool) -> Verdict:
    match fate:
        case Fate.SOFT:
            return Verdict.DEFERRED if last_host else Verdict.NEXT_HOST
        case Fate.LAST:
            return Verdict.BOUNCED if last_host else Verdict.NEXT_HOST
        case Fate.DEFER:
            return Verdict.DEFERRED
        case Fate.BOUNCE:
            return Verdict.BOUNCED
        case Fate.HOLD:
            return Verdict.HELD
        case Fate.RETURN:
            return Verdict.RETURNED
        case _:
            assert_never(fate)


def _pressure(rule: Rule, reply: SmtpReply) -> Pressure:
    if rule.pressure is Pressure.SLOW or asks_for_less(reply):
        return Pressure.SLOW
    if is_greylisting(reply):
        return Pressure.NONE  # the peer works, and asks this mail to come back, not us to send less
    if rule.pressure is Pressure.UP and reply.enhanced.startswith("5.7."):
        # Refused for what we are, not for what we sent: no reason to send more.
        return Pressure.NONE
    return rule.pressure


def _speaks_against_us(code: int) -> bool:
    """Whether a reply shows that both sides no longer agree on the protocol (Postfix 2.6)."""
    return 500 <= code <= 509 or code == 555
