"""Draining inside TLS: over sessions that are kept open, and with one connection a message.

The receiver is ours, since smtp-sink speaks no TLS; its certificate is its own and is not checked.
Postfix keeps sessions with ``smtp_tls_connection_reuse`` (through its tlsproxy) and resumes TLS
sessions on new connections from its cache.
"""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks import agent, postfix
from benchmarks.agent import Bench
from benchmarks.equipment import Plan
from benchmarks.figures import Case, Figures
from benchmarks.postfix import Postfix
from benchmarks.programs import place
from benchmarks.sink import Sink

_SIZE = 2048


def cases(plan: Plan) -> Iterator[Case]:
    """Two comparisons; none without openssl, which makes the certificate."""
    if shutil.which("openssl") is None:
        return
    with place("bench-sink") as directory:
        certificate = self_signed(directory)
        with Sink(directory, certificate=certificate) as sink:
            yield _case(plan, sink, "sessions kept", plan.messages, keep=True)
            yield _case(plan, sink, "one connection a message", plan.messages // 4, keep=False)


def _case(plan: Plan, sink: Sink, name: str, messages: int, *, keep: bool) -> Case:
    sides: dict[str, Callable[[], Figures]] = {"agent": lambda: _agent(sink, messages, keep=keep)}
    if plan.postfix:
        sides["Postfix"] = lambda: _postfix(sink, messages, keep=keep)
    return Case(
        name=name,
        sides=sides,
        conditions={
            "messages": messages,
            "octets": _SIZE,
            "sink": f"{sink.name}, STARTTLS, accepts all, keeps nothing",
            "tls": "encrypt, certificate not checked",
            "durability": "SQLite WAL, synchronous=FULL; Postfix: fsync per message",
        },
        against=[("agent", "Postfix")],
    )


def _agent(sink: Sink, messages: int, *, keep: bool) -> Figures:
    settings: dict[str, str | int] = {"smtp.tls_security_level": "encrypt"}
    if not keep:
        settings["smtp.connection_reuse_count_limit"] = 1
    with place("bench-agent") as directory:
        cost = agent.start_cost(Bench(directory / "idle", sink, settings))
        bench = Bench(directory / "full", sink, settings)
        bench.fill(messages, _SIZE)
        return agent.drain(bench, messages, startup_cpu=cost)


def _postfix(sink: Sink, messages: int, *, keep: bool) -> Figures:
    settings = {
        "smtp_tls_security_level": "encrypt",
        "smtp_tls_connection_reuse": "yes" if keep else "no",
        "smtp_tls_session_cache_database": "btree:${data_directory}/smtp_scache",
    }
    if not keep:
        settings |= {"smtp_connection_cache_on_demand": "no"}
    with postfix.instance(sink, settings, hold=True) as instance:
        if not keep:
            instance.run("postconf", "-e", "smtp_connection_cache_destinations =")
        _add_tls_services(instance)
        postfix.filled(instance, messages, _SIZE)
        return postfix.drain(instance, sink, messages)


def _add_tls_services(instance: Postfix) -> None:
    """The daemons that keep TLS sessions and their cache."""
    for name, limit in (("tlsproxy", "0"), ("tlsmgr", "1")):
        kind = "unix - - n 1000? 1" if name == "tlsmgr" else f"unix - - n - {limit}"
        instance.run("postconf", "-M", f"{name}/unix={name} {kind} {name}")
    instance.run("postfix", "reload")


def self_signed(directory: Path) -> Path:
    """A key and a certificate nobody vouches for, in one file."""
    both = directory / "sink.pem"
    key, chain = directory / "key.pem", directory / "chain.pem"
    command = ["openssl", "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=sink.bench.test"]
    command += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command += ["-keyout", str(key), "-out", str(chain)]
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    both.write_bytes(key.read_bytes() + chain.read_bytes())
    return both
