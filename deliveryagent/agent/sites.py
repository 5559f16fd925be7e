"""Which site a next hop belongs to, and what happens when a site closes.

Workers resolve; their answers are remembered as long as the records live. Guarantees: no request leaves
before its site is known, so windows hold from the first connection on; what waits for a closed site goes
back to the store without an attempt and without a write per recipient. That a site closed, opened again or
asks for less is recorded, so that a restart does not forget it and other agents hear of it (``heard``).
"""

from collections.abc import Callable, Iterable, Mapping

import msgspec

from deliveryagent.agent import frames
from deliveryagent.agent.active import Destination, Lane, Site
from deliveryagent.agent.allotment import first_place
from deliveryagent.agent.crew import Worker
from deliveryagent.agent.schedule import Schedule
from deliveryagent.policy import concurrency
from deliveryagent.policy.routing import Routed
from deliveryagent.queue import sites
from deliveryagent.queue.sites import SiteState
from deliveryagent.queue.thread import Database

SITE_NAMES = 50_000  # next hops whose site is remembered


class Sites:
    """The way from next hops to sites."""

    def __init__(
        self,
        *,
        database: Database,
        schedule: Schedule,
        workers: Callable[[], Mapping[int, Worker]],
        release: Callable[[Destination, float], None],
    ) -> None:
        self._database = database
        self._schedule = schedule
        self._workers = workers
        self._release = release
        self._names: dict[str, tuple[str, float]] = {}
        self._lookups: dict[int, tuple[str, int]] = {}
        self._waiting: dict[str, list[Lane]] = {}
        self._serial = 0

    def find(self, lanes: Iterable[Lane], now: float) -> None:
        """Give each lane its site, now or as soon as a worker has resolved it."""
        for lane in lanes:
            if lane.site is not None:
                self._check_open(lane, lane.site, now)
                continue
            name = self.known(lane.next_hop, now)
            if name:
                self._assign(lane, name, now)
                continue
            if lane.next_hop not in self._waiting:
                self._look_up(lane.next_hop, lane.route)
            self._waiting[lane.next_hop].append(lane)

    def expect(self, routed: Routed, now: float) -> None:
        """Mail with this next hop is on its way: have its site resolved."""
        if routed.next_hop not in self._waiting and not self.known(routed.next_hop, now):
            self._look_up(routed.next_hop, routed.index)

    def _look_up(self, next_hop: str, route: int) -> None:
        self._waiting[next_hop] = []
        self._serial += 1
        self._lookups[self._serial] = (next_hop, route)
        worker = self._worker_for(next_hop)
        if worker is not None:
            worker.say(frames.Lookup(self._serial, next_hop, route))

    def _worker_for(self, next_hop: str, home: int | None = None) -> Worker | None:
        """The worker at home, or the one that is asked for a next hop; None when none is ready."""
        workers = self._workers()
        if home is not None and home in workers:  # it may have ended, or serve no more
            return workers[home]
        return workers[first_place(next_hop, tuple(workers))] if workers else None

    def known(self, next_hop: str, now: float) -> str:
        """The site's name, empty when it would have to be looked up."""
        name, expires = self._names.get(next_hop, ("", 0.0))
        return name if expires > now else ""

    def ask_again(self, worker: Worker) -> None:
        """A worker is new: it gets the questions that nobody answered."""
        for serial, (next_hop, route) in self._lookups.items():
            worker.say(frames.Lookup(serial, next_hop, route))

    def answered(self, answer: frames.Site, place: int, now: float) -> None:
        """The worker at this place has resolved a next hop.

        A site that is new will have its first sessions there; where it has them elsewhere, that worker
        is told what was found, so that nobody has to ask the name service twice.
        """
        next_hop, route = self._lookups.pop(answer.serial, ("", -1))
        if not next_hop:
            return
        # A next hop that cannot be resolved is a site of its own: its requests find out why.
        name = answer.name or f"?{next_hop}"
        if len(self._names) >= SITE_NAMES:
            self._names.pop(next(iter(self._names)))
        self._names[next_hop] = (name, now + max(1.0, answer.ttl))
        site = self._schedule.sites.get(name)
        worker = self._worker_for(next_hop, None if site is None else site.home)
        if worker is not None and worker.index != place and answer.hosts is not None:
            worker.say(frames.Hosts(next_hop, route, answer.hosts, answer.ttl))
        for lane in self._waiting.pop(next_hop, []):
            if lane.site is None and not lane.destination.leaving:
                self._assign(lane, name, now)

    def _assign(self, lane: Lane, name: str, now: float) -> None:
        site = self._schedule.site(name, lane.route)
        worker = self._worker_for(lane.next_hop) if site.home is None else None
        if worker is not None:
            site.home = worker.index
        self._schedule.assign(lane, site)
        self._check_open(lane, site, now)

    def _check_open(self, lane: Lane, site: Site, now: float) -> None:
        until = self._schedule.closed_until(site, now)
        # Where one destination has several next hops, the others go on; this one waits in memory.
        if until and len(lane.destination.lanes) == 1:
            self._release(lane.destination, until)

    def closed(self, site: Site, now: float) -> None:
        """A site has just closed, or opened again."""
        for name in self._let_wait(site, now):
            self._database.submit(sites.destination_site, (name, site.name))
        self.save(site, now)

    def _let_wait(self, site: Site, now: float) -> list[str]:
        """If the site is closed, what waits for it goes back; the destinations that belong to it."""
        found = []
        for destination in list(self._schedule.destinations.values()):
            for lane in destination.lanes.values():
                if lane.site is site:
                    self._check_open(lane, site, now)
                    found.append(destination.name)
        return found

    def heard(self, state: SiteState, now: float) -> None:
        """Somebody recorded something about a site."""
        schedule = self._schedule
        site = schedule.sites.get(state.name)
        if state.closed_until is not None and state.closed_until > now:
            if site is None or not site.window.closed_until:
                schedule.remember(state.name, state.closed_until, state.reason, now)
                self._let_wait(schedule.sites[state.name], now)
        elif site is None or state.updated <= site.window.updated:
            return
        elif site.window.closed_until:
            window = concurrency.opened(schedule.rules.concurrency, limit=site.limit)
            schedule.relearn(site, msgspec.structs.replace(window, updated=state.updated))
        elif state.reason:
            size = state.concurrency * self._part(site)
            schedule.relearn(
                site, concurrency.warned(site.window, size=size, reason=state.reason, now=now)
            )

    @staticmethod
    def _part(site: Site) -> float:
        """How much of the site's limit is this agent's."""
        return min(1.0, site.share / site.limit) if site.limit > 0 else 1.0

    def save(self, site: Site, now: float) -> None:
        """Record a site's window, as it would be if this agent had the site for itself."""
        window = site.window
        self._database.submit(
            sites.save,
            SiteState(
                name=site.name,
                concurrency=window.size / (self._part(site) or 1.0),
                closed_until=window.closed_until if window.closed_until > now else None,
                reason=window.reason,
                updated=now,
            ),
        )

    # -- looking ---

    def of(self, destination: str, now: float) -> Site | None:
        """The site a destination's mail goes to, if it is known and remembered."""
        routed = self._schedule.rules.router.route(f"postmaster@{destination}", destination)
        return self._schedule.sites.get(self.known(routed.next_hop, now))

    def closed_of(self, destination: str, now: float) -> Site | None:
        """The destination's site if it is closed now."""
        site = self.of(destination, now)
        return site if site is not None and self._schedule.closed_until(site, now) else None

    def describe(self, site: Site, now: float) -> dict[str, object]:
        """A site's live facts, for people."""
        return {
            "name": site.name,
            "window": round(site.window.size, 2),
            "share": None if site.share == concurrency.UNLIMITED else site.share,
            "busy": site.busy,
            "waiting": site.waiting(),
            "closed_until": self._schedule.closed_until(site, now) or None,
            "reason": site.window.reason,
            "next_hop": site.turns[0].next_hop if site.turns else "",
        }
