"""The agent itself, run as its users run it: ``dagent serve`` as a process, commands, the client.

It has the settings it ships with (one worker per core, durable commits), and writes its event log
to a file. Exactly once is shown by counts that must all be the number of messages: deliveries the
agents report, distinct recipients among them, and messages at the sink.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.figures import Figures
from benchmarks.letters import Letter, letters
from benchmarks.meter import Meter, Tree
from benchmarks.programs import Failure, end, wait_for
from benchmarks.sink import Sink
from deliveryagent import Client

PATIENCE = 60.0
"""Seconds without any new message after which a measurement has failed."""

_SETTLED = 0.7  # seconds without work after which an agent is up and idle
_IDLE_SHARE = 0.1  # of a processor

_TROUBLE = frozenset({"deferred", "bounced", "expired", "failed", "in_doubt"})
_LISTENER = """[[listener]]
kind = "smtp"
address = "127.0.0.1:{port}"
trusted_networks = ["127.0.0.0/8"]
check_sender_domain = false
"""
_DEFAULTS = {"hostname": "agent.bench.test", "log.format": "json"}


class Bench:
    """A configuration in a directory of its own, and its queue there unless ``queue.url`` says else.

    Mail goes to the sink as a smart host unless ``relay`` is false; ``settings`` are written as
    ``section.key``. ``routes`` lead domains elsewhere: pairs of a pattern and a next hop. With a
    ``port``, mail is taken there by SMTP from everybody on loopback.
    """

    def __init__(
        self,
        directory: Path,
        sink: Sink,
        settings: Mapping[str, Any] | None = None,
        *,
        relay: bool = True,
        routes: Sequence[tuple[str, str]] = (),
        port: int = 0,
    ) -> None:
        self.directory = directory
        self.port = port
        self.sink = sink
        self.config = directory / "bench.toml"
        self.socket = directory / "run" / "deliveryagent.sock"
        (directory / "run").mkdir(parents=True)
        chosen: dict[str, Any] = {
            **_DEFAULTS,
            "run_dir": f"{directory}/run",
            "queue.url": f"sqlite:///{directory}/queue.sqlite3",
            "log.file": f"{directory}/log",
            **({"relay.host": f"[127.0.0.1]:{sink.port}"} if relay else {}),
            **(settings or {}),
        }
        lines = _written(chosen)
        if port:
            lines.append(_LISTENER.format(port=port))
        lines += [f'[[route]]\nmatch = ["{match}"]\nnexthop = "{hop}"\n' for match, hop in routes]
        self.config.write_text("".join(lines), encoding="utf-8")

    def fill(self, messages: int, size: int, *, domains: int = 1) -> float:
        """Enqueue through the bulk client; messages per second."""
        return self.hand_over(letters(messages, size, domains=domains), messages)

    def hand_over(self, mail: Iterable[Letter], messages: int) -> float:
        """Enqueue these through the bulk client; messages per second."""
        started = time.monotonic()
        with Client(config=str(self.config)) as client:
            taken = client.enqueue_many(mail)
        if len(set(taken)) != messages:
            raise Failure(f"{len(set(taken))} queue ids for {messages} messages")
        return messages / (time.monotonic() - started)

    def command(self, *words: str) -> list[str]:
        """How to call ``dagent`` with this configuration."""
        script = Path(sys.executable).with_name("dagent")
        program = [str(script)] if script.exists() else [sys.executable, "-m", "deliveryagent"]
        return [*program, "-c", str(self.config), *words]

    def sendmail(self, *words: str) -> list[str]:
        """How to call ``deliveryagent-sendmail``; it finds this configuration in ``environment``."""
        script = Path(sys.executable).with_name("deliveryagent-sendmail")
        code = "from deliveryagent.cli.sendmail.program import sendmail; sendmail()"
        program = [str(script)] if script.exists() else [sys.executable, "-c", code]
        return [*program, *words]

    @property
    def environment(self) -> dict[str, str]:
        """The variables of a command, which keeps its compiled modules, as installed programs do."""
        kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        return kept | {"DELIVERYAGENT_CONFIG": str(self.config)}

    def run(self, *words: str) -> str:
        """What a command prints. Raises ``Failure`` when its exit status is not 0."""
        done = subprocess.run(
            self.command(*words), capture_output=True, text=True, check=False, timeout=PATIENCE
        )
        if done.returncode:
            raise Failure(f"dagent {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    def serve(self, *options: str) -> subprocess.Popen[bytes]:
        """Start the agent; what it says goes to a file."""
        command = [sys.executable, "-m", "deliveryagent", "-c", str(self.config), "serve", *options]
        with (self.directory / "said").open("ab") as said:
            return subprocess.Popen(command, start_new_session=True, stderr=said)

    def ended_well(self, status: int) -> None:
        """Raise ``Failure`` with the agent's last words unless this exit status is 0."""
        if status:
            words = (self.directory / "said").read_text(encoding="utf-8", errors="replace")
            raise Failure(f"the agent ended with exit status {status}: {words.strip()[-400:]}")

    @contextlib.contextmanager
    def service(self) -> Iterator[subprocess.Popen[bytes]]:
        """A running agent that answers; it is told to stop at the end and must exit with 0."""
        process = self.serve()
        try:
            self.ready(process)
            yield process
            process.terminate()
            self.ended_well(process.wait(PATIENCE))
        finally:
            end(process)

    def ready(self, process: subprocess.Popen[bytes]) -> None:
        """Wait until it answers on its socket."""
        wait_for(lambda: self.socket.exists() or process.poll() is not None, "the agent's start")
        self.ended_well(process.poll() or 0)

    def complaints(self, messages: int) -> list[str]:
        """What speaks against every message having been delivered exactly once."""
        return complaints([self], messages)

    def events(self) -> Iterator[dict[str, Any]]:
        """The event log."""
        path = self.directory / "log"
        if path.exists():
            with path.open(encoding="utf-8") as log:
                yield from map(json.loads, log)


