"""The active set: which waiting recipients are in memory, and whose turn it is.

Recipients arrive here from the store, destination by destination; requests leave in turn, site by site, so
that a dead, slow or busy site never holds up another. Inside a site the destinations take turns, inside a
destination the messages in the order of their due times. Suspects (messages during whose delivery a process
died before) go one at a time in the whole agent, so that guilt shows and innocents are cleared.

Guarantees: a recipient is in the active set at most once; the requests in flight to a site never exceed its
window; nothing here grows beyond what was put in. Never touches the store, a socket or a clock: callers say
what time it is.
"""

import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from deliveryagent.agent.rules import Rules
from deliveryagent.mail.delivery import Pressure
from deliveryagent.policy import batches, concurrency
from deliveryagent.policy.concurrency import Window
from deliveryagent.queue.claims import Claimed, Cursor

_FIRST_QUOTA = 40
_LARGEST_QUOTA = 1000
_MEMORY = 3600.0  # seconds a site without work is remembered for the trouble it made


@dataclass(slots=True, eq=False)
class Batch:
    """Recipients of one message that share a next hop: one delivery request."""

    recipients: list[Claimed]
    lane: "Lane"
    content: bytes | None = None
    suspect: bool = False
    serial: int = 0
    dispatched: float = 0.0
    worker: int = -1

    @property
    def queue_id(self) -> int:
        """The message it belongs to."""
        return self.recipients[0].message_id


@dataclass(slots=True, eq=False)
class Lane:
    """What one destination has waiting for one next hop."""

    destination: "Destination"
    next_hop: str
    route: int
    site: "Site | None" = None
    pending: deque[Batch] = field(default_factory=deque)
    in_turn: bool = False


@dataclass(slots=True, eq=False)
class Destination:
    """A destination in this agent's custody, with the place reached in its waiting line."""

    name: str
    lanes: dict[tuple[str, int], Lane] = field(default_factory=dict)
    cursor_small: Cursor | None = None
    cursor_bulk: Cursor | None = None
    exhausted: bool = False  # nothing more was due when last asked
    fetching: bool = False
    quota: int = _FIRST_QUOTA
    pending: int = 0  # recipients in memory, not in flight
    unsettled: int = 0  # recipients in flight, or over but not recorded yet
    leaving: bool = False  # goes back to the store as soon as nothing is unsettled
    not_before: float = 0.0  # when it may be taken up again

    @property
    def hungry(self) -> bool:
        """Whether more of its waiting line should be fetched."""
        return (
            not (self.exhausted or self.fetching or self.leaving)
            and self.pending <= self.quota // 2
        )

    @property
    def done(self) -> bool:
        """Whether it can go back: nothing in memory, nothing unsettled, nothing more to fetch."""
        if self.unsettled or self.fetching:
            return False
        return self.leaving or (self.exhausted and not self.pending)


@dataclass(slots=True, eq=False)
class Site:
    """The MX hosts that one or more lanes share, with the window that limits the requests in flight."""

    name: str
    window: Window
    limit: int
    busy: int = 0
    turns: deque[Lane] = field(default_factory=deque)
    in_ring: bool = False
    failed: float = 0.0  # when it was last found unusable

    def waiting(self) -> int:
        """Recipients in memory that wait for this site."""
        return sum(len(batch.recipients) for lane in self.turns for batch in lane.pending)


