"""Runs the cases: every side in turn, as often as wanted, and prints as it goes.

A side that fails is told and left at that; the others go on. What is known so far is kept after
each case, so that a sitting that is broken off is not lost.
"""

import time
from collections.abc import Callable, Generator, Iterable, Iterator

from benchmarks.equipment import Plan
from benchmarks.figures import (
    UNITS,
    Case,
    CaseResult,
    Figures,
    SideResult,
    Spread,
    ratios,
    spreads,
)
from benchmarks.meter import Machine
from benchmarks.programs import within

LIMIT = 1800.0
QUICK_LIMIT = 90.0
NOISY = 0.05
"""The share of stolen processor time beyond which a run is marked as noisy."""

Say = Callable[[str], None]


def run(
    scenarios: Iterable[tuple[str, Callable[[Plan], Iterator[Case]]]],
    plan: Plan,
    *,
    say: Say,
    keep: Callable[[CaseResult], None],
) -> bool:
    """Run these scenarios; ``keep`` gets every result. False when anything failed."""
    good = True
    for name, cases in scenarios:
        started = time.monotonic()
        say(f"\n== {name}")
        try:
            for case in _in_time(cases(plan), limit(plan)):
                result = measure(name, case, plan, say)
                good &= not any(side.failures for side in result.sides.values())
                for line in table(result):
                    say(line)
                keep(result)
        except Exception as error:  # noqa: BLE001 - the other scenarios go on
            say(f"   {name} cannot be measured: {type(error).__name__}: {error}")
            good = False
        say(f"   ({time.monotonic() - started:,.0f} s)")
    return good


def limit(plan: Plan) -> float:
    """How many seconds anything may take: one side of one run, or what is prepared for a case."""
    return QUICK_LIMIT if plan.quick else LIMIT


def _in_time(cases: Iterator[Case], seconds: float) -> Iterator[Case]:
    """The cases; what prepares the next one has so much time. Closes what it was given."""
    try:
        while True:
            with within(seconds):
                case = next(cases, None)
            if case is None:
                return
            yield case
    finally:
        if isinstance(cases, Generator):
            cases.close()


def measure(scenario: str, case: Case, plan: Plan, say: Say) -> CaseResult:
    """All runs of a case. The order of the sides changes from run to run."""
    say(f"-- {case.name}")
    sides = list(case.sides.items())
    runs: dict[str, list[Figures | None]] = {name: [] for name in case.sides}
    result = CaseResult(scenario, case.name, dict(case.conditions))
    result.sides = {name: SideResult() for name in case.sides}
    for number in range(plan.runs):
        for name, side in sides if number % 2 == 0 else reversed(sides):
            of_side = result.sides[name]
            with Machine() as machine:
                try:
                    with within(limit(plan)):
                        figures: Figures | None = side()
                except Exception as error:  # noqa: BLE001 - a result like others
                    figures = None
                    of_side.failures.append(f"{type(error).__name__}: {error}")
            runs[name].append(figures)
            of_side.steal.append(round(machine.steal, 4))
            of_side.busy.append(round(machine.busy, 4))
            of_side.seconds.append(round(machine.seconds, 1))
            say(_line(number, name, figures, of_side))
    for name, side_result in result.sides.items():
        side_result.figures = spreads(runs[name])
    for ours, theirs in case.against:
        if not {ours, theirs} <= set(result.sides):
            continue
        found = ratios(result.sides[ours].figures, result.sides[theirs].figures)
        if found:
            result.ratios[f"{ours} / {theirs}"] = found
    return result


def _line(number: int, name: str, figures: Figures | None, side: SideResult) -> str:
    """What a run is told as, while the next one starts."""
    if figures is None:
        what = f"FAILED: {side.failures[-1]}"
    else:
        what = ", ".join(f"{key} {value:,.{UNITS[key].digits}f}" for key, value in figures.items())
    steal = side.steal[-1]
    noise = f"steal {steal:.1%}{' NOISY' if steal > NOISY else ''}"
    return f"   run {number + 1}, {name}: {what} [{noise}, {side.seconds[-1]:.0f} s]"


def table(result: CaseResult) -> list[str]:
    """A case for people: figures by sides, ratios behind them."""
    sides = list(result.sides)
    names = dict.fromkeys(name for side in result.sides.values() for name in side.figures)
    headings = [*sides, *result.ratios]
    rows = [["", *headings]]
    for name in names:
        unit = UNITS[name]
        cells = [shown(result.sides[side].figures.get(name), unit.digits) for side in sides]
        cells += [shown(found.get(name), 2) for found in result.ratios.values()]
        rows.append([f"{unit.title}, {unit.unit}", *cells])
    widths = [max(len(row[column]) for row in rows) for column in range(len(headings) + 1)]
    return [
        "   "
        + "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def shown(found: Spread | None, digits: int) -> str:
    """A median with its extremes.

    >>> shown(Spread(2.0, 1.0, 3.0, [1.0, 2.0, 3.0]), 0)
    '2 (1-3)'
    """
    if found is None:
        return "-"
    median = f"{found.median:,.{digits}f}"
    if len(found.runs) == 1:
        return median
    return f"{median} ({found.low:,.{digits}f}-{found.high:,.{digits}f})"
