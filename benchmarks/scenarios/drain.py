"""Draining a filled queue: three sizes, one domain by a smart host, and a hundred by MX records.

The ceiling is smtp-source straight into the same sink: no queue, nothing durable, the same number
of messages, twenty sessions that are kept open.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks import agent, names, postfix
from benchmarks.agent import Bench
from benchmarks.equipment import Plan
from benchmarks.figures import Case, Figures
from benchmarks.letters import letters
from benchmarks.network import Network, names_address
from benchmarks.programs import Failure, place
from benchmarks.sink import Sink
from benchmarks.source import load, send

_SIZES = {"2 KiB": 2048, "20 KiB": 20480, "100 KiB": 102400}
_DOMAINS = 100


def cases(plan: Plan) -> Iterator[Case]:
    """Six comparisons; four small ones to try it."""
    for title, size in _SIZES.items():
        messages = plan.messages
        if plan.quick and size == _SIZES["20 KiB"]:
            continue
        if plan.quick and size == _SIZES["100 KiB"]:
            messages //= 4
        yield from _one_domain(plan, title, size, messages)
        yield from _many_domains(plan, title, size, messages)


def _one_domain(plan: Plan, title: str, size: int, messages: int) -> Iterator[Case]:
    with place("bench-sink") as directory, Sink(directory) as sink:
        sides: dict[str, Callable[[], Figures]] = {
            "agent": lambda: drained(sink, messages, size),
            **(
                {"Postfix": lambda: drained_by_postfix(sink, messages, size)}
                if plan.postfix
                else {}
            ),
            "no queue": lambda: ceiling(sink, messages, size),
        }
        yield Case(
            name=f"{title}, 1 domain",
            sides=sides,
            conditions=_conditions(sink, messages, size) | {"domains": 1, "way": "smart host"},
            against=[("agent", "Postfix"), ("agent", "no queue")],
        )


def _many_domains(plan: Plan, title: str, size: int, messages: int) -> Iterator[Case]:
    network = plan.network
    with (
        place("bench-sink") as directory,
        Sink(directory, address=network.everywhere, port=network.mail_port) as sink,
        names.serving(_DOMAINS, network),
    ):
        sides = {"agent": lambda: drained(sink, messages, size, network=network)}
        if plan.postfix:
            sides["Postfix"] = lambda: drained_by_postfix(sink, messages, size, network=network)
        way = "MX records" if network.own else "MX records; Postfix: table"
        yield Case(
            name=f"{title}, {_DOMAINS} domains",
            sides=sides,
            conditions=_conditions(sink, messages, size) | {"domains": _DOMAINS, "way": way},
            against=[("agent", "Postfix")],
        )


def _conditions(sink: Sink, messages: int, size: int) -> dict[str, str | int | float]:
    return {
        "messages": messages,
        "octets": size,
        "sink": f"{sink.name}, accepts all, keeps nothing",
        "durability": "SQLite WAL, synchronous=FULL; Postfix: fsync per message",
    }


def by_mx(network: Network) -> dict[str, object]:
    """The agent's settings for delivery by MX records of this network."""
    address = names_address(network)
    return {
        "delivery.loopback_mx": True,
        "smtp.port": network.mail_port,
        **({"dns.nameservers": [address]} if address else {}),
    }


def drained(sink: Sink, messages: int, size: int, *, network: Network | None = None) -> Figures:
    """Fill and drain an SQLite queue; by MX records when there is a ``network``."""
    need(messages * size * 3)
    with place("bench-agent") as directory:
        settings = by_mx(network) if network else None
        idle = Bench(directory / "idle", sink, settings, relay=network is None)
        cost = agent.start_cost(idle)
        bench = Bench(directory / "full", sink, settings, relay=network is None)
        rate = bench.fill(messages, size, domains=_DOMAINS if network else 1)
        return {**agent.drain(bench, messages, startup_cpu=cost), "fill_rate": rate}


def drained_by_postfix(
    sink: Sink, messages: int, size: int, *, network: Network | None = None
) -> Figures:
    """The same with Postfix."""
    need(messages * size * 3)
    with place("bench-transport") as directory:
        settings = postfix.by_mx(directory, _DOMAINS, network) if network else {}
        relay = network is None
        with postfix.instance(sink, settings, hold=True, relay=relay) as instance:
            domains = _DOMAINS if network else 1
            rate = postfix.filled(instance, messages, size, domains=domains)
            return {**postfix.drain(instance, sink, messages), "fill_rate": rate}


def ceiling(sink: Sink, messages: int, size: int) -> Figures:
    """No queue at all, straight into the sink."""
    sink.reset()
    if load(sink.port, messages=messages, size=size) is None:
        send(sink.port, letters(messages, size))
    postfix.arrived(sink, messages)
    return {"rate": messages / (sink.last - sink.first)}


def need(octets: int) -> None:
    """Raise ``Failure`` when there is not so much room for temporary files."""
    free = shutil.disk_usage(Path(tempfile.gettempdir())).free
    if free < octets:
        raise Failure(f"{octets / 1e9:.1f} GB of temporary files needed, {free / 1e9:.1f} GB free")
