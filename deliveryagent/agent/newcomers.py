"""New mail that this agent itself takes over: what can be done for it before and at its commit.

While the commit is under way, workers resolve next hops that are not known yet, and a destination that is
not in custody is taken up in the very transaction that brings it work, so that nothing has to be asked once
the mail is safe. New mail for a destination of which nothing else waits outside joins it in memory.

Guarantees: no request leaves before its mail is committed; a recipient gets in once, whatever way it takes;
what does not get in here is left to the claim wheel. With plenty in memory nothing is begun early.
Never writes anything but who owns a destination.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from deliveryagent.agent import gathering
from deliveryagent.agent.active import FIRST_QUOTA, Lane
from deliveryagent.agent.custody import AHEAD, CONTENT_LIMIT, INLINE_LIMIT, LINGER, Custody
from deliveryagent.agent.schedule import Schedule
from deliveryagent.agent.sites import Sites
from deliveryagent.mail.address import destination_of
from deliveryagent.mail.submission import Submission
from deliveryagent.queue import claims
from deliveryagent.queue.claims import Claimed, Fetched, TakeUp
from deliveryagent.queue.thread import Database

_MOST_AT_ONCE = 50  # destinations taken up with one commit


class Newcomers:
    """The way of new mail into the active set; ``left_over`` is called when the claim wheel has to look."""

    def __init__(
        self,
        custody: Custody,
        sites: Sites,
        schedule: Schedule,
        *,
        database: Database,
        agent: int,
        left_over: Callable[[], None],
    ) -> None:
        self._database = database
        self._agent = agent
        self._schedule = schedule
        self._custody = custody
        self._sites = sites
        self._left_over = left_over
        self._answered = asyncio.Event()
        self._answered.set()

    async def settled(self) -> None:
        """Wait until no destination is just being taken up."""
        await self._answered.wait()

    # -- before the commit ---

    def coming(self, submissions: Iterable[Submission], now: float) -> None:
        """This mail is about to be handed to the store, in the job before anything done here."""
        schedule, custody = self._schedule, self._custody
        most = min(_MOST_AT_ONCE, custody.room // FIRST_QUOTA)
        if schedule.size >= AHEAD or most <= 0:
            return
        fresh: dict[str, Submission] = {}
        for submission in submissions:
            envelope = submission.envelope
            if len(envelope.recipients) > 1 or envelope.hold or envelope.not_before > now:
                continue
            name = destination_of(envelope.recipients[0].address)
            if name not in schedule.destinations and name not in custody.coming:
                fresh.setdefault(name, submission)
                if len(fresh) == most:
                    break
        if not fresh:
            return
        router = schedule.rules.router
        for name, submission in fresh.items():
            self._sites.expect(router.route(submission.envelope.recipients[0].address, name), now)
        custody.coming.update(fresh)
        self._answered.clear()
        order = TakeUp(self._agent, now, tuple(fresh), FIRST_QUOTA, 0, 0)
        self._database.submit_many(claims.take_up, [order], partial(self._taken_up, fresh, now))

    def _taken_up(
        self,
        fresh: dict[str, Submission],
        now: float,
        answers: Sequence[dict[str, Fetched] | Exception],
    ) -> None:
        custody = self._custody
        custody.coming.difference_update(fresh)
        if not custody.coming:
            self._answered.set()
        pages = answers[0]
        if isinstance(pages, Exception):  # the claim wheel gets to know of it as well
            self._left_over()
            return
        contents = {}
        for name in pages:
            contents.update(self._content(fresh[name]))
        custody.taken_up(pages, contents, now)
        if len(pages) < len(fresh):
            self._left_over()

    def _content(self, submission: Submission) -> dict[int, bytes]:
        """A content that is here and may stay, by its queue id."""
        parts, fits = submission.parts, submission.facts.size <= INLINE_LIMIT
        if len(parts) == 1 and fits and self._custody.content < CONTENT_LIMIT:
            return {submission.queue_id: parts[0]}
        return {}

    # -- after it ---

    def arrived(self, submissions: Iterable[Submission], now: float) -> bool:
        """New mail was committed just now; what can joins the active set. Returns whether that is all of it.

        Has to be told before anything the store did later, so that nobody gets in a second time.
        """
        lanes: dict[Lane, None] = {}
        complete = True
        for submission in submissions:
            new = gathering.newcomer(submission, now)
            if new is not None and new.destination in self._custody.coming:
                continue  # its destination is read by the same transaction, or a later one
            lane = None if new is None else self._joined(new, submission, now)
            if lane is None:
                complete = False
            else:
                lanes[lane] = None
        self._sites.find(lanes, now)
        return complete

    def _joined(self, new: Claimed, submission: Submission, now: float) -> Lane | None:
        schedule, custody = self._schedule, self._custody
        destination = schedule.destinations.get(new.destination)
        if destination is None or destination.leaving:
            return None
        if new.priority > 0:  # whatever waits outside, it may go before that
            if custody.room <= 0 or (new.message_id, 1) in schedule.active:
                return None
        elif not destination.open:
            return None
        elif (
            destination.pending >= custody.quota(destination)
            or custody.room <= 0
            or (new.message_id, 1) in schedule.active
        ):
            destination.open = False  # it waits outside, and what comes later waits behind it
            return None
        routed = schedule.rules.router.route(new.address, new.destination)
        lane = schedule.lane(destination, routed.next_hop, routed.index)
        contents = self._content(submission)
        custody.content += sum(map(len, contents.values()))
        schedule.add(lane, [new], 1, contents)
        destination.linger = now + LINGER
        return lane
