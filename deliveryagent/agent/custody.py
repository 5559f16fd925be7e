"""The claim wheel: brings destinations and their due recipients from the store into the active set.

A destination is taken into custody with one write, and with it everything it has waiting; recipients are
then fetched in portions, ahead of need, that grow with the pace at which they are delivered and shrink when
it slackens. A destination goes back to the store as soon as nothing of it is due or unrecorded, when its
site is closed, or when others wait for the room of what it does not get rid of. Mail that this agent itself
takes over may come in another way (``newcomers``).

Guarantees: at most ``ACTIVE_LIMIT`` recipients and about ``CONTENT_LIMIT`` octets of content are in memory,
whatever the queue holds, and no destination keeps a large part of that without delivering; a destination in
custody is asked again for recipients that came due meanwhile. What a read of the store says is taken in
before the answers of anything the store did later, so nobody is taken for waiting who is not.
Never decides about an outcome.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from deliveryagent.agent import gathering
from deliveryagent.agent.active import FIRST_QUOTA, Destination, Lane
from deliveryagent.agent.gathering import Groups, order
from deliveryagent.agent.rules import Rules
from deliveryagent.agent.schedule import Schedule
from deliveryagent.queue import claims
from deliveryagent.queue.claims import Claimed, Fetched, GiveBack, Siblings, Take
from deliveryagent.queue.thread import Database, StoreUnavailable

ACTIVE_LIMIT = 10_000  # recipients in memory
CONTENT_LIMIT = 16 * 1024 * 1024  # octets of content in memory
INLINE_LIMIT = 128 * 1024  # a content up to this size travels inside its request
LOOK_AGAIN = 10.0  # seconds until everything is looked at again that nobody told of
LOOK_AGAIN_DEAF = 1.0  # seconds between two looks for mail of which nobody can tell us
LINGER = 10.0  # seconds an empty destination stays for which mail keeps coming
_MOST_LINGERING = 1_000  # destinations in memory, beyond which none does
_TAKE = 200  # destinations taken at once
_PORTION = 2_000  # recipients asked for at once, all destinations together
_REST = 10.0  # seconds a destination stays outside that made room for others
AHEAD = 1_000  # recipients in memory with which an agent leaves what else is ready to the others
_ABSTINENCE = 2.0  # seconds an agent takes up nothing after it gave something away
_PATIENCE = 0.5  # seconds between two times that destinations have to make room


class Custody:
    """What this agent looks after, and how it gets more; ``taken_in`` is called when it did."""

    def __init__(
        self,
        *,
        database: Database,
        agent: int,
        schedule: Schedule,
        rules: Rules,
        find_sites: Callable[[Iterable[Lane], float], None],
        taken_in: Callable[[], None],
    ) -> None:
        self.rules = rules
        self.content = 0  # octets of content in memory
        self.unsent = 0  # octets on their way to workers that have not been read there
        self.among = False  # other agents work on this queue too
        self._abstain_until = 0.0
        self._held_back = False  # something is left to the others, as long as enough waits here
        self._database = database
        self._agent = agent
        self._schedule = schedule
        self._find_sites = find_sites
        self._taken_in = taken_in
        self._news = True  # destinations may have become ready
        self._inflow = True  # and applications may have enqueued by SQL
        self._next_ready = 0.0
        self._look_again = 0.0
        self._make_room_at = 0.0
        self._asked = 0  # recipients asked for that have not come yet
        self._weight = 16_384  # octets of a content, as those were that came last
        self._hungry: set[Destination] = set()
        self._ending: set[Destination] = set()
        self._recent: dict[str, float] = {}  # destinations that went back just now, and when
        self._fault: Exception | None = None
        self.coming: set[str] = set()  # destinations that may just be becoming ours (``newcomers``)
        self._doubtful = False
        self.deaf = False  # no news arrive from those who put mail into the queue beside us

    def doubt(self) -> None:
        """The store was in trouble: an answer about what this agent owns may have been lost."""
        self._doubtful = self._inflow = True

    def news(self, *, inflow: bool = False) -> None:
        """Something may have become due; ``inflow``: by SQL, perhaps."""
        self._news, self._inflow = True, self._inflow or inflow

    def next_moment(self) -> float:
        """When something may have to be claimed without anybody saying so."""
        if self._schedule.size >= ACTIVE_LIMIT:
            return min(self._look_again, self._make_room_at)
        if self._held_back:
            return min(self._look_again, self._abstain_until or self._look_again)
        return 0.0 if self._news else min(self._next_ready, self._look_again)

    @property
    def idle(self) -> bool:
        """Whether nothing is due now, as far as the last look told."""
        if self._news or self._ending or self.coming:
            return False
        return all(destination.done for destination in self._schedule.destinations.values())

    def look(self, destinations: Iterable[Destination]) -> bool:
        """These have changed; returns whether one of them can be fed or go back now."""
        for destination in destinations:
            if destination.done:
                self._ending.add(destination)
            elif self._is_hungry(destination):
                self._hungry.add(destination)
        size = self._schedule.size
        if self._ending or (self._held_back and size < AHEAD):
            return True
        return bool(self._hungry) and size < ACTIVE_LIMIT and self._asked < _PORTION

    @property
    def room(self) -> int:
        """For how many more recipients there is room in memory."""
        expected = self._asked + FIRST_QUOTA * len(self.coming)
        return ACTIVE_LIMIT - self._schedule.size - expected

    def quota(self, destination: Destination) -> int:
        """How many recipients it may have in memory now."""
        share = ACTIVE_LIMIT // max(1, len(self._schedule.destinations))
        return min(destination.quota, max(1, share))

    def _is_hungry(self, destination: Destination) -> bool:
        if destination.exhausted or destination.fetching or destination.leaving:
            return False
        if gathering.passed(destination):  # what is to go before others has to be here
            return destination.pending < 2 * self.quota(destination)
        return destination.pending * 2 <= self.quota(destination)

    # -- claiming ---

    async def claim(self, now: float) -> None:
        """Take what became ready and ask for what the active set has room for."""
        if self._fault is not None:
            raise self._fault
        self._schedule.reopen(now)
        if now >= self._look_again or self._look_again > now + LOOK_AGAIN:
            self._look_again = now + LOOK_AGAIN
            self._news = self._inflow = True  # nobody may have told us of it
            for destination in self._schedule.destinations.values():
                self._review(destination)
            self._recent = {n: then for n, then in self._recent.items() if then > now - LINGER}
        if self._doubtful:
            await self._disown()
        if self._news or now >= self._next_ready:
            if now >= self._abstain_until or not self._schedule.size:
                self._abstain_until = 0.0
            plenty = self._schedule.size >= AHEAD
            self._held_back = self.among and (plenty or self._abstain_until > 0.0)
            if self._schedule.size >= ACTIVE_LIMIT:
                self._make_room(now)
            elif not self._held_back:
                await self._take(now)
        self._fetch(now)

    def _review(self, destination: Destination) -> None:
        """Something may have come due meanwhile; and nobody keeps much more than it gets rid of."""
        destination.exhausted = False
        self._hungry.add(destination)
        destination.quota = max(FIRST_QUOTA, min(destination.quota, 2 * destination.pace))
        destination.last_pace, destination.pace = destination.pace, 0
        if destination.pending > 2 * destination.quota:
            destination.open = False
            dropped = self._schedule.trim(destination, destination.quota)
            self.content -= sum(len(batch.content or b"") for batch in dropped)
            due = [recipient.due for batch in dropped for recipient in batch.recipients]
            self._hear(destination, min(due, default=None))

    def _hear(self, destination: Destination, ready: float | None) -> None:
        """Work due at this time waits outside, perhaps in front of the cursors."""
        if ready is not None:
            heard = destination.heard
            destination.heard = ready if heard is None else min(ready, heard)

    def _make_room(self, now: float) -> None:
        """Others wait outside: those who hold more than they got rid of lately let them in."""
        if now < self._make_room_at <= now + _PATIENCE:
            return
        self._make_room_at = now + _PATIENCE
        slow = [
            destination
            for destination in self._schedule.destinations.values()
            if destination.pending > destination.pace + destination.last_pace
            and not destination.leaving
            and destination.since < now - _PATIENCE
        ]
        wanted = ACTIVE_LIMIT // 5
        for destination in sorted(slow, key=lambda destination: destination.since):
            if wanted <= 0:
                return
            wanted -= destination.pending
            self.release(destination, not_before=now + _REST)

    def shed(self, idle: int, now: float) -> None:
        """So many other agents have nothing to do: let them have their part of the destinations."""
        ours = [d for d in self._schedule.destinations.values() if not d.leaving]
        ours.sort(key=lambda destination: destination.unsettled)  # what has not begun goes first
        for destination in ours[: len(ours) * idle // (idle + 1)]:
            self.release(destination, not_before=0.0)
        self._abstain_until = now + _ABSTINENCE

    async def _take(self, now: float) -> None:
        absorb, self._news, self._inflow = self._inflow or self.deaf, False, False
        most = min(_TAKE, ACTIVE_LIMIT - self._schedule.size)
        taken, ready = await asyncio.gather(
            self._database.submit(claims.take, Take(self._agent, now, most, absorb)),
            self._database.submit(claims.next_ready, self._agent),
        )
        for found in taken:
            destination = self._owned(found.name, now)
            self._hear(destination, found.ready)
            self._hungry.add(destination)
            if found.paused_until is not None and found.paused_until > now:
                self.release(destination, not_before=found.paused_until)
        if len(taken) == most:
            self._news = True
        else:
            soon = now + (LOOK_AGAIN_DEAF if self.deaf else LOOK_AGAIN)
            self._next_ready = soon if ready is None else min(ready, soon)

    def _owned(self, name: str, now: float) -> Destination:
        """A destination that the store says is ours."""
        destination = self._schedule.destination(name)
        destination.since = destination.since or now
        if self._recent.get(name, 0.0) > now - LINGER:
            destination.linger = now + LINGER
        destination.exhausted = False
        return destination

    async def _disown(self) -> None:
        """Let go of what the store says is ours and nobody here knows of."""
        known = claims.Holding(self._agent, (*self._schedule.destinations, *self.coming))
        await self._database.submit(claims.disown, known)
        self._doubtful = False

    def _fetch(self, now: float) -> None:
        """Ask for more where little is left; the answer comes while everything else goes on."""
        room = min(self.room, _PORTION - self._asked)
        octets = max(0, CONTENT_LIMIT - self.content - self.unsent - self._asked * self._weight)
        self._hungry = {d for d in self._hungry if self._is_hungry(d)}
        share = octets // max(1, len(self._hungry))
        chosen: dict[Destination, int] = {}
        for destination in self._hungry:
            if room <= 0:
                break
            # Large contents fill the memory; then nobody gets more who has some, until half of it is free.
            if octets * 2 >= CONTENT_LIMIT or not destination.pending:
                wanted = self.quota(destination) - destination.pending
                wanted = wanted if wanted > 0 else FIRST_QUOTA
                chosen[destination] = min(wanted, room, max(1, share // self._weight))
                room -= chosen[destination]
        if chosen:
            self._hungry.difference_update(chosen)
            self._asked += sum(chosen.values())
            part = octets // len(chosen)
            orders = [order(one, limit, INLINE_LIMIT, part, now) for one, limit in chosen.items()]
            self._database.submit_many(claims.fetch, orders, partial(self._fetched, chosen, now))

    # -- taking in ---

    def _fetched(
        self, asked: dict[Destination, int], now: float, pages: Sequence[Fetched | Exception]
    ) -> None:
        """The store's answer; nothing it did later has been heard of yet."""
        self._asked -= sum(asked.values())
        groups: Groups = {}
        contents: dict[int, bytes] = {}
        for destination, page in zip(asked, pages, strict=True):
            if isinstance(page, Exception):
                destination.fetching = False
                self._hungry.add(destination)
                if not isinstance(page, StoreUnavailable):  # told by the database's own state
                    self._fault = page
                continue
            contents = page.contents
            self._turned(destination, page, groups)
        self._sorted(asked, now, groups, contents)

    def taken_up(
        self, pages: Mapping[str, Fetched], contents: dict[int, bytes], now: float
    ) -> None:
        """These destinations are ours since a moment ago, and this is what they have waiting.

        Has to be told before anything the store did later.
        """
        groups: Groups = {}
        asked = [self._owned(name, now) for name in pages]
        for destination, page in zip(asked, pages.values(), strict=True):
            destination.fetching = True
            self._turned(destination, page, groups)
        self._sorted(asked, now, groups, contents)

    def _turned(self, destination: Destination, page: Fetched, groups: Groups) -> None:
        """A page of a destination's lines."""
        destination.cursor_small, destination.cursor_bulk = page.cursor_small, page.cursor_bulk
        destination.exhausted = page.exhausted and destination.heard is None
        destination.open = page.exhausted
        if not destination.leaving:
            gathering.group(self._schedule, destination, page.recipients, groups)

    def _sorted(
        self,
        asked: Iterable[Destination],
        now: float,
        groups: Groups,
        contents: dict[int, bytes],
    ) -> None:
        """Take in what was read, once all that goes the same way is together."""
        shared = sorted(gathering.shared(groups))
        if not shared:
            self._take_in(asked, now, groups, contents)
            return
        reserved = [(r.message_id, r.number) for group in groups.values() for r in group]
        self._schedule.active.update(reserved)

        def joined(found: Sequence[list[Claimed] | Exception]) -> None:
            self._schedule.active.difference_update(reserved)
            for siblings in found:
                if not isinstance(siblings, Exception):
                    gathering.join(self._schedule, groups, siblings)
            self._take_in(asked, now, groups, contents)

        orders = [Siblings(message_id, now, self._agent) for message_id in shared]
        self._database.submit_many(claims.siblings, orders, joined)

    def _take_in(
        self,
        asked: Iterable[Destination],
        now: float,
        groups: Groups,
        contents: dict[int, bytes],
    ) -> None:
        lanes: dict[Lane, int] = {}
        for (lane, _), recipients in groups.items():
            if lane.destination.leaving or not recipients:
                continue
            limit = lanes.get(lane)
            if limit is None:
                limit = lanes[lane] = self.rules.recipient_limit(lane.route)
            for batch in self._schedule.add(lane, recipients, limit, contents):
                if batch.content:
                    self.content += len(batch.content)
                    self._weight = (7 * self._weight + len(batch.content)) // 8 + 1
        for destination in asked:
            destination.fetching = False
        self.look(asked)
        self._find_sites(lanes, now)
        self._taken_in()

    # -- giving back ---

    async def give_back(self, now: float | None = None) -> None:
        """Return destinations that have nothing left to do here.

        With a time, those stay a moment for which mail keeps coming.
        """
        stays = len(self._schedule.destinations) <= _MOST_LINGERING and now is not None
        done = [
            destination
            for destination in self._ending
            if destination.done
            and (destination.leaving or not stays or destination.linger <= (now or 0.0))
        ]
        self._ending.clear()
        if not done:
            return
        for destination in done:
            self._schedule.drop(destination)
            if now is not None and not destination.leaving:
                self._recent[destination.name] = now
        self._hungry.difference_update(done)
        orders = [
            GiveBack(one.name, self._agent, one.not_before, one.leaving and one.not_before <= 0.0)
            for one in done
        ]
        await self._database.submit_all(claims.give_back, orders)
        self._news = True
        self._next_ready = 0.0

    def release(self, destination: Destination, *, not_before: float) -> None:
        """Stop working on a destination; it may be taken up again at ``not_before``."""
        self.content -= self._schedule.dismiss(destination, not_before=not_before)
        self._ending.add(destination)
