"""How many of the workers serve: as few as keep up.

Work that is together costs less: sessions are reused more often, and one turn of an event loop serves more of
them. So one worker serves until it is busy, while the agent leaves processors unused, or has very many
sessions; then twice as many do, up to all. When they have little to do, one fewer does. Those that do not serve
are idle, and ready at once.

Guarantees: at least one serves; a decision rests on one report from each that serves, made since the last
change.
"""

import time
from collections.abc import Collection, Mapping
from typing import NamedTuple, TypeVar

W = TypeVar("W")

FULL = 0.9  # share of a processor with which a worker has enough to do
SLACK = 0.4  # share of a processor that is left to each when one fewer serves, or less
MANY = 1000  # sessions with which a worker has enough, however little it does
_UNUSED = 0.5  # processors that must be unused for another worker to be of use
_SHORTEST = 0.5  # seconds for which a load is measured


class Load:
    """What share of a processor this process needs."""

    def __init__(self) -> None:
        self._then = time.monotonic(), time.process_time()
        self._share = 0.0

    def lately(self) -> float:
        """The share since this was last asked; the same again when that was just now."""
        now, cpu = time.monotonic(), time.process_time()
        elapsed = now - self._then[0]
        if elapsed >= _SHORTEST:
            self._share = (cpu - self._then[1]) / elapsed
            self._then = now, cpu
        return self._share


class Report(NamedTuple):
    """What a worker says of itself: the share of a processor it needed lately, and its open sessions."""

    load: float
    sessions: int


def needed(reports: Collection[Report], available: int, unused: float) -> int:
    """How many should serve of ``available``, given reports of those that do and the unused processors.

    >>> needed([Report(1.0, 9)], 4, unused=2.0), needed([Report(1.0, 9)], 4, unused=0.1)
    (2, 1)
    >>> needed([Report(0.1, MANY)] * 2, 3, unused=0.0), needed([Report(0.1, 9)] * 3, 4, unused=0.0)
    (3, 2)
    """
    serving = len(reports)
    if all((r.load >= FULL and unused >= _UNUSED) or r.sessions >= MANY for r in reports):
        return min(available, 2 * serving)
    fewer = serving - 1
    idle = sum(r.load for r in reports) < fewer * SLACK
    if idle and sum(r.sessions for r in reports) < fewer * SLACK * MANY:
        return fewer
    return serving


class Staffing:
    """Which workers serve now; ``processors`` is how many this agent may use."""

    def __init__(self, processors: int) -> None:
        self._processors = processors
        self._own = 0.0
        self._count = 1
        self._places: list[int] = []
        self._reports: dict[int, Report] = {}  # of all, since the last change

    def told(self, place: int, report: Report, own: float) -> None:
        """A worker reports; ``own`` is the manager's share of a processor."""
        self._reports[place], self._own = report, own

    def serving(self, ready: Mapping[int, W]) -> dict[int, W]:
        """Those of the ready workers that serve, by their places; who served goes on, others join or leave."""
        places = self._chosen(ready)
        if places and self._reports.keys() >= set(places):
            used = self._own + sum(report.load for report in self._reports.values())
            reports = [self._reports[place] for place in places]
            self._count = needed(reports, len(ready), self._processors - used)
            places = self._chosen(ready)
        if places != self._places:
            self._places = places
            self._reports.clear()
        return {place: ready[place] for place in sorted(places)}

    def _chosen(self, ready: Mapping[int, W]) -> list[int]:
        staying = [place for place in self._places if place in ready]
        others = [place for place in ready if place not in staying]
        return (staying + others)[: self._count]
