"""Retry times, expiry, warnings, and delays that peers state."""

import doctest
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deliveryagent.policy import retry
from deliveryagent.policy.retry import RetrySettings, parse_retry_after
from deliveryagent.setting import Duration, parse_duration

DEFAULTS = RetrySettings()
NOW = 1_800_000_000.0


def test_the_examples_hold() -> None:
    assert doctest.testmod(retry).failed == 0


def due(
    *,
    age: float,
    attempts: int = 3,
    stated: float = 0.0,
    settings: RetrySettings = DEFAULTS,
    seed: int = 1,
) -> float:
    """The wait in seconds after an attempt on a message of this age."""
    moment = retry.next_due(
        now=NOW,
        arrival=NOW - age,
        attempts=attempts,
        retry_after=stated,
        settings=settings,
        rng=random.Random(seed),
    )
    return moment - NOW


SPANS = st.floats(0, 1e6).map(Duration)
SETTINGS = st.builds(RetrySettings, minimal_backoff_time=SPANS, maximal_backoff_time=SPANS)
AGES = st.floats(-1e7, 1e7)
SEEDS = st.integers(0, 1000)


@given(AGES, st.integers(1, 200), SETTINGS, SEEDS)
def test_a_wait_lies_between_the_shortest_and_the_longest(
    age: float, attempts: int, settings: RetrySettings, seed: int
) -> None:
    wait = due(age=age, attempts=attempts, settings=settings, seed=seed)
    shortest = settings.minimal_backoff_time
    longest = max(shortest, settings.maximal_backoff_time)
    assert shortest - 1e-6 <= wait <= longest * 1.1 + 1e-6


@given(AGES, AGES, SEEDS)
def test_an_older_message_never_comes_back_sooner(one: float, other: float, seed: int) -> None:
    young, old = sorted((one, other))
    assert due(age=young, seed=seed) <= due(age=old, seed=seed)


@given(AGES, st.integers(1, 50), st.floats(1, 1e6), SEEDS)
def test_a_stated_delay_is_waited_for_up_to_the_longest_backoff(
    age: float, attempts: int, stated: float, seed: int
) -> None:
    wait = due(age=age, attempts=attempts, stated=stated, seed=seed)
    assert wait >= min(stated, DEFAULTS.maximal_backoff_time) - 1e-6
    assert 30.0 - 1e-6 <= wait <= DEFAULTS.maximal_backoff_time * 1.1 + 1e-6


def test_the_first_retry_comes_sooner_when_the_peer_says_so() -> None:
    assert 60.0 <= due(age=1, attempts=1, stated=60) <= 66.1
    assert due(age=1, attempts=2, stated=60) >= 300.0


def test_no_peer_makes_us_hurry_beyond_thirty_seconds() -> None:
    assert due(age=1, attempts=1, stated=0.001) >= 30.0


def test_a_backoff_below_thirty_seconds_holds_for_stated_delays_too() -> None:
    quick = RetrySettings(minimal_backoff_time=Duration(2.0))
    assert 2.0 <= due(age=1, attempts=1, stated=1.0, settings=quick) <= 2.2


def test_the_wait_doubles_with_the_age_of_the_message() -> None:
    age, waits = 10.0, []
    for _ in range(6):
        wait = due(age=age)
        waits.append(wait)
        age += wait
    assert waits == sorted(waits)
    assert waits[-1] > 3600


def test_what_failed_together_does_not_return_together() -> None:
    assert len({due(age=2000, seed=seed) for seed in range(50)}) == 50


def test_a_report_expires_no_later_than_mail_with_a_sender() -> None:
    settings = RetrySettings(
        maximal_queue_lifetime=parse_duration("1d"), bounce_queue_lifetime=parse_duration("5d")
    )
    assert retry.expires(arrival=0, sender="", settings=settings) == 86400.0
    assert retry.expires(arrival=0, sender="a@example.org", settings=settings) == 86400.0


def test_mail_is_given_up_after_five_days_by_default() -> None:
    assert retry.expires(arrival=NOW, sender="a@example.org", settings=DEFAULTS) == NOW + 432000


@given(st.floats(0, 1e10), st.floats(0, 1e10))
def test_a_clock_that_jumps_ahead_expires_nothing_by_itself(expires: float, jump: float) -> None:
    before = expires - 1
    assert not retry.expired(
        now=expires + jump, expires=expires, last_attempt=before, closed_since=before
    )
    assert not retry.expired(
        now=expires + jump, expires=expires, last_attempt=None, closed_since=None
    )


@pytest.mark.parametrize(
    ("last_attempt", "closed_since"), [(100.0, None), (None, 100.0), (150.0, 20.0), (20.0, 101.0)]
)
def test_an_attempt_or_a_failed_probe_after_the_time_was_up_expires_it(
    last_attempt: float | None, closed_since: float | None
) -> None:
    assert retry.expired(now=200, expires=100, last_attempt=last_attempt, closed_since=closed_since)


def test_nothing_expires_before_its_time() -> None:
    assert not retry.expired(now=99, expires=100, last_attempt=100.0, closed_since=100.0)


def test_a_delay_is_reported_after_four_hours_unless_switched_off() -> None:
    assert retry.warning_due(arrival=0, settings=DEFAULTS) == 4 * 3600
    off = RetrySettings(delay_warning_time=Duration(0.0))
    assert retry.warning_due(arrival=0, settings=off) is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Greylisted, please try again in 5 minutes", 300),
        ("try again in 300 seconds", 300),
        ("Greylisting in action, please come back in 00:04:30", 270),
        ("greylisted for 60s", 60),
        ("Please retry after 10 min", 600),
        ("try again in 1 hour", 3600),
        ("temporarily deferred, wait 4 minutes and 59 seconds", 299),
        ("try again in at least 15 minutes", 900),
        ("retry: 120 secs", 120),
        ("resend in (30 seconds)", 30),
        ("Try again after 5 min, see https://example.org/10m", 300),
        ("try again in 999999 hours", 86400),
        ("try again later", 0),
        ("", 0),
        ("mailbox full", 0),
        ("try again in 5", 0),
        ("retry after 4.7.1", 0),
        ("try again in 5 months", 0),
        ("in 5 minutes this host explodes", 0),
        ("come back at 12:30:00 UTC", 0),
    ],
)
def test_a_stated_delay_is_read_out_of_the_text(text: str, seconds: float) -> None:
    assert parse_retry_after(text) == seconds


@given(st.text(alphabet="again in 0123456789:smh,-(", max_size=20000))
def test_any_text_gives_a_bounded_delay(text: str) -> None:
    assert 0 <= parse_retry_after(text) <= 86400


@pytest.mark.parametrize("text", ["in " * 30000, "retry in 1" * 9000, "again" + " " * 90000])
def test_hostile_text_costs_no_more_than_its_first_thousand_characters(text: str) -> None:
    assert parse_retry_after(text) == parse_retry_after(text[:1000])
