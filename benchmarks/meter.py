"""Processor time and memory of a process and everything below it, read from /proc while it runs."""

import contextlib
import os
import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

_TICK = os.sysconf("SC_CLK_TCK")
_INTERVAL = 0.05


@dataclass
class Usage:
    """What one process used: seconds of processor time, and its peak resident memory in MiB."""

    name: str
    cpu: float = 0.0
    reaped: float = 0.0
    peak: float = 0.0


@dataclass
class Tree:
    """A process (``root``) and its descendants, each as last seen."""

    root: int
    seen: dict[int, Usage] = field(default_factory=dict)

    def look(self) -> None:
        """Read them all once. Processes that are gone keep what they had."""
        waiting = [self.root]
        while waiting:
            pid = waiting.pop()
            facts = _stat(pid)
            if facts is None:
                continue
            waiting += _children(pid)
            name, cpu, reaped = facts
            usage = self.seen.setdefault(pid, Usage(name))
            usage.cpu, usage.reaped = cpu, reaped
            usage.peak = max(usage.peak, _peak(pid))

    @property
    def cpu(self) -> float:
        """Seconds used by the living ones and by all that they have waited for."""
        alive = [pid for pid in self.seen if Path(f"/proc/{pid}").exists()]
        return sum(self.seen[pid].cpu + self.seen[pid].reaped for pid in alive)

    def of_root(self) -> Usage:
        """The process itself."""
        return self.seen.get(self.root, Usage("?"))

    def of_others(self) -> list[Usage]:
        """Its descendants."""
        return [usage for pid, usage in self.seen.items() if pid != self.root]


class Meter:
    """Looks at a tree again and again in a thread of its own until the block ends."""

    def __init__(self, root: int) -> None:
        self.tree = Tree(root)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._stop.wait(_INTERVAL):
            self.tree.look()

    def __enter__(self) -> Self:
        self.tree.look()
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


def _peak(pid: int) -> float:
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0.0
    line = next((line for line in text.splitlines() if line.startswith("VmHWM:")), "VmHWM: 0 kB")
    return int(line.split()[1]) / 1024
