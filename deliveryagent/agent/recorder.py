"""The settlement wheel: answers become rows, reports, log lines, and receipts for the journal.

Everything that is answered in one turn of the event loop, or under load within a moment, goes to the store as
one job and comes back as one.
Guarantees: what is owed to a sender is handed in together with the outcome that causes it, so both are one
transaction; a worker's journal slot is released only after the commit; an outcome the store refuses puts its
message on hold, because a second attempt could be a second copy.
"""

import asyncio
import random
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial

from deliveryagent.agent import lapse, settlement
from deliveryagent.agent.active import Batch, Destination
from deliveryagent.agent.crew import Worker
from deliveryagent.agent.frames import Settled
from deliveryagent.agent.reporting import Reporting
from deliveryagent.agent.rules import Rules
from deliveryagent.agent.schedule import Schedule
from deliveryagent.agent.watchers import Watchers
from deliveryagent.log import Attempt, EventLog
from deliveryagent.mail.delivery import (
    DeliveryResult,
    Pressure,
    RecipientResult,
    Trouble,
    Verdict,
)
from deliveryagent.mail.envelope import RecipientStatus, format_queue_id
from deliveryagent.policy.notices import Incident
from deliveryagent.queue import outcomes, overdue
from deliveryagent.queue.aftermath import absolve, barrier
from deliveryagent.queue.claims import Claimed
from deliveryagent.queue.outcomes import Settlement
from deliveryagent.queue.thread import Database, StoreUnavailable

GATHER = 0.03  # seconds between two times that answers are handed in under load,
GATHERED = 300  # unless there are so many
_LOST = (RecipientStatus.BOUNCED, RecipientStatus.EXPIRED)
_DELIVERED = RecipientStatus.DELIVERED.value

Rows = Sequence[tuple[Claimed, RecipientResult, Settlement]]


class _Turn:
    """What was answered in one turn of the event loop."""

    __slots__ = ("answers", "owing", "receipts", "rows", "settlements")

    def __init__(self) -> None:
        self.settlements: list[Settlement] = []
        self.rows: list[
            tuple[Claimed, int]
        ] = []  # for each settlement: whose, and the session's uses
        self.answers: list[
            tuple[Batch, int]
        ] = []  # each request, with the number of its settlements
        self.receipts: dict[
            tuple[Worker, int], int
        ] = {}  # by process, the last result to acknowledge
        self.owing: list[int] = []  # messages whose reports are due with these settlements


