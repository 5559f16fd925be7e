"""The concurrency window: growing, shrinking, closing, probing."""

import itertools
import random
from collections.abc import Iterable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deliveryagent.mail.delivery import Pressure
from deliveryagent.policy import concurrency
from deliveryagent.policy.concurrency import ConcurrencySettings, Window
from deliveryagent.policy.retry import RetrySettings

SETTINGS = ConcurrencySettings()
RETRY = RetrySettings()
NOW = 1_800_000_000.0
UP, NONE, SLOW, DOWN = Pressure


def opened(limit: int = 20) -> Window:
    return concurrency.opened(SETTINGS, limit=limit)


def after(
    window: Window,
    pressure: Pressure,
    *,
    busy: int | None = None,
    now: float = NOW,
    limit: int = 20,
    seed: int = 0,
) -> Window:
    """The window after one result; a full window is busy unless told otherwise."""
    return concurrency.after(
        window,
        pressure,
        busy=max(1, int(window.size)) if busy is None else busy,
        now=now,
        limit=limit,
        reason=f"because of {pressure.name}",
        settings=SETTINGS,
        retry=RETRY,
        rng=random.Random(seed),
    )


def after_all(window: Window, pressures: Iterable[Pressure], *, now: float = NOW) -> Window:
    for pressure in pressures:
        window = after(window, pressure, now=now)
    return window


def closed() -> Window:
    return after_all(opened(), [DOWN] * 5)


def test_a_new_site_gets_the_initial_concurrency() -> None:
    assert concurrency.room(opened(), busy=0, now=NOW) == 5
    assert concurrency.room(opened(), busy=3, now=NOW) == 2
    assert concurrency.room(opened(), busy=9, now=NOW) == 0


def test_a_limit_below_the_initial_concurrency_counts() -> None:
    assert concurrency.room(opened(limit=2), busy=0, now=NOW) == 2


def test_a_limit_of_zero_means_no_limit() -> None:
    window = opened(limit=0)
    for _ in range(200):
        window = after(window, UP, limit=0)
    assert window.size == 205


def test_a_busy_healthy_site_reaches_the_limit_within_three_windows() -> None:
    assert after_all(opened(), [UP] * 15).size == 20.0
    assert after_all(opened(), [UP] * 100).size == 20.0


def test_a_window_that_is_not_in_use_does_not_grow() -> None:
    window = opened()
    for _ in range(50):
        window = after(window, UP, busy=1)
    assert window.size == 6.0


def test_a_new_site_is_closed_after_a_cohort_of_failures() -> None:
    window, failures = opened(), 0
    while not window.closed_until:
        window, failures = after(window, DOWN), failures + 1
    assert 3 <= failures <= 5
    assert window.size == 0.0
    assert window.reason == "because of DOWN"
    assert NOW + 300 <= window.closed_until <= NOW + 330
    assert concurrency.room(window, busy=0, now=NOW + 299) == 0


def test_a_large_window_takes_more_failures_to_close() -> None:
    window, failures = after_all(opened(), [UP] * 20), 0
    while not window.closed_until:
        window, failures = after(window, DOWN), failures + 1
    assert 8 <= failures <= 20


@pytest.mark.parametrize("limit", [1, 2])
def test_one_failure_does_not_close_a_site_with_a_tiny_window(limit: int) -> None:
    window = opened(limit=limit)
    window = after(window, DOWN, limit=limit)
    assert not window.closed_until
    for _ in range(2):
        window = after(window, DOWN, limit=limit)
    assert window.closed_until


def test_a_success_between_failures_keeps_a_site_open() -> None:
    window = after_all(opened(), [DOWN, DOWN, UP] * 50)
    assert not window.closed_until


def test_a_closed_site_is_reopened_by_one_probe() -> None:
    window = closed()
    later = window.closed_until + 1
    assert concurrency.is_closed(window, window.closed_until - 1)
    assert concurrency.room(window, busy=0, now=later) == 1
    assert concurrency.room(window, busy=1, now=later) == 0
    window = after(window, UP, busy=1, now=later)
    assert concurrency.room(window, busy=0, now=later) == 5


def test_a_failed_probe_closes_for_longer_each_time_up_to_the_longest_backoff() -> None:
    window, pauses = closed(), []
    for _ in range(8):
        now = window.closed_until + 1
        window = after(window, DOWN, busy=1, now=now)
        pauses.append(window.closed_until - now)
    assert pauses[0] >= 600
    assert all(later >= earlier * 0.9 for earlier, later in itertools.pairwise(pauses))
    assert 4000 <= pauses[-1] <= 4400


def test_a_site_that_flaps_stays_closed_longer_until_it_has_proved_itself() -> None:
    window = closed()
    now = window.closed_until + 1
    window = after(window, UP, busy=1, now=now)
    flapped = after_all(window, [DOWN] * 5, now=now)
    assert flapped.closed_until - now >= 600
    proved = after_all(after_all(window, [UP] * 3, now=now), [DOWN] * 8, now=now)
    assert 300 <= proved.closed_until - now <= 330


def test_results_from_before_the_closing_do_not_prolong_it() -> None:
    window = closed()
    assert after_all(window, [DOWN, SLOW, DOWN], now=NOW + 10) == window


def test_a_late_success_opens_a_closed_site() -> None:
    window = after(closed(), UP, now=NOW + 10)
    assert concurrency.room(window, busy=0, now=NOW + 10) == 5


