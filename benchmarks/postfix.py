"""Postfix on the same machine, in the same sitting.

Tuned as its TUNING_README advises for many messages: large process limit, high concurrency, no
input delay, connection cache. Its queue is filled while everything is put on hold, then released
and flushed; the time counts from the first message at the sink to the last, as for the agent. Its
processor time is that of its master and all daemons, from the moment of the release.
"""

import contextlib
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from benchmarks.agent import PATIENCE
from benchmarks.figures import Figures
from benchmarks.letters import letters
from benchmarks.meter import Meter
from benchmarks.network import Network
from benchmarks.programs import Failure, free_port, place
from benchmarks.sink import Sink
from benchmarks.source import send
from deliveryagent.lab.postfix import Postfix, unavailable

__all__ = ["TUNING", "Postfix", "by_mx", "drain", "filled", "instance", "unavailable", "version"]

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
    "message_size_limit": "52428800",
}

_HOLD = {"smtpd_recipient_restrictions": "static:HOLD, permit_mynetworks"}


def version() -> str:
    """The installed Postfix's version, empty where there is none."""
    if shutil.which("postconf") is None:
        return ""
    done = subprocess.run(
        ["postconf", "-h", "mail_version"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


@contextlib.contextmanager
def instance(
    sink: Sink, settings: Mapping[str, str] | None = None, *, hold: bool = False, relay: bool = True
) -> Iterator[Postfix]:
    """A running instance whose mail goes to the sink; with ``hold`` it keeps what it takes."""
    chosen = {**TUNING, **(_HOLD if hold else {})}
    if relay:
        to = f"[127.0.0.1]:{sink.port}"
        chosen |= {"relayhost": to, "smtp_connection_cache_destinations": to}
    chosen |= settings or {}
    with place("bench-postfix") as directory:
        try:
            with Postfix(directory, port=free_port(), settings=chosen) as postfix:
                yield postfix
        except RuntimeError as error:
            raise Failure(str(error)) from error


def by_mx(directory: Path, domains: int, network: Network) -> dict[str, str]:
    """Settings for delivery by MX records, or by a table where it cannot look up ours."""
    if network.own:
        return {"smtp_host_lookup": "dns"}
    table = directory / "transport"
    hop = f"smtp:[127.0.0.1]:{network.mail_port}"
    lines = [f"d{number}.test {hop}\n" for number in range(domains)]
    table.write_text("".join(lines), encoding="ascii")
    return {"transport_maps": f"texthash:{table}"}


def filled(postfix: Postfix, messages: int, size: int, *, domains: int = 1) -> float:
    """Fill the queue of an instance that holds; messages per second."""
    taken = send(postfix.port, letters(messages, size, domains=domains))
    if postfix.queued() != messages:
        raise Failure(f"Postfix has {postfix.queued()} of {messages} messages on hold")
    return messages / taken


def drain(postfix: Postfix, sink: Sink, messages: int) -> Figures:
    """Release what is on hold and deliver it; raises ``Failure`` unless the sink counts it all."""
    postfix.run("postsuper", "-H", "ALL")
    sink.reset()
    with Meter(postfix.pid) as meter:
        postfix.run("postqueue", "-f")
        arrived(sink, messages)
        cpu = meter.spent()
    if sink.count != messages:
        raise Failure(f"{sink.count} messages arrived, {messages} were sent")
    return {
        "rate": messages / (sink.last - sink.first),
        "per_cpu": messages / cpu,
        "cpu": cpu / messages * 1e6,
        "cpu_all": cpu / messages * 1e6,
        "memory": meter.tree.memory,
    }


def arrived(sink: Sink, messages: int) -> None:
    """Wait until so many messages are at the sink; raises ``Failure`` when no more come."""
    if not sink.wait(messages, PATIENCE):
        raise Failure(f"only {sink.count} of {messages} messages arrived")