class Schedule:
    """The active set and the order in which it is worked off."""

    def __init__(self, *, rules: Rules, rng: random.Random) -> None:
        self.rules = rules
        self._rng = rng
        self.destinations: dict[str, Destination] = {}
        self.sites: dict[str, Site] = {}
        self.active: set[tuple[int, int]] = set()
        self.in_flight: dict[int, Batch] = {}
        self._ring: deque[Site] = deque()
        self._closed: set[Site] = set()
        self._suspects: deque[Batch] = deque()
        self._suspect_in_flight = False
        self._serial = 0

    # -- what comes in ---

    def destination(self, name: str) -> Destination:
        """The destination's entry, made if it is new."""
        found = self.destinations.get(name)
        if found is None:
            found = self.destinations[name] = Destination(name)
        return found

    def lane(self, destination: Destination, next_hop: str, route: int) -> Lane:
        """The destination's lane for a next hop, made if it is new."""
        found = destination.lanes.get((next_hop, route))
        if found is None:
            found = destination.lanes[next_hop, route] = Lane(destination, next_hop, route)
        return found

    def site(self, name: str, route: int) -> Site:
        """The site of that name, made with an opening window if it is new."""
        found = self.sites.get(name)
        if found is None:
            limit = self.rules.site_limit(route)
            window = concurrency.opened(self.rules.concurrency, limit=limit)
            found = self.sites[name] = Site(name, window, limit)
        return found

    def remember(self, name: str, closed_until: float, reason: str, now: float) -> None:
        """A site was closed when this agent, or another, last saw it."""
        site = self.site(name, -1)
        site.window = Window(
            size=0.0, closed_until=closed_until, reason=reason, closings=1, updated=now
        )
        self._closed.add(site)

    def assign(self, lane: Lane, site: Site) -> None:
        """Tell which site a lane belongs to; what it has pending gets its turn."""
        lane.site = site
        self._turn(lane)

    def add(
        self, lane: Lane, recipients: list[Claimed], limit: int, contents: dict[int, bytes]
    ) -> Iterator[Batch]:
        """Take in recipients of one message, cut into requests of at most ``limit``; yields each request."""
        fresh = [r for r in recipients if (r.message_id, r.number) not in self.active]
        for group in batches.pack(fresh, limit):
            batch = Batch(
                list(group), lane, contents.get(group[0].message_id), suspect=group[0].crashes > 0
            )
            self.active.update((r.message_id, r.number) for r in group)
            self._queue(batch)
            yield batch

    def _queue(self, batch: Batch, *, first: bool = False) -> None:
        batch.lane.destination.pending += len(batch.recipients)
        if batch.suspect:
            self._suspects.append(batch)
        elif first:
            batch.lane.pending.appendleft(batch)
        else:
            batch.lane.pending.append(batch)
        self._turn(batch.lane)

    def _turn(self, lane: Lane) -> None:
        """Put a lane with work into its site's round, and the site into the ring."""
        site = lane.site
        if site is None:
            return
        if lane.pending and not lane.in_turn:
            lane.in_turn = True
            site.turns.append(lane)
        if site.turns and not site.in_ring:
            site.in_ring = True
            self._ring.append(site)

    # -- what goes out ---

    def next_batches(self, now: float) -> Iterator[Batch]:
        """Every request that may start now, site by site in turn; each is in flight once yielded."""
        yield from self._next_suspect(now)
        ring = self._ring
        while ring:
            site = ring.popleft()
            site.in_ring = False
            if not site.turns or concurrency.room(site.window, busy=site.busy, now=now) <= 0:
                continue  # comes back by complete(), reopen() or _turn()
            lane = site.turns.popleft()
            if lane.pending:
                batch = lane.pending.popleft()
                if lane.pending:
                    site.turns.append(lane)
                else:
                    lane.in_turn = False
                yield self._start(batch, site, now)
            else:
                lane.in_turn = False
            if site.turns and not site.in_ring:
                site.in_ring = True
                ring.append(site)

    def _next_suspect(self, now: float) -> Iterator[Batch]:
        for _ in range(len(self._suspects)):
            if self._suspect_in_flight:
                return
            batch = self._suspects.popleft()
            site = batch.lane.site
            if site is None or concurrency.room(site.window, busy=site.busy, now=now) <= 0:
                self._suspects.append(batch)
                continue
            self._suspect_in_flight = True
            yield self._start(batch, site, now)

    def _start(self, batch: Batch, site: Site, now: float) -> Batch:
        self._serial += 1
        batch.serial, batch.dispatched = self._serial, now
        site.busy += 1
        count = len(batch.recipients)
        batch.lane.destination.pending -= count
        batch.lane.destination.unsettled += count
        self.in_flight[batch.serial] = batch
        return batch

    # -- what comes back ---

    def complete(self, serial: int, pressure: Pressure, reason: str, now: float) -> Batch | None:
        """A request is over: its slot is free and the site's window learns of it.

        The recipients stay active until :meth:`settled`. Returns None for a serial nobody waits for.
        """
        batch = self.in_flight.pop(serial, None)
        if batch is None:
            return None
        if batch.suspect:
            self._suspect_in_flight = False
        site = batch.lane.site
        assert site is not None
        busy = site.busy
        site.busy -= 1
        if pressure is Pressure.DOWN:
            site.failed = now
        if pressure is not Pressure.NONE:
            site.window = concurrency.after(
                site.window,
                pressure,
                busy=busy,
                now=now,
                limit=site.limit,
                reason=reason,
                settings=self.rules.concurrency,
                retry=self.rules.retry,
                rng=self._rng,
            )
            if concurrency.is_closed(site.window, now):
                self._closed.add(site)
        if site.turns and not site.in_ring:
            site.in_ring = True
            self._ring.append(site)
        return batch

    def settled(self, batch: Batch) -> None:
        """The recipients of a batch are recorded; they leave the active set."""
        count = len(batch.recipients)
        for recipient in batch.recipients:
            self.active.discard((recipient.message_id, recipient.number))
        destination = batch.lane.destination
        destination.unsettled -= count
        if destination.exhausted is False and destination.quota < _LARGEST_QUOTA:
            destination.quota = min(_LARGEST_QUOTA, destination.quota + count)

    def put_back(self, batch: Batch, numbers: set[int], *, suspect: bool = False) -> None:
        """These recipients of a batch came back untried: they wait at the head of their lane again."""
        untried = [r for r in batch.recipients if r.number in numbers]
        batch.recipients = [r for r in batch.recipients if r.number not in numbers]
        batch.lane.destination.unsettled -= len(untried)
        again = Batch(untried, batch.lane, suspect=suspect or batch.suspect)
        if batch.lane.destination.leaving:
            self.active.difference_update((r.message_id, r.number) for r in untried)
        else:
            self._queue(again, first=True)

    # -- closing and leaving ---

    def closed_until(self, site: Site, now: float) -> float:
        """When a closed site may be probed, 0 while it is open."""
        return site.window.closed_until if concurrency.is_closed(site.window, now) else 0.0

    def dismiss(self, destination: Destination, *, not_before: float) -> int:
        """Forget what a destination has waiting; it goes back to the store, not to be taken up before then.

        Returns the octets of content that are no longer in memory.
        """
        destination.leaving = True
        destination.not_before = max(destination.not_before, not_before)
        gone = [b for b in self._suspects if b.lane.destination is destination]
        for batch in gone:
            self._suspects.remove(batch)
        for lane in destination.lanes.values():
            gone.extend(lane.pending)
            lane.pending.clear()
        for batch in gone:
            destination.pending -= len(batch.recipients)
            self.active.difference_update((r.message_id, r.number) for r in batch.recipients)
        return sum(len(batch.content or b"") for batch in gone)

    def reopen(self, now: float) -> None:
        """Sites whose closing time is over get their turn again."""
        for site in self._closed.copy():
            if not concurrency.is_closed(site.window, now):
                self._closed.discard(site)
                if site.turns and not site.in_ring:
                    site.in_ring = True
                    self._ring.append(site)

    def next_reopening(self, now: float) -> float:
        """When the next closed site that has work in memory may be probed; an hour from now if none."""
        return min((s.window.closed_until for s in self._closed if s.turns), default=now + 3600.0)

    def drop(self, destination: Destination) -> None:
        """The destination went back to the store."""
        self.destinations.pop(destination.name, None)
        for lane in destination.lanes.values():
            site = lane.site
            if site is None:
                continue
            if lane.in_turn:
                site.turns.remove(lane)
                lane.in_turn = False

    def forget_sites(self, now: float) -> None:
        """Drop the entries of sites without work, once their windows have nothing to remember."""
        kept = {lane.site for d in self.destinations.values() for lane in d.lanes.values()}
        for site in list(self.sites.values()):
            if site in kept or site.busy:
                continue
            if not concurrency.remembers(site.window) or site.window.updated < now - _MEMORY:
                self.sites.pop(site.name)
                self._closed.discard(site)

    @property
    def size(self) -> int:
        """Recipients in memory."""
        return len(self.active)

    def in_flight_of(self, queue_id: int) -> int:
        """How many requests of a message are in flight."""
        return sum(1 for batch in self.in_flight.values() if batch.queue_id == queue_id)
