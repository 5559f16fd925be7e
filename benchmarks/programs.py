"""Programs and directories that exist for one measurement only.

Guarantees: what ``running`` started is gone when its block ends, whatever happened inside it; a
directory made by ``place`` is removed with all that is in it; nothing goes on for longer than
``within`` allows. Never touches a process that was not started here.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

_FAREWELL = 20.0
_PAUSE = 0.01


class Failure(Exception):  # noqa: N818 - a result like others, told to people
    """A measurement that came to nothing; ``str()`` says why."""


@contextlib.contextmanager
def place(prefix: str) -> Iterator[Path]:
    """An empty directory that other users can pass through, as Postfix and PostgreSQL must."""
    directory = Path(tempfile.mkdtemp(prefix=f"{prefix}-"))
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def running(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process of our own, in a group of its own, ended with the block."""
    process = subprocess.Popen(command, start_new_session=True, **options)
    try:
        yield process
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask it to stop; kill its whole group when it does not within twenty seconds."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_FAREWELL)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raise ``Failure`` in the main thread when the block takes longer."""

    def over(_: int, __: FrameType | None) -> None:
        raise Failure(f"not finished within {seconds:,.0f} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def wait_for(true: Callable[[], bool], what: str, limit: float = 30.0) -> None:
    """Look until something is true; raises ``Failure`` naming it after ``limit`` seconds."""
    until = time.monotonic() + limit
    while not true():
        if time.monotonic() > until:
            raise Failure(f"{what}: not within {limit:g} s")
        time.sleep(_PAUSE)


def wait_for_port(port: int, address: str = "127.0.0.1", limit: float = 20.0) -> None:
    """Wait until somebody listens; raises ``Failure``."""

    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((address, port)) == 0

    wait_for(listens, f"listening on {address}:{port}", limit)


def free_port(address: str = "127.0.0.1") -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        port: int = probe.getsockname()[1]
        return port
