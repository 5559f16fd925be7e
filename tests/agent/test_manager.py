"""The queue manager over a real SQLite queue, with workers that answer as a script says."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from sqlalchemy import text

from deliveryagent.agent.bounce import Composer
from deliveryagent.agent.manager import Manager
from deliveryagent.agent.reporting import Reporting
from deliveryagent.agent.rules import Rules
from deliveryagent.agent.schedule import Schedule
from deliveryagent.log import EventLog, LogSettings
from deliveryagent.mail.delivery import DeliveryRequest, DeliveryResult, Pressure, Verdict
from deliveryagent.mail.envelope import ContentFacts, Envelope, NewRecipient, new_queue_id
from deliveryagent.policy.concurrency import ConcurrencySettings
from deliveryagent.policy.notices import NoticeSettings
from deliveryagent.policy.retry import RetrySettings
from deliveryagent.policy.routing import RelaySettings, Router
from deliveryagent.queue import leases, submissions
from deliveryagent.queue.engine import open_writer
from deliveryagent.queue.ids import QueueIds
from deliveryagent.queue.submissions import CONTENT_PART, Submission
from deliveryagent.queue.thread import Database
from deliveryagent.queue.upgrade import ensure
from tests.doubles.worker_double import (
    Answer,
    CrewDouble,
    WorkerDouble,
    answer,
    bounced,
    delivered,
    refused,
)

START = 1_800_000_000.0


class Stage:
    """A manager on its stage: the store, a clock that tests set, one worker."""

    def __init__(self, tmp_path: Path, answers: Answer, **options: Any) -> None:
        self.now = START
        self.rng = random.Random(7)
        self.path = tmp_path
        self.engine = open_writer(f"sqlite:///{tmp_path}/queue.sqlite3")
        self.identity = ensure(self.engine)
        self.database = Database(self.engine)
        self.ids = QueueIds(last=0, clock=self.clock, rng=self.rng)
        self.agent = new_queue_id(self.now, 1)
        self.rules = Rules(
            router=Router((), RelaySettings(host=options.get("relay", ""))),
            retry=options.get("retry", RetrySettings()),
            concurrency=ConcurrencySettings(),
            recipient_limit=lambda _: options.get("recipient_limit", 50),
            site_limit=lambda _: 20,
            shutdown_grace=1.0,
        )
        composer = Composer(
            hostname="agent.test",
            postmaster="postmaster@agent.test",
            notices=NoticeSettings(),
            retry=self.rules.retry,
            new_id=self.ids,
            clock=self.clock,
            part_size=CONTENT_PART,
        )
        log = EventLog(LogSettings(file=str(tmp_path / "log")), hostname="agent.test")
        self.manager = Manager(
            database=self.database,
            agent=self.agent,
            identity=self.identity,
            schedule=Schedule(rules=self.rules, rng=self.rng),
            rules=self.rules,
            reporting=Reporting(
                database=self.database, composer=composer, log=log, clock=self.clock
            ),
            log=log,
            clock=self.clock,
            rng=self.rng,
        )
        self.worker = WorkerDouble(self.manager, answers, delay=options.get("delay", 0.0))
        self.manager.crew = CrewDouble(self.worker)  # type: ignore[assignment] # stands in

    def clock(self) -> float:
        return self.now

    async def enqueue(self, *recipients: str, sender: str = "s@sender.test") -> int:
        content = b"Subject: x\r\n\r\nhello\r\n"
        submission = Submission(
            queue_id=self.ids(),
            envelope=Envelope(
                sender=sender, recipients=tuple(NewRecipient(address=r) for r in recipients)
            ),
            facts=ContentFacts(size=len(content)),
            parts=(content,),
            arrival=self.now,
            origin="uid=0",
            bulk_after=50,
        )
        await self.database.submit(submissions.add, submission)
        self.manager.nudge()
        return submission.queue_id

    async def idle(self) -> None:
        """Until nothing is due, in flight or unrecorded."""
        self.manager.idled.clear()
        self.manager.nudge()
        async with asyncio.timeout(20):
            await self.manager.idled.wait()

    def rows(self, query: str) -> list[Any]:
        with self.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(query))]

    def statuses(self) -> dict[str, int]:
        return dict(self.rows("SELECT status, count(*) FROM recipient GROUP BY status"))


def play(
    tmp_path: Path, answers: Answer, story: Callable[[Stage], Awaitable[None]], **options: Any
) -> None:
    """Run a story with the manager's wheel turning."""

    async def run() -> None:
        stage = Stage(tmp_path, answers, **options)
        lease = leases.Lease(stage.agent, "h", 1, stage.now, stage.now + 3600)
        await stage.database.submit(leases.register, lease)
        wheel = asyncio.create_task(stage.manager.run())
        try:
            await story(stage)
            assert not wheel.done()
        finally:
            wheel.cancel()
            await asyncio.gather(wheel, return_exceptions=True)
            await stage.database.close()
            stage.engine.dispose()

    asyncio.run(run())


