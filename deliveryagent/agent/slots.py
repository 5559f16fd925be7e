"""This agent's part of each site's limit, where several agents work on one queue.

Alone, an agent has the whole limit of every site and asks nobody. Among others it starts nothing at a site
before the ledger (``queue.shares``) has given it slots there; it asks when a share keeps something waiting, not
per message, and gives back what it does not use for some seconds, or what others should have.

Slots are given back in this order: nothing more is started beyond the smaller share, what is in flight too
much ends, the workers end their idle sessions to the site and say so, the ledger is told. What was in flight
when the workers were asked still counts then: it may have left idle sessions since. So the peer never sees
more sessions than its limit, whoever they come from.

Guarantees: the schedule never has a larger share of a site than the ledger says; one question is under way at
a time, for many sites at once. Never decides what is fair: that is ``policy.shares``.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable

from deliveryagent.agent import frames
from deliveryagent.agent.active import Site
from deliveryagent.agent.crew import Worker
from deliveryagent.agent.schedule import Schedule
from deliveryagent.policy import concurrency
from deliveryagent.policy.concurrency import UNLIMITED
from deliveryagent.queue import shares
from deliveryagent.queue.shares import Ask, Asks, Ends, Opening, Share
from deliveryagent.queue.thread import Database, StoreUnavailable

IDLE = 5.0
"""Seconds a site may be without work until its slots go back."""

_LOOK = 0.05  # seconds between two looks at what is in flight too much
_FAREWELL = 2.0  # seconds a worker may take to end idle sessions


class Slots:
    """The shares of one agent; see the module's docstring.

    ``workers`` are all that may have sessions, ``started`` is called when requests may start.
    """

    def __init__(
        self,
        *,
        database: Database,
        agent: int,
        schedule: Schedule,
        workers: Callable[[], Iterable[Worker]],
        started: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self.alone = False
        self._database = database
        self._agent = agent
        self._schedule = schedule
        self._workers = workers
        self._started = started
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._held: dict[str, int] = {}  # what the ledger says this agent has
        self._target: dict[str, int] = {}  # its fair part, where that is less
        self._asking: set[Site] = set()
        self._hopeful: set[str] = set()  # asked for more than was to be had; news will tell
        self._idle_since: dict[str, float] = {}
        self._serial = 0
        self._farewells: dict[
            int, set[Worker]
        ] = {}  # by serial of ``Release``, who has not answered
        self._heard = asyncio.Event()
        schedule.first_share = 0

    # -- alone and among others ---

    def go_alone(self) -> None:
        """There is no other agent, and the ledger knows: every site is ours."""
        self.alone = True
        for found in (self._held, self._target, self._asking, self._hopeful, self._idle_since):
            found.clear()
        self._schedule.first_share = UNLIMITED
        for site in self._schedule.sites.values():
            site.strict = False
            self._schedule.shared(site, UNLIMITED)
        self._started()

    async def join(self) -> None:
        """Another agent came: no more than what is in flight now is ours, and the ledger is told.

        To be called again as long as the ledger was not told.
        """
        self.alone = False
        self._schedule.first_share = 0
        self._held.clear()
        for site in self._schedule.sites.values():
            if site.limit <= 0:
                continue
            running = min(site.busy, site.limit)
            self._schedule.shared(site, running)
            if running:
                self._held[site.name] = running
        self._started()
        if not await self._end_sessions([]):
            return
        opening = Opening(self._agent, tuple(sorted(self._held.items())))
        await self._database.submit(shares.begin, opening)
        self.look()

    # -- asking ---

    def look(self) -> None:
        """The schedule has sites whose share keeps something waiting."""
        short, self._schedule.short = self._schedule.short, set()
        if self.alone:
            return
        now = self._clock()
        for site in short:
            if site.limit <= 0:
                self._schedule.shared(site, UNLIMITED)
                self._started()
            elif site.name not in self._hopeful and not concurrency.is_closed(site.window, now):
                self._asking.add(site)
        if self._asking:
            self._wake.set()

    async def news(self) -> None:
        """Others may have given slots back, or want some: ask again where somebody has too few."""
        if self.alone:
            return
        contended = await self._database.submit(shares.contended, self._agent)
        sites = self._schedule.sites
        for name in self._hopeful.union(contended):
            site = sites.get(name)
            if site is not None and (site.busy or site.turns):
                self._asking.add(site)
            else:
                self._idle_since[name] = -IDLE  # nobody need wait for what is not used
        self._hopeful.clear()
        self._wake.set()

    async def run(self) -> None:
        """Ask and give back until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK if self._target else IDLE / 5):
                    await self._wake.wait()
            self._wake.clear()
            if not self.alone:
                with contextlib.suppress(StoreUnavailable):  # asked again: nothing is forgotten
                    await self._ask()
                    await self._give_back()
                    await self._end_idle()

    async def _ask(self) -> None:
        while self._asking:
            sites = sorted(self._asking, key=lambda site: site.name)[: shares.CAP]
            asks = tuple(self._question(site, self._held.get(site.name, 0)) for site in sites)
            answers = await self._submit(asks)
            self._asking.difference_update(sites)
            for site, wanted, share in zip(sites, asks, answers, strict=True):
                self._take(site, wanted, share)

    async def _submit(self, asks: tuple[Ask, ...]) -> list[Share]:
        return await self._database.submit(shares.ask, Asks(self._agent, asks))

    def _question(self, site: Site, busy: int) -> Ask:
        return Ask(site=site.name, limit=site.limit, wanted=self._wanted(site), busy=busy)

    def _wanted(self, site: Site) -> int:
        """How many requests could be in flight soon; rounded up, so that growth is asked for rarely."""
        waiting = site.busy + sum(len(lane.pending) for lane in site.turns)
        # A window grows by one with each success: twice its size is what it can have soon.
        useful = min(waiting, max(1, 2 * int(site.window.size)))
        return min(site.limit, 1 << max(0, useful - 1).bit_length()) if useful else 0

    def _take(self, site: Site, asked: Ask, share: Share) -> None:
        """What the ledger answered holds from now on."""
        if self.alone:
            return
        self._held[site.name] = share.slots
        if share.slots < asked.wanted:
            self._hopeful.add(site.name)
        else:
            self._hopeful.discard(site.name)
        if share.target < share.slots:
            self._target[site.name] = share.target
        else:
            self._target.pop(site.name, None)
        site.strict = share.target < share.slots
        self._schedule.shared(site, min(share.slots, share.target))
        self._started()

    # -- giving back ---

    async def _give_back(self) -> None:
        """Tell the ledger of slots that are not used any more, where others should have them."""
        # What is in flight when the workers are told: all of it may have left idle sessions when they answer.
        kept: dict[Site, int] = {}
        for name, target in self._target.items():
            site = self._schedule.sites.get(name)
            if site is not None and max(site.busy, target) < self._held.get(name, 0):
                kept[site] = max(site.busy, target)
            if len(kept) == shares.CAP:
                break
        if not kept or not await self._end_sessions([site.name for site in kept]):
            return
        asks = tuple(self._question(site, slots) for site, slots in kept.items())
        answers = await self._submit(asks)
        for site, asked, share in zip(kept, asks, answers, strict=True):
            self._take(site, asked, share)

    async def _end_idle(self) -> None:
        """Give all slots of sites back that have had nothing to do for a while, or that others wait for."""
        now, over = self._loop.time(), []
        for name in self._held:
            site = self._schedule.sites.get(name)
            if site is not None and (site.busy or site.turns):
                self._idle_since.pop(name, None)
                continue
            since = self._idle_since.setdefault(name, now)
            if now - since >= IDLE or name in self._target:
                over.append(name)
        over = over[: shares.CAP]
        if over:
            await self._end(over)

    async def _end(self, names: list[str]) -> None:
        for name in names:
            site = self._schedule.sites.get(name)
            if site is not None:
                self._schedule.shared(site, 0)
        if not await self._end_sessions(names):
            return
        await self._database.submit(shares.end, Ends(self._agent, tuple(names)))
        for name in names:
            self._held.pop(name, None)
            self._target.pop(name, None)
            self._hopeful.discard(name)
            self._idle_since.pop(name, None)
        self._started()  # what came meanwhile asks anew

    async def _end_sessions(self, names: list[str]) -> bool:
        """Have the workers end their idle sessions to these sites; whether all of them have."""
        self._serial += 1
        serial = self._serial
        silent = self._farewells[serial] = {worker for worker in self._workers() if worker.pid}
        for worker in silent:
            worker.say(frames.Release(serial, names))
        until = self._loop.time() + _FAREWELL
        try:
            while any(worker.pid for worker in silent):
                if self._loop.time() > until:
                    return False
                self._heard.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK):
                        await self._heard.wait()
        finally:
            del self._farewells[serial]
        return True

    def released(self, worker: Worker, serial: int) -> None:
        """A worker has ended the idle sessions it was asked to end."""
        self._farewells.get(serial, set()).discard(worker)
        self._heard.set()
