"""Where the mail of a measurement goes: Postfix's smtp-sink, else our own receiver in a process.

Both write a running count to a file; ``Sink`` follows it and knows when each message came. Our own
is also used where more is asked of a sink than counting (``record``, ``certificate``).
"""

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from bisect import bisect_left
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.programs import Failure, end, free_port, wait_for_port
from benchmarks.receiver import read_record

_COUNT = re.compile(rb"mesg=([0-9]+)")
_LOOK = 0.002
_SESSIONS = 8192
_BACKLOG = 4096


class Sink:
    """A running sink, a context manager; ``name`` says which kind it is.

    ``address`` 0.0.0.0 serves every address of loopback. Times are of the monotonic clock.
    """

    def __init__(
        self,
        directory: Path,
        *,
        address: str = "127.0.0.1",
        port: int = 0,
        record: bool = False,
        certificate: Path | None = None,
        own: bool = False,
    ) -> None:
        self.port = port or free_port()
        self.count = 0
        self._total = 0
        self._before = 0
        self._moments: list[float] = []
        self._counts: list[int] = []
        self._file = directory / f"sink-{self.port}"
        self._record = directory / f"record-{self.port}" if record else None
        self._skipped = 0
        program = None if own or record or certificate else shutil.which("smtp-sink")
        self.name = "smtp-sink" if program else "own receiver (Python, uvloop)"
        where = f"{address}:{self.port}"
        if program is not None:
            user = ["-u", "nobody"] if os.geteuid() == 0 else []
            self._command = [program, *user, "-c", "-m", str(_SESSIONS), where, str(_BACKLOG)]
        else:
            self._command = [sys.executable, "-m", "benchmarks.receiver", "--listen", where]
            self._command += ["--record", str(self._record)] if self._record else []
            self._command += ["--certificate", str(certificate)] if certificate else []
        self._process: subprocess.Popen[bytes] | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Self:
        with self._file.open("wb") as file:
            self._process = subprocess.Popen(self._command, stdout=file, start_new_session=True)
        try:
            wait_for_port(self.port)
        except BaseException:
            end(self._process)
            raise
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
            end(self._process)

    @property
    def first(self) -> float:
        """When the first message was seen, 0 before."""
        return self._moments[0] if self._moments else 0.0

    @property
    def last(self) -> float:
        """When the latest message was seen, 0 before."""
        return self._moments[-1] if self._moments else 0.0

    def when(self, count: int) -> float:
        """When so many messages had come. Raises ``Failure`` if they have not."""
        place = bisect_left(self._counts, count)
        if place == len(self._counts):
            raise Failure(f"only {self.count} of {count} messages arrived")
        return self._moments[place]

    def reset(self) -> None:
        """Count from here on."""
        self._look()
        self._before = self._total
        self.count, self._moments, self._counts = 0, [], []
        self._skipped = len(self._recorded())

    def records(self) -> list[tuple[float, str]]:
        """Moments and recipients since ``reset``, of a sink that records."""
        return self._recorded()[self._skipped :]

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

    def _recorded(self) -> list[tuple[float, str]]:
        return read_record(self._record) if self._record else []

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
        self._total = total
        self._moments.append(time.monotonic())
        self._counts.append(total - self._before)
        self.count = total - self._before
