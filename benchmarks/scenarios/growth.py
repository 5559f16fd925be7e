"""What a large queue costs: the rate it drains at, how soon the first message leaves, how long
people wait for an answer, and memory; with 10 thousand, 100 thousand and a million waiting.

Every recipient is a message of its own, over a hundred domains and one smart host. The queue is
filled by the client and then multiplied in its file (``multiply``). A run starts the agent on it,
stops its deliveries after the first, and asks the commands while the rest waits and the agent
idles. Then it starts the agent again and counts the rate from the thousandth message to the ten
thousandth (from the five thousandth to the fifty thousandth where there are more). Of the smallest
queue a fresh copy is taken for each run; the larger ones go on with what is left.
"""

import json
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import postfix
from benchmarks.agent import Bench, complaints
from benchmarks.equipment import Plan
from benchmarks.figures import Case, Figures
from benchmarks.meter import Meter
from benchmarks.multiply import multiply
from benchmarks.programs import Failure, place
from benchmarks.scenarios.drain import need
from benchmarks.sink import Sink

_SIZE = 2048
_DOMAINS = 100
_ON_DISK = 3500  # octets a message takes in the file, indexes and all


@dataclass(frozen=True)
class _Queue:
    """A filled queue, and how much of it a run drains."""

    name: str
    file: Path
    recipients: int
    drained: int
    fresh: bool
    questions: int


def cases(plan: Plan) -> Iterator[Case]:
    """One comparison of three queues, each with the smallest."""
    base = plan.amount(10_000, 500)
    sizes = {"10 k": (base, 1), "100 k": (base * 10, 10), "1 M": (base * 100, 100)}
    if plan.quick:
        sizes = {"500": (base, 1), "2 k": (base * 4, 4), "10 k": (base * 20, 20)}
    largest = max(amount for amount, _ in sizes.values())
    need(2 * largest * _ON_DISK)
    with place("bench-sink") as directory, Sink(directory) as sink, place("bench-queues") as room:
        queues: list[_Queue] = []
        for name, (amount, times) in sizes.items():
            file = room / f"{amount}.sqlite3"
            if times == 1:
                Bench(room / "base", sink, {"queue.url": f"sqlite:///{file}"}).fill(
                    base, _SIZE, domains=_DOMAINS
                )
            else:
                multiply(queues[0].file, file, times)
            drained = base if times == 1 else min(base * 5, amount // (plan.runs + 1))
            queues.append(
                _Queue(name, file, amount, drained, fresh=times == 1, questions=plan.amount(5, 1))
            )
        smallest = queues[0].name
        sides: dict[str, Callable[[], Figures]] = {
            queue.name: lambda queue=queue: _measured(sink, queue)  # type: ignore[misc]
            for queue in queues
        }
        yield Case(
            name="recipients queued",
            sides=sides,
            conditions={
                "octets": _SIZE,
                "domains": _DOMAINS,
                "drained in a run": ", ".join(f"{one.name}: {one.drained:,}" for one in queues),
                "sink": f"{sink.name}, accepts all, keeps nothing",
                "durability": "SQLite WAL, synchronous=FULL",
            },
            against=[(queue.name, smallest) for queue in queues[1:]],
        )


def _measured(sink: Sink, queue: _Queue) -> Figures:
    with place("bench-agent") as directory:
        asked = _bench(directory / "asked", sink, queue)
        found = _asked(asked, queue.questions)
        if queue.fresh:
            (directory / "asked" / "queue.sqlite3").unlink()
        drained = _bench(directory / "drained", sink, queue)
        return found | _drained(drained, queue.drained)


def _bench(directory: Path, sink: Sink, queue: _Queue) -> Bench:
    """An agent's place with that queue, or a copy of it."""
    file = directory / "queue.sqlite3" if queue.fresh else queue.file
    bench = Bench(directory, sink, {"queue.url": f"sqlite:///{file}"})
    if queue.fresh:
        shutil.copyfile(queue.file, file)
    return bench


def _asked(bench: Bench, questions: int) -> Figures:
    """Start, deliver no more as soon as a first message was delivered, and ask questions."""
    bench.sink.reset()
    started = time.monotonic()
    with bench.service():
        postfix.arrived(bench.sink, 1)
        bench.run("drain", "--wait")
        found = {"startup": bench.sink.first - started, **answers(bench, questions)}
    _once(bench, 1)
    return found


def _drained(bench: Bench, messages: int) -> Figures:
    """Start, and look at the clock until so many messages are delivered."""
    bench.sink.reset()
    with bench.service() as process, Meter(process.pid) as meter:
        postfix.arrived(bench.sink, messages)
        cpu, delivered = meter.spent(), bench.sink.count
    _once(bench, messages)
    workers = meter.tree.of_others()
    return {
        **_pace(bench.sink, messages),
        "cpu": cpu / delivered * 1e6,
        "manager_peak": meter.tree.of_root().peak,
        "worker_peak": max((worker.peak for worker in workers), default=0.0),
    }


def _once(bench: Bench, at_least: int) -> None:
    """Raise ``Failure`` unless what was delivered was delivered once, and was no less than this."""
    wrong = complaints([bench], bench.sink.count)
    if wrong or bench.sink.count < at_least:
        raise Failure("; ".join(wrong) or f"{bench.sink.count} messages arrived")


def _pace(sink: Sink, messages: int) -> Figures:
    """The rate once it has got going."""
    first = messages // 10
    return {"rate": (messages - first) / (sink.when(messages) - sink.when(first))}


def answers(bench: Bench, questions: int) -> Figures:
    """Seconds until people see the answers, the median of so many calls; none when none waits."""
    lines = bench.run("--json", "queue", "list", "--limit", "1").splitlines()
    if not lines:
        return {}
    waiting = json.loads(lines[0])
    address = waiting["recipients"][0]["address"]
    return {
        "list": _seconds(bench.command("queue", "list"), questions, to_the_end=False),
        "status": _seconds(bench.command("status"), questions),
        "why_id": _seconds(bench.command("why", waiting["id"]), questions),
        "why_address": _seconds(bench.command("why", address), questions),
    }


def _seconds(command: Sequence[str], calls: int, *, to_the_end: bool = True) -> float:
    """From starting a command to its end, or to its first line."""
    found = []
    for _ in range(calls):
        started = time.monotonic()
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as process:
            assert process.stdout is not None
            first = process.stdout.readline()
            seconds = time.monotonic() - started
            process.stdout.read()
        if process.returncode or not first:
            raise Failure(f"{' '.join(command)}: exit status {process.returncode}")
        found.append(time.monotonic() - started if to_the_end else seconds)
    return statistics.median(found)
