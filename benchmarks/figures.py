"""What is measured, and what becomes of it when it is measured several times.

A ``Case`` is one comparison: some sides, each a function that measures once and returns figures by
name. The sides are measured in turn, run after run; a ratio is taken within a run, so that what the
machine does to one side it most likely does to the other, and then the median of the ratios
counts. Everything here can be written as JSON and read back.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

Figures = dict[str, float]
"""Figures of one measurement, by the names of ``UNITS``."""

Condition = str | int | float


@dataclass(frozen=True)
class Unit:
    """What a figure means, and how many digits of it do."""

    title: str
    unit: str
    digits: int = 0


UNITS = {
    "rate": Unit("rate", "messages/s"),
    "per_cpu": Unit("messages per CPU second", "messages/s"),
    "cpu": Unit("CPU, start-up left out", "µs/message"),
    "cpu_all": Unit("CPU, start-up counted", "µs/message"),
    "cpu_manager": Unit("CPU of the managers, start-up counted", "µs/message"),
    "cpu_workers": Unit("CPU of the workers, start-up counted", "µs/message"),
    "cpu_listener": Unit("CPU of the listener", "µs/message"),
    "cpu_server": Unit("CPU of the database server", "µs/message"),
    "cpu_call": Unit("CPU of the command", "ms/call", 1),
    "startup": Unit("start to first delivery", "s", 2),
    "startup_cpu": Unit("CPU of all starts", "s", 2),
    "fill_rate": Unit("filled at", "messages/s"),
    "manager_peak": Unit("largest manager", "MiB"),
    "worker_peak": Unit("largest worker", "MiB"),
    "memory": Unit("memory of all processes (PSS)", "MiB"),
    "p50": Unit("p50", "ms", 1),
    "p95": Unit("p95", "ms", 1),
    "p99": Unit("p99", "ms", 1),
    "whole_p50": Unit("with the submission call p50", "ms", 1),
    "whole_p95": Unit("with the submission call p95", "ms", 1),
    "whole_p99": Unit("with the submission call p99", "ms", 1),
    "call_p50": Unit("submission call p50", "ms", 1),
    "call_p95": Unit("submission call p95", "ms", 1),
    "call_p99": Unit("submission call p99", "ms", 1),
    "list": Unit("first line of queue list", "s", 2),
    "status": Unit("status", "s", 2),
    "why_id": Unit("why, of a message", "s", 2),
    "why_address": Unit("why, of an address", "s", 2),
}


@dataclass(frozen=True)
class Case:
    """One comparison. ``against`` are pairs of sides whose ratio is wanted, (ours, the peer's), where
    both are there.
    """

    name: str
    sides: Mapping[str, Callable[[], Figures]]
    conditions: Mapping[str, Condition] = field(default_factory=dict)
    against: Sequence[tuple[str, str]] = ()


class Spread(msgspec.Struct):
    """The same figure of several runs. None stands for a run without it."""

    median: float
    low: float
    high: float
    runs: list[float | None]


class SideResult(msgspec.Struct):
    """One side of a case; ``steal`` and ``busy`` are shares of the machine's time, one per run."""

    figures: dict[str, Spread] = {}
    steal: list[float] = []
    busy: list[float] = []
    seconds: list[float] = []
    failures: list[str] = []


class CaseResult(msgspec.Struct):
    """A case after all its runs; ``ratios`` by ``"ours / peer"``."""

    scenario: str
    name: str
    conditions: dict[str, Condition] = {}
    sides: dict[str, SideResult] = {}
    ratios: dict[str, dict[str, Spread]] = {}


class Result(msgspec.Struct):
    """A whole sitting, as kept in a JSON file."""

    conditions: dict[str, Condition]
    left_out: list[str]
    cases: list[CaseResult]


def spread(runs: Sequence[float | None]) -> Spread:
    """Median and extremes of the runs that have a value (at least one).

    >>> spread([3.0, None, 1.0, 2.0]).median
    2.0
    """
    known = [value for value in runs if value is not None]
    return Spread(statistics.median(known), min(known), max(known), list(runs))


def spreads(runs: Sequence[Figures | None]) -> dict[str, Spread]:
    """Every figure that any of the runs has; None stands for a run that failed."""
    names = dict.fromkeys(name for run in runs if run for name in run)
    return {name: spread([run.get(name) if run else None for run in runs]) for name in names}


def ratios(ours: Mapping[str, Spread], theirs: Mapping[str, Spread]) -> dict[str, Spread]:
    """Ours divided by theirs, run by run, for the figures that both have."""
    found = {}
    for name in ours:
        if name not in theirs:
            continue
        pairs = zip(ours[name].runs, theirs[name].runs, strict=True)
        quotients = [a / b if a is not None and b else None for a, b in pairs]
        if any(quotient is not None for quotient in quotients):
            found[name] = spread(quotients)
    return found


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that so large a share of them does not exceed.

    >>> percentile([1.0, 2.0, 3.0, 4.0], 0.5)
    2.0
    """
    ordered = sorted(values)
    return ordered[max(0, -int(-len(ordered) * share // 1) - 1)]


def milliseconds(seconds: Sequence[float], *shares: float) -> Figures:
    """Percentiles of times, as figures ``p50``, ``p95``, …"""
    wanted = shares or (0.5, 0.95, 0.99)
    return {f"p{share * 100:.0f}": percentile(seconds, share) * 1000 for share in wanted}
