"""The queue manager: claims waiting recipients, hands requests to workers, settles their answers.

It is the only scheduler of its agent. One event loop turns three wheels: *claims* bring destinations and
their due recipients from the store into the active set, *dispatch* hands requests to workers as windows
allow, *settlement* records answers by group commit. None of them waits for another, and no database
transaction is open while a peer is spoken to.

Guarantees: a recipient is in one request at a time; an answer is recorded once, whatever dies in between;
when answers cannot be recorded, nothing more is handed out. Nothing here grows with the queue: at most
``ACTIVE_LIMIT`` recipients and ``CONTENT_LIMIT`` octets of content are in memory.
"""

import asyncio
import contextlib
import os
import random
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from pathlib import Path

import msgspec

from deliveryagent.agent import dispatch, frames, journal, recovery
from deliveryagent.agent.active import Batch, Destination
from deliveryagent.agent.bounce import Composer
from deliveryagent.agent.crew import Crew, Worker
from deliveryagent.agent.custody import LOOK_AGAIN, Custody
from deliveryagent.agent.newcomers import Newcomers
from deliveryagent.agent.recorder import Recorder
from deliveryagent.agent.reporting import Reporting
from deliveryagent.agent.rules import Rules
from deliveryagent.agent.schedule import Schedule
from deliveryagent.agent.servings import serve
from deliveryagent.agent.sites import Sites
from deliveryagent.agent.staffing import Load, Report, Staffing
from deliveryagent.log import EventLog
from deliveryagent.mail.delivery import DeliveryResult, Pressure
from deliveryagent.mail.submission import Submission
from deliveryagent.policy.notices import Incident
from deliveryagent.queue import outcomes
from deliveryagent.queue.aftermath import barrier
from deliveryagent.queue.thread import Database, StoreUnavailable

_PRESSURES = {pressure.value: pressure for pressure in Pressure}
UNSETTLED_LIMIT = 1_000  # answers waiting for their commit before no more work is handed out


