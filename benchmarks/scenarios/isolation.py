"""Whether bad neighbours are felt: the way of ordinary mail while 200,000 recipients of domains that
do not work wait in the same queue.

The neighbours: one domain whose host refuses connections and one whose host does not answer at all
(50,000 recipients each), and one whose host takes ten seconds for every reply (100,000). Ordinary
mail goes to ten domains at a steady pace, each message by itself; its latency counts from the
submission call's return to the receiver having it. Calm and besieged runs take turns. Postfix meets
the same neighbours, with more patience than it ships with: its limits for the active queue are as
large as its tuning guide allows.
"""

import contextlib
import smtplib
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import postfix
from benchmarks.agent import Bench
from benchmarks.equipment import Plan
from benchmarks.figures import Case, Figures
from benchmarks.letters import SENDER, Letter, content
from benchmarks.programs import Failure, free_port, place, running, wait_for_port
from benchmarks.scenarios.latency import latencies
from benchmarks.sink import Sink
from benchmarks.source import send
from deliveryagent import Client

_SIZE = 2048
_DOMAINS = 10
_PACE = 50.0
_TOGETHER = 1000
_FOOT_DRAGGING = 10.0
_SETTLING = 2.0


@dataclass(frozen=True)
class _Neighbours:
    """Where the bad ones are, and how many recipients each has."""

    recipients: dict[str, int]
    routes: Sequence[tuple[str, str]]


def cases(plan: Plan) -> Iterator[Case]:
    """One comparison: besieged with calm."""
    seconds = plan.amount(30, 2)
    half = plan.amount(50_000, 2000)
    amounts = {"refused.test": half, "silent.test": half, "slow.test": 2 * half}
    with (
        place("bench-sink") as directory,
        Sink(directory, record=True) as sink,
        _bad_hosts() as ports,
    ):
        good = [(f"d{number}.test", f"[127.0.0.1]:{sink.port}") for number in range(_DOMAINS)]
        bad = [(name, f"[127.0.0.1]:{ports[name]}") for name in amounts]
        none = _Neighbours({}, [*good, *bad])
        all_of_them = _Neighbours(amounts, [*good, *bad])
        sides: dict[str, Callable[[], Figures]] = {
            "agent, calm": lambda: _agent(sink, none, seconds),
            "agent, besieged": lambda: _agent(sink, all_of_them, seconds),
        }
        against = [("agent, besieged", "agent, calm")]
        if plan.postfix:
            sides["Postfix, calm"] = lambda: _postfix(sink, none, seconds)
            sides["Postfix, besieged"] = lambda: _postfix(sink, all_of_them, seconds)
            against.append(("Postfix, besieged", "Postfix, calm"))
        yield Case(
            name="ordinary mail among bad neighbours",
            sides=sides,
            conditions={
                "octets": _SIZE,
                "ordinary mail": f"{_PACE:g}/s for {seconds} s to {_DOMAINS} domains",
                **{name: f"{amount:,} recipients" for name, amount in amounts.items()},
                "sink": f"{sink.name}, accepts all, notes the time",
                "durability": "SQLite WAL, synchronous=FULL; Postfix: fsync per message",
            },
            against=against,
        )


@contextlib.contextmanager
def _bad_hosts() -> Iterator[dict[str, int]]:
    """A port that refuses, one that does not answer, and one where everything takes its time."""
    slow = free_port()
    command = [sys.executable, "-m", "benchmarks.receiver", "--listen", f"127.0.0.1:{slow}"]
    command += ["--delay", str(_FOOT_DRAGGING)]
    with (
        place("bench-slow") as directory,
        (directory / "count").open("wb") as count,
        running(command, stdout=count),
        deaf() as silent,
    ):
        wait_for_port(slow)
        yield {"refused.test": free_port(), "silent.test": silent, "slow.test": slow}


@contextlib.contextmanager
def deaf() -> Iterator[int]:
    """A port where connecting gets no answer: its queue of connections is full and stays so."""
    with contextlib.ExitStack() as open_ones:
        door = open_ones.enter_context(socket.socket())
        door.bind(("127.0.0.1", 0))
        door.listen(0)
        port: int = door.getsockname()[1]
        for _ in range(3):
            guest = open_ones.enter_context(socket.socket())
            guest.setblocking(False)
            guest.connect_ex(("127.0.0.1", port))
        yield port


def _siege(neighbours: _Neighbours) -> Iterator[Letter]:
    for name, amount in neighbours.recipients.items():
        for first in range(0, amount, _TOGETHER):
            several = range(first, min(amount, first + _TOGETHER))
            yield SENDER, [f"r{number}@{name}" for number in several], content(first, _SIZE)


def _agent(sink: Sink, neighbours: _Neighbours, seconds: int) -> Figures:
    with place("bench-agent") as directory:
        bench = Bench(directory, sink, relay=False, routes=neighbours.routes)
        mail = list(_siege(neighbours))
        if mail:
            bench.hand_over(mail, len(mail))
        with bench.service(), Client(config=str(bench.config)) as client:
            time.sleep(_SETTLING)

            def submit(recipient: str, text: bytes) -> None:
                client.enqueue(SENDER, recipient, text)

            return _steadily(sink, submit, seconds)


def _postfix(sink: Sink, neighbours: _Neighbours, seconds: int) -> Figures:
    with place("bench-transport") as directory:
        settings = {"transport_maps": _table(directory, neighbours), "smtpd_error_sleep_time": "0"}
        settings |= {
            "smtpd_recipient_limit": str(_TOGETHER),
            "qmgr_message_recipient_limit": "200000",
        }
        with postfix.instance(sink, settings, relay=False) as instance:
            mail = list(_siege(neighbours))
            if mail:
                send(instance.port, mail, sessions=4)
            time.sleep(_SETTLING)
            with smtplib.SMTP("127.0.0.1", instance.port) as session:

                def submit(recipient: str, text: bytes) -> None:
                    session.sendmail(SENDER, [recipient], text)

                return _steadily(sink, submit, seconds)


def _table(directory: Path, neighbours: _Neighbours) -> str:
    table = directory / "transport"
    lines = [f"{domain} smtp:{hop}\n" for domain, hop in neighbours.routes]
    table.write_text("".join(lines), encoding="ascii")
    return f"texthash:{table}"


def _steadily(sink: Sink, submit: Callable[[str, bytes], None], seconds: int) -> Figures:
    """Submit at an even pace, after one message to each domain that does not count; raises
    ``Failure`` unless every message arrives once.
    """
    sink.reset()
    for number in range(_DOMAINS):
        submit(f"first@d{number}.test", content(number, _SIZE))
    postfix.arrived(sink, _DOMAINS)
    messages = int(seconds * _PACE)
    sink.reset()
    calls: dict[str, tuple[float, float]] = {}
    started = time.monotonic()
    for number in range(messages):
        time.sleep(max(0.0, started + number / _PACE - time.monotonic()))
        recipient = f"r{number}@d{number % _DOMAINS}.test"
        before = time.monotonic()
        submit(recipient, content(number, _SIZE))
        calls[recipient] = before, time.monotonic()
    behind = time.monotonic() - started - seconds
    if behind > seconds:
        raise Failure(f"submitting took {behind:.0f} s too long")
    postfix.arrived(sink, messages)
    return latencies(sink, calls)
