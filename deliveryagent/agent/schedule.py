"""The active set: which waiting recipients are in memory, and whose turn it is.

Recipients arrive here from the store, destination by destination; requests leave in turn, site by site, so
that a dead, slow or busy site never holds up another. Inside a site the destinations take turns, inside a
destination the messages in the order of their due times, moved by their priorities (``policy.precedence``).
Suspects (messages during whose delivery a process died before) go one at a time in the whole agent, so that
guilt shows and innocents are cleared.

Guarantees: a recipient is in the active set at most once; the requests that may run at a site never exceed
its window (``allotment``); nothing here grows beyond what was put in. Never touches the store, a socket or a
clock: callers say what time it is.
"""

import random
from collections import deque
from collections.abc import Collection, Iterator, Sequence

from deliveryagent.agent.active import LARGEST_QUOTA, Batch, Destination, Lane, Portion, Site
from deliveryagent.agent.allotment import divide, paced
from deliveryagent.agent.rules import Rules
from deliveryagent.mail.delivery import Pressure
from deliveryagent.policy import batches, concurrency
from deliveryagent.policy.concurrency import UNLIMITED, Window
from deliveryagent.queue.lines import Claimed

_MEMORY = 3600.0  # seconds a site without work is remembered for the trouble it made
_AHEAD = (
    16 * 1024 * 1024
)  # octets of content at workers, beyond which they get no more than may run


