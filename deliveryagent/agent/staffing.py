"""How many of the workers serve: as few as keep up.

Work that is together costs less: sessions are reused more often, and one turn of an event loop serves more of
them. So one worker serves until it is busy or has very many sessions, then twice as many do, up to all; when
they have little to do, one fewer. Those that do not serve are idle, and ready at once.

Guarantees: at least one serves; a decision rests on one report from each that serves, made since the last
change. Never looks at a clock.
"""

from collections.abc import Collection, Mapping
from typing import TypeVar

W = TypeVar("W")

FULL = 0.9  # share of a processor with which a worker has enough to do
SLACK = 0.4  # share of a processor that is left to each when one fewer serves, or less
MANY = 1000  # sessions of one worker that count as a whole processor


def needed(serving: int, loads: Collection[float], available: int) -> int:
    """How many should serve of ``available``, given the loads of those ``serving`` as shares of a processor.

    >>> needed(1, [0.95], 4), needed(2, [0.9, 1.0], 3), needed(2, [1.0, 0.1], 4), needed(3, [0.2] * 3, 4)
    (2, 3, 2, 2)
    """
    if min(loads) >= FULL:
        return min(available, 2 * serving)
    if serving > 1 and sum(loads) < (serving - 1) * SLACK:
        return serving - 1
    return serving


class Staffing:
    """Which workers serve now."""

    def __init__(self) -> None:
        self._count = 1
        self._places: list[int] = []
        self._loads: dict[int, float] = {}  # of those that serve, since the last change

    def told(self, place: int, load: float, sessions: int) -> None:
        """A worker says what share of a processor it needed lately, and how many sessions it has."""
        self._loads[place] = max(load, sessions / MANY)

    def serving(self, ready: Mapping[int, W]) -> dict[int, W]:
        """Those of the ready workers that serve, by their places; who served goes on, others join or leave."""
        places = self._chosen(ready)
        if places and self._loads.keys() >= set(places):
            loads = [self._loads[place] for place in places]
            self._count = needed(len(places), loads, len(ready))
            places = self._chosen(ready)
        if places != self._places:
            self._places = places
            self._loads.clear()
        return {place: ready[place] for place in sorted(places)}

    def _chosen(self, ready: Mapping[int, W]) -> list[int]:
        staying = [place for place in self._places if place in ready]
        others = [place for place in ready if place not in staying]
        return (staying + others)[: self._count]