class Recorder:
    """Records what became of requests; ``recorded`` is called after a commit, with what it touched."""

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
        recorded: Callable[[Iterable[Destination]], None],
        agent: int,
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
        self._agent = agent
        self._turn = _Turn()
        self._handed_in = 0.0  # when answers were last handed in, by the event loop's clock
        self._later: asyncio.TimerHandle | None = None
        self._records: list[Attempt] = []
        self._owing: set[int] = set()

    @property
    def busy(self) -> bool:
        """Whether answers or reports wait for their commit."""
        return bool(self.unsettled or self.reporting.busy)

    async def done(self) -> None:
        """Wait until all answers and reports handed in so far are durable."""
        while self.busy:
            self.hand_in()
            await self._database.submit(barrier, None)

    def settle(
        self, batch: Batch, result: DeliveryResult, worker: Worker | None, now: float
    ) -> Collection[int]:
        """Record an answer, and what it makes us owe, once :meth:`hand_in` is called.

        Returns the numbers of the recipients that came back untried, of which there is nothing to record.
        """
        rows = settlement.settlements(
            result, batch.recipients, now=now, settings=self.rules.retry, rng=self._rng
        )
        turn = self._turn
        usual = True
        for claimed, outcome, row in rows:
            turn.settlements.append(row)
            turn.rows.append((claimed, _uses(result, outcome)))
            usual = usual and row.status == _DELIVERED and not row.owed
        if rows:
            self.unsettled += 1
            turn.answers.append((batch, len(rows)))
            # A successor in the worker's place has a journal of its own.
            if worker is not None and result.sequence:
                turn.receipts[worker, worker.pid] = result.sequence
            if batch.suspect:
                self._database.submit(absolve, batch.queue_id)
            if not usual or self._owing:
                self._settle_debts(batch, rows)
        if len(rows) == len(result.recipients):
            return ()
        return [r.number for r in result.recipients if r.verdict == Verdict.RETURNED]

    def _settle_debts(self, batch: Batch, rows: Rows) -> None:
        """A report is due once no request of its message is in flight any more."""
        self._tell_postmaster(rows)
        queue_id = batch.queue_id
        if any(row.owed for _, _, row in rows):
            self._owing.add(queue_id)
        if queue_id not in self._owing:
            return
        alone = rows[0][0].recipient_count == len(rows)
        if alone or not self._schedule.in_flight_of(queue_id):
            self._owing.discard(queue_id)
            self._turn.owing.append(queue_id)

    def gather(self, *, alone: bool) -> None:
        """Have answers recorded: at once when no others will come, together with others under load."""
        loop = asyncio.get_running_loop()
        early = self._handed_in + GATHER - loop.time()
        if alone or early <= 0 or len(self._turn.answers) >= GATHERED:
            self.hand_in()
        elif self._turn.answers and self._later is None:
            self._later = loop.call_later(early, self.hand_in)

    def hand_in(self) -> None:
        """Hand what was answered in this turn to the store."""
        if self._later is not None:
            self._later.cancel()
            self._later = None
        turn = self._turn
        if not turn.answers:
            return
        self._turn = _Turn()
        self._handed_in = asyncio.get_running_loop().time()
        self._database.submit_many(
            outcomes.settle, turn.settlements, partial(self._handed_back, turn)
        )
        for queue_id in turn.owing:
            self.reporting.report(queue_id)

    def _handed_back(self, turn: _Turn, applied: list[bool | Exception]) -> None:
        self.unsettled -= len(turn.answers)
        if applied.count(True) < len(applied):
            if any(isinstance(answer, StoreUnavailable) for answer in applied):
                return  # the service ends: the journal knows, and the next start records it
            self._hold_unrecordable(turn, applied)
        destinations: set[Destination] = set()
        for batch, _ in turn.answers:
            self._schedule.settled(batch)
            self.watchers.tell(batch.queue_id)
            destinations.add(batch.lane.destination)
        for (worker, pid), sequence in turn.receipts.items():
            if worker.pid == pid:
                worker.say(Settled(sequence))
        self._records += [
            settlement.record(claimed, row, uses)
            for (claimed, uses), row, done in zip(turn.rows, turn.settlements, applied, strict=True)
            if done is True
        ]
        self._recorded(destinations)

    def _hold_unrecordable(self, turn: _Turn, applied: list[bool | Exception]) -> None:
        place = 0
        for batch, count in turn.answers:
            for answer in applied[place : place + count]:
                if isinstance(answer, Exception):
                    self._unrecordable(batch, answer)
                    break
            place += count

    def expire(self, expiry: overdue.Expiry) -> None:
        """Record that a waiting recipient's time is over, and the report that is owed for it."""
        self._database.submit(overdue.expire, expiry)
        if expiry.owed:
            self.reporting.report(expiry.message_id)

    def lapse(self, batch: Batch, now: float) -> None:
        """A request was about to leave, and its time is over: its recipients expire instead.

        They stay in memory until that is recorded; what the store cannot take now is claimed once more.
        """
        self._schedule.complete(batch.serial, Pressure.NONE, "", now)
        ends = [
            lapse.expiry(one, agent=self._agent, now=now, settings=self.rules.retry)
            for one in batch.recipients
        ]

        def ended(_: Sequence[bool | Exception]) -> None:
            self.unsettled -= 1
            self._schedule.settled(batch)
            self.watchers.tell(batch.queue_id)
            self._recorded([batch.lane.destination])

        self.unsettled += 1
        self._database.submit_many(overdue.expire, ends, ended)
        if any(end.owed for end in ends):
            self.reporting.report(batch.queue_id)

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
