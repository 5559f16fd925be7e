"""The agent itself: what it drains, what it takes and delivers, and what memory that costs.

The whole program runs as its users run it: ``dagent serve`` as a process with the settings it ships
with (one worker per core, durable commits), the event log written to a file. A drain starts from a
queue filled while no service runs; the time counts from the first message at the sink to the last,
``startup`` is what comes before. Exactly once is shown by two counts that must both be the number
of messages: distinct recipients the agent reports as delivered, and messages at the sink.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from benchmarks.meter import Meter
from benchmarks.sink import Sink
from deliveryagent import Client

_PATIENCE = 60.0
SENDER = "sender@bench.test"

_CONFIGURATION = """\
hostname = "agent.bench.test"
run_dir = "{directory}/run"

[queue]
url = "sqlite:///{directory}/queue.sqlite3"

[log]
format = "json"
file = "{directory}/log"

[relay]
host = "[127.0.0.1]:{port}"
"""


class Bench:
    """A configuration and an empty queue in a directory of their own."""

    def __init__(self, directory: Path, sink: Sink) -> None:
        self.directory = directory
        self.sink = sink
        self.config = directory / "bench.toml"
        (directory / "run").mkdir()
        text = _CONFIGURATION.format(directory=directory, port=sink.port)
        self.config.write_text(text, encoding="utf-8")

    def fill(self, messages: int, size: int) -> float:
        """Enqueue through the bulk client; messages per second."""
        started = time.monotonic()
        with Client(config=str(self.config)) as client:
            client.enqueue_many(_letters(messages, size))
        return messages / (time.monotonic() - started)

    def serve(self, *options: str) -> subprocess.Popen[bytes]:
        """Start the agent."""
        command = [sys.executable, "-m", "deliveryagent", "-c", str(self.config), "serve", *options]
        return subprocess.Popen(command)

    def complaints(self, messages: int) -> list[str]:
        """What speaks against every message having been delivered exactly once."""
        delivered: Counter[tuple[str, str]] = Counter()
        others: Counter[str] = Counter()
        with (self.directory / "log").open(encoding="utf-8") as log:
            for record in map(json.loads, log):
                if record["event"] == "delivered":
                    delivered[record["id"], record["recipient"]] += 1
                elif record["event"] in {"deferred", "bounced", "expired", "failed"}:
                    others[record["event"]] += 1
        found = [f"{count} events {event}" for event, count in others.items()]
        if len(delivered) != messages or delivered.total() != messages:
            found.append(f"{delivered.total()} deliveries of {len(delivered)} recipients logged")
        if self.sink.count != messages:
            found.append(f"{self.sink.count} messages at the sink")
        return found


def drain(*, messages: int, size: int, sink: Sink) -> dict[str, float]:
    """Fill, then drain until idle; raises ``RuntimeError`` unless all was delivered exactly once."""
    with tempfile.TemporaryDirectory(prefix="bench-agent-") as name:
        bench = Bench(Path(name), sink)
        fill_rate = bench.fill(messages, size)
        sink.reset()
        started = time.monotonic()
        process = bench.serve("--until-idle")
        with Meter(process.pid) as meter:
            _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        found = bench.complaints(messages)
        if process.returncode or found:
            raise RuntimeError(f"exit status {process.returncode}; {'; '.join(found)}")
        workers = meter.tree.of_others()
        return {
            "fill_rate": fill_rate,
            "startup": sink.first - started,
            "drain_rate": messages / (sink.last - sink.first),
            "drain_cpu": usage.ru_utime + usage.ru_stime,
            "manager_cpu": meter.tree.of_root().cpu,
            "worker_cpu": sum(worker.cpu for worker in workers),
            "manager_peak_mib": meter.tree.of_root().peak,
            "worker_peak_mib": max((worker.peak for worker in workers), default=0.0),
        }


def take_and_deliver(*, messages: int, size: int, sink: Sink) -> dict[str, float]:
    """Hand over through the running service's socket while it delivers."""
    with tempfile.TemporaryDirectory(prefix="bench-agent-") as name:
        bench = Bench(Path(name), sink)
        process = bench.serve()
        try:
            _wait_for(bench.directory / "run" / "deliveryagent.sock", process)
            sink.reset()
            started = time.monotonic()
            bench.fill(messages, size)
            if not sink.wait(messages, _PATIENCE):
                raise RuntimeError(f"only {sink.count} of {messages} messages arrived")
            rate = messages / (sink.last - started)
        finally:
            process.terminate()
            process.wait()
        found = bench.complaints(messages)
        if process.returncode or found:
            raise RuntimeError(f"exit status {process.returncode}; {'; '.join(found)}")
        return {"take_rate": rate}


def _letters(messages: int, size: int) -> Iterator[tuple[str, list[str], bytes]]:
    for number in range(messages):
        yield SENDER, [f"r{number}@rcpt.test"], content(number, size)


def content(number: int, size: int) -> bytes:
    """A message of exactly this many octets."""
    head = (
        f"From: {SENDER}\r\nTo: r{number}@rcpt.test\r\nSubject: message {number}\r\n"
        f"Date: Mon, 01 Jan 2024 00:00:00 +0000\r\nMessage-ID: <{number}@bench.test>\r\n\r\n"
    ).encode()
    lines = (b"x" * 70 + b"\r\n") * (size // 72 + 1)
    return head + lines[: size - len(head) - 2].rstrip(b"\r\n") + b"\r\n"


def _wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    for _ in range(500):
        if path.exists():
            return
        if process.poll() is not None:
            break
        time.sleep(0.02)
    raise RuntimeError("the agent did not start")
