"""How many workers serve."""

import time

from hypothesis import given
from hypothesis import strategies as st

from deliveryagent.agent.staffing import FULL, MANY, Load, Report, Staffing, needed

READY = {0: "a", 1: "b", 2: "c"}
BUSY, IDLE, CROWDED = Report(FULL, 10), Report(0.1, 1), Report(0.1, MANY)

reports = st.builds(Report, st.floats(0, 2), st.integers(0, 2 * MANY))


@given(st.lists(reports, min_size=1, max_size=8), st.integers(0, 8), st.floats(0, 8))
def test_at_least_one_serves_and_never_more_than_there_are(
    found: list[Report], more: int, unused: float
) -> None:
    available = len(found) + more
    count = needed(found, available, unused)
    assert 1 <= count <= available
    assert count >= len(found) - 1


@given(st.lists(reports, min_size=1, max_size=8), st.floats(0, 8))
def test_who_leaves_would_not_be_called_back_at_once(found: list[Report], unused: float) -> None:
    count = needed(found, len(found), unused)
    if count < len(found):
        assert sum(one.load for one in found) / count < FULL
        assert sum(one.sessions for one in found) / count < MANY


def test_one_serves_until_it_is_busy() -> None:
    staffing = Staffing(4)
    assert staffing.serving(READY) == {0: "a"}
    staffing.told(0, IDLE, 0.0)
    staffing.told(1, BUSY, 0.0)
    assert staffing.serving(READY) == {0: "a"}, "what others need is no matter"
    staffing.told(1, IDLE, 0.0)
    staffing.told(0, BUSY, 0.0)
    assert staffing.serving(READY) == {0: "a", 1: "b"}
    assert staffing.serving(READY) == {0: "a", 1: "b"}, "both have to report first"


def test_another_is_of_no_use_when_the_agent_has_all_processors_already() -> None:
    staffing = Staffing(2)
    staffing.serving(READY)
    staffing.told(0, BUSY, 0.9)
    assert list(staffing.serving(READY)) == [0]
    staffing.told(0, BUSY, 0.1)
    assert list(staffing.serving(READY)) == [0, 1]


def test_very_many_sessions_are_enough_for_one() -> None:
    staffing = Staffing(1)
    staffing.serving(READY)
    staffing.told(0, CROWDED, 1.0)
    assert list(staffing.serving(READY)) == [0, 1]


def test_with_little_to_do_one_after_the_other_leaves() -> None:
    staffing = Staffing(8)
    for count in (1, 2, 3):
        assert len(staffing.serving(READY)) == count
        for place in READY:
            staffing.told(place, BUSY, 0.0)
    for count in (3, 2, 1, 1):
        assert len(staffing.serving(READY)) == count
        for place in READY:
            staffing.told(place, IDLE, 0.0)


def test_who_serves_goes_on_when_others_get_ready_and_is_replaced_when_he_is_gone() -> None:
    staffing = Staffing(2)
    assert staffing.serving({}) == {}
    assert staffing.serving({1: "b"}) == {1: "b"}
    assert staffing.serving(READY) == {1: "b"}
    assert list(staffing.serving({0: "a", 2: "c"})) == [0]


def test_a_load_is_that_of_this_process() -> None:
    load = Load()
    assert load.lately() == 0.0, "just begun"
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass
    time.sleep(0.4)
    share = load.lately()
    assert 0.0 < share < 1.0
    assert load.lately() == share
