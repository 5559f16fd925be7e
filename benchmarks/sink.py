"""Where the mail of a measurement goes: Postfix's smtp-sink, else the lab's receiving host in a
process.

Both write a running count to a file; ``Sink`` follows it and knows when the first and the last
message came. Run as a program (``python -m benchmarks.sink PORT``) this is the second kind.
"""

import asyncio
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from deliveryagent.lab.receiver import Receiver
from deliveryagent.lab.session import HostSettings

_COUNT = re.compile(rb"mesg=([0-9]+)")
_LOOK = 0.002


class Sink:
    """A running sink, a context manager; ``name`` says which kind it is."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self.first = 0.0
        self.last = 0.0
        self.count = 0
        self._total = 0
        self._before = 0
        self._file = directory / f"sink-{self.port}"
        program = shutil.which("smtp-sink")
        self.name = "smtp-sink" if program else "lab receiver"
        if program is not None:
            user = ["-u", "nobody"] if os.geteuid() == 0 else []
            self._command = [program, *user, "-c", f"127.0.0.1:{self.port}", "1024"]
        else:
            self._command = [sys.executable, "-m", "benchmarks.sink", str(self.port)]
        self._process: subprocess.Popen[bytes] | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Self:
        with self._file.open("wb") as file:
            self._process = subprocess.Popen(self._command, stdout=file)
        wait_for_port(self.port)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        if self._process is not None:
            self._process.terminate()
            self._process.wait()

    def reset(self) -> None:
        """Count from here on."""
        self._look()
        self._before = self._total
        self.count, self.first, self.last = 0, 0.0, 0.0

    def wait(self, count: int, limit: float) -> bool:
        """Wait until so many messages came; false when ``limit`` seconds passed without a new one."""
        seen, since = self.count, time.monotonic()
        while self.count < count:
            time.sleep(0.01)
            if self.count != seen:
                seen, since = self.count, time.monotonic()
            elif time.monotonic() - since > limit:
                return False
        return True

    def _follow(self) -> None:
        while not self._stop.wait(_LOOK):
            self._look()

    def _look(self) -> None:
        with self._file.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 200))
            counts = _COUNT.findall(file.read().rpartition(b"\r")[0])
        total = int(counts[-1]) if counts else 0
        if total == self._total:
            return
        self._total, self.count = total, total - self._before
        self.last = time.monotonic()
        self.first = self.first or self.last


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for_port(port: int, limit: float = 10.0) -> None:
    """Wait until somebody listens; raises ``RuntimeError`` after ``limit`` seconds."""
    until = time.monotonic() + limit
    while time.monotonic() < until:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise RuntimeError(f"nobody listens on port {port}")


def load(port: int, *, messages: int, size: int) -> float | None:
    """Messages per second of smtp-source with 20 sessions kept open; None where it is missing."""
    program = shutil.which("smtp-source")
    if program is None:
        return None
    command = [program, "-d", "-s", "20", "-m", str(messages), "-l", str(size)]
    command += ["-f", "sender@bench.test", "-t", "recipient@bench.test", f"127.0.0.1:{port}"]
    started = time.monotonic()
    subprocess.run(command, check=True, timeout=900)
    return messages / (time.monotonic() - started)


async def _serve(port: int) -> None:
    async with Receiver(HostSettings(name="sink.bench.test"), port=port) as receiver:
        seen = -1
        while True:
            if receiver.house.messages != seen:
                seen = receiver.house.messages
                os.write(1, b"mesg=%d\r" % seen)
            await asyncio.sleep(0.002)


if __name__ == "__main__":
    import uvloop

    uvloop.run(_serve(int(sys.argv[1])))
