"""How a site's window is divided among the workers, and who has a request more at hand than may run.

Each worker is told how many requests of a site may run there; together that is never more than the window. A
worker may have more requests than that, so that the next one starts the moment one ends, without a word: as
many again, where a site's answers come fast and it never complained, and what it does in some hundredths of a
second, where they come at once and no other agent could take over. A site gets one worker for each
``SESSIONS_PER_WORKER`` of its window, always the same ones, because they have the sessions.

Guarantees: the limits of a site add up to its window or less, counting as running whatever a worker that is
no longer meant to serve the site still has. Never speaks to a worker.
"""

import zlib
from collections.abc import Iterator, Sequence

from deliveryagent.agent.active import Portion, Site
from deliveryagent.policy import concurrency

BRISK, SWIFT = 2, 12  # times its limit that a worker may have of such a site
_BRISK_TIME, _SWIFT_TIME = 0.5, 0.02  # seconds to the answer
_STILL_SWIFT = 0.2  # seconds to the answer with so many more in front
SESSIONS_PER_WORKER = 20  # a site gets one more worker for each such part of its window


def paced(site: Site, seconds: float) -> bool:
    """A request was answered so long after it was handed out; whether that changes what workers may have."""
    brisk, swift = seconds < _BRISK_TIME, seconds < (_STILL_SWIFT if site.swift else _SWIFT_TIME)
    changed = (brisk, swift) != (site.brisk, site.swift)
    site.brisk, site.swift = brisk, swift
    return changed


def first_place(name: str, places: Sequence[int]) -> int:
    """A place for a name: always the same as long as the places are the same."""
    return places[zlib.crc32(name.encode()) % len(places)]


def _places(site: Site, places: Sequence[int], count: int) -> list[int]:
    """The first ``count`` places of a site, in the order in which they get sessions."""
    home = site.home if site.home in places else first_place(site.name, places)
    first = places.index(home)
    return [places[(first + step) % len(places)] for step in range(count)]


def divide(site: Site, places: Sequence[int], now: float) -> Iterator[Portion]:
    """Divide the site's window anew among the workers at ``places``; yields portions whose limit changed."""
    size = _size(site, now)
    ample = site.brisk and not site.strict and not concurrency.remembers(site.window)
    limits = _limits(site, size, places) if size and places else {}
    known = {portion.place: portion for portion in site.portions}
    site.portions = [known.get(place) or Portion(place) for place in limits]
    # What serves the site no more is remembered until everything it has came back.
    site.portions += [
        portion
        for place, portion in known.items()
        if place not in limits and (portion.held or portion.limit)
    ]
    # Another agent would send again what this one's workers had at hand when it fell silent.
    times = SWIFT if site.swift and site.share == concurrency.UNLIMITED else BRISK
    site.divided = site.window
    site.full = concurrency.is_full(site.window, limit=site.limit)
    for portion in site.portions:
        limit = limits.get(portion.place, 0)
        portion.most = limit * times if ample else limit
        if limit != portion.limit:
            portion.limit = limit
            yield portion


def _size(site: Site, now: float) -> int:
    """How many requests may run at the site now, all workers together."""
    window = site.window
    if concurrency.is_closed(window, now):
        return 0
    return min(1 if window.closed_until else int(window.size), site.share)


def _limits(site: Site, size: int, places: Sequence[int]) -> dict[int, int]:
    """The limit of each worker that serves the site, those first that have the first sessions."""
    count = min(len(places), -(-size // SESSIONS_PER_WORKER))
    ring = _places(site, places, count)
    while ring:
        elsewhere = sum(portion.held for portion in site.portions if portion.place not in ring)
        limits = _parts(max(0, size - elsewhere), ring)
        if all(limits.values()):
            return limits
        ring = [place for place in ring if limits[place]]
    return {}


def _parts(size: int, ring: Sequence[int]) -> dict[int, int]:
    """Cut into pieces for ``SESSIONS_PER_WORKER`` sessions, dealt out in turn."""
    rounds, rest = divmod(size, SESSIONS_PER_WORKER * len(ring))
    parts = {}
    for step, place in enumerate(ring):
        part = min(SESSIONS_PER_WORKER, max(0, rest - step * SESSIONS_PER_WORKER))
        parts[place] = rounds * SESSIONS_PER_WORKER + part
    return parts