def test_a_probe_that_says_nothing_leaves_the_window_half_open() -> None:
    window = closed()
    later = window.closed_until + 1
    assert after(window, NONE, busy=1, now=later) == window


def test_a_site_that_asks_for_less_gets_half() -> None:
    window = after_all(opened(), [UP] * 20)
    window = after(window, SLOW, busy=20)
    assert window.size == 10.0
    assert window.reason == "because of SLOW"


def test_a_window_of_requests_that_are_all_slowed_halves_it_only_once() -> None:
    window = after_all(opened(), [UP] * 20)
    for busy in range(20, 0, -1):
        window = after(window, SLOW, busy=busy)
    assert window.size == 10.0


def test_after_it_asked_for_less_a_site_is_approached_carefully() -> None:
    window = after(after_all(opened(), [UP] * 20), SLOW, busy=20)
    window = after_all(window, [UP] * 20)
    assert 10.0 < window.size < 12.5


def test_slowness_alone_leaves_one_delivery_at_a_time_and_then_pauses_shortly() -> None:
    window, count = opened(), 0
    while not window.closed_until:
        window, count = after(window, SLOW), count + 1
        assert count < 60
    assert count > 5
    assert 60 <= window.closed_until - NOW <= 66
    later = window.closed_until + 1
    assert concurrency.room(window, busy=0, now=later) == 1
    again = after(window, SLOW, busy=1, now=later)
    assert 120 <= again.closed_until - later <= 132


def test_successes_between_slow_answers_keep_a_site_open() -> None:
    window = after_all(opened(), [SLOW, UP, UP] * 200)
    assert not window.closed_until
    assert window.size >= 1.0


def test_a_clock_set_back_does_not_keep_a_site_closed() -> None:
    window = closed()
    assert concurrency.room(window, busy=0, now=NOW - 86400) == 1


def test_a_lowered_limit_holds_from_the_next_result_on() -> None:
    window = after_all(opened(), [UP] * 20)
    for pressure in Pressure:
        assert after(window, pressure, limit=4).size <= 4


def test_only_bad_experience_is_worth_remembering() -> None:
    assert not concurrency.remembers(opened())
    assert not concurrency.remembers(after_all(opened(), [UP] * 40))
    assert concurrency.remembers(after(opened(), DOWN))
    assert concurrency.remembers(after(opened(), SLOW))
    assert concurrency.remembers(closed())
    healed = after_all(after(after_all(opened(), [UP] * 20), SLOW, busy=20), [UP] * 300)
    assert not concurrency.remembers(healed)


def test_a_window_survives_a_journey_through_storage() -> None:
    window = closed()
    decoded = msgspec.msgpack.decode(msgspec.msgpack.encode(window), type=Window)
    assert decoded == window


STEPS = st.lists(
    st.tuples(st.sampled_from(Pressure), st.integers(1, 60), st.floats(-50, 2000)), max_size=80
)


@given(STEPS, st.integers(0, 30), st.integers(0, 1000))
def test_the_size_never_leaves_its_bounds(
    steps: list[tuple[Pressure, int, float]], limit: int, seed: int
) -> None:
    window, now = opened(limit=limit), NOW
    ceiling = limit or concurrency.UNLIMITED
    for pressure, busy, pause in steps:
        now += pause
        window = after(window, pressure, busy=busy, now=now, limit=limit, seed=seed)
        assert 0 <= window.size <= ceiling
        assert (window.size == 0) is bool(window.closed_until)
        assert window.size == 0 or window.size >= 1
        assert 0 <= concurrency.room(window, busy=busy, now=now) <= ceiling
        if window.closed_until:
            assert window.closed_until - window.updated <= RETRY.maximal_backoff_time * 1.1 + 1


@given(STEPS)
def test_from_any_state_failures_close_and_a_success_opens(
    steps: list[tuple[Pressure, int, float]],
) -> None:
    window, now = opened(), NOW
    for pressure, busy, pause in steps:
        now += abs(pause)
        window = after(window, pressure, busy=busy, now=now)
    window = after_all(window, [DOWN] * 60, now=now)
    assert window.closed_until
    window = after(window, UP, now=now)
    assert concurrency.room(window, busy=0, now=now) >= 1


@given(STEPS, st.lists(st.integers(1, 60), min_size=1, max_size=100))
def test_a_site_that_only_asks_for_less_never_gets_more(
    steps: list[tuple[Pressure, int, float]], busy_counts: list[int]
) -> None:
    window, now = opened(), NOW
    for pressure, busy, pause in steps:
        now += abs(pause)
        window = after(window, pressure, busy=busy, now=now)
    for busy in busy_counts:
        slower = after(window, SLOW, busy=busy, now=now)
        assert slower.size <= window.size
        window = slower


@given(
    st.integers(0, 30).map(float),
    st.integers(0, 25),
    st.integers(0, 3),
    st.integers(0, 3),
    st.sampled_from([0.0, 5.0]),
    st.integers(1, 25),
)
def test_success_changes_nothing_of_a_full_window(
    size: float, limit: int, failures: int, settling: int, threshold: float, busy: int
) -> None:
    window = Window(size=size, failures=failures, settling=settling, threshold=threshold)
    if concurrency.is_full(window, limit=limit):
        assert after(window, Pressure.UP, busy=busy, limit=limit) is window
    assert concurrency.is_full(Window(size=20.0), limit=20)
    assert not concurrency.is_full(Window(size=20.0, failures=1), limit=20)
