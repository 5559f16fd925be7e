"""Times and sizes as people write them."""

import contextlib
import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deliveryagent import setting
from deliveryagent.setting import format_duration, format_size, parse_duration, parse_size


def test_the_examples_in_the_text_are_true() -> None:
    assert doctest.testmod(setting).failed == 0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("1.5", 1.5), ("250 ms", 0.25), ("1h 30m", 5400), ("2W", 1209600), (" 5d ", 432000)],
)
def test_times(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("odd", ["", " ", "5 x", "m", "-5s", "1h30", "1e3", "five minutes"])
def test_what_is_no_time_is_refused_with_an_example(odd: str) -> None:
    with pytest.raises(ValueError, match="is not a time; write it like"):
        parse_duration(odd)


@pytest.mark.parametrize("odd", [-1, float("inf"), float("nan"), True])
def test_what_no_clock_can_measure_is_refused(odd: float) -> None:
    with pytest.raises(ValueError, match="time"):
        parse_duration(odd)


@pytest.mark.parametrize(
    ("text", "octets"), [("0", 0), ("1.5 kB", 1500), ("1K", 1024), ("2 gib", 2**31), ("7 B", 7)]
)
def test_sizes(text: str, octets: int) -> None:
    assert parse_size(text) == octets


@pytest.mark.parametrize("odd", ["", "MB", "5 parsecs", "-1", "1 2", -1, True])
def test_what_is_no_size_is_refused(odd: str | int) -> None:
    with pytest.raises(ValueError, match="size"):
        parse_size(odd)


@given(st.integers(0, 10**12))
def test_what_is_written_reads_back(number: int) -> None:
    assert parse_size(format_size(number)) == number
    assert parse_duration(format_duration(number / 1000)) == pytest.approx(number / 1000)


@given(st.text())
def test_any_text_is_a_value_or_a_value_error(text: str) -> None:
    for parse in (parse_duration, parse_size):
        with contextlib.suppress(ValueError):
            assert parse(text) >= 0
