"""``python -m benchmarks [SCENARIO…]``: measure, compare, print, and keep the figures as JSON.

Every side of a comparison is measured in turn, ``--runs`` times; printed are medians, their spread,
and ratios taken within a run. It says what it found on this machine and what it leaves out, and
installs nothing. Exits with 1 when a measurement failed (mail lost or doubled, a time limit passed),
never because a figure is slow. ``python -m benchmarks report FILE…`` turns the JSON into tables.
"""

import argparse
import resource
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from benchmarks import network, report
from benchmarks.equipment import conditions, left_out, look_around
from benchmarks.figures import CaseResult, Result
from benchmarks.runner import run
from benchmarks.scenarios import SCENARIOS

_RESULTS = Path(__file__).parent / "results"
_MESSAGES = 20_000
_QUICK_MESSAGES = 600
_FILES = 65_536


def _arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=", ".join(SCENARIOS))
    parser.add_argument("--runs", type=int, default=3, help="runs of which the median counts")
    parser.add_argument("--messages", type=int, default=_MESSAGES, help="messages of a drain")
    parser.add_argument("--quick", action="store_true", help="one small run, to try everything")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="the figures")
    parser.add_argument("--without-postfix", action="store_true", help="measure only the agent")
    found = parser.parse_args(words)
    unknown = [name for name in found.scenarios if name not in SCENARIOS]
    if unknown:
        parser.error(f"no scenario {', '.join(unknown)}; there are {', '.join(SCENARIOS)}")
    if found.runs < 1 or found.messages < 100:
        parser.error("at least 1 run of at least 100 messages")
    if found.quick:
        found.runs, found.messages = 1, min(found.messages, _QUICK_MESSAGES)
    return found


def main(words: Sequence[str]) -> int:
    """Measure and print, or report; see the module's docstring."""
    if words[:1] == ["report"]:
        return report.main(words[1:])
    arguments = _arguments(words)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if not network.inside():
        return network.enclosed(words)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    enough = _FILES if hard == resource.RLIM_INFINITY else min(hard, _FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (enough, hard))
    return _measure(arguments)


def _measure(arguments: argparse.Namespace) -> int:
    where = network.here()
    if where.own:
        network.raise_loopback()
    plan = look_around(
        where,
        runs=arguments.runs,
        messages=arguments.messages,
        quick=arguments.quick,
        without="not wanted" if arguments.without_postfix else "",
    )
    result = Result(conditions(plan), left_out(plan), [])
    for name, value in result.conditions.items():
        print(f"{name.replace('_', ' ')}: {value}")
    for line in result.left_out:
        print(f"Left out: {line}")
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    path: Path = arguments.json or _RESULTS / f"{stamp}.json"
    path.parent.mkdir(parents=True, exist_ok=True)

    def keep(case: CaseResult) -> None:
        result.cases.append(case)
        octets = msgspec.json.format(msgspec.json.encode(result), indent=2)
        path.write_bytes(octets + b"\n")

    chosen = arguments.scenarios or list(SCENARIOS)
    good = run(
        [(name, SCENARIOS[name]) for name in chosen],
        plan,
        say=lambda line: print(line, flush=True),
        keep=keep,
    )
    print(f"\nFigures: {path}\nTables:  python -m benchmarks report {path}")
    return 0 if good else 1


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
