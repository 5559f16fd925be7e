"""Draining a queue in PostgreSQL with one, two and four agents, a hundred domains by MX records.

The server is a run's own (``postgres.SETTINGS``), its processor time is counted with the agents'.
The queue is filled once and copied by the server for each run. Postfix drains the same mail from
its own queue, as in the scenario ``drain``.
"""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from benchmarks import names, postfix, postgres
from benchmarks.agent import Bench, complaints, start_cost
from benchmarks.equipment import Plan
from benchmarks.figures import Case, Figures
from benchmarks.meter import Meter
from benchmarks.network import Network
from benchmarks.postgres import Server
from benchmarks.programs import Failure, end, place
from benchmarks.scenarios.drain import by_mx, drained_by_postfix
from benchmarks.sink import Sink

_SIZE = 2048
_DOMAINS = 100
_AGENTS = {"1 agent": 1, "2 agents": 2, "4 agents": 4}
_EMPTY, _FILLED = "empty", "filled"


def cases(plan: Plan) -> Iterator[Case]:
    """One comparison; none without a PostgreSQL."""
    if plan.without_postgres:
        return
    network = plan.network
    agents = {name: number for name, number in _AGENTS.items() if number <= plan.amount(4, 2)}
    with (
        postgres.server() as server,
        place("bench-sink") as directory,
        Sink(directory, address=network.everywhere, port=network.mail_port) as sink,
        names.serving(_DOMAINS, network),
    ):
        _bench(directory / "empty", sink, network, server.fresh(_EMPTY)).run("db", "migrate")
        bench = _bench(directory / "filled", sink, network, server.fresh(_FILLED, _EMPTY))
        fill_rate = bench.fill(plan.messages, _SIZE, domains=_DOMAINS)
        server.order("CHECKPOINT")
        sides: dict[str, Callable[[], Figures]] = {
            name: lambda number=number: (  # type: ignore[misc]
                _drained(server, sink, network, plan.messages, number) | {"fill_rate": fill_rate}
            )
            for name, number in agents.items()
        }
        against = [(name, "1 agent") for name in agents if name != "1 agent"]
        if plan.postfix:
            sides["Postfix"] = lambda: drained_by_postfix(
                sink, plan.messages, _SIZE, network=network
            )
            against = [(name, "Postfix") for name in agents] + against
        yield Case(
            name=f"2 KiB, {_DOMAINS} domains",
            sides=sides,
            conditions={
                "messages": plan.messages,
                "octets": _SIZE,
                "domains": _DOMAINS,
                "sink": f"{sink.name}, accepts all, keeps nothing",
                "durability": "synchronous_commit=on, fsync=on; Postfix: fsync per message",
                "server": ", ".join(f"{key}={value}" for key, value in postgres.SETTINGS.items()),
            },
            against=against,
        )


def _bench(directory: Path, sink: Sink, network: Network, url: str) -> Bench:
    return Bench(directory, sink, by_mx(network) | {"queue.url": url}, relay=False)


def _drained(server: Server, sink: Sink, network: Network, messages: int, agents: int) -> Figures:
    with place("bench-agent") as directory, ExitStack() as running:
        idle = _bench(directory / "idle", sink, network, server.fresh("queue", _EMPTY))
        startup_cpu = agents * start_cost(idle)
        url = server.fresh("queue", _FILLED)
        server.order("CHECKPOINT")
        benches = [_bench(directory / str(n), sink, network, url) for n in range(agents)]
        sink.reset()
        database = running.enter_context(Meter(server.pid))
        started = time.monotonic()
        processes = [bench.serve() for bench in benches]
        for process in processes:
            running.callback(end, process)
        meter = running.enter_context(Meter(*(process.pid for process in processes)))
        postfix.arrived(sink, messages)
        total = sum(map(_stopped, benches, processes))
        of_server = database.spent()
        wrong = complaints(benches, messages)
        if wrong:
            raise Failure("; ".join(wrong))
        workers = meter.tree.of_others()
        roots = [meter.tree.seen[process.pid] for process in processes]
        spent = total - startup_cpu + of_server
        return {
            "rate": messages / (sink.last - sink.first),
            "per_cpu": messages / spent,
            "cpu": spent / messages * 1e6,
            "cpu_all": (total + of_server) / messages * 1e6,
            "cpu_manager": sum(root.cpu for root in roots) / messages * 1e6,
            "cpu_workers": sum(worker.cpu for worker in workers) / messages * 1e6,
            "cpu_server": of_server / messages * 1e6,
            "startup": sink.first - started,
            "startup_cpu": startup_cpu,
            "manager_peak": max(root.peak for root in roots),
            "worker_peak": max((worker.peak for worker in workers), default=0.0),
            "memory": meter.tree.memory + database.tree.memory,
        }


def _stopped(bench: Bench, process: subprocess.Popen[bytes]) -> float:
    """Tell an agent to stop; the processor time it and its workers have used."""
    process.terminate()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    bench.ended_well(process.returncode)
    return usage.ru_utime + usage.ru_stime
