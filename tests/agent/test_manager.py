"""The queue manager over a real SQLite queue, with workers that answer as a script says."""

import asyncio
from pathlib import Path

from deliveryagent.mail.delivery import DeliveryRequest, DeliveryResult, Pressure, Verdict
from tests.doubles.stage import START, Stage, play
from tests.doubles.worker_double import (
    answer,
    bounced,
    delivered,
    refused,
)


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
        assert stage.worker.most <= 7 * 2 * 20

    play(tmp_path, delivered, story)


def test_answers_of_one_moment_share_a_commit_and_a_receipt(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        stage.manager.draining = True
        for n in range(300):
            await stage.enqueue(f"u{n}@a.test")
        stage.manager.draining = False
        await stage.idle()
        assert stage.statuses() == {"delivered": 300}
        assert stage.worker.settled == 300
        assert stage.worker.receipts < 150

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
