"""The runner: sides in turn, failures told, what was set up taken down."""

import time
from collections.abc import Iterator

import pytest

from benchmarks import runner
from benchmarks.equipment import Plan
from benchmarks.figures import Case, CaseResult, Figures
from benchmarks.network import Network
from benchmarks.programs import Failure


def plan(runs: int = 1) -> Plan:
    return Plan(
        network=Network(own=False),
        runs=runs,
        messages=100,
        quick=True,
        without_postfix="",
        without_postgres="",
    )


def run(*cases: Case, runs: int = 1) -> tuple[bool, list[CaseResult], list[str]]:
    kept: list[CaseResult] = []
    said: list[str] = []
    scenarios = [("some", lambda _: iter(cases))]
    good = runner.run(scenarios, plan(runs), say=said.append, keep=kept.append)
    return good, kept, said


def test_sides_take_turns_and_change_their_order() -> None:
    order: list[str] = []

    def side(name: str, rate: float) -> Figures:
        order.append(name)
        return {"rate": rate}

    case = Case(
        "x",
        {"a": lambda: side("a", 6.0), "b": lambda: side("b", 2.0)},
        against=[("a", "b")],
    )
    good, (result,), said = run(case, runs=3)
    assert good
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert result.ratios["a / b"]["rate"].runs == [3.0, 3.0, 3.0]
    assert len(result.sides["a"].steal) == 3
    assert any("3.00" in line for line in said)


def test_a_side_that_fails_is_told_and_the_others_go_on() -> None:
    def broken() -> Figures:
        raise Failure("a message was lost")

    case = Case("x", {"a": broken, "b": lambda: {"rate": 1.0}}, against=[("a", "b")])
    good, (result,), said = run(case)
    assert not good
    assert result.sides["a"].failures == ["Failure: a message was lost"]
    assert result.sides["b"].figures["rate"].median == 1.0
    assert result.ratios == {}
    assert any("a message was lost" in line for line in said)


def test_a_peer_that_is_not_installed_is_no_ratio() -> None:
    good, (result,), _ = run(Case("x", {"a": lambda: {"rate": 1.0}}, against=[("a", "b")]))
    assert good
    assert result.ratios == {}


def test_a_side_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "QUICK_LIMIT", 0.1)

    def hangs() -> Figures:
        time.sleep(30)
        return {}

    good, (result,), _ = run(Case("x", {"a": hangs}))
    assert not good
    assert "not finished within" in result.sides["a"].failures[0]


def test_a_scenario_that_cannot_be_set_up_does_not_stop_the_next() -> None:
    closed: list[str] = []

    def broken(_: Plan) -> Iterator[Case]:
        try:
            yield Case("first", {"a": lambda: {"rate": 1.0}})
            raise OSError("no room")
        finally:
            closed.append("broken")

    def whole(_: Plan) -> Iterator[Case]:
        yield Case("second", {"a": lambda: {"rate": 1.0}})

    kept: list[CaseResult] = []
    good = runner.run(
        [("broken", broken), ("whole", whole)], plan(), say=lambda _: None, keep=kept.append
    )
    assert not good
    assert [result.name for result in kept] == ["first", "second"]
    assert closed == ["broken"]
