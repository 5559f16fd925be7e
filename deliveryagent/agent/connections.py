"""Idle sessions kept for the next message (Postfix ``smtp_connection_cache_*``, ``_reuse_*``).

Sessions are found again by what makes them interchangeable: address, port and everything that was
decided before the first message (transport, our name, source address, TLS). A session to a worse
host than the best is found only by the next hop it was a detour for, so that a dead primary is not
dialled for every message.

A site's limit is one of connections: before one is opened, idle ones make room for it (``fit``), so
that they and the requests that run are together no more than may run.

Guarantees: a session is handed to one delivery at a time; one that was closed, or grew too old, is
never handed out; idle ones say QUIT when their time is over; their number is limited. A session
that still breaks when it is used was closed in that very moment; ``agent.delivery`` dials again
then.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable
from typing import Protocol

from deliveryagent.agent.settings import ReuseSettings

_LOOK = 0.5  # seconds between two looks at the idle sessions
DETOURS_KEPT = 2_000
SHY = 3600.0  # seconds in which nothing is written ahead to a peer that could not bear it
SHY_KEPT = 2_000


class Idle(Protocol):
    """What is asked of a session here; ``agent.session.Session`` is one."""

    @property
    def key(self) -> Hashable:
        """Sessions of equal keys are interchangeable."""

    @property
    def site(self) -> str:
        """The site it was opened for."""

    @property
    def reuse(self) -> ReuseSettings:
        """Its limits."""

    @property
    def opened(self) -> float:
        """When it was opened, by the event loop's clock."""

    @property
    def usable(self) -> bool:
        """Whether it can carry another message, as far as is known."""

    def leave(self, *, heard: bool = False) -> None:
        """Say QUIT and go, without waiting here; ``heard``: go when the peer has answered."""


class Connections:
    """The idle sessions of one worker.

    ``spare`` says how many more requests of a site might run than do; negative where more run than may.
    """

    def __init__(self, *, limit: int, spare: Callable[[str], int]) -> None:
        self._limit = limit
        self._spare = spare
        self._loop = asyncio.get_running_loop()
        self._idle: dict[Hashable, list[tuple[float, Idle]]] = {}
        self._count = 0
        self._at: Counter[str] = Counter()  # by site
        self._timer: asyncio.TimerHandle | None = None
        self._detours: dict[Hashable, tuple[float, Hashable]] = {}  # by next hop and policy
        self._shy: dict[Hashable, float] = {}
        self._closed = False

    def __len__(self) -> int:
        return self._count

    def take(self, keys: Iterable[Hashable], way: Hashable = None) -> Idle | None:
        """An idle session with one of these keys, the latest first; it belongs to the caller now.

        ``way`` is a next hop with its policy: a detour that was noted for it counts as a last key.
        """
        if not self._count:
            return None
        for wanted in keys:
            found = self._pop(wanted)
            if found is not None:
                return found
        detour = self._detours.get(way)
        if detour is None:
            return None
        found = self._pop(detour[1]) if detour[0] > self._loop.time() else None
        if found is None:
            del self._detours[way]
        return found

    def put(self, session: Idle) -> bool:
        """Keep a session for others, if it may be kept; otherwise it leaves."""
        now = self._loop.time()
        reuse = session.reuse
        until = min(
            now + reuse.connection_cache_time_limit,
            session.opened + reuse.connection_reuse_time_limit,
        )
        if self._closed or until <= now or not session.usable:
            session.leave()
            return False
        if self._count >= self._limit:
            self._evict()
        self._idle.setdefault(session.key, []).append((until, session))
        self._count += 1
        self._at[session.site] += 1
        if self._timer is None:
            self._timer = self._loop.call_later(
                min(_LOOK, reuse.connection_cache_time_limit), self._look
            )
        return True

    def note_detour(self, way: Hashable, key: Hashable, seconds: float) -> None:
        """Better hosts could not be reached: sessions with this key serve that way for now."""
        if len(self._detours) >= DETOURS_KEPT:
            del self._detours[next(iter(self._detours))]
        self._detours[way] = (self._loop.time() + seconds, key)

    def note_shy(self, key: Hashable) -> None:
        """A peer could not bear, or so it seems, that a message began before the last one was
        answered.
        """
        self._shy.pop(key, None)
        if len(self._shy) >= SHY_KEPT:
            del self._shy[next(iter(self._shy))]
        self._shy[key] = self._loop.time() + SHY

    def shy(self, key: Hashable) -> bool:
        """Whether that is to be avoided."""
        until = self._shy.get(key)
        return until is not None and until > self._loop.time()

    def fit(self, site: str) -> None:
        """End idle sessions to a site that are more than it has places, those first that would end next."""
        excess = self._at[site] - max(0, self._spare(site))
        if excess > 0:
            here = [
                (until, s) for stack in self._idle.values() for until, s in stack if s.site == site
            ]
            here.sort(key=lambda one: one[0])
            leaving = {id(session) for _, session in here[:excess]}
            self._keep_if(lambda session, _: id(session) not in leaving)

    def release(self, sites: Collection[str]) -> None:
        """End the idle sessions to these sites, or with none named all; they go when their peers answered."""
        self._detours.clear()
        self._keep_if(lambda session, _: bool(sites) and session.site not in sites, heard=True)

    def close(self) -> None:
        """End all idle sessions and keep none from now on."""
        self._closed = True
        self._keep_if(lambda _session, _until: False)
        if self._timer is not None:
            self._timer.cancel()

    def _pop(self, wanted: Hashable) -> Idle | None:
        stack = self._idle.get(wanted)
        if stack is None:
            return None
        now = self._loop.time()
        found = None
        while stack and found is None:
            until, session = stack.pop()
            self._count -= 1
            self._forget(session)
            if until > now and session.usable:
                found = session
            else:
                session.leave()
        if not stack:
            del self._idle[wanted]
        return found

    def _forget(self, session: Idle) -> None:
        self._at[session.site] -= 1
        if not self._at[session.site]:
            del self._at[session.site]

    def _evict(self) -> None:
        """Make room: the sessions that would be ended next go now, a tenth at a time."""
        ends = sorted(until for stack in self._idle.values() for until, _ in stack)
        line = ends[len(ends) // 10] if ends else 0.0
        self._keep_if(lambda _, until: until > line)

    def _look(self) -> None:
        self._timer = None
        now = self._loop.time()
        self._keep_if(lambda session, until: until > now and session.usable)
        if self._count:
            self._timer = self._loop.call_later(_LOOK, self._look)

    def _keep_if(self, stays: "Stays", *, heard: bool = False) -> None:
        for wanted, stack in list(self._idle.items()):
            kept = []
            for until, session in stack:
                if stays(session, until):
                    kept.append((until, session))
                else:
                    self._forget(session)
                    session.leave(heard=heard)
            self._count -= len(stack) - len(kept)
            if kept:
                self._idle[wanted] = kept
            else:
                del self._idle[wanted]


class Stays(Protocol):
    """Whether an idle session, with the end of its time, is kept."""

    def __call__(self, session: Idle, until: float, /) -> bool: ...
