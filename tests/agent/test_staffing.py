"""How many workers serve."""

from hypothesis import given
from hypothesis import strategies as st

from deliveryagent.agent.staffing import FULL, MANY, Staffing, needed

READY = {0: "a", 1: "b", 2: "c"}


@given(st.lists(st.floats(0, 2), min_size=1, max_size=8), st.integers(0, 8))
def test_at_least_one_serves_and_never_more_than_there_are(loads: list[float], more: int) -> None:
    available = len(loads) + more
    count = needed(len(loads), loads, available)
    assert 1 <= count <= available
    assert count >= len(loads) - 1
    if min(loads) < FULL:
        assert count <= len(loads)


@given(st.lists(st.floats(0, 2), min_size=1, max_size=8))
def test_who_leaves_would_not_be_called_back_at_once(loads: list[float]) -> None:
    count = needed(len(loads), loads, len(loads))
    if count < len(loads):
        assert sum(loads) / count < FULL


def test_one_serves_until_it_is_busy() -> None:
    staffing = Staffing()
    assert staffing.serving(READY) == {0: "a"}
    staffing.told(0, 0.5, 10)
    staffing.told(1, 1.0, 0)
    assert staffing.serving(READY) == {0: "a"}, "what others need is no matter"
    staffing.told(0, FULL, 10)
    assert staffing.serving(READY) == {0: "a", 1: "b"}
    assert staffing.serving(READY) == {0: "a", 1: "b"}, "both have to report first"


def test_very_many_sessions_count_as_busy() -> None:
    staffing = Staffing()
    staffing.serving(READY)
    staffing.told(0, 0.1, MANY)
    assert list(staffing.serving(READY)) == [0, 1]


def test_with_little_to_do_one_after_the_other_leaves() -> None:
    staffing = Staffing()
    for count in (1, 2, 3):
        assert len(staffing.serving(READY)) == count
        for place in READY:
            staffing.told(place, FULL, 0)
    for count in (3, 2, 1, 1):
        assert len(staffing.serving(READY)) == count
        for place in READY:
            staffing.told(place, 0.1, 0)


def test_who_serves_goes_on_when_others_get_ready_and_is_replaced_when_he_is_gone() -> None:
    staffing = Staffing()
    assert staffing.serving({}) == {}
    assert staffing.serving({1: "b"}) == {1: "b"}
    assert staffing.serving(READY) == {1: "b"}
    assert list(staffing.serving({0: "a", 2: "c"})) == [0]
