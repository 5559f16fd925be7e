"""The claim wheel: brings destinations and their due recipients from the store into the active set.

A destination is taken into custody with one write, and with it everything it has waiting; recipients are
then fetched in portions that grow with the pace at which they are delivered. A destination goes back to the
store as soon as nothing of it is due or unrecorded, or when its site is closed.

Guarantees: at most ``ACTIVE_LIMIT`` recipients and about ``CONTENT_LIMIT`` octets of content are in memory,
whatever the queue holds; a destination in custody is asked again for recipients that came due meanwhile.
Never decides about an outcome.
"""

import asyncio
from collections.abc import Callable, Iterable

from deliveryagent.agent.rules import Rules
from deliveryagent.agent.schedule import Destination, Lane, Schedule
from deliveryagent.queue import claims
from deliveryagent.queue.claims import Claimed, Fetch, Fetched, GiveBack, Siblings, Take, rewound
from deliveryagent.queue.thread import Database

ACTIVE_LIMIT = 10_000  # recipients in memory
CONTENT_LIMIT = 32 * 1024 * 1024  # octets of content in memory
INLINE_LIMIT = 64 * 1024  # a content up to this size travels inside its request
LOOK_AGAIN = (
    10.0  # seconds after which a destination in custody is asked for recipients that came due
)
_TAKE = 200  # destinations taken at once

Group = dict[tuple[Lane, int], list[Claimed]]


