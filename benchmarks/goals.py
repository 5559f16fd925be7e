"""The figures the agent is meant to reach, and whether it does.

A goal names a case and one of its figures. Most are ratios against a peer measured in the same run
(of several peers the fastest counts), some are plain values. Reached is what the median reaches.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.figures import UNITS, CaseResult, Spread


@dataclass(frozen=True)
class Goal:
    """``at_least`` must be reached, ``aim`` is hoped for; ``low`` figures are good when small.

    With ``peers`` it is the ratio that is judged, otherwise the value itself.
    """

    what: str
    scenario: str
    case: str
    side: str
    figure: str
    at_least: float
    aim: float | None = None
    peers: Sequence[str] = ()
    low: bool = False


_MIX = "2 KiB, 100 domains"
_ONE = "2 KiB, 1 domain"
_QUEUED = "recipients queued"
_AMONG = "ordinary mail among bad neighbours"

GOALS: Sequence[Goal] = (
    Goal("drain, SQLite, 2 KiB, 1 domain", "drain", _ONE, "agent", "rate", 6, 10, ["Postfix"]),
    Goal("drain, SQLite, 2 KiB, 100 domains", "drain", _MIX, "agent", "rate", 6, 10, ["Postfix"]),
    *(
        Goal(f"drain, PostgreSQL, {side}", "postgresql", _MIX, side, "rate", 3, 5, ["Postfix"])
        for side in ("1 agent", "2 agents", "4 agents")
    ),
    Goal(
        "take and deliver, bulk client on the socket", "take", _ONE, "agent", "rate", 3, 5,
        ["Postfix, SMTP", "Postfix, sendmail"],
    ),
    Goal(
        "take and deliver, over SMTP", "take", _ONE, "agent, SMTP", "rate", 3, 5,
        ["Postfix, SMTP"],
    ),
    Goal(
        "CPU of the listener, a message over SMTP", "take", _ONE, "agent, SMTP", "cpu_listener",
        100, 60, low=True,
    ),
    *(
        Goal(
            f"messages per CPU second, drain, {case}", "drain", case, "agent", "per_cpu", 4, 8,
            ["Postfix"],
        )
        for case in (_ONE, _MIX)
    ),
    *(
        Goal(
            f"messages per CPU second, PostgreSQL with its server, {side}",
            "postgresql", _MIX, side, "per_cpu", 4, 8, ["Postfix"],
        )
        for side in ("1 agent", "2 agents", "4 agents")
    ),
    Goal(
        "messages per CPU second, take and deliver", "take", _ONE, "agent", "per_cpu", 4, 8,
        ["Postfix, SMTP", "Postfix, sendmail"],
    ),
    *(
        Goal(
            f"idle latency {figure}, {case}", "latency", case, "agent", figure, 1, 0.5,
            ["Postfix"], low=True,
        )
        for case in ("same host", "another domain each time")
        for figure in ("p50", "p95")
    ),
    Goal(
        "dagent send, start to exit", "enqueue", "one command after another", "agent", "p50",
        100, 60, low=True,
    ),
    Goal(
        "deliveryagent-sendmail, start to exit", "enqueue", "one command after another",
        "agent, sendmail", "p50", 60, 40, low=True,
    ),
    *(
        Goal(
            f"deliveryagent-sendmail, {case}", "enqueue", case, "agent, sendmail", "rate", 0.5, 1,
            ["Postfix"],
        )
        for case in ("one command after another", "commands at once")
    ),
    Goal("drain with 1 M queued / 10 k", "growth", _QUEUED, "1 M", "rate", 0.9, 1.0, ["10 k"]),
    *(
        Goal(f"{title} at 1 M", "growth", _QUEUED, "1 M", figure, 0.5, 0.3, low=True)
        for title, figure in (
            ("first line of queue list", "list"),
            ("status", "status"),
            ("why, of a message,", "why_id"),
            ("why, of an address,", "why_address"),
        )
    ),
    Goal("start to first delivery at 1 M", "growth", _QUEUED, "1 M", "startup", 5, 2, low=True),
    Goal("memory at 1 M, manager", "growth", _QUEUED, "1 M", "manager_peak", 150, low=True),
    Goal("memory at 1 M, worker", "growth", _QUEUED, "1 M", "worker_peak", 100, low=True),
    Goal(
        "others' p99 among bad neighbours / calm", "isolation", _AMONG, "agent, besieged", "p99",
        1.5, 1.1, ["agent, calm"], low=True,
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """A goal beside what was measured: texts for people. ``reached`` is the last column."""

    what: str
    measured: str
    peer: str
    ratio: str
    at_least: str
    aim: str
    reached: str


def judge(goal: Goal, cases: Iterable[CaseResult]) -> Verdict:
    """What became of a goal."""
    case = next((c for c in cases if (c.scenario, c.name) == (goal.scenario, goal.case)), None)
    unit = UNITS[goal.figure]
    wanted = _wanted(goal)
    value = _figure(case, goal.side, goal.figure)
    if case is None or value is None:
        return Verdict(goal.what, "-", "-", "-", *wanted, "not measured")
    measured = f"{_text(value, unit.digits)} {unit.unit}"
    if not goal.peers:
        return Verdict(goal.what, measured, "", "", *wanted, _reached(goal, value.median))
    rivals = [
        (ratio, peer, of_peer)
        for peer in goal.peers
        if (ratio := case.ratios.get(f"{goal.side} / {peer}", {}).get(goal.figure))
        and (of_peer := _figure(case, peer, goal.figure))
    ]
    if not rivals:
        return Verdict(goal.what, measured, "-", "-", *wanted, "no peer")
    worst = max if goal.low else min
    ratio, peer, of_peer = worst(rivals, key=lambda rival: rival[0].median)
    name = f"{peer}: " if len(goal.peers) > 1 else ""
    shown = f"{name}{_text(of_peer, unit.digits)}"
    reached = _reached(goal, ratio.median)
    return Verdict(goal.what, measured, shown, _text(ratio, 2), *wanted, reached)


def _figure(case: CaseResult | None, side: str, name: str) -> Spread | None:
    found = case.sides.get(side) if case else None
    return found.figures.get(name) if found else None


def _wanted(goal: Goal) -> tuple[str, str]:
    sign = "≤" if goal.low else "≥"
    unit = "" if goal.peers else f" {UNITS[goal.figure].unit}"
    aim = "" if goal.aim is None else f"{goal.aim:g}{unit}"
    return f"{sign} {goal.at_least:g}{unit}", aim


def _reached(goal: Goal, value: float) -> str:
    def holds(limit: float) -> bool:
        return value <= limit if goal.low else value >= limit

    if goal.aim is not None and holds(goal.aim):
        return "aim reached"
    return "reached" if holds(goal.at_least) else "**not reached**"


def _text(found: Spread, digits: int) -> str:
    median = f"{found.median:,.{digits}f}"
    if len(found.runs) == 1:
        return median
    return f"{median} ({found.low:,.{digits}f} to {found.high:,.{digits}f})"
