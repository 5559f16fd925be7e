"""Who goes first among those that wait for the same destination."""

from hypothesis import given
from hypothesis import strategies as st

from deliveryagent.mail.envelope import arrival_of, first_queue_id
from deliveryagent.policy.precedence import (
    HEAD_START,
    HIGHEST,
    LOWEST,
    due_since,
    first_due,
    rank,
)

NOW = 1_800_000_000.0
PRIORITIES = st.integers(LOWEST, HIGHEST)
MOMENTS = st.floats(NOW, NOW + 30 * 86400)


@given(MOMENTS, PRIORITIES)
def test_what_may_go_at_once_is_due_at_once_whatever_its_priority(
    arrival: float, priority: int
) -> None:
    assert first_due(arrival, 0.0, priority) <= arrival
    assert priority > 0 or first_due(arrival, 0.0, priority) == arrival


@given(MOMENTS, MOMENTS, PRIORITIES)
def test_no_priority_makes_anything_go_before_the_time_it_was_to_wait_for(
    arrival: float, not_before: float, priority: int
) -> None:
    assert first_due(arrival, not_before, priority) >= not_before


@given(MOMENTS, PRIORITIES, PRIORITIES)
def test_of_two_that_came_together_the_higher_one_goes_first(
    arrival: float, one: int, other: int
) -> None:
    message_id = first_queue_id(arrival)

    def place(priority: int) -> float:
        return rank(first_due(arrival, 0.0, priority), message_id, priority)

    assert (place(one) < place(other)) is (one > other)


@given(MOMENTS, MOMENTS, PRIORITIES, PRIORITIES)
def test_nobody_is_passed_by_what_came_long_after_it(
    early: float, late: float, low: int, high: int
) -> None:
    def place(arrival: float, priority: int) -> float:
        due = first_due(arrival, 0.0, priority)
        return rank(due, first_queue_id(arrival), priority)

    if late - early > HEAD_START * (HIGHEST - LOWEST) + 1:
        assert place(early, low) < place(late, high)


@given(MOMENTS, st.integers(1, HIGHEST))
def test_waiting_counts_from_the_arrival_not_from_the_place_in_the_line(
    arrival: float, priority: int
) -> None:
    message_id = first_queue_id(arrival)
    assert due_since(first_due(arrival, 0.0, priority), message_id, priority) == arrival_of(
        message_id
    )
    later = arrival + 600.0
    assert due_since(later, message_id, priority) == later, "a later attempt has a time of its own"