class Schedule:
    """The active set and the order in which it is worked off."""

    def __init__(self, *, rules: Rules, rng: random.Random) -> None:
        self.rules = rules
        self.closings: list[Site] = []  # sites that have just closed, or opened again
        self.rooms: list[tuple[int, str, int]] = []  # what workers must be told: place, site, limit
        self._rng = rng
        self._places: Sequence[int] = (0,)
        self._changed: set[Site] = set()  # to be divided anew, whether it has work or not
        self.destinations: dict[str, Destination] = {}
        self.sites: dict[str, Site] = {}
        self.active: set[tuple[int, int]] = set()
        self.in_flight: dict[int, Batch] = {}
        self._ring: deque[Site] = deque()
        self._closed: set[Site] = set()
        self._suspects: deque[Batch] = deque()
        self._suspect_in_flight = False
        self._serial = self._octets = 0  # the latest request's number; octets of content at workers
        self.first_share = UNLIMITED  # of a site that is new here
        self.short: set[Site] = set()  # sites whose share kept a request waiting

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
            found = self.sites[name] = Site(name, window, limit, share=self.first_share)
        return found

    def remember(self, name: str, closed_until: float, reason: str, now: float) -> None:
        """A site was closed when this agent, or another, last saw it."""
        site = self.site(name, -1)
        self._changed.add(site)
        site.window = Window(
            size=0.0, closed_until=closed_until, reason=reason, closings=1, updated=now
        )
        self._closed.add(site)

    def relearn(self, site: Site, window: Window) -> None:
        """Another agent, or a person, knows better what the site takes."""
        site.window = window
        self._rejoin(site)

    def assign(self, lane: Lane, site: Site) -> None:
        """Tell which site a lane belongs to; what it has pending gets its turn."""
        lane.site = site
        self._turn(lane)

    def add(
        self, lane: Lane, recipients: list[Claimed], limit: int, contents: dict[int, bytes]
    ) -> list[Batch]:
        """Take in recipients of one message, cut into requests of at most ``limit``."""
        active = self.active
        fresh = []
        for recipient in recipients:
            place = (recipient.message_id, recipient.number)
            if place not in active:
                active.add(place)
                fresh.append(recipient)
        if not fresh:
            return []
        content, suspect = contents.get(fresh[0].message_id), fresh[0].crashes > 0
        octets = len(content or b"")
        groups = batches.pack(fresh, limit)
        made = [Batch(list(group), lane, content, suspect, octets) for group in groups]
        for batch in made:
            self._queue(batch)
        return made

    def _queue(self, batch: Batch, *, first: bool = False) -> None:
        batch.lane.destination.pending += len(batch.recipients)
        if batch.suspect:
            self._suspects.append(batch)
        else:
            batch.lane.line_up(batch, first=first)
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
        self.redivide(now)
        yield from self._next_suspect(now)
        ring = self._ring
        while ring:
            site = ring.popleft()
            site.in_ring = False
            turns = site.turns
            portion = self._portion(site, now) if turns else None
            if portion is None:
                continue  # comes back by complete(), reopen(), shared() or _turn()
            lane = turns.popleft()
            if lane.pending:
                batch = lane.pending.popleft()
                if lane.pending:
                    turns.append(lane)
                else:
                    lane.in_turn = False
                yield self._start(batch, site, portion, now)
            else:
                lane.in_turn = False
            if turns and not site.in_ring:
                site.in_ring = True
                ring.append(site)

    def _next_suspect(self, now: float) -> Iterator[Batch]:
        for _ in range(len(self._suspects)):
            if self._suspect_in_flight:
                return
            batch = self._suspects.popleft()
            site = batch.lane.site
            portion = None if site is None else self._portion(site, now)
            if site is None or portion is None or portion.held >= portion.limit:
                self._suspects.append(batch)
                continue
            self._suspect_in_flight = True
            yield self._start(batch, site, portion, now)

    def _portion(self, site: Site, now: float) -> Portion | None:
        """The worker that gets the next request of a site; None when all have enough."""
        if site.divided is not site.window:
            self._divide(site, now)
        for portion in site.portions:
            if portion.held < portion.limit:
                return portion
        if site.share < max(1.0, site.window.size):
            self.short.add(site)
        if self._octets < _AHEAD:
            for portion in site.portions:
                if portion.held < portion.most:
                    return portion
        return None

    def redivide(self, now: float) -> None:
        """Divide anew what has changed, so that ``rooms`` says everything workers must be told."""
        while self._changed:
            self._divide(self._changed.pop(), now)

    def _divide(self, site: Site, now: float) -> None:
        self.rooms += [
            (portion.place, site.name, portion.limit) for portion in divide(site, self._places, now)
        ]

    def staff(self, places: Sequence[int]) -> None:
        """The workers at these places are ready for requests."""
        if places != self._places:
            self._places = places
            for site in self.sites.values():
                site.home = None
                self._rejoin(site)

    def vacate(self, place: int) -> None:
        """The worker at this place is gone, and with it all it was told."""
        for site in self.sites.values():
            portions = [portion for portion in site.portions if portion.place != place]
            if len(portions) < len(site.portions):
                site.portions = portions
                self._rejoin(site)

    def shared(self, site: Site, share: int) -> None:
        """So much of a site's limit is this agent's from now on."""
        site.share = share
        self._rejoin(site)

    def _rejoin(self, site: Site) -> None:
        """Something about a site changed: it is looked at when requests are next handed out."""
        self._changed.add(site)
        if site.turns and not site.in_ring:
            site.in_ring = True
            self._ring.append(site)

    def _start(self, batch: Batch, site: Site, portion: Portion, now: float) -> Batch:
        self._serial += 1
        batch.serial, batch.dispatched, batch.portion = self._serial, now, portion
        site.busy += 1
        portion.held += 1
        self._octets += batch.octets
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
        site, portion = batch.lane.site, batch.portion
        assert site is not None
        assert portion is not None
        handed_out = site.busy
        site.busy -= 1
        portion.held -= 1
        self._octets -= batch.octets
        if not portion.limit:
            self._changed.add(site)  # what it had too much counted against the others
        if pressure is Pressure.UP and paced(site, now - batch.dispatched):
            self._changed.add(site)
        if pressure is Pressure.DOWN:
            site.failed = now
        usual = pressure is Pressure.UP and site.full and site.divided is site.window
        if not usual and pressure is not Pressure.NONE:
            busy = min(handed_out, max(1, int(site.window.size)))
            self._learn(site, pressure, reason, busy=busy, now=now)
        if site.turns and not site.in_ring:
            site.in_ring = True
            self._ring.append(site)
        return batch

    def _learn(self, site: Site, pressure: Pressure, reason: str, *, busy: int, now: float) -> None:
        probed = site.window.closed_until
        window = concurrency.after(
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
        if window is not site.window:
            site.window = window
            self._changed.add(site)
            if concurrency.is_closed(window, now):
                self._closed.add(site)
                self.closings.append(site)
            elif probed:
                self.closings.append(site)

    def settled(self, batch: Batch) -> None:
        """The recipients of a batch are recorded; they leave the active set."""
        count = len(batch.recipients)
        for recipient in batch.recipients:
            self.active.discard((recipient.message_id, recipient.number))
        destination = batch.lane.destination
        destination.unsettled -= count
        destination.pace += count
        if destination.quota < LARGEST_QUOTA:
            destination.quota = min(LARGEST_QUOTA, destination.quota + count)

    def put_back(self, batch: Batch, numbers: Collection[int], *, suspect: bool = False) -> None:
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

    def trim(self, destination: Destination, most: int) -> list[Batch]:
        """Forget what a destination has waiting beyond ``most`` recipients, the last ones first."""
        gone: list[Batch] = []
        for lane in destination.lanes.values():
            while lane.pending and destination.pending > most:
                batch = lane.pending.pop()
                destination.pending -= len(batch.recipients)
                self.active.difference_update((r.message_id, r.number) for r in batch.recipients)
                gone.append(batch)
        return gone

    def reopen(self, now: float) -> None:
        """Sites whose closing time is over get their turn again."""
        for site in self._closed.copy():
            if not concurrency.is_closed(site.window, now):
                self._closed.discard(site)
                self._rejoin(site)

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
                self._changed.discard(site)
                self.rooms += [(p.place, site.name, 0) for p in site.portions if p.limit]

    @property
    def size(self) -> int:
        """Recipients in memory."""
        return len(self.active)

    def in_flight_of(self, queue_id: int) -> int:
        """How many requests of a message are in flight."""
        return sum(1 for batch in self.in_flight.values() if batch.queue_id == queue_id)