class Manager:
    """The scheduler of one agent; see the module's docstring.

    ``unleased``: the lease is over and not renewed yet. ``progress`` counts turns of the wheel, for the
    watchdog. Where other agents work too, ``short_of_slots`` is called when a share keeps something waiting,
    ``released`` when a worker has ended its sessions.
    """

    crew: Crew | None = None
    draining = False
    store_trouble = ""
    unleased = False
    progress = 0
    _turning = False
    _still = False  # nothing is to be taken up

    def __init__(
        self,
        *,
        database: Database,
        agent: int,
        identity: bytes,
        schedule: Schedule,
        rules: Rules,
        reporting: Reporting,
        log: EventLog,
        clock: Callable[[], float],
        rng: random.Random,
    ) -> None:
        self.schedule, self.rules = schedule, rules
        self.short_of_slots: Callable[[], None] = lambda: None
        self.released: Callable[[Worker, int], None] = lambda _worker, _serial: None
        self.idled = asyncio.Event()  # nothing was runnable at some moment
        self._database = database
        self._identity = identity
        self._log = log
        self._clock, self._rng = clock, rng
        self._wake = asyncio.Event()
        self._wheel = asyncio.Lock()
        self._staffing, self._load = Staffing(os.cpu_count() or 1), Load()
        reporting.nudge = self.nudge
        self.recorder = Recorder(
            database=database,
            schedule=schedule,
            rules=rules,
            reporting=reporting,
            log=log,
            clock=clock,
            rng=rng,
            recorded=self._look,
            agent=agent,
        )
        self.sites = Sites(
            database=database, schedule=schedule, workers=self._workers, release=self.release
        )
        self.custody = Custody(
            database=database,
            agent=agent,
            schedule=schedule,
            rules=rules,
            find_sites=self.sites.find,
            taken_in=self._taken_in,
        )
        self._newcomers = Newcomers(
            self.custody, self.sites, schedule, database=database, agent=agent, left_over=self.nudge
        )

    # -- running ---

    @property
    def _halted(self) -> bool:
        """Whether nothing may be handed out."""
        return bool(self.draining or self.store_trouble or self.unleased)

    def nudge(self) -> None:
        """Something may be due now: mail was enqueued, an operator gave an order, a report was written."""
        self.custody.news()
        self._wake.set()

    def coming(self, submissions: Sequence[Submission]) -> None:
        """New mail was handed to the store this moment; what it will need can be made ready."""
        if not self._halted and not self._still:
            self._newcomers.coming(submissions, self._clock())

    def arrived(self, submissions: Sequence[Submission]) -> None:
        """New mail is in the queue; has to be told the moment its transaction is known to be committed."""
        if self._halted or not self._newcomers.arrived(submissions, self._clock()):
            self.nudge()
        else:
            self._soon()

    async def run(self) -> None:
        """Claim and dispatch until cancelled."""
        while True:
            self._wake.clear()
            if not self.store_trouble:
                with contextlib.suppress(StoreUnavailable):  # reported by the database's own state
                    async with self._wheel:
                        if not self.draining:
                            await self.custody.claim(self._clock())
                            await self.custody.give_back(self._clock())
                        else:
                            self.custody.look(list(self.schedule.destinations.values()))
                            await self.custody.give_back()
            self.progress += 1
            self._soon()
            if not self._wake.is_set():
                await self._sleep()

    def look_at_sites(self) -> None:
        """Requests may start that could not, or are to come back."""
        self._soon()

    def _soon(self) -> None:
        """Dispatch and log once this turn of the event loop has been heard out."""
        if not self._turning:
            self._turning = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self._turning = False
        self.recorder.gather(alone=not self.schedule.in_flight)
        self._dispatch()
        if self.schedule.short:
            self.short_of_slots()
        self.recorder.write_log()
        if not self.idled.is_set() and self.idle:
            self.idled.set()

    def _taken_in(self) -> None:
        """Recipients came from the store: there may be something to hand out, or to give back."""
        self._wake.set()
        self._soon()

    def _look(self, destinations: Iterable[Destination]) -> None:
        """Something about these changed: turn the claim wheel if one wants more, or can go back."""
        if self.custody.look(destinations):
            self._wake.set()
        self._soon()

    async def _sleep(self) -> None:
        now = self._clock()
        moment = min(self.custody.next_moment(), self.schedule.next_reopening(now))
        try:
            async with asyncio.timeout(min(max(moment - now, 0.005), LOOK_AGAIN)):
                await self._wake.wait()
        except TimeoutError:
            return

    @contextlib.asynccontextmanager
    async def still(self) -> AsyncIterator[None]:
        """Hold the wheels: only what is in flight stays in memory while the body changes the store."""
        async with self._wheel:
            self._still = True
            try:
                await self._newcomers.settled()
                self.release_all()
                await self.custody.give_back()
                yield
            finally:
                self._still = False

    def release(self, destination: Destination, not_before: float) -> None:
        """Stop working on a destination; it may be taken up again at ``not_before``."""
        self.custody.release(destination, not_before=not_before)
        self._wake.set()

    def release_all(self) -> None:
        """Stop working on everything that is not in flight; it may be taken up again at once."""
        for destination in list(self.schedule.destinations.values()):
            self.release(destination, 0.0)

    @property
    def idle(self) -> bool:
        """Whether nothing is due, in flight or unrecorded now."""
        if self._wheel.locked() or self.schedule.in_flight or self.recorder.busy:
            return False
        return self.custody.idle

    def reconfigure(self, rules: Rules, composer: Composer) -> None:
        """Decide by other rules from now on; what is in memory is looked at again."""
        self.rules = self.schedule.rules = self.custody.rules = self.recorder.rules = rules
        self.recorder.reporting.composer = composer
        self.release_all()

    async def leave(self) -> None:
        """Return everything in custody; the wheels must have stopped."""
        self.recorder.write_log()
        self._still = True
        await self._newcomers.settled()
        self.release_all()
        await self.custody.give_back()

    # -- the dispatch wheel ---

    def _dispatch(self) -> None:
        if self.crew is None:
            return
        now, schedule = self._clock(), self.schedule
        places = {} if self._halted else self._workers()
        dispatch.divide(schedule, places, self.crew.workers, now)
        if self.recorder.unsettled < UNSETTLED_LIMIT:
            touched, octets = dispatch.hand_out(schedule, places, now, self.recorder.lapse)
            self.custody.content -= octets
            self.custody.unsent = octets + sum(worker.unsent for worker in self.crew.workers)
            if touched and self.custody.look(touched):
                self._wake.set()

    def _workers(self) -> dict[int, Worker]:
        """Those that serve, by their places."""
        if self.crew is None:
            return {}
        return self._staffing.serving(dispatch.ready(self.crew.workers))

    # -- the settlement wheel ---

    def worker_said(self, worker: Worker, frame: frames.FromWorker) -> None:
        """A frame arrived from a worker."""
        match frame:
            case frames.Results():
                worker.in_flight -= len(frame.results)
                self.answered(frame.results, worker)
            case frames.Site():
                self.sites.answered(frame, worker.index, self._clock())
                self._soon()
            case frames.Fetch():
                worker.wanted.append(frame)
            case frames.Released():
                self.released(worker, frame.serial)
            case frames.Ready():
                worker.ready = True
                self.sites.ask_again(worker)
                self._wake.set()
            case frames.Event():
                self._log.event(frame.kind, frame.fields, now=self._clock())
            case frames.Transcript():
                self.recorder.reporting.notice(
                    Incident.PROTOCOL_BROKEN,
                    what="a receiving host broke the protocol",
                    queue_id=frame.queue_id,
                    host=frame.host,
                    transcript=frame.lines,
                )
            case frames.Beat():
                report = Report(frame.load, frame.sessions)
                self._staffing.told(worker.index, report, self._load.lately())
        if worker.wanted:
            serve(self._database, worker)

    def answered(self, results: Sequence[DeliveryResult], worker: Worker | None = None) -> None:
        """Requests are over: free their slots, learn from them, record them with others of this turn."""
        now = self._clock()
        schedule, recorder = self.schedule, self.recorder
        touched: set[Destination] = set()
        for result in results:
            pressure = _PRESSURES[result.pressure]
            batch = schedule.complete(result.serial, pressure, result.reason, now)
            if batch is None:
                continue
            untried = recorder.settle(batch, result, worker, now)
            if untried:
                schedule.put_back(batch, untried)
            touched.add(batch.lane.destination)
        while schedule.closings:
            self.sites.closed(schedule.closings.pop(), now)
        self._look(touched)

    # -- dead workers ---

    def worker_died(self, worker: Worker, path: Path) -> None:
        """A worker process ended: deal with what it was at, then let go of its journal."""
        entries = {(e.queue_id, e.recipients): e for e in journal.read(path, self._identity)}
        now = self._clock()
        if not worker.draining:
            self._log.event("worker_died", {"worker": worker.index}, now=now)
        for batch in [b for b in self.schedule.in_flight.values() if b.place == worker.index]:
            key = (batch.queue_id, tuple((r.number, r.attempts + 1) for r in batch.recipients))
            entry = entries.get(key)
            result = recovery.judged(entry, batch.recipients, now=now)
            if result is not None:
                self.answered([msgspec.structs.replace(result, serial=batch.serial, sequence=0)])
            else:
                self.try_again(batch, crashed=entry is not None, now=now)
        self.schedule.vacate(worker.index)
        self.recorder.hand_in()
        # Outcomes are recorded in the order they were handed in: once this is, the others are as well.
        # Where they cannot be recorded, the journal knows them still.
        self._database.submit(barrier, None).add_done_callback(
            lambda done: None if done.exception() else path.unlink(missing_ok=True)
        )

    def worker_not_started(self, worker: Worker, error: OSError) -> None:
        """The system could not give us a process; the crew tries again."""
        fields: dict[str, str | int] = {"worker": worker.index, "error": str(error)}
        self._log.event("worker_not_started", fields, now=self._clock())

    def try_again(self, batch: Batch, *, crashed: bool, now: float) -> None:
        """Nobody knows what became of a request: it waits again, as a suspect if its process died."""
        self.schedule.complete(batch.serial, Pressure.NONE, "", now)
        destination = batch.lane.destination
        if not crashed:
            self.schedule.put_back(batch, {r.number for r in batch.recipients})
            self._look([destination])
            return

        def counted(crashes: asyncio.Future[int]) -> None:
            if not crashes.exception() and crashes.result() >= recovery.POISON:
                verdict = recovery.poisoned(batch.recipients, now=now)
                self.recorder.settle(batch, verdict, None, now)
                self.recorder.reporting.notice(
                    Incident.POISON, what=recovery.POISON_TEXT, queue_id=batch.queue_id
                )
            else:
                self.schedule.put_back(batch, {r.number for r in batch.recipients}, suspect=True)
            self._look([destination])

        self._database.submit(outcomes.crashed, batch.queue_id).add_done_callback(counted)
