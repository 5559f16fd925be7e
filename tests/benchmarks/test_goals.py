"""Goals: what is reached, what is not, and that each names something that is measured."""

from contextlib import closing
from typing import Any

import pytest

from benchmarks.equipment import Plan
from benchmarks.figures import UNITS, CaseResult, SideResult, spread
from benchmarks.goals import GOALS, Goal, judge
from benchmarks.network import here
from benchmarks.scenarios import SCENARIOS

FASTER = Goal("drain", "drain", "one", "agent", "rate", 3, 5, ["slow", "fast"])
SHORTER = Goal("wait", "growth", "one", "agent", "status", 0.5, 0.3, low=True)


def measured(scenario: str, rate: float, **ratios: float) -> CaseResult:
    sides = {name: SideResult(figures={"rate": spread([1.0])}) for name in ratios}
    sides["agent"] = SideResult(figures={"rate": spread([rate]), "status": spread([rate])})
    found = {f"agent / {name}": {"rate": spread([ratio])} for name, ratio in ratios.items()}
    return CaseResult(scenario, "one", {}, sides, found)


@pytest.mark.parametrize(
    ("ratios", "reached"),
    [
        ({"slow": 9.0, "fast": 5.0}, "aim reached"),
        ({"slow": 9.0, "fast": 3.0}, "reached"),
        ({"slow": 9.0, "fast": 2.9}, "**not reached**"),
        ({"slow": 4.0}, "reached"),
        ({}, "no peer"),
    ],
)
def test_of_several_peers_the_fastest_counts(ratios: dict[str, float], reached: str) -> None:
    assert judge(FASTER, [measured("drain", 100.0, **ratios)]).reached == reached


@pytest.mark.parametrize(
    ("value", "reached"), [(0.2, "aim reached"), (0.4, "reached"), (0.6, "**not reached**")]
)
def test_where_less_is_better_less_is_wanted(value: float, reached: str) -> None:
    verdict = judge(SHORTER, [measured("growth", value)])
    assert verdict.reached == reached
    assert verdict.at_least == "≤ 0.5 s"


def test_what_was_not_measured_is_neither_reached_nor_missed() -> None:
    assert judge(FASTER, [measured("growth", 1.0)]).reached == "not measured"


def test_goals_are_about_figures_that_exist() -> None:
    assert {goal.figure for goal in GOALS} <= set(UNITS)
    assert {goal.scenario for goal in GOALS} <= set(SCENARIOS)
    assert len({goal.what for goal in GOALS}) == len(GOALS)


@pytest.mark.parametrize("scenario", ["drain", "take", "latency", "enqueue", "isolation", "tls"])
def test_goals_are_about_cases_and_sides_that_exist(scenario: str) -> None:
    plan = Plan(
        network=here(),
        runs=1,
        messages=100,
        quick=True,
        without_postfix="",
        without_postgres="not here",
    )
    generator: Any = SCENARIOS[scenario](plan)
    with closing(generator):
        sides = {case.name: (set(case.sides), set(case.against)) for case in generator}
    for goal in GOALS:
        if goal.scenario == scenario:
            known, compared = sides[goal.case]
            assert goal.side in known
            assert {(goal.side, peer) for peer in goal.peers} <= compared
