"""Queue ids, wishes and states of recipients."""

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deliveryagent.mail import envelope
from deliveryagent.mail.envelope import (
    FINAL_STATUSES,
    MOST_ALIVE,
    Notify,
    RecipientStatus,
    arrival_of,
    first_queue_id,
    format_queue_id,
    new_queue_id,
    parse_queue_id,
    queue_id_range,
)

IDS = st.integers(0, 2**63 - 1)
TIMES = st.floats(1.6e9, 3e9)


def test_the_examples_hold() -> None:
    assert doctest.testmod(envelope).failed == 0


@given(IDS)
def test_a_queue_id_is_shown_and_read_without_loss(number: int) -> None:
    text = format_queue_id(number)
    assert len(text) == 13
    assert parse_queue_id(text) == number
    assert parse_queue_id(text.lower().replace("1", "l").replace("0", "o")) == number


@given(IDS, IDS)
def test_ids_sort_as_their_texts_do(one: int, other: int) -> None:
    assert (one < other) == (format_queue_id(one) < format_queue_id(other))


@given(IDS, st.integers(1, 13))
def test_a_prefix_is_the_range_of_the_ids_that_begin_with_it(number: int, length: int) -> None:
    first, end = queue_id_range(format_queue_id(number)[:length])
    assert first <= number < end
    assert format_queue_id(first)[:length] == format_queue_id(number)[:length]


@pytest.mark.parametrize("text", ["", "U", "A-B", "0" * 14, "8", "Z"])
def test_what_is_no_beginning_of_an_id_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"queue id|begin with"):
        queue_id_range(text)


def test_a_full_id_has_thirteen_characters() -> None:
    with pytest.raises(ValueError, match="13 letters"):
        parse_queue_id("123")


@given(TIMES, st.integers(), IDS)
def test_a_new_id_is_larger_than_the_last_whatever_the_clock_says(
    now: float, random_bits: int, after: int
) -> None:
    assert new_queue_id(now, random_bits, after) > after
    assert new_queue_id(now, random_bits) >= first_queue_id(now)


@given(TIMES, st.integers(0, 4095))
def test_an_id_tells_when_it_was_drawn(now: float, random_bits: int) -> None:
    assert arrival_of(new_queue_id(now, random_bits)) == pytest.approx(now, abs=1e-5)


@given(
    st.integers(0, 15).map(Notify), st.sampled_from([Notify.SUCCESS, Notify.FAILURE, Notify.DELAY])
)
def test_a_sender_gets_what_was_asked_for_and_by_default_no_success(
    wish: Notify, kind: Notify
) -> None:
    if wish == Notify.DEFAULT:
        assert wish.wants(kind) is (kind is not Notify.SUCCESS)
    else:
        assert wish.wants(kind) is bool(wish & kind)


def test_every_status_has_its_place_in_the_status_of_a_message() -> None:
    assert set(MOST_ALIVE) == set(RecipientStatus)
    assert len(MOST_ALIVE) == len(RecipientStatus)
    assert set(MOST_ALIVE[-4:]) == FINAL_STATUSES