def test_a_message_is_delivered_and_its_content_dropped(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        await stage.enqueue("kim@a.test")
        await stage.idle()
        assert stage.statuses() == {"delivered": 1}
        assert stage.rows("SELECT count(*) FROM content") == [(0,)]
        assert stage.rows("SELECT attempt, decision, host FROM attempt") == [
            (1, "delivered", "mx.test")
        ]
        assert stage.worker.settled == 1
        assert stage.manager.schedule.size == 0
        assert stage.rows("SELECT owner, ready FROM destination") == [(None, None)]

    play(tmp_path, delivered, story)


def test_a_thousand_messages_are_each_delivered_once(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        for n in range(1000):
            await stage.enqueue(f"u{n}@d{n % 7}.test")
        await stage.idle()
        assert stage.statuses() == {"delivered": 1000}
        assert len(stage.worker.seen) == 1000
        assert stage.worker.most <= 7 * 20

    play(tmp_path, delivered, story)


def test_a_bounce_writes_one_report_in_the_same_pass(tmp_path: Path) -> None:
    def story_answer(request: DeliveryRequest) -> DeliveryResult:
        return delivered(request) if not request.sender else bounced(request)

    async def story(stage: Stage) -> None:
        original = await stage.enqueue("gone@a.test", "lost@a.test")
        await stage.idle()
        assert stage.statuses() == {"bounced": 2, "delivered": 1}
        (report,) = stage.rows("SELECT id, sender FROM message WHERE sender = ''")
        assert stage.rows(
            f"SELECT DISTINCT reported, owed FROM recipient WHERE message_id = {original}"
        ) == [(report[0], "")]

    play(tmp_path, story_answer, story)


def test_the_null_sender_is_never_answered(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        await stage.enqueue("gone@a.test", sender="")
        await stage.idle()
        assert stage.rows("SELECT count(*) FROM message") == [(1,)]

    play(tmp_path, bounced, story)


def test_recipients_of_one_message_that_share_a_relay_travel_together(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        await stage.enqueue("a@one.test", "b@two.test", "c@three.test")
        await stage.idle()
        assert [len(request.recipients) for request in stage.worker.seen] == [3]

    play(tmp_path, delivered, story, relay="[relay.test]")


def test_a_big_message_is_cut_into_requests_and_does_not_starve_a_small_one(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        stage.manager.draining = True
        await stage.enqueue(*(f"u{n}@a.test" for n in range(1000)))
        small = await stage.enqueue("only@a.test")
        stage.manager.draining = False
        await stage.idle()
        assert stage.statuses() == {"delivered": 1001}
        place = [request.queue_id for request in stage.worker.seen].index(small)
        assert place <= 4
        assert max(len(request.recipients) for request in stage.worker.seen) == 50

    play(tmp_path, delivered, story)


def test_a_dead_site_costs_few_attempts_and_the_rest_waits_without_a_write(tmp_path: Path) -> None:
    def answers(request: DeliveryRequest) -> DeliveryResult:
        return refused(request) if request.domain == "dead.test" else delivered(request)

    async def story(stage: Stage) -> None:
        stage.manager.draining = True
        for n in range(300):
            await stage.enqueue(f"u{n}@dead.test")
        stage.manager.draining = False
        await stage.enqueue("kim@alive.test")
        await stage.idle()
        assert stage.statuses() == {"queued": 300 - 5, "deferred": 5, "delivered": 1} or (
            stage.statuses()["delivered"] == 1 and len(stage.worker.seen) < 30
        )
        ((ready,),) = stage.rows("SELECT ready FROM destination WHERE name = 'dead.test'")
        assert ready >= START + 250
        tried = len(stage.worker.seen)
        stage.now = ready + 1
        await stage.idle()
        assert len(stage.worker.seen) == tried + 1, "one probe, and the site is closed again"

    play(tmp_path, answers, story)


def test_a_deferred_recipient_is_tried_again_when_it_is_due(tmp_path: Path) -> None:
    def answers(request: DeliveryRequest) -> DeliveryResult:
        if request.recipients[0].attempt == 1:
            return answer(request, Verdict.DEFERRED, code=450, enhanced="4.7.1", text="greylisted")
        return delivered(request)

    async def story(stage: Stage) -> None:
        await stage.enqueue("kim@a.test")
        await stage.idle()
        assert stage.statuses() == {"deferred": 1}
        ((due,),) = stage.rows("SELECT due FROM recipient")
        assert stage.rows("SELECT ready FROM destination") == [(due,)]
        stage.now = due + 1
        await stage.idle()
        assert stage.statuses() == {"delivered": 1}
        assert stage.rows("SELECT attempt FROM attempt ORDER BY attempt") == [(1,), (2,)]

    play(tmp_path, answers, story)


def test_untried_recipients_come_back_without_an_attempt(tmp_path: Path) -> None:
    turns: list[int] = []

    def answers(request: DeliveryRequest) -> DeliveryResult:
        turns.append(request.recipients[0].attempt)
        if len(turns) == 1:
            return answer(request, Verdict.RETURNED, pressure=Pressure.NONE)
        return delivered(request)

    async def story(stage: Stage) -> None:
        await stage.enqueue("kim@a.test")
        await stage.idle()
        assert turns == [1, 1]
        assert stage.statuses() == {"delivered": 1}

    play(tmp_path, answers, story)


def test_a_message_that_kills_its_worker_three_times_is_held_and_the_postmaster_told(
    tmp_path: Path,
) -> None:
    def answers(request: DeliveryRequest) -> DeliveryResult | None:
        return None if request.domain == "poison.test" else delivered(request)

    async def story(stage: Stage) -> None:
        poison = await stage.enqueue("x@poison.test")
        for _ in range(3):
            while not stage.manager.schedule.in_flight:  # noqa: ASYNC110 - nothing tells of a start
                await asyncio.sleep(0.005)
            (batch,) = stage.manager.schedule.in_flight.values()
            stage.manager.try_again(batch, crashed=True, now=stage.now)
            await stage.manager.recorder.done()
            await asyncio.sleep(0.02)
        await stage.idle()
        assert stage.rows(f"SELECT status FROM recipient WHERE message_id = {poison}") == [
            ("held",)
        ]
        notices = stage.rows(
            "SELECT address FROM recipient WHERE message_id IN "
            "(SELECT id FROM message WHERE sender = '')"
        )
        assert notices == [("postmaster@agent.test",)]

    play(tmp_path, answers, story)


def test_pausing_hands_nothing_out_and_leaves_nothing_in_memory(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        async with stage.manager.still():
            await stage.enqueue("kim@a.test")
            await asyncio.sleep(0.05)
            assert stage.worker.seen == []
        await stage.idle()
        assert stage.statuses() == {"delivered": 1}

    play(tmp_path, delivered, story)


def test_nothing_is_handed_out_while_the_store_is_in_trouble(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        stage.manager.store_trouble = "the disk is full"
        await stage.enqueue("kim@a.test")
        await asyncio.sleep(0.05)
        assert stage.worker.seen == []
        stage.manager.store_trouble = ""
        await stage.idle()
        assert stage.statuses() == {"delivered": 1}

    play(tmp_path, delivered, story)
