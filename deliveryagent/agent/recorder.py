"""The settlement wheel: answers become rows, reports, log lines, and receipts for the journal.

Guarantees: what is owed to a sender is handed in together with the outcome that causes it, so both are one
transaction; a worker's journal slot is released only after the commit; an outcome the store refuses puts its
message on hold, because a second attempt could be a second copy.
"""

import random
from collections.abc import Callable

from deliveryagent.agent import settlement
from deliveryagent.agent.crew import Worker
from deliveryagent.agent.frames import Settled
from deliveryagent.agent.reporting import Reporting
from deliveryagent.agent.rules import Rules
from deliveryagent.agent.schedule import Batch, Schedule
from deliveryagent.agent.watchers import Watchers
from deliveryagent.log import Attempt, EventLog
from deliveryagent.mail.delivery import DeliveryResult, RecipientResult, Trouble
from deliveryagent.mail.envelope import RecipientStatus, format_queue_id
from deliveryagent.policy.notices import Incident
from deliveryagent.queue import outcomes
from deliveryagent.queue.aftermath import absolve, barrier
from deliveryagent.queue.claims import Claimed
from deliveryagent.queue.outcomes import Settlement
from deliveryagent.queue.thread import Database, StoreUnavailable

_LOST = (RecipientStatus.BOUNCED, RecipientStatus.EXPIRED)

Rows = list[tuple[Claimed, RecipientResult, Settlement]]


class Recorder:
    """Records what became of requests; ``recorded`` is called after each commit."""

    def __init__(
        self,
        *,
        database: Database,
        schedule: Schedule,
        rules: Rules,
        reporting: Reporting,
        log: EventLog,
        clock: Callable[[], float],
        rng: random.Random,
        recorded: Callable[[Batch], None],
    ) -> None:
        self.rules = rules
        self.reporting = reporting
        self.watchers = Watchers()
        self.unsettled = 0  # answers that wait for their commit
        self._database = database
        self._schedule = schedule
        self._log = log
        self._clock = clock
        self._rng = rng
        self._recorded = recorded
        self._records: list[Attempt] = []
        self._owing: set[int] = set()

    @property
    def busy(self) -> bool:
        """Whether answers or reports wait for their commit."""
        return bool(self.unsettled or self.reporting.busy)

    async def done(self) -> None:
        """Wait until all answers and reports handed in so far are durable."""
        while self.busy:
            await self._database.submit(barrier, None)

    def settle(
        self, batch: Batch, result: DeliveryResult, worker: Worker | None, now: float
    ) -> None:
        """Record an answer, and what it makes us owe."""
        rows = list(
            settlement.settlements(
                result, batch.recipients, now=now, settings=self.rules.retry, rng=self._rng
            )
        )
        if not rows:
            return
        self.unsettled += 1
        pid = worker.pid if worker is not None else 0

        def recorded(applied: list[bool | Exception]) -> None:
            self.unsettled -= 1
            failed = next((answer for answer in applied if isinstance(answer, Exception)), None)
            if isinstance(failed, StoreUnavailable):
                return  # the service ends: the journal knows, and the next start records it
            if failed is not None:
                self._unrecordable(batch, failed)
            self._schedule.settled(batch)
            self.watchers.tell(batch.queue_id)
            # A successor in the worker's place has a journal of its own.
            if worker is not None and result.sequence and worker.pid == pid:
                worker.say(Settled(result.sequence))
            self._records.extend(
                settlement.record(recipient, row, _uses(result, outcome))
                for (recipient, outcome, row), done in zip(rows, applied, strict=True)
                if done is True
            )
            self._recorded(batch)

        if batch.suspect:
            self._database.submit(absolve, batch.queue_id)
        self._database.submit_many(outcomes.settle, [row[2] for row in rows], recorded)
        self._tell_postmaster(rows)
        if any(row[2].owed for row in rows):
            self._owing.add(batch.queue_id)
        if batch.queue_id in self._owing and not self._schedule.in_flight_of(batch.queue_id):
            self._owing.discard(batch.queue_id)
            self.reporting.report(batch.queue_id)

    def expire(self, expiry: outcomes.Expiry) -> None:
        """Record that a waiting recipient's time is over, and the report that is owed for it."""
        self._database.submit(outcomes.expire, expiry)
        if expiry.owed:
            self.reporting.report(expiry.message_id)

    def write_log(self) -> None:
        """Log what was recorded since the last call, in one write."""
        records, self._records = self._records, []
        if records:
            self._log.write(records)

    def _tell_postmaster(self, rows: Rows) -> None:
        recipient, outcome, row = rows[0]
        if row.status == RecipientStatus.HELD and outcome.text.startswith(Trouble.CORRUPT):
            self.reporting.notice(Incident.CORRUPT, what=outcome.text, queue_id=row.message_id)
        lost = [] if recipient.sender else [r for r, _, row in rows if row.status in _LOST]
        if lost:
            self.reporting.notice(
                Incident.REPORT_UNDELIVERABLE,
                what=outcome.text,
                queue_id=row.message_id,
                recipients=[r.address for r in lost],
            )

    def _unrecordable(self, batch: Batch, error: Exception) -> None:
        """An outcome the store does not accept, a fault of ours: tried again it would be sent again."""
        now = self._clock()
        text = f"the outcome of an attempt could not be recorded: {error}"[:500]
        order = outcomes.HoldOrder(message_id=batch.queue_id, now=now, text=text)
        self._database.submit(outcomes.hold, order)
        self._log.event("held", {"id": format_queue_id(batch.queue_id), "reason": text}, now=now)


def _uses(result: DeliveryResult, outcome: RecipientResult) -> int:
    """How many transactions the deciding session had carried."""
    return result.tries[outcome.host].uses if 0 <= outcome.host < len(result.tries) else 0
