"""The whole program as its users run it: processes, a configuration file, a queue in a directory.

``WholeAgent`` starts ``dagent serve`` and runs commands; ``Lab`` runs receiving hosts (and the
playground) in a thread of the test's own process, so that a test sees at once what arrived, and
when.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

ROOT = Path(__file__).parents[2]
T = TypeVar("T")


class Background(Generic[T]):
    """An asynchronous context manager, kept open by an event loop in a thread."""

    def __init__(self, open_it: Callable[[], AbstractAsyncContextManager[T]]) -> None:
        self._open = open_it
        self._ready = threading.Event()
        self._stop: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._value: T | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> T:
        self._thread.start()
        self._ready.wait(20)
        if self._error is not None or self._value is None:
            raise RuntimeError("the lab did not start") from self._error
        return self._value

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._loop is not None and self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    def _run(self) -> None:
        async def main() -> None:
            self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
            async with self._open() as self._value:
                self._ready.set()
                await self._stop.wait()

        try:
            asyncio.run(main())
        except BaseException as error:  # noqa: BLE001 - told to the test
            self._error = error
        finally:
            self._ready.set()


class WholeAgent:
    """An agent with its own configuration file and directory. As a context manager it leaves no
    process.
    """

    def __init__(self, directory: Path, configuration: str | Path) -> None:
        self.directory = directory
        self.log = directory / "agent.log"
        if isinstance(configuration, Path):
            self.config = configuration
        else:
            self.config = directory / "agent.toml"
            self.config.write_text(configuration, encoding="utf-8")
        self._started: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in self._started:
            self.kill(process)

    def start(self, *options: str) -> subprocess.Popen[bytes]:
        """Start ``dagent serve`` in a process group of its own; its log goes to a file."""
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                self._command("serve", *options), stderr=log, cwd=ROOT, start_new_session=True
            )
        self._started.append(process)
        return process

    def ready(self, process: subprocess.Popen[bytes], limit: float = 20) -> None:
        """Wait until the service answers on its socket."""
        path = self.directory / "run" / "deliveryagent.sock"
        eventually(lambda: process.poll() is not None or _connects(path), limit=limit)
        assert process.poll() is None, self.log.read_text()

    @contextlib.contextmanager
    def serving(self, *options: str) -> Iterator[subprocess.Popen[bytes]]:
        """A running service, stopped by SIGTERM at the end of the block; it must then exit with 0."""
        process = self.start(*options)
        self.ready(process)
        yield process
        process.terminate()
        assert process.wait(20) == 0, self.log.read_text()

    def run(self, *words: str, text: str | bytes = b"") -> subprocess.CompletedProcess[str]:
        """Run one command to its end."""
        data = text.encode() if isinstance(text, str) else text
        done = subprocess.run(
            self._command(*words),
            input=data,
            capture_output=True,
            check=False,
            cwd=ROOT,
            timeout=60,
        )
        out, err = done.stdout.decode(), done.stderr.decode()
        return subprocess.CompletedProcess(done.args, done.returncode, out, err)

    def messages(self, *filters: str) -> dict[str, dict[str, Any]]:
        """``dagent queue list --json`` as a mapping from queue id to message."""
        done = self.run("--json", "queue", "list", *(filters or ("--all",)))
        assert done.returncode == 0, done.stderr
        return {record["id"]: record for record in map(json.loads, done.stdout.splitlines())}

    def recipients(self) -> dict[str, dict[str, Any]]:
        """Every recipient of every message, by address."""
        return {
            recipient["address"]: recipient
            for message in self.messages().values()
            for recipient in message["recipients"]
        }

    @staticmethod
    def kill(process: subprocess.Popen[bytes]) -> None:
        """kill -9 the process and everything in its group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)

    def _command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "deliveryagent", "-c", str(self.config), *words]


def eventually(true: Callable[[], bool], *, limit: float = 20, pause: float = 0.02) -> None:
    """Wait until something is true; fails after ``limit`` seconds."""
    until = time.monotonic() + limit
    while not true():
        assert time.monotonic() < until, f"still not true after {limit} s"
        time.sleep(pause)


def workers_of(process: subprocess.Popen[bytes]) -> list[int]:
    """The process ids below a service."""
    found: list[int] = []
    with contextlib.suppress(OSError):  # a thread may end while we look
        for path in Path(f"/proc/{process.pid}/task").glob("*/children"):
            found += [int(word) for word in path.read_text().split()]
    return found


def letter(message_id: str, *, body: bytes = b"hello\r\n", **headers: str) -> bytes:
    """A small complete message."""
    fields = {"From": "s@home.test", "Subject": "test", "Message-ID": f"<{message_id}>", **headers}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return head.encode() + b"Date: Mon, 01 Jan 2024 00:00:00 +0000\r\n\r\n" + body


def _connects(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0
