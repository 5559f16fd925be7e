"""This agent among the others of its queue: its lease, who else is there, what they want (PostgreSQL only).

All of it runs beside deliveries, on database threads of its own: one for the lease, so that nothing that
keeps another one waiting can make it run out, one (``ledger``) for what other agents may hold up. A round
renews the lease, says how things stand here, takes over what silent agents owned, and looks at what others
want; news from the others make a look at once.

The workers are told until when they may deliver: the time at which the renewal *began*, by the machine's
monotonic clock, plus the length of the lease. The database counts from the moment it carried the renewal out,
which is later, so a worker stops before anybody else may begin. While the lease is over and not renewed,
nothing is handed out. When it was lost, because another agent took over, the fence of the database says so
(``queue.leases``), and this agent is at its end. An agent whose own lease was over (the database was away)
gives the others half a lease to come back, before it takes them for dead.

Load is balanced by giving back: an agent that has much waiting while another has nothing gives a part of its
destinations back and takes up none for a moment. Among others an agent also takes up no more than it can work
on soon (``Custody.among``).

Guarantees: destinations, slots and recipients change hands only through the database. Never delivers.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from time import monotonic

from deliveryagent.agent.manager import Manager
from deliveryagent.agent.slots import Slots
from deliveryagent.policy import concurrency
from deliveryagent.queue import leases, recalls, sites
from deliveryagent.queue.leases import Recovery, Renewal
from deliveryagent.queue.states import Member
from deliveryagent.queue.thread import Database, StoreUnavailable

LEASE = 20.0
"""Seconds an agent may be silent until others take over; a lease is renewed four times as often."""

SURPLUS = 100
"""Recipients an agent must have waiting in memory to give something to an agent that has none."""

_ROUNDS = 4  # per lease
_BREATH = 0.1  # seconds between two looks that news cause
_SECOND_LOOK = 0.5  # seconds
_LONG_AGO = 1e9
_RETRY = 0.5  # seconds until a renewal that failed is tried again


class Membership:
    """The membership of one agent; see the module's docstring."""

    def __init__(
        self,
        *,
        database: Database,
        ledger: Database,
        agent: int,
        manager: Manager,
        clock: Callable[[], float],
        lease: float = LEASE,
    ) -> None:
        self.others: Sequence[Member] = ()
        self._database = database
        self._ledger = ledger
        self._agent = agent
        self._manager = manager
        self._clock = clock
        self._lease = lease
        self._news: set[str] = set()
        self._wake = asyncio.Event()
        self._sites_after = 0.0
        self._told: dict[str, float] = {}  # sites in trouble, as last recorded
        # By agent, the end of its lease when it was last given something.
        self._given: dict[int, float] = {}
        self._loop = asyncio.get_running_loop()
        self._over: asyncio.TimerHandle | None = None  # the end of the lease
        self.until = 0.0
        self._back_since = (
            -_LONG_AGO
        )  # when a lease that was over was renewed, and all others may be late too
        self.slots = Slots(
            database=ledger,
            agent=agent,
            schedule=manager.schedule,
            workers=lambda: manager.crew.everyone if manager.crew is not None else (),
            started=manager.look_at_sites,
            clock=clock,
        )
        manager.short_of_slots = self.slots.look
        manager.released = self.slots.released

    async def begin(self) -> None:
        """The first round, before the first delivery. Raises ``StoreUnavailable`` when it cannot be done."""
        await self._renew()

    async def run(self) -> None:
        """Keep the membership until cancelled."""
        tasks = [asyncio.create_task(self._rounds()), asyncio.create_task(self.slots.run())]
        try:
            await asyncio.gather(*tasks)
        finally:
            if self._over is not None:
                self._over.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def heard(self, news: frozenset[str]) -> None:
        """News from other agents: ``mail``, ``orders``, ``shares``; and from applications: ``inflow``."""
        if "inflow" in news:
            self._manager.custody.news(inflow=True)
        if not news.isdisjoint({"mail", "inflow"}):
            self._manager.nudge()
        if not news <= {"mail", "inflow"}:
            self._news |= news
            self._wake.set()

    def is_eldest(self) -> bool:
        """Whether no other agent has been here for longer, as far as the last look told."""
        return all(one.left < 0 or one.agent > self._agent for one in self.others)

    def tell(self) -> None:
        """Something that the others should know now has changed here."""
        self._news.add("renew")
        self._wake.set()

    async def _rounds(self) -> None:
        pause = self._lease / _ROUNDS
        renewed = monotonic()
        while True:
            left = renewed + pause - monotonic()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, left)):
                    await self._wake.wait()
            news, self._news = self._news, set()
            self._wake.clear()
            try:
                if "renew" in news or monotonic() >= renewed + pause:
                    began = monotonic()
                    await self._renew()
                    renewed = began
                else:
                    await self._look(news)
            except StoreUnavailable:  # reported by the database's own state
                renewed = monotonic() - pause + min(pause, _RETRY)
            await asyncio.sleep(_BREATH)

    # -- rounds ---

    async def _renew(self) -> None:
        began = monotonic()
        schedule = self._manager.schedule
        renewal = Renewal(
            agent=self._agent,
            length=self._lease,
            draining=self._manager.draining,
            destinations=len(schedule.destinations),
            waiting=max(0, schedule.size - len(schedule.in_flight)),
            in_flight=len(schedule.in_flight),
        )
        members = await self._database.submit(leases.renew, renewal)
        self._renewed(began + self._lease)
        await self._meet(members)
        await self._let_go()
        await self._tell_of_sites()
        await self._hear_of_sites()
        await self.slots.news()

    def _renewed(self, until: float) -> None:
        """Everybody here may go on until then."""
        self.until = until
        if self._over is not None:
            self._over.cancel()
        self._over = self._loop.call_later(until - monotonic(), self._lapse)
        if self._manager.crew is not None:
            self._manager.crew.lease(until)
        if self._manager.unleased:
            self._manager.unleased = False
            self._back_since = monotonic()
            self._manager.nudge()

    def _lapse(self) -> None:
        """The lease is over, and nobody could renew it: nothing is handed out until somebody does."""
        self._manager.unleased = True
        self._manager.look_at_sites()

    async def _look(self, news: set[str]) -> None:
        if "orders" in news:
            await self._let_go()
        if "shares" in news:
            members = await self._database.submit(leases.present, None)
            await self._meet(members)
            await self._hear_of_sites()
            await self.slots.news()

    async def _meet(self, members: Sequence[Member]) -> None:
        """See who is there, bury who is not, and share with the others."""
        self.others = [one for one in members if one.agent != self._agent]
        patient = monotonic() < self._back_since + self._lease / 2
        if any(one.left < 0 for one in self.others) and not patient:
            await self._ledger.submit(leases.recover, Recovery(alone=False))
            # One that stood still in the middle of a transaction is taken over at the second look.
            self._loop.call_later(_SECOND_LOOK, self.heard, frozenset({"shares"}))
        sharing = any(one.sharing for one in members if one.agent == self._agent)
        if self.others and not sharing:
            await self.slots.join()
        elif (
            not self.others
            and not self.slots.alone
            and await self._ledger.submit(leases.go_alone, self._agent)
        ):
            self.slots.go_alone()
        self._manager.custody.among = not self.slots.alone
        self._balance()

    def _balance(self) -> None:
        """Give away what others could work on while they have nothing to do."""
        schedule, now = self._manager.schedule, monotonic()
        ends = {o.agent: now + o.left for o in self.others}
        # What an agent says of itself is as old as its last renewal: it may have been given something since.
        idle = [
            o.agent
            for o in self.others
            if not (o.waiting or o.draining)
            and o.left > 0
            and ends[o.agent] > self._given.get(o.agent, 0.0) + self._lease / _ROUNDS / 2
        ]
        if idle and schedule.size - len(schedule.in_flight) >= SURPLUS:
            self._given = {agent: ends[agent] for agent in idle}
            self._manager.custody.shed(len(idle), self._clock())
            self._manager.nudge()

    async def _let_go(self) -> None:
        """Drop what others are about to change."""
        for asked in await self._database.submit(recalls.asked, self._agent):
            destination = self._manager.schedule.destinations.get(asked.name)
            if destination is not None:
                self._manager.release(destination, asked.not_before)

    # -- sites in trouble ---

    async def _tell_of_sites(self) -> None:
        """Record windows that shrank, for the others; closings are recorded at once."""
        if not self.others:
            return
        now = self._clock()
        for site in self._manager.schedule.sites.values():
            updated = site.window.updated
            if concurrency.remembers(site.window) and updated > self._told.get(site.name, 0.0):
                self._told[site.name] = updated
                if not site.window.closed_until:
                    self._manager.sites.save(site, now)

    async def _hear_of_sites(self) -> None:
        now = self._clock()
        changed = await self._database.submit(sites.changed, self._sites_after)
        for state in changed:
            self._manager.sites.heard(state, now)
            self._sites_after = max(self._sites_after, state.updated)
        if changed:
            self._manager.look_at_sites()