class Custody:
    """What this agent looks after, and how it gets more."""

    def __init__(
        self,
        *,
        database: Database,
        agent: int,
        schedule: Schedule,
        rules: Rules,
        find_sites: Callable[[Iterable[Lane], float], None],
    ) -> None:
        self.rules = rules
        self.content = 0  # octets of content in memory
        self._database = database
        self._agent = agent
        self._schedule = schedule
        self._find_sites = find_sites
        self._news = True  # destinations may have become ready
        self._next_ready = 0.0
        self._look_again = 0.0
        self._ending: set[Destination] = set()

    def news(self) -> None:
        """Something may have become due."""
        self._news = True

    def next_moment(self) -> float:
        """When something may have to be claimed without anybody saying so."""
        if self._schedule.size >= ACTIVE_LIMIT:
            return self._look_again
        return 0.0 if self._news else min(self._next_ready, self._look_again)

    @property
    def idle(self) -> bool:
        """Whether nothing is due now, as far as the last look told."""
        return not (self._news or self._ending or self._schedule.destinations)

    def check(self, destination: Destination) -> None:
        """The destination may have nothing left to do here."""
        self._ending.add(destination)

    async def claim(self, now: float) -> None:
        """Take what became ready and fetch what the active set has room for."""
        self._schedule.reopen(now)
        if now >= self._look_again or self._look_again > now + LOOK_AGAIN:
            self._look_again = now + LOOK_AGAIN
            for destination in self._schedule.destinations.values():
                destination.exhausted = False
        if self._schedule.size < ACTIVE_LIMIT and (self._news or now >= self._next_ready):
            self._news = False
            await self._take(now)
        hungry = [d for d in self._schedule.destinations.values() if d.hungry]
        if hungry and self._schedule.size < ACTIVE_LIMIT:
            await self._fetch(hungry, now)

    async def _take(self, now: float) -> None:
        taken = await self._database.submit(claims.take, Take(self._agent, now, _TAKE))
        for found in taken:
            destination = self._schedule.destination(found.name)
            destination.exhausted = False
            destination.cursor_small = rewound(destination.cursor_small, found.ready)
            destination.cursor_bulk = rewound(destination.cursor_bulk, found.ready)
            if found.paused_until is not None and found.paused_until > now:
                self.release(destination, not_before=found.paused_until)
        if len(taken) == _TAKE:
            self._news = True
            return
        ready = await self._database.submit(claims.next_ready, self._agent)
        self._next_ready = ready if ready is not None else now + 3600.0

    async def _fetch(self, hungry: list[Destination], now: float) -> None:
        orders = []
        for destination in hungry:
            destination.fetching = True
            limit = max(
                1, min(destination.quota - destination.pending, ACTIVE_LIMIT - self._schedule.size)
            )
            orders.append(
                Fetch(
                    destination=destination.name,
                    now=now,
                    cursor_small=destination.cursor_small,
                    cursor_bulk=destination.cursor_bulk,
                    limit=limit,
                )
            )
        try:
            fetched = await asyncio.gather(
                *(self._database.submit(claims.fetch, order) for order in orders)
            )
        finally:
            for destination in hungry:
                destination.fetching = False
        await self._take_in(list(zip(hungry, fetched, strict=True)), now)

    async def _take_in(self, fetched: list[tuple[Destination, Fetched]], now: float) -> None:
        groups: dict[tuple[Lane, int], list[Claimed]] = {}
        wanted: set[int] = set()
        for destination, found in fetched:
            destination.cursor_small, destination.cursor_bulk = (
                found.cursor_small,
                found.cursor_bulk,
            )
            destination.exhausted = found.exhausted
            self._ending.add(destination)
            if destination.leaving:
                continue
            for recipient in found.recipients:
                if (recipient.message_id, recipient.number) in self._schedule.active:
                    continue
                routed = self.rules.router.route(recipient.address, recipient.destination)
                lane = self._schedule.lane(destination, routed.next_hop, routed.index)
                groups.setdefault((lane, recipient.message_id), []).append(recipient)
                if recipient.size <= INLINE_LIMIT:
                    wanted.add(recipient.message_id)
        await self._add_siblings(groups, now)
        contents: dict[int, bytes] = {}
        if wanted and self.content < CONTENT_LIMIT:
            contents = await self._database.submit(claims.contents, sorted(wanted))
        lanes: dict[Lane, None] = {}
        for (lane, _), recipients in groups.items():
            if lane.destination.leaving:
                continue
            limit = self.rules.recipient_limit(lane.route)
            self.content += sum(
                len(batch.content or b"")
                for batch in self._schedule.add(lane, recipients, limit, contents)
            )
            lanes[lane] = None
        self._find_sites(lanes, now)

    async def _add_siblings(
        self, groups: dict[tuple[Lane, int], list[Claimed]], now: float
    ) -> None:
        """A next hop that several destinations share gets all recipients of a message at once."""
        shared = {
            message_id: lane
            for (lane, message_id), recipients in groups.items()
            if recipients[0].recipient_count > 1 and lane.next_hop != lane.destination.name
        }
        if not shared:
            return
        ids = sorted(shared)
        found = await asyncio.gather(
            *(
                self._database.submit(claims.siblings, Siblings(message_id, now, self._agent))
                for message_id in ids
            )
        )
        for message_id, siblings in zip(ids, found, strict=True):
            lane = shared[message_id]
            group = groups[lane, message_id]
            known = {recipient.number for recipient in group}
            for recipient in siblings:
                if (
                    recipient.number in known
                    or (message_id, recipient.number) in self._schedule.active
                ):
                    continue
                routed = self.rules.router.route(recipient.address, recipient.destination)
                if (routed.next_hop, routed.index) == (lane.next_hop, lane.route):
                    group.append(recipient)
                    for (other, other_id), others in groups.items():
                        if other_id == message_id and other is not lane and recipient in others:
                            others.remove(recipient)

    async def give_back(self) -> None:
        """Return destinations that have nothing left to do here."""
        done = [destination for destination in self._ending if destination.done]
        self._ending.clear()
        if not done:
            return
        for destination in done:
            self._schedule.drop(destination)
        await asyncio.gather(
            *(
                self._database.submit(claims.give_back, GiveBack(d.name, self._agent, d.not_before))
                for d in done
            )
        )
        self._news = True
        self._next_ready = 0.0

    def release(self, destination: Destination, *, not_before: float) -> None:
        """Stop working on a destination; it may be taken up again at ``not_before``."""
        self.content -= self._schedule.dismiss(destination, not_before=not_before)
        self._ending.add(destination)
