"""What has to be done from time to time: expiry and warnings where mail only waits, history.

A recipient whose time is over expires after an attempt made since then, or after its site was found unusable
since then; one that merely sleeps is made due for that last attempt. So a clock that jumps forward bounces
nothing by itself, and nothing waits for ever behind a closed site.

Where several agents work, each sees to what it knows of: what another agent owns is left to that one, and the
eldest alone clears away history.

Guarantees: each round touches a bounded number of rows. Never sends anything.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence

from deliveryagent.agent import lapse
from deliveryagent.agent.active import Site
from deliveryagent.agent.manager import Manager
from deliveryagent.mail.envelope import Notify, RecipientStatus, first_queue_id, lifetime_start
from deliveryagent.policy import deadline, notices, retry
from deliveryagent.policy.retry import RetrySettings
from deliveryagent.queue import deadlines, overdue, purge, submissions
from deliveryagent.queue.aftermath import LastAttempt, make_due
from deliveryagent.queue.deadlines import Late
from deliveryagent.queue.overdue import Aged, AgedRecipient, Warning_
from deliveryagent.queue.thread import Database, StoreUnavailable

INTERVAL = 15.0  # seconds between rounds
_ABANDONED = 86_400.0  # seconds after which a message that never arrived completely is forgotten
_PAGE = 500
_ROUND = 2_000  # recipients looked at per round and purpose


class Upkeep:
    """The periodic work of an agent."""

    def __init__(
        self,
        *,
        database: Database,
        manager: Manager,
        retention: float,
        clock: Callable[[], float],
        agent: int = 0,
        eldest: Callable[[], bool] = lambda: True,
    ) -> None:
        self.retention = retention
        self._database = database
        self._manager = manager
        self._agent = agent
        self._clock = clock
        self._eldest = eldest
        self._expiry_after = (0, 0)
        self._warned_after = (0, 0)
        self._purge_after = 0
        self._late_after: deadlines.Place = (0.0, 0, 0)

    async def run(self) -> None:
        """Do a round every ``INTERVAL`` seconds until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL)
            if not self._manager.store_trouble:
                with contextlib.suppress(StoreUnavailable):  # reported by the database's own state
                    await self.round()

    async def round(self) -> None:
        """One round of everything."""
        now = self._clock()
        await self._end_times(now)
        await self._expire(now)
        await self._warn(now)
        self._manager.schedule.forget_sites(now)
        if not self._eldest():
            return
        await self._database.submit(submissions.sweep_abandoned, now - _ABANDONED)
        purged = await self._database.submit(
            purge.purge,
            purge.Purge(now=now, before=now - self.retention, cursor=self._purge_after),
        )
        self._purge_after = purged.cursor

    async def _end_times(self, now: float) -> None:
        """See to messages whose senders said by when they are to be delivered."""
        settings, active = self._manager.rules.retry, self._manager.schedule.active
        warnings: list[Warning_] = []
        for _ in range(_ROUND // _PAGE):
            page = await self._database.submit(deadlines.late, Late(now, self._late_after, _PAGE))
            self._late_after = page[-1].place if page else (0.0, 0, 0)
            for row in page:
                if (row.message_id, row.number) in active:
                    continue  # its attempt, or the moment before the next one, decides
                if deadline.returns(row.at, row.by_mode):
                    end = lapse.expiry(row, agent=self._agent, now=now, settings=settings)
                    self._manager.recorder.expire(end)
                else:
                    warnings.append(Warning_(row.message_id, row.number))
            if len(page) < _PAGE:
                self._late_after = (0.0, 0, 0)
                break
        await self._tell(warnings)
        await self._database.submit(deadlines.clear, now)

    async def _tell(self, warnings: Sequence[Warning_]) -> None:
        """Delay reports are due for these recipients."""
        await self._database.submit_all(overdue.warn, warnings)
        for message_id in {one.message_id for one in warnings}:
            self._manager.recorder.reporting.report(message_id)

    async def _expire(self, now: float) -> None:
        settings = self._manager.rules.retry
        shortest = min(settings.maximal_queue_lifetime, settings.bounce_queue_lifetime)
        rows, self._expiry_after = await self._sweep(
            self._expiry_after, before=first_queue_id(now - shortest), unwarned=False
        )
        last_attempts: list[LastAttempt] = []
        for row in rows:
            expires = retry.expires(
                arrival=lifetime_start(row.message_id, row.not_before),
                sender=row.sender,
                settings=settings,
            )
            if now < expires or (row.message_id, row.number) in self._manager.schedule.active:
                continue
            site = self._manager.sites.closed_of(row.destination, now)
            if site is not None and retry.expired(
                now=now, expires=expires, last_attempt=None, closed_since=site.failed or None
            ):
                self._expire_now(row, site, now)
            elif row.status == RecipientStatus.DEFERRED:
                last_attempts.append(LastAttempt(row.message_id, row.number, row.destination, now))
        if last_attempts:
            await asyncio.gather(*(self._database.submit(make_due, last) for last in last_attempts))
            self._manager.nudge()

    def _expire_now(self, row: AgedRecipient, site: Site, now: float) -> None:
        self._manager.recorder.expire(
            overdue.Expiry(
                message_id=row.message_id,
                number=row.number,
                now=now,
                destination=row.destination,
                agent=self._agent,
                text=site.window.reason,
                owed=notices.owed(
                    status=RecipientStatus.EXPIRED,
                    sender=row.sender,
                    notify=Notify(row.notify),
                    relayed=False,
                    warned=False,
                    arrival=lifetime_start(row.message_id, row.not_before),
                    now=now,
                    settings=self._manager.rules.retry,
                ),
            )
        )

    async def _warn(self, now: float) -> None:
        settings: RetrySettings = self._manager.rules.retry
        if not settings.delay_warning_time:
            return
        before = first_queue_id(now - settings.delay_warning_time)
        rows, after = await self._sweep(self._warned_after, before=before, unwarned=True)
        # What is older than everything seen so far has been warned of: go on from there, not from the start.
        self._warned_after = after if after != (0, 0) else (before, 0)
        owed = [
            row
            for row in rows
            if row.sender
            and _is_late(row, now, settings)
            and Notify(row.notify).wants(Notify.DELAY)
            and (row.message_id, row.number) not in self._manager.schedule.active
        ]
        await self._tell([Warning_(row.message_id, row.number) for row in owed])

    async def _sweep(
        self, after: tuple[int, int], *, before: int, unwarned: bool
    ) -> tuple[list[AgedRecipient], tuple[int, int]]:
        """Up to a round's worth of old recipients, and where to go on; (0, 0) when the end was reached."""
        rows: list[AgedRecipient] = []
        while len(rows) < _ROUND:
            page = await self._database.submit(
                overdue.aged, Aged(before=before, after=after, limit=_PAGE, unwarned=unwarned)
            )
            rows += page
            if len(page) < _PAGE:
                return rows, (0, 0)
            after = (page[-1].message_id, page[-1].number)
        return rows, after


def _is_late(row: AgedRecipient, now: float, settings: RetrySettings) -> bool:
    """Whether it is time to tell the sender of a delay."""
    due = deadline.warning_due(
        arrival=lifetime_start(row.message_id, row.not_before),
        deliver_by=row.deliver_by,
        by_mode=row.by_mode,
        settings=settings,
    )
    return due is not None and now >= due
