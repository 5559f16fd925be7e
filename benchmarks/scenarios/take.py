"""Taking and delivering at once, under load: from the first octet handed over to the last message
at the sink.

The agent takes mail through its Unix socket from the bulk client, and over SMTP; Postfix takes it
over SMTP, and from its own ``sendmail``, as many processes at a time as there are cores, twice
over. What comes over SMTP comes from smtp-source on both sides, in twenty sessions kept open. Every
message is durable before it is answered for.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks import postfix
from benchmarks.agent import Bench
from benchmarks.equipment import Plan
from benchmarks.figures import Case, Figures
from benchmarks.letters import SENDER, content, letters
from benchmarks.meter import Meter
from benchmarks.postfix import Postfix, arrived
from benchmarks.programs import Failure, free_port, place
from benchmarks.sink import Sink
from benchmarks.source import SESSIONS, load, send

_SIZE = 2048


def cases(plan: Plan) -> Iterator[Case]:
    """One comparison; Postfix has two ways in."""
    messages = plan.messages
    few = plan.amount(3000, 200)
    with place("bench-sink") as directory, Sink(directory) as sink:
        sides: dict[str, Callable[[], Figures]] = {"agent": lambda: _agent(sink, messages)}
        sides["agent, SMTP"] = lambda: _agent_smtp(sink, messages)
        if plan.postfix:
            sides["Postfix, SMTP"] = lambda: _smtp(sink, messages)
            sides["Postfix, sendmail"] = lambda: _sendmail(sink, few)
        yield Case(
            name="2 KiB, 1 domain",
            sides=sides,
            conditions={
                "messages": messages,
                "messages by sendmail": few,
                "octets": _SIZE,
                "sink": f"{sink.name}, accepts all, keeps nothing",
                "durability": "SQLite WAL, synchronous=FULL; Postfix: fsync per message",
                "client": "enqueue_many over the Unix socket; not counted in CPU on either side",
            },
            against=[
                ("agent", "Postfix, SMTP"),
                ("agent, SMTP", "Postfix, SMTP"),
                ("agent", "Postfix, sendmail"),
            ],
        )


def _agent(sink: Sink, messages: int) -> Figures:
    with place("bench-agent") as directory:
        bench = Bench(directory, sink)
        with bench.service() as process:
            warm_up(bench)
            sink.reset()
            with Meter(process.pid) as meter:
                started = time.monotonic()
                taken = bench.fill(messages, _SIZE)
                arrived(sink, messages)
                cpu = meter.spent()
            found = _figures(messages, sink.last - started, cpu, meter)
            sink.count += 1  # the one that warmed it up
        wrong = bench.complaints(messages + 1)
        if wrong:
            raise Failure("; ".join(wrong))
        return {**found, "fill_rate": taken}


def warm_up(bench: Bench) -> None:
    """Have one message delivered, so that every process of the agent is there."""
    bench.sink.reset()
    bench.hand_over(letters(1, _SIZE, first=10_000_000), 1)
    arrived(bench.sink, 1)


def _agent_smtp(sink: Sink, messages: int) -> Figures:
    with place("bench-agent") as directory:
        bench = Bench(directory, sink, port=free_port())
        with bench.service() as process:
            warm_up(bench)
            sink.reset()
            with Meter(process.pid) as meter:
                before = _of_listener(meter)
                started = time.monotonic()
                _by_smtp(bench.port, messages)
                taken = time.monotonic() - started
                arrived(sink, messages)
                cpu = meter.spent()
                listener = _of_listener(meter) - before
            found = _figures(messages, sink.last - started, cpu, meter)
            sink.count += 1  # the one that warmed it up
        wrong = bench.complaints(messages + 1)
        if wrong:
            raise Failure("; ".join(wrong))
        return {
            **found,
            "fill_rate": messages / taken,
            "cpu_listener": listener / messages * 1e6,
        }


def _of_listener(meter: Meter) -> float:
    return sum(usage.cpu for usage in meter.tree.of_others("deliveryagent.intake.listener"))


def _by_smtp(port: int, messages: int) -> None:
    if load(port, messages=messages, size=_SIZE) is None:
        send(port, letters(messages, _SIZE), sessions=SESSIONS)


def _smtp(sink: Sink, messages: int) -> Figures:
    with postfix.instance(sink) as instance:
        return _measured(instance, sink, messages, lambda: _by_smtp(instance.port, messages))


def _sendmail(sink: Sink, messages: int) -> Figures:
    with place("bench-letter") as directory, postfix.instance(sink) as instance:
        letter = directory / "letter"
        letter.write_bytes(content(0, _SIZE).replace(b"\r\n", b"\n"))
        at_a_time = 2 * (os.cpu_count() or 1)

        def hand_over() -> None:
            with ThreadPoolExecutor(at_a_time) as threads:
                list(threads.map(lambda n: sendmail(instance, letter, n), range(messages)))

        return _measured(instance, sink, messages, hand_over)


def sendmail(instance: Postfix, letter: Path, number: int) -> None:
    """Hand one message to Postfix's own command; raises ``Failure`` when it does not take it."""
    program = shutil.which("sendmail") or "sendmail"
    command = [program, "-C", f"{instance.directory}/etc", "-i", "-f", SENDER]
    with letter.open("rb") as text:
        done = subprocess.run([*command, f"r{number}@d0.test"], stdin=text, check=False, timeout=60)
    if done.returncode:
        raise Failure(f"sendmail: exit status {done.returncode}")


def _measured(
    instance: Postfix, sink: Sink, messages: int, hand_over: Callable[[], None]
) -> Figures:
    sink.reset()
    with Meter(instance.pid) as meter:
        started = time.monotonic()
        hand_over()
        taken = time.monotonic() - started
        arrived(sink, messages)
        cpu = meter.spent()
    if sink.count != messages:
        raise Failure(f"{sink.count} messages arrived, {messages} were sent")
    return {**_figures(messages, sink.last - started, cpu, meter), "fill_rate": messages / taken}


def _figures(messages: int, seconds: float, cpu: float, meter: Meter) -> Figures:
    return {
        "rate": messages / seconds,
        "per_cpu": messages / cpu,
        "cpu": cpu / messages * 1e6,
        "memory": meter.tree.memory,
    }
