"""What this machine has for measuring, what is left out without it, and the conditions of a sitting.

Nothing is ever installed here.
"""

import os
import platform
import shutil
import sqlite3
import ssl
import tempfile
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from benchmarks import postfix, postgres
from benchmarks.figures import Condition
from benchmarks.network import Network, obstacle
from deliveryagent import __version__


@dataclass(frozen=True)
class Plan:
    """What to do and what to do it with. ``messages`` is the size of an ordinary drain."""

    network: Network
    runs: int
    messages: int
    quick: bool
    without_postfix: str
    without_postgres: str

    def amount(self, full: int, quick: int) -> int:
        """One of two amounts: for figures, or for trying everything out."""
        return quick if self.quick else full

    @property
    def postfix(self) -> bool:
        """Whether there is a Postfix to compare with."""
        return not self.without_postfix


def look_around(
    network: Network, *, runs: int, messages: int, quick: bool, without: str = ""
) -> Plan:
    """The plan for this machine; ``without`` is a reason to do without Postfix."""
    return Plan(
        network=network,
        runs=runs,
        messages=messages,
        quick=quick,
        without_postfix=without or postfix.unavailable(),
        without_postgres=postgres.unavailable(),
    )


def left_out(plan: Plan) -> list[str]:
    """What is missing, and what therefore will not be measured, as sentences."""
    found = []
    if plan.without_postfix:
        found.append(f"No comparison with Postfix: {plan.without_postfix}.")
    if shutil.which("smtp-sink") is None:
        found.append("No smtp-sink: a receiver in Python takes its place; see its own ceiling.")
    if shutil.which("smtp-source") is None:
        found.append("No smtp-source: the ceiling is measured with a sender in Python.")
    if plan.without_postgres:
        found.append(f"No PostgreSQL: {plan.without_postgres}.")
    if shutil.which("openssl") is None:
        found.append("No openssl: nothing is measured inside TLS.")
    if not plan.network.own:
        found.append(
            f"No network of its own ({obstacle()}): all hosts share one address and port, and "
            "Postfix has a transport table in place of MX lookups, in its favour."
        )
    return found


def conditions(plan: Plan) -> dict[str, Condition]:
    """Facts that a figure means nothing without."""
    sink = "smtp-sink" if shutil.which("smtp-sink") else "own receiver (Python, uvloop)"
    return {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "deliveryagent": __version__,
        "python": platform.python_version(),
        "uvloop": "yes" if find_spec("uvloop") else "no",
        "sqlite": f"{sqlite3.sqlite_version} (WAL, synchronous=FULL)",
        "postgresql": postgres.version() or plan.without_postgres,
        "openssl": ssl.OPENSSL_VERSION,
        "postfix": f"{postfix.version()}, tuned" if plan.postfix else plan.without_postfix,
        "sink": sink,
        "network": "namespace of its own" if plan.network.own else "shared loopback",
        "kernel": platform.release(),
        "cpu": f"{os.cpu_count()} x {_processor()}",
        "memory_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20,
        "load_before": round(os.getloadavg()[0], 2),
        "fdatasync_per_second": round(_fdatasyncs()),
        "messages": plan.messages,
        "runs": plan.runs,
        "quick": "yes" if plan.quick else "no",
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _fdatasyncs() -> float:
    """How many small appends the disk makes durable in a second: the floor of every queue."""
    with tempfile.TemporaryFile() as file:
        started = time.monotonic()
        for _ in range(300):
            os.write(file.fileno(), b"x" * 2048)
            os.fdatasync(file.fileno())
        return 300 / (time.monotonic() - started)
