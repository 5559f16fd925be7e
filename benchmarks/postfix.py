"""Postfix on the same machine, in the same sitting: what it drains, and what it takes and delivers.

Tuned as its TUNING_README advises for many messages to one destination: large process limit, no
input delay, connection cache on demand. Its queue is filled while everything is put on hold, then
released and flushed; the time counts from the first message at the sink to the last, as for the
agent.
"""

import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.meter import Meter
from benchmarks.sink import Sink, free_port, load
from deliveryagent.lab.postfix import Postfix

_PATIENCE = 60.0

TUNING = {
    "in_flow_delay": "0",
    "default_process_limit": "200",
    "initial_destination_concurrency": "20",
    "default_destination_concurrency_limit": "100",
    "smtp_connection_cache_on_demand": "yes",
    "qmgr_message_active_limit": "40000",
    "smtpd_client_connection_count_limit": "0",
    "smtpd_client_connection_rate_limit": "0",
    "anvil_rate_time_unit": "60s",
}


def measure(*, messages: int, size: int, sink: Sink) -> dict[str, float]:
    """One drain and one take-and-deliver; raises ``RuntimeError`` when mail is missing at the end."""
    with _instance(sink) as postfix:
        found = _take_and_deliver(postfix, messages=messages, size=size, sink=sink)
    with _instance(sink, smtpd_recipient_restrictions="static:HOLD, permit_mynetworks") as postfix:
        return found | _drain(postfix, messages=messages, size=size, sink=sink)


@contextlib.contextmanager
def _instance(sink: Sink, **settings: str) -> Iterator[Postfix]:
    relay = f"[127.0.0.1]:{sink.port}"
    settings |= {"relayhost": relay, "smtp_connection_cache_destinations": relay, **TUNING}
    with tempfile.TemporaryDirectory(prefix="bench-postfix-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        with Postfix(directory, port=free_port(), settings=settings) as postfix:
            yield postfix


def _take_and_deliver(
    postfix: Postfix, *, messages: int, size: int, sink: Sink
) -> dict[str, float]:
    sink.reset()
    started = time.monotonic()
    with Meter(postfix.pid) as meter:
        before = meter.tree.cpu
        load(postfix.port, messages=messages, size=size)
        _wait(sink, messages)
        meter.tree.look()
        cpu = meter.tree.cpu - before
    return {"take_rate": messages / (sink.last - started), "take_cpu": cpu}


def _drain(postfix: Postfix, *, messages: int, size: int, sink: Sink) -> dict[str, float]:
    load(postfix.port, messages=messages, size=size)
    if postfix.queued() != messages:
        raise RuntimeError(f"Postfix has {postfix.queued()} of {messages} messages on hold")
    postfix.run("postsuper", "-H", "ALL")
    sink.reset()
    with Meter(postfix.pid) as meter:
        before = meter.tree.cpu
        postfix.run("postqueue", "-f")
        _wait(sink, messages)
        meter.tree.look()
        cpu = meter.tree.cpu - before
    if sink.count != messages:
        raise RuntimeError(f"{sink.count} messages arrived, {messages} were sent")
    return {"drain_rate": messages / (sink.last - sink.first), "drain_cpu": cpu}


def _wait(sink: Sink, messages: int) -> None:
    if not sink.wait(messages, _PATIENCE):
        raise RuntimeError(f"only {sink.count} of {messages} messages arrived")
