"""Several runs become one figure: medians, spreads, and ratios taken within a run."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.figures import milliseconds, percentile, ratios, spread, spreads
from benchmarks.letters import content, domain, letters

times = st.lists(st.floats(0, 1e6), min_size=1)


def test_a_run_that_failed_leaves_a_gap_but_no_trace_in_the_median() -> None:
    found = spreads([{"rate": 10.0}, None, {"rate": 30.0, "cpu": 5.0}])
    assert found["rate"].median == 20.0
    assert found["rate"].runs == [10.0, None, 30.0]
    assert found["cpu"].runs == [None, None, 5.0]


def test_a_ratio_compares_what_was_measured_in_the_same_run() -> None:
    ours, theirs = spread([10.0, None, 60.0]), spread([5.0, 1.0, 10.0])
    found = ratios({"rate": ours, "startup": ours}, {"rate": theirs})
    assert list(found) == ["rate"]
    assert found["rate"].runs == [2.0, None, 6.0]
    assert found["rate"].median == 4.0


def test_nothing_is_divided_by_nothing() -> None:
    assert ratios({"rate": spread([1.0])}, {"rate": spread([0.0])}) == {}


def test_sides_that_never_succeeded_have_no_figures() -> None:
    assert spreads([None, None]) == {}


@given(times, st.floats(0.01, 1.0))
def test_a_percentile_is_one_of_the_values_and_so_many_do_not_exceed_it(
    values: list[float], share: float
) -> None:
    found = percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) - 1e-6


@given(times)
def test_percentiles_come_in_order(values: list[float]) -> None:
    found = milliseconds(values)
    assert found["p50"] <= found["p95"] <= found["p99"]


@given(st.integers(0, 10**9), st.integers(250, 5000))
def test_a_letter_has_exactly_the_size_that_was_asked_for(number: int, size: int) -> None:
    text = content(number, size)
    assert len(text) == size
    assert text.endswith(b"\r\n")
    assert text.count(b"\n") == text.count(b"\r\n")
    assert max(map(len, text.split(b"\r\n"))) <= 998


@pytest.mark.parametrize("domains", [1, 7])
def test_every_letter_has_a_recipient_of_its_own(domains: int) -> None:
    found = [to for _, (to,), _ in letters(30, 300, domains=domains)]
    assert len(set(found)) == 30
    assert {to.partition("@")[2] for to in found} == {domain(n, domains) for n in range(domains)}
