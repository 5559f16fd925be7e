"""Processor time and memory of processes and everything below them, read from /proc.

Looking costs time itself, so a large family (Postfix has hundreds of processes) is looked at once a
second, a small one often enough to see what a short-lived child used. Memory is the proportional
share (PSS): pages that processes share count once.
"""

import contextlib
import os
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

_TICK = os.sysconf("SC_CLK_TCK")
_SOON = 0.05
_SELDOM = 1.0
_SMALL_FAMILY = 16


@dataclass
class Usage:
    """What one process used: seconds of processor time, and its peak resident memory in MiB.

    ``command`` is its command line.
    """

    name: str
    command: str = ""
    cpu: float = 0.0
    reaped: float = 0.0
    peak: float = 0.0


@dataclass
class Tree:
    """Processes (``roots``) and their descendants, each as last seen."""

    roots: tuple[int, ...]
    seen: dict[int, Usage] = field(default_factory=dict)
    living: list[int] = field(default_factory=list)
    memory: float = 0.0

    def look(self) -> None:
        """Read them all once. Processes that are gone keep what they had."""
        waiting = list(self.roots)
        self.living = []
        while waiting:
            pid = waiting.pop()
            facts = _stat(pid)
            if facts is None:
                continue
            waiting += _children(pid)
            self.living.append(pid)
            name, cpu, reaped = facts
            usage = self.seen.get(pid)
            if usage is None or not usage.command or usage.name != name:
                usage = self.seen[pid] = Usage(name, _command(pid))
            usage.cpu, usage.reaped = cpu, reaped
            usage.peak = max(usage.peak, _kilobytes(f"/proc/{pid}/status", "VmHWM:") / 1024)

    def weigh(self) -> None:
        """Add up the memory of those seen last; ``memory`` keeps the largest sum, in MiB."""
        found = sum(_kilobytes(f"/proc/{pid}/smaps_rollup", "Pss:") for pid in self.living)
        self.memory = max(self.memory, found / 1024)

    @property
    def cpu(self) -> float:
        """Seconds used by those alive at the last look and by all that they have waited for."""
        return sum(self.seen[pid].cpu + self.seen[pid].reaped for pid in self.living)

    def of_root(self) -> Usage:
        """The first root itself."""
        return self.seen.get(self.roots[0], Usage("?"))

    def of_others(self, module: str = "") -> list[Usage]:
        """All descendants of the roots; with a ``module``, those that run it."""
        return [
            usage
            for pid, usage in self.seen.items()
            if pid not in self.roots and module in usage.command
        ]


class Meter:
    """Looks at a tree again and again in a thread of its own until the block ends.

    ``spent()`` is the processor time since the block began, of those alive and those waited for;
    it is meant for services that run on. Of a process that ends in the block, the kernel's own
    account (``os.wait4``) is the exact one.
    """

    def __init__(self, *roots: int) -> None:
        self.tree = Tree(roots)
        self._before = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        weighed = time.monotonic()
        small = len(self.tree.living) <= _SMALL_FAMILY
        while not self._stop.wait(_SOON if small else _SELDOM):
            self.tree.look()
            small = len(self.tree.living) <= _SMALL_FAMILY
            if time.monotonic() - weighed >= _SELDOM:
                self.tree.weigh()
                weighed = time.monotonic()

    def spent(self) -> float:
        """Seconds of processor time since the block began, up to now or to its end."""
        if self._thread.is_alive():
            self._halt()
        return self.tree.cpu - self._before

    def _halt(self) -> None:
        self._stop.set()
        self._thread.join()
        if any(Path(f"/proc/{pid}").exists() for pid in self.tree.roots):
            self.tree.look()
            self.tree.weigh()

    def __enter__(self) -> Self:
        self.tree.look()
        self._before = self.tree.cpu
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._thread.is_alive():
            self._halt()


class Machine:
    """What happened on the whole machine during a block: ``steal``, the share of processor time
    that a hypervisor gave to others, and ``busy``, the share that was used by anybody here.
    """

    def __init__(self) -> None:
        self.steal = 0.0
        self.busy = 0.0
        self.seconds = 0.0
        self._since = (0, 0, 0)
        self._started = 0.0

    def __enter__(self) -> Self:
        self._since, self._started = processor_times(), time.monotonic()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        now = processor_times()
        total, idle, steal = (new - old for new, old in zip(now, self._since, strict=True))
        self.steal = steal / max(total, 1)
        self.busy = (total - idle - steal) / max(total, 1)
        self.seconds = time.monotonic() - self._started


def processor_times(text: str = "") -> tuple[int, int, int]:
    """All ticks of all processors since the start, idle ones, and stolen ones (proc(5), stat).

    >>> processor_times("cpu  10 0 5 80 3 0 1 2 0 0")
    (101, 83, 2)
    """
    line = text or Path("/proc/stat").read_text(encoding="ascii").partition("\n")[0]
    fields = [int(word) for word in line.split()[1:9]]
    return sum(fields), fields[3] + fields[4], fields[7]


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):  # it may end while we look
        for path in Path(f"/proc/{pid}/task").glob("*/children"):
            found += [int(word) for word in path.read_text().split()]
    return found


def _stat(pid: int) -> tuple[str, float, float] | None:
    """Name, own seconds, and seconds of children that were waited for."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    name, _, rest = text.partition("(")[2].rpartition(")")
    times = [int(value) / _TICK for value in rest.split()[11:15]]
    return name, times[0] + times[1], times[2] + times[3]


def _command(pid: int) -> str:
    try:
        octets = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return ""
    return octets.replace(b"\0", b" ").decode("utf-8", "replace").strip()


def _kilobytes(path: str, word: str) -> int:
    """The number behind a word at the beginning of a line; 0 when the process is gone."""
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    line = next((line for line in text.splitlines() if line.startswith(word)), f"{word} 0 kB")
    return int(line.split()[1])
