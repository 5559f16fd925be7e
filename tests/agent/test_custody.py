"""What is in memory: fetched ahead, handed over, given back, and bounded."""

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from deliveryagent.agent import custody
from deliveryagent.agent.active import FIRST_QUOTA, Batch
from deliveryagent.agent.allotment import SWIFT
from deliveryagent.mail.delivery import DeliveryRequest, DeliveryResult, Pressure, Verdict
from deliveryagent.queue import submissions
from tests.doubles.stage import Stage, play
from tests.doubles.worker_double import answer, delivered


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.005)


def requested(stage: Stage) -> Counter[str]:
    return Counter(r.address for request in stage.worker.seen for r in request.recipients)


def never(_: DeliveryRequest) -> DeliveryResult | None:
    return None


def first_never(request: DeliveryRequest) -> DeliveryResult | None:
    return None if request.recipients[0].address.startswith("first@") else delivered(request)


def test_new_mail_for_a_destination_in_custody_is_not_read_back(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        await stage.idle()
        await stage.take_over(stage.letters("first@a.test"))
        await until(lambda: stage.worker.seen and stage.destination("a.test").open)
        await stage.take_over(stage.letters("second@a.test"))
        await until(lambda: stage.statuses().get("delivered") == 1)
        assert requested(stage) == {"first@a.test": 1, "second@a.test": 1}
        ((ready,),) = stage.rows("SELECT ready FROM destination")
        assert ready is not None, "nobody had to ask the store for it"

    play(tmp_path, first_never, story)


def test_what_is_handed_over_carries_what_the_store_knows(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        await stage.take_over(stage.letters("first@a.test"))
        await until(lambda: stage.worker.seen and stage.destination("a.test").open)
        (letter,) = stage.letters("second@a.test")
        await stage.take_over([letter])
        await until(lambda: len(stage.worker.seen) == 2)
        first, second = stage.worker.seen
        assert second.content == first.content == letter.parts[0]
        assert (second.sender, second.size, second.due) == (first.sender, first.size, stage.now)

    play(tmp_path, never, story)


def test_mail_for_later_waits_although_its_destination_is_here(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        await stage.idle()
        await stage.take_over(stage.letters("first@a.test"))
        await until(lambda: stage.worker.seen and stage.destination("a.test").open)
        await stage.take_over(stage.letters("later@a.test", not_before=stage.now + 60))
        await stage.take_over(stage.letters("now@a.test"))
        await until(lambda: len(stage.worker.seen) == 2)
        stage.now += 61
        await until(lambda: len(stage.worker.seen) == 3)
        assert list(requested(stage)) == ["first@a.test", "now@a.test", "later@a.test"]

    play(tmp_path, first_never, story)


def test_a_flood_is_delivered_once_each_whatever_way_it_gets_in(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        names = [f"u{n}@d{n % 3}.test" for n in range(900)]
        for start in range(0, 900, 10):
            wanted = stage.letters(*names[start : start + 10])
            if start % 40:
                await stage.take_over(wanted)
            else:  # as if another process had put it in
                await asyncio.gather(*(stage.database.submit(submissions.add, w) for w in wanted))
                stage.manager.nudge()
            if start % 70 == 0:
                await asyncio.sleep(0.003)
        await stage.idle()
        assert requested(stage) == Counter(names)
        assert stage.statuses() == {"delivered": 900}
        assert stage.manager.custody.content == 0

    play(tmp_path, delivered, story, delay=0.002)


def test_a_destination_for_which_mail_keeps_coming_stays_a_moment(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        for n in range(3):
            await stage.take_over(stage.letters(f"u{n}@a.test"))
            await stage.idle()
        assert stage.destination("a.test").done
        assert stage.rows("SELECT owner FROM destination") == [(stage.agent,)]
        stage.now += 2 * custody.LINGER
        stage.manager.nudge()
        await until(lambda: stage.rows("SELECT owner FROM destination") == [(None,)])
        assert stage.statuses() == {"delivered": 3}

    play(tmp_path, delivered, story)


def test_a_destination_whose_requests_came_back_is_given_back(tmp_path: Path) -> None:
    def answers(request: DeliveryRequest) -> DeliveryResult:
        return answer(request, Verdict.RETURNED, pressure=Pressure.NONE)

    async def story(stage: Stage) -> None:
        await stage.enqueue("kim@a.test")
        await until(lambda: stage.worker.seen)
        stage.manager.draining = True
        stage.manager.release(stage.destination("a.test"), stage.now + 60)
        await until(lambda: stage.rows("SELECT owner FROM destination") == [(None,)])
        assert stage.rows("SELECT ready FROM destination") == [(stage.now + 60,)]
        assert stage.manager.schedule.size == 0

    play(tmp_path, answers, story, delay=0.05)


def test_slow_destinations_make_room_for_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More recipients of slow places than fit into memory: mail for another place passes them by."""
    monkeypatch.setattr(custody, "ACTIVE_LIMIT", 100)

    def answers(request: DeliveryRequest) -> DeliveryResult | None:
        return delivered(request) if request.domain == "fast.test" else None

    async def story(stage: Stage) -> None:
        wanted = [f"u{n}@slow{n % 10}.test" for n in range(400)]
        await stage.take_over(stage.letters(*wanted))
        await until(lambda: stage.manager.schedule.size >= 100)
        await stage.take_over(stage.letters(*(f"u{n}@fast.test" for n in range(50))))
        while stage.statuses().get("delivered", 0) < 50:
            stage.now += 0.1
            assert stage.manager.schedule.size <= 100
            await asyncio.sleep(0.01)
        assert requested(stage).most_common(1)[0][1] == 1

    play(tmp_path, answers, story)


def test_contents_in_memory_stay_within_their_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(custody, "CONTENT_LIMIT", 1000)
    most = 0

    def answers(request: DeliveryRequest) -> DeliveryResult | None:
        nonlocal most
        most = max(most, stages[0].manager.custody.content)
        return delivered(request)

    stages: list[Stage] = []

    async def story(stage: Stage) -> None:
        stages.append(stage)
        names = [f"u{n}@d{n % 7}.test" for n in range(300)]
        await asyncio.gather(
            *(stage.database.submit(submissions.add, one) for one in stage.letters(*names))
        )
        stage.manager.nudge()
        await stage.idle()
        assert requested(stage) == Counter(names)
        assert stage.manager.custody.content == 0
        assert 0 < most <= 1000

    play(tmp_path, answers, story, delay=0.001)


def test_what_a_destination_holds_shrinks_with_its_pace(tmp_path: Path) -> None:
    def answers(request: DeliveryRequest) -> DeliveryResult | None:
        return delivered(request) if len(stage_of[0].worker.seen) < 600 else None

    stage_of: list[Stage] = []

    async def story(stage: Stage) -> None:
        stage_of.append(stage)
        await stage.take_over(stage.letters(*(f"u{n}@a.test" for n in range(2500))))
        await until(lambda: len(stage.worker.seen) >= 600)
        await until(lambda: stage.destination("a.test").pending > 4 * FIRST_QUOTA)
        for _ in range(3):
            stage.now += custody.LOOK_AGAIN + 1
            stage.manager.nudge()
            await asyncio.sleep(0.05)
        await until(lambda: stage.destination("a.test").pending <= 2 * FIRST_QUOTA)
        assert stage.manager.schedule.size <= 2 * FIRST_QUOTA + SWIFT * 20
        known = sum(len(b.content or b"") for b in waiting(stage))
        assert stage.manager.custody.content == known

    play(tmp_path, answers, story)


def waiting(stage: Stage) -> list[Batch]:
    lanes = [
        lane for d in stage.manager.schedule.destinations.values() for lane in d.lanes.values()
    ]
    return [batch for lane in lanes for batch in lane.pending]


def test_what_was_dropped_from_memory_is_delivered_later(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        names = [f"u{n}@a.test" for n in range(600)]
        await stage.take_over(stage.letters(*names))
        await until(lambda: stage.manager.schedule.size > 100)
        plan, destination = stage.manager.schedule, stage.destination("a.test")
        destination.quota = destination.pending // 4
        destination.pace = 0
        stage.now += custody.LOOK_AGAIN + 1
        await stage.idle()
        assert requested(stage) == Counter(names)
        assert plan.size == 0

    play(tmp_path, delivered, story, delay=0.02)
