"""``python -m benchmarks``: measure, compare, print, and keep the figures as JSON.

The agent and Postfix are measured in turn, ``--runs`` times, and the medians compared. Exits with 1
when a message was lost or delivered twice, or memory went beyond its budget; never because a figure
is slow.
"""

import argparse
import json
import os
import platform
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import agent, postfix
from benchmarks.sink import Sink, load
from deliveryagent import __version__
from deliveryagent.lab.postfix import unavailable

MEMORY_BUDGET_MIB = 150.0
RESULTS = Path(__file__).parent / "results"

Figures = dict[str, float]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--messages", type=int, default=10_000, help="messages per run")
    parser.add_argument("--size", type=int, default=2048, help="octets per message")
    parser.add_argument("--runs", type=int, default=3, help="runs of which the median counts")
    parser.add_argument("--large", type=int, default=100_000, help="queue for memory; 0 = skip")
    parser.add_argument("--no-postfix", action="store_true", help="measure only the agent")
    return parser.parse_args()


def _conditions(arguments: argparse.Namespace, sink: Sink) -> dict[str, Any]:
    version = subprocess.run(
        ["postconf", "-h", "mail_version"], capture_output=True, text=True, check=False
    ).stdout if not unavailable() else ""  # fmt: skip
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "deliveryagent": __version__,
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "postfix": version.strip() or f"not measured: {unavailable()}",
        "kernel": platform.release(),
        "cpu": f"{os.cpu_count()} x {cpu}",
        "load": os.getloadavg()[0],
        "fdatasync_per_second": _fdatasyncs(),
        "sink": sink.name,
        "messages": arguments.messages,
        "size": arguments.size,
        "runs": arguments.runs,
    }


def _fdatasyncs() -> float:
    """How many small appends the disk makes durable in a second: the floor of every queue."""
    with tempfile.TemporaryFile() as file:
        started = time.monotonic()
        for _ in range(300):
            os.write(file.fileno(), b"x" * 2048)
            os.fdatasync(file.fileno())
        return 300 / (time.monotonic() - started)


def _measure(arguments: argparse.Namespace, sink: Sink) -> tuple[list[Figures], list[Figures]]:
    """The runs of the agent and of Postfix, taken in turn."""
    ours: list[Figures] = []
    theirs: list[Figures] = []
    what = {"messages": arguments.messages, "size": arguments.size, "sink": sink}
    for number in range(1, arguments.runs + 1):
        figures = agent.drain(**what) | agent.take_and_deliver(**what)
        ours.append(figures)
        _show(f"run {number}, agent", figures)
        if not arguments.no_postfix and not unavailable():
            theirs.append(postfix.measure(**what))
            _show(f"run {number}, Postfix", theirs[-1])
    return ours, theirs


def _show(title: str, figures: Figures) -> None:
    shown = ", ".join(f"{name} {value:,.4g}" for name, value in figures.items())
    print(f"  {title}: {shown}", flush=True)


def _medians(runs: list[Figures]) -> Figures:
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]} if runs else {}


def _ratios(ours: Figures, theirs: Figures) -> Figures:
    return {name: ours[name] / theirs[name] for name in ("drain_rate", "take_rate") if theirs}


def _table(result: dict[str, Any]) -> list[str]:
    """The comparison, for people."""
    ours, theirs, ratios = result["agent"], result["postfix"], result["ratios"]
    lines = [f"{'':24}{'agent':>12}{'Postfix':>12}{'ratio':>8}"]
    for name, title in (("drain_rate", "drain, messages/s"), ("take_rate", "take+deliver, msg/s")):
        theirs_text = f"{theirs[name]:,.0f}" if theirs else "-"
        ratio = f"{ratios[name]:.1f}x" if theirs else "-"
        lines.append(f"{title:24}{ours[name]:12,.0f}{theirs_text:>12}{ratio:>8}")
    messages = result["conditions"]["messages"]
    ours_cpu = f"{ours['drain_cpu'] / messages * 1e6:,.0f}"
    theirs_cpu = f"{theirs['drain_cpu'] / messages * 1e6:,.0f}" if theirs else "-"
    lines.append(f"{'drain, CPU µs/message':24}{ours_cpu:>12}{theirs_cpu:>12}")
    lines.append(
        f"manager {ours['manager_cpu']:.2f} CPU s, {ours['manager_peak_mib']:.0f} MiB; "
        f"workers {ours['worker_cpu']:.2f} CPU s, largest {ours['worker_peak_mib']:.0f} MiB; "
        f"first message {ours['startup']:.2f} s after the start; "
        f"filled at {ours['fill_rate']:,.0f} messages/s"
    )
    return lines


def _keep(result: dict[str, Any]) -> Path:
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / (time.strftime("%Y%m%d-%H%M%S", time.gmtime()) + ".json")
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return path


def main() -> int:
    """Measure and print; see the module's docstring."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory(prefix="bench-sink-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        with Sink(directory) as sink:
            conditions = _conditions(arguments, sink)  # before the load is our own
            ceiling = load(sink.port, messages=2 * arguments.messages, size=arguments.size)
            shown = "unknown (no smtp-source)" if ceiling is None else f"{ceiling:,.0f} messages/s"
            print(f"Sink: {sink.name}, its ceiling with smtp-source and 20 sessions: {shown}")
            ours, theirs = _measure(arguments, sink)
            result: dict[str, Any] = {
                "conditions": conditions,
                "ceiling": ceiling,
                "agent": _medians(ours),
                "postfix": _medians(theirs),
                "ratios": _ratios(_medians(ours), _medians(theirs)),
                "large": {},
                "each": {"agent": ours, "postfix": theirs},
            }
            if arguments.large:
                large = agent.drain(messages=arguments.large, size=arguments.size, sink=sink)
                result["large"] = {"messages": arguments.large, **large}
                _show(f"{arguments.large:,} queued", large)
    print("\n".join(["", *_table(result)]))
    print(f"Figures: {_keep(result)}")
    return _verdict(result["large"])


def _verdict(large: Figures) -> int:
    peak = max(large.get("manager_peak_mib", 0.0), large.get("worker_peak_mib", 0.0))
    if peak < MEMORY_BUDGET_MIB:
        return 0
    print(f"Memory: {peak:.0f} MiB, budget {MEMORY_BUDGET_MIB:.0f} MiB")
    return 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except RuntimeError as error:
        sys.exit(f"benchmark failed: {error}")