def _written(settings: Mapping[str, Any]) -> list[str]:
    """Settings as people write them, section by section: that is what commands read quickly."""
    sections: dict[str, list[str]] = {"": []}
    for name, value in settings.items():
        section, _, key = name.rpartition(".")
        sections.setdefault(section, []).append(f"{key} = {json.dumps(value)}\n")
    return [
        line
        for section, keys in sections.items()
        for line in ([f"[{section}]\n", *keys] if section else keys)
    ]


def complaints(agents: Sequence[Bench], messages: int) -> list[str]:
    """What speaks against these agents having delivered every message exactly once, together."""
    delivered: Counter[tuple[str, str]] = Counter()
    others: Counter[str] = Counter()
    for record in (record for one in agents for record in one.events()):
        if record["event"] == "delivered":
            delivered[record["id"], record["recipient"]] += 1
        elif record["event"] in _TROUBLE:
            others[record["event"]] += 1
    found = [f"{count} events {event}" for event, count in others.items()]
    if len(delivered) != messages or delivered.total() != messages:
        found.append(f"{delivered.total()} deliveries of {len(delivered)} recipients logged")
    if agents[0].sink.count != messages:
        found.append(f"{agents[0].sink.count} messages at the sink")
    return found


def drain(bench: Bench, messages: int, *, startup_cpu: float) -> Figures:
    """Drain a filled queue until idle; raises ``Failure`` unless all was delivered exactly once.

    The rate counts from the first message at the sink to the last. ``startup_cpu`` (``start_cost``)
    is left out of ``cpu`` and ``per_cpu``, as the start of a peer that already runs is.
    """
    sink = bench.sink
    sink.reset()
    started = time.monotonic()
    process = bench.serve("--until-idle")
    try:
        with Meter(process.pid) as meter:
            _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    finally:
        end(process)
    bench.ended_well(process.returncode)
    found = bench.complaints(messages)
    if found:
        raise Failure("; ".join(found))
    total = usage.ru_utime + usage.ru_stime
    workers = meter.tree.of_others()
    return {
        "rate": messages / (sink.last - sink.first),
        "per_cpu": messages / (total - startup_cpu),
        "cpu": (total - startup_cpu) / messages * 1e6,
        "cpu_all": total / messages * 1e6,
        "cpu_manager": meter.tree.of_root().cpu / messages * 1e6,
        "cpu_workers": sum(worker.cpu for worker in workers) / messages * 1e6,
        "startup": sink.first - started,
        "startup_cpu": startup_cpu,
        "manager_peak": meter.tree.of_root().peak,
        "worker_peak": max((worker.peak for worker in workers), default=0.0),
        "memory": meter.tree.memory,
    }


def start_cost(bench: Bench) -> float:
    """Seconds of processor time an agent uses until it is up and idle, on an empty queue."""
    bench.run("db", "migrate")
    with bench.service() as process:
        tree = Tree((process.pid,))
        tree.look()
        before, since = tree.cpu, time.monotonic()
        while time.monotonic() - since < _SETTLED:
            time.sleep(0.05)
            tree.look()
            if tree.cpu > before + _IDLE_SHARE * (time.monotonic() - since):
                before, since = tree.cpu, time.monotonic()
        return tree.cpu
