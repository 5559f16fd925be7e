"""Guessing of passwords: slowed, limited, and never a way to keep somebody else out."""

from hypothesis import given
from hypothesis import strategies as st

from deliveryagent.policy.guessing import Guesses, GuessLimits, network_of

HERE, THERE = "192.0.2.1", "198.51.100.7"


def failed(guesses: Guesses, times: int, *, address: str = HERE, user: str = "kim") -> float:
    delay = 0.0
    for _ in range(times):
        delay = guesses.failed(address, user, 0.0)
    return delay


def test_the_answer_to_each_further_failure_takes_twice_as_long_up_to_a_limit() -> None:
    guesses = Guesses()
    assert [guesses.failed(HERE, "kim", 0.0) for _ in range(7)] == [1, 2, 4, 8, 16, 30, 30]
    assert guesses.failed(THERE, "alex", 0.0) == 1


def test_an_address_that_failed_too_often_is_shut_out_and_comes_in_again_later() -> None:
    guesses = Guesses()
    failed(guesses, 9)
    assert not guesses.refused(HERE, "", 0.0)
    failed(guesses, 1)
    assert guesses.refused(HERE, "", 1.0)
    assert guesses.refused(HERE, "alex", 1799.0)
    assert not guesses.refused(HERE, "", 1800.0)
    assert not guesses.refused(THERE, "kim", 1.0)


def test_after_a_lockout_there_is_not_a_whole_new_set_of_guesses() -> None:
    guesses, now, tried = Guesses(), 0.0, 0
    while now < 86400:
        if not guesses.refused(HERE, "kim", now):
            guesses.failed(HERE, "kim", now)
            tried += 1
        now += 1
    assert tried <= 10 + 48 * 6


def test_all_of_a_64_is_one_client() -> None:
    guesses = Guesses()
    for number in range(10):
        guesses.failed(f"2001:db8:0:1::{number:x}", "kim", 0.0)
    assert guesses.refused("2001:db8:0:1:ffff::1", "kim", 0.0)
    assert not guesses.refused("2001:db8:0:2::1", "kim", 0.0)


def test_who_is_guessed_at_from_everywhere_is_slowed_but_never_shut_out() -> None:
    guesses = Guesses()
    for number in range(5000):
        guesses.failed(f"10.0.{number // 250}.{number % 250}", "kim", 0.0)
    assert not guesses.refused(HERE, "kim", 0.0)
    assert guesses.wait(HERE, "kim", 0.0) == 30
    assert guesses.wait(HERE, "alex", 0.0) == 0


def test_where_a_user_logged_in_before_others_guesses_change_nothing_for_that_user() -> None:
    guesses = Guesses()
    guesses.succeeded(HERE, "kim", 0.0)
    for number in range(500):
        guesses.failed(f"10.0.0.{number % 250}", "kim", 1.0)
    failed(guesses, 20, user="alex")
    assert guesses.wait(HERE, "kim", 1.0) == 0
    assert not guesses.refused(HERE, "", 1.0), "it may still turn out to be kim"
    assert not guesses.refused(HERE, "kim", 1.0)
    assert guesses.refused(HERE, "alex", 1.0)


def test_an_account_of_ones_own_opens_no_door_to_others() -> None:
    guesses = Guesses()
    tried = 0
    for _ in range(1000):
        guesses.succeeded(HERE, "mallory", 0.0)
        if not guesses.refused(HERE, "kim", 0.0):
            guesses.failed(HERE, "kim", 0.0)
            tried += 1
    assert tried == 10


def test_at_home_too_there_is_an_end_to_guessing() -> None:
    guesses = Guesses()
    guesses.succeeded(HERE, "kim", 0.0)
    failed(guesses, 49)
    assert not guesses.refused(HERE, "kim", 0.0)
    failed(guesses, 1)
    assert guesses.refused(HERE, "kim", 0.0)
    assert guesses.refused(HERE, "", 0.0)


def test_a_home_is_forgotten_after_its_time() -> None:
    guesses = Guesses(GuessLimits(kept=100.0))
    guesses.succeeded(HERE, "kim", 0.0)
    failed(guesses, 10)
    assert not guesses.refused(HERE, "kim", 99.0)
    assert guesses.refused(HERE, "kim", 100.0)


def test_ten_thousand_guesses_from_as_many_places_need_bounded_memory() -> None:
    guesses = Guesses(GuessLimits(most=500))
    for number in range(20_000):
        address = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
        guesses.failed(address, f"user{number}", float(number) / 100)
        guesses.succeeded(address, f"good{number}", float(number) / 100)
    assert len(guesses) <= 4 * 500


def test_one_that_failed_often_is_not_washed_away_by_many_that_failed_once() -> None:
    guesses = Guesses(GuessLimits(most=200))
    failed(guesses, 100)
    for number in range(10_000):
        guesses.failed(f"10.1.{number >> 8}.{number & 255}", f"user{number}", 1.0)
    assert guesses.refused(HERE, "kim", 2.0)
    assert guesses.wait(THERE, "kim", 2.0) > 0


def test_what_names_a_client_without_an_address_is_taken_as_it_is() -> None:
    assert network_of("uid=1000") == "uid=1000"
    assert network_of("fe80::1%eth0") == "fe80::/64"
    guesses = Guesses()
    failed(guesses, 10, address="uid=1000", user="")
    assert guesses.refused("uid=1000", "kim", 0.0)
    assert not guesses.refused("uid=1001", "kim", 0.0)


Event = tuple[str, str, str, float]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["failed", "succeeded"]),
            st.sampled_from([HERE, THERE, "2001:db8::1", ""]),
            st.sampled_from(["kim", "alex", ""]),
            st.floats(0, 4000),
        ),
        max_size=80,
    )
)
def test_waits_are_bounded_and_memory_is_too(events: list[Event]) -> None:
    guesses = Guesses(GuessLimits(most=3, home=3))
    now = 0.0
    for kind, address, user, later in events:
        now += later
        if kind == "failed":
            assert 0 <= guesses.failed(address, user, now) <= 30
        else:
            guesses.succeeded(address, user, now)
        assert 0 <= guesses.wait(address, user, now) <= 30
        if guesses.refused(address, "", now):
            assert guesses.refused(address, "kim", now), "else the first answer was wrong"
        assert len(guesses) <= 12
