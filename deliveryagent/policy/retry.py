"""When to try again, when to warn, when to give up.

The wait after an attempt grows with the message's age, as Postfix has it: as long again as it has been in the
queue, between ``minimal_backoff_time`` and ``maximal_backoff_time``, with some jitter so that what failed
together does not return together. A delay the peer stated is honoured within these bounds.

Guarantees: ``next_due`` lies between the minimal wait (or a shorter one the peer named, at least 30 s) and
1.1 times the longest; an older message never comes back sooner for the same random draw. A jump of the clock
alone expires nothing: an attempt, or a failed probe of the site, must have happened after the time was up.
RFC 5321 4.5.4.1.
"""

import random
import re
from dataclasses import dataclass
from typing import Annotated

from deliveryagent.setting import Duration, key, parse_duration

JITTER = 0.1
"""Part of a wait that chance adds or takes away."""

_SHORTEST_STATED = 30.0  # seconds; no peer makes us come back faster on its word
_LONGEST_STATED = 86400.0
_LOOKED_AT = 1000  # characters of a reply's text that are searched


@dataclass(frozen=True, kw_only=True)
class RetrySettings:
    """The schedule of attempts."""

    minimal_backoff_time: Annotated[
        Duration,
        key(
            "Shortest wait between two attempts; also how long a site stays closed after failures.",
            postfix="minimal_backoff_time",
        ),
    ] = parse_duration("5m")
    maximal_backoff_time: Annotated[
        Duration, key("Longest wait between two attempts.", postfix="maximal_backoff_time")
    ] = parse_duration("4000s")
    maximal_queue_lifetime: Annotated[
        Duration,
        key(
            "How long delivery is tried before the mail goes back to its sender; 0 means one attempt.",
            postfix="maximal_queue_lifetime",
        ),
    ] = parse_duration("5d")
    bounce_queue_lifetime: Annotated[
        Duration,
        key(
            "The same for mail without a sender, such as reports; never longer than maximal_queue_lifetime.",
            postfix="bounce_queue_lifetime",
        ),
    ] = parse_duration("5d")
    delay_warning_time: Annotated[
        Duration,
        key(
            "After how long the sender is told of a delay, once; 0 means never.",
            postfix="delay_warning_time",
        ),
    ] = parse_duration("4h")


def next_due(
    *,
    now: float,
    arrival: float,
    attempts: int,
    retry_after: float,
    settings: RetrySettings,
    rng: random.Random,
) -> float:
    """When the next attempt is due, in seconds since the epoch.

    ``attempts`` counts those made, the one that just failed included. ``retry_after`` is the delay in seconds
    the peer stated, 0 if none: it is waited for in full up to the longest backoff, and after the first
    attempt it may shorten the wait.
    """
    shortest = settings.minimal_backoff_time
    longest = max(shortest, settings.maximal_backoff_time)
    delay = min(max(now - arrival, shortest), longest)
    delay = max(shortest, delay * rng.uniform(1 - JITTER, 1 + JITTER))
    if retry_after > 0:
        stated = min(max(retry_after, min(_SHORTEST_STATED, shortest)), longest)
        stated *= rng.uniform(1, 1 + JITTER)  # never before the moment the peer named
        if stated > delay or attempts <= 1:
            delay = stated
    return now + delay


def expires(*, arrival: float, sender: str, settings: RetrySettings) -> float:
    """When the time of a message is up, in seconds since the epoch."""
    lifetime = settings.maximal_queue_lifetime
    if not sender:
        lifetime = Duration(min(lifetime, settings.bounce_queue_lifetime))
    return arrival + lifetime


def expired(
    *, now: float, expires: float, last_attempt: float | None, closed_since: float | None
) -> bool:
    """Whether a waiting recipient is to be given up.

    ``last_attempt`` is when its last attempt ended, ``closed_since`` when its site was last found unusable by
    a delivery or a probe; None if never. One of the two must lie after the expiry time, so that a clock that
    jumped ahead, or an agent that was switched off for days, costs no recipient its last chance.
    """
    if now < expires:
        return False
    return any(seen is not None and seen >= expires for seen in (last_attempt, closed_since))


def warning_due(*, arrival: float, settings: RetrySettings) -> float | None:
    """When a delay is reported to the sender, in seconds since the epoch; None when it never is."""
    if settings.delay_warning_time <= 0:
        return None
    return arrival + settings.delay_warning_time


# Every repetition has an upper bound and no two neighbours can match the same text: the search is linear.
_UNIT = r"(s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?)\b"
_LEAD = (
    r"\b(?:in|for|after|wait|within|least|next|another|about|of|delay|retry|deferred)[ =:(]{1,3}"
)
_STATED = re.compile(
    rf"{_LEAD}(?:(?:about|at least|another|the next) )?(\d{{1,6}}) ?-?{_UNIT}"
    rf"(?:,? (?:and )?(\d{{1,4}}) ?{_UNIT})?",
    re.IGNORECASE,
)
_CLOCK = re.compile(rf"{_LEAD}(\d{{1,3}}):(\d{{2}}):(\d{{2}})(?![:\d])", re.IGNORECASE)
_ABOUT_WAITING = re.compile(
    r"gr[ae]y|retry|try|again|come back|wait|later|delay|defer|temporar|resend|reconnect",
    re.IGNORECASE,
)
_SECONDS = {"s": 1, "m": 60, "h": 3600}


def parse_retry_after(text: str) -> float:
    """The delay in seconds that a refusal states, 0 if it states none; at most a day.

    >>> parse_retry_after("Greylisted, please try again in 5 minutes")
    300.0
    >>> parse_retry_after("come back in 00:04:30"), parse_retry_after("no such user")
    (270.0, 0.0)
    """
    looked_at = text[:_LOOKED_AT]
    if _ABOUT_WAITING.search(looked_at) is None:
        return 0.0
    clock = _CLOCK.search(looked_at)
    if clock is not None:
        seconds = int(clock[1]) * 3600 + int(clock[2]) * 60 + int(clock[3])
        return min(float(seconds), _LONGEST_STATED)
    stated = _STATED.search(looked_at)
    if stated is None:
        return 0.0
    seconds = int(stated[1]) * _SECONDS[stated[2][0].lower()]
    if stated[3]:
        seconds += int(stated[3]) * _SECONDS[stated[4][0].lower()]
    return min(float(seconds), _LONGEST_STATED)
