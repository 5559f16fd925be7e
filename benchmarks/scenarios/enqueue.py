"""How fast mail is taken, apart from delivering it: commands one after another and side by side,
the client with single messages and in bulk.

The agent runs, with the destination paused; Postfix runs, with everything put on hold. Each of its
ways in is measured beside the one of ours that people would use in its place: ``dagent send``
and ``deliveryagent-sendmail`` beside ``sendmail``, the client's single call beside one SMTP session,
its bulk call beside twenty.
"""

import json
import os
import resource
import smtplib
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks import postfix
from benchmarks.agent import Bench
from benchmarks.equipment import Plan
from benchmarks.figures import Case, Figures, milliseconds
from benchmarks.letters import SENDER, content, letters
from benchmarks.postfix import Postfix
from benchmarks.programs import Failure, place
from benchmarks.scenarios.take import sendmail
from benchmarks.sink import Sink
from benchmarks.source import SESSIONS, send
from deliveryagent import Client

_SIZE = 2048
_SENDMAIL = "agent, sendmail"

Submit = Callable[[int], None]


def cases(plan: Plan) -> Iterator[Case]:
    """Four comparisons."""
    cores = os.cpu_count() or 1
    with place("bench-sink") as directory, Sink(directory) as sink:
        for name, at_a_time in (("one command after another", 1), ("commands at once", 2 * cores)):
            calls = plan.amount(100 * at_a_time, 6)
            yield _commands(plan, sink, name, at_a_time, calls)
        yield _client(plan, sink, "client, one call a message", plan.amount(3000, 100), bulk=False)
        yield _client(plan, sink, "client, bulk", plan.messages, bulk=True)


def _case(name: str, sides: dict[str, Callable[[], Figures]], **conditions: str | int) -> Case:
    return Case(
        name=name,
        sides=sides,
        conditions={
            **conditions,
            "octets": _SIZE,
            "sink": "none: the destination is paused, Postfix holds",
            "durability": "SQLite WAL, synchronous=FULL; Postfix: fsync per message",
        },
        against=[(side, "Postfix") for side in sides if side != "Postfix" and "Postfix" in sides],
    )


def _commands(plan: Plan, sink: Sink, name: str, at_a_time: int, calls: int) -> Case:
    def ours(sendmail: bool) -> Figures:
        with place("bench-agent") as directory:
            bench, letter = Bench(directory, sink), _letter(directory)
            with bench.service():
                bench.run("dest", "pause", "d0.test")
                command = bench.sendmail("-i") if sendmail else bench.command("send")

                def submit(number: int) -> None:
                    words = [*command, "-f", SENDER, f"r{number}@d0.test"]
                    with letter.open("rb") as text:
                        subprocess.run(
                            words,
                            stdin=text,
                            check=True,
                            stdout=subprocess.DEVNULL,
                            env=bench.environment,
                        )

                return _called(submit, calls, at_a_time, lambda: _queued(bench))

    def theirs() -> Figures:
        with (
            place("bench-letter") as directory,
            postfix.instance(sink, hold=True) as instance,
        ):
            letter = _letter(directory)
            # Its command does not pass smtpd, whose restrictions hold; so hold back delivery.
            _defer(instance)
            return _called(
                lambda number: sendmail(instance, letter, number),
                calls,
                at_a_time,
                lambda: _settled(instance, calls),
            )

    sides: dict[str, Callable[[], Figures]] = {
        "agent": lambda: ours(sendmail=False),
        _SENDMAIL: lambda: ours(sendmail=True),
    }
    if plan.postfix:
        sides["Postfix"] = theirs
    return _case(name, sides, calls=calls, at_a_time=at_a_time, peer="sendmail")


def _client(plan: Plan, sink: Sink, name: str, messages: int, *, bulk: bool) -> Case:
    def ours() -> Figures:
        with place("bench-agent") as directory:
            bench = Bench(directory, sink)
            with bench.service():
                bench.run("dest", "pause", "d0.test")
                if bulk:
                    rate = bench.fill(messages, _SIZE)
                    _right(_queued(bench), messages)
                    return {"rate": rate}
                with Client(config=str(bench.config)) as client:

                    def submit(number: int) -> None:
                        client.enqueue(SENDER, f"r{number}@d0.test", content(number, _SIZE))

                    return _called(submit, messages, 1, lambda: _queued(bench))

    def theirs() -> Figures:
        with postfix.instance(sink, hold=True) as instance:
            if bulk:
                taken = send(instance.port, letters(messages, _SIZE), sessions=SESSIONS)
                _right(instance.queued(), messages)
                return {"rate": messages / taken}
            with smtplib.SMTP("127.0.0.1", instance.port) as session:

                def submit(number: int) -> None:
                    session.sendmail(SENDER, f"r{number}@d0.test", content(number, _SIZE))

                return _called(submit, messages, 1, instance.queued)

    sides = {"agent": ours, **({"Postfix": theirs} if plan.postfix else {})}
    peer = f"SMTP, {SESSIONS if bulk else 1} sessions"
    return _case(name, sides, messages=messages, peer=peer)


def _called(submit: Submit, calls: int, at_a_time: int, queued: Callable[[], int]) -> Figures:
    """Call so often, after one call that does not count; raises ``Failure`` unless all is queued."""
    submit(calls)

    def timed(number: int) -> float:
        begun = time.monotonic()
        submit(number)
        return time.monotonic() - begun

    before = _spent_by_children()
    started = time.monotonic()
    with ThreadPoolExecutor(at_a_time) as threads:
        durations = list(threads.map(timed, range(calls)))
    seconds = time.monotonic() - started
    cpu = _spent_by_children() - before
    _right(queued(), calls + 1)
    found = {"rate": calls / seconds, **milliseconds(durations)}
    return found | ({"cpu_call": cpu / calls * 1000} if cpu else {})


def _spent_by_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _letter(directory: Path) -> Path:
    letter = directory / "letter"
    letter.write_bytes(content(0, _SIZE).replace(b"\r\n", b"\n"))
    return letter


def _defer(instance: Postfix) -> None:
    """From now on the queue manager starts no delivery."""
    instance.run("postconf", "-e", "defer_transports = smtp relay")
    instance.run("postfix", "reload")


def _settled(instance: Postfix, calls: int) -> int:
    """How many messages are queued, once what ``sendmail`` dropped has been picked up."""
    until = time.monotonic() + 30
    while instance.queued() != calls + 1 and time.monotonic() < until:
        time.sleep(0.1)
    return instance.queued()


def _queued(bench: Bench) -> int:
    """How many messages the agent has waiting."""
    lines = bench.run("--json", "queue", "list").splitlines()
    return len({json.loads(line)["id"] for line in lines})


def _right(found: int, wanted: int) -> None:
    if found != wanted:
        raise Failure(f"{found} messages are queued, {wanted} were taken")
