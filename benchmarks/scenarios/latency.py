"""How long a single message takes when nothing else is to be done: from the moment the submission
call returned to the moment the receiver had all of its octets (nothing, where it had them before).
The whole way, from the beginning of the call, is told too: it does not depend on how soon the
caller is given a processor again.

The agent is given it by the client over the Unix socket, Postfix over an SMTP session that is kept
open (the call is then the reply to the final dot). Two ways out: always the same smart host, whose
session may still be open; and another domain each time, with its MX lookup and a new connection.
"""

import smtplib
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from benchmarks import names, postfix
from benchmarks.agent import Bench
from benchmarks.equipment import Plan
from benchmarks.figures import Case, Figures, milliseconds
from benchmarks.letters import SENDER, content
from benchmarks.network import Network
from benchmarks.programs import Failure, place
from benchmarks.scenarios.drain import by_mx
from benchmarks.sink import Sink
from deliveryagent import Client

_SIZE = 2048
_PAUSE = 0.1
_WARM_UP = 3


def cases(plan: Plan) -> Iterator[Case]:
    """Two comparisons."""
    messages = plan.amount(300, 10)
    network = plan.network
    with place("bench-sink") as directory, Sink(directory, record=True) as sink:
        yield _case(plan, "same host", sink, messages, None)
    with (
        place("bench-sink") as directory,
        Sink(directory, address=network.everywhere, port=network.mail_port, record=True) as sink,
        names.serving(messages + _WARM_UP, network),
    ):
        yield _case(plan, "another domain each time", sink, messages, network)


def _case(plan: Plan, name: str, sink: Sink, messages: int, network: Network | None) -> Case:
    sides: dict[str, Callable[[], Figures]] = {"agent": lambda: _agent(sink, messages, network)}
    if plan.postfix:
        sides["Postfix"] = lambda: _postfix(sink, messages, network)
    return Case(
        name=name,
        sides=sides,
        conditions={
            "messages": messages,
            "octets": _SIZE,
            "pause": f"{_PAUSE} s between messages",
            "sink": f"{sink.name}, accepts all, notes the time",
            "durability": "SQLite WAL, synchronous=FULL; Postfix: fsync per message",
        },
        against=[("agent", "Postfix")],
    )


def _agent(sink: Sink, messages: int, network: Network | None) -> Figures:
    with place("bench-agent") as directory:
        settings = by_mx(network) if network else None
        bench = Bench(directory, sink, settings, relay=network is None)
        with bench.service(), Client(config=str(bench.config)) as client:

            def submit(recipient: str, text: bytes) -> None:
                client.enqueue(SENDER, recipient, text)

            return one_by_one(sink, messages, submit, domains=network is not None)


def _postfix(sink: Sink, messages: int, network: Network | None) -> Figures:
    with place("bench-transport") as directory:
        settings = postfix.by_mx(directory, messages + _WARM_UP, network) if network else {}
        with (
            postfix.instance(sink, settings, relay=network is None) as instance,
            smtplib.SMTP("127.0.0.1", instance.port) as session,
        ):

            def submit(recipient: str, text: bytes) -> None:
                session.sendmail(SENDER, [recipient], text)

            return one_by_one(sink, messages, submit, domains=network is not None)


def one_by_one(
    sink: Sink, messages: int, submit: Callable[[str, bytes], None], *, domains: bool
) -> Figures:
    """Submit with pauses, after a few that do not count; raises ``Failure`` unless each came once."""
    sink.reset()
    calls: dict[str, tuple[float, float]] = {}
    for number in range(messages + _WARM_UP):
        recipient = f"r{number}@d{number if domains else 0}.test"
        text = content(number, _SIZE)
        before = time.monotonic()
        submit(recipient, text)
        calls[recipient] = before, time.monotonic()
        if number < _WARM_UP:
            postfix.arrived(sink, number + 1)
        time.sleep(_PAUSE)
    postfix.arrived(sink, messages + _WARM_UP)
    return latencies(sink, calls, skip=_WARM_UP)


class Recording(Protocol):
    """A sink that knows who got mail, and when."""

    def records(self) -> list[tuple[float, str]]:
        """Moments and recipients."""


def latencies(sink: Recording, calls: dict[str, tuple[float, float]], *, skip: int = 0) -> Figures:
    """Percentiles of the way from submitted to accepted, for calls ``{recipient: (begin, end)}``."""
    wanted = [(moment, who) for moment, who in sink.records() if who in calls]
    arrivals = {who: moment for moment, who in wanted}
    if len(wanted) != len(calls) or len(arrivals) != len(calls):
        raise Failure(f"{len(wanted)} arrivals of {len(arrivals)} among {len(calls)} recipients")
    measured = list(calls.items())[skip:]
    ways = [max(0.0, arrivals[who] - end) for who, (_, end) in measured]
    durations = [end - begin for _, (begin, end) in measured]
    wholes = [arrivals[who] - begun for who, (begun, _) in measured]
    return {
        **milliseconds(ways),
        **{f"whole_{name}": value for name, value in milliseconds(wholes).items()},
        **{f"call_{name}": value for name, value in milliseconds(durations).items()},
    }
