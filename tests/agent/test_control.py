"""Orders and questions to a running agent."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from deliveryagent.agent.control import Control
from deliveryagent.mail.delivery import DeliveryRequest, DeliveryResult
from deliveryagent.mail.envelope import format_queue_id
from deliveryagent.protocol.local import ServiceError
from tests.doubles.stage import Stage, play
from tests.doubles.worker_double import delivered, refused


def control(stage: Stage, told: list[str] | None = None) -> Control:
    heard = told if told is not None else []
    return Control(
        manager=stage.manager,
        database=stage.database,
        clock=stage.clock,
        drain=lambda: heard.append("drain"),
        reload=lambda: heard.append("reload"),
        about={"pid": 1, "version": "test"},
    )


async def ask(stage: Stage, op: str, **fields: Any) -> dict[str, Any]:
    order: Callable[[dict[str, Any], str], Awaitable[dict[str, Any]]]
    order = control(stage).orders()[op]
    return await order(fields, "anna")


def never(request: DeliveryRequest) -> DeliveryResult | None:
    return None


def test_what_waits_is_held_released_and_then_delivered(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        stage.manager.draining = True
        queue_id = await stage.enqueue("kim@a.test")
        wanted = {"ids": [format_queue_id(queue_id)]}
        dry = await ask(stage, "hold", filter=wanted, dry_run=True)
        assert dry["recipients"] == 1
        assert stage.statuses() == {"queued": 1}
        held = await ask(stage, "hold", filter=wanted, note="look at it")
        assert (held["messages"], held["recipients"]) == (1, 1)
        assert stage.statuses() == {"held": 1}
        stage.manager.draining = False
        await stage.idle()
        assert stage.worker.seen == []
        await ask(stage, "release", filter=wanted)
        await stage.idle()
        assert stage.statuses() == {"delivered": 1}

    play(tmp_path, delivered, story)


def test_what_is_in_flight_is_left_alone_and_said_so(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        await stage.enqueue("kim@a.test")
        while not stage.worker.seen:  # noqa: ASYNC110 - nothing tells of a start
            await asyncio.sleep(0.005)
        answer = await ask(stage, "delete", filter={"all": True})
        assert (answer["recipients"], answer["skipped_active"]) == (0, 1)
        assert stage.statuses() == {"queued": 1}

    play(tmp_path, never, story)


def test_bouncing_tells_the_sender_and_deleting_tells_nobody(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        stage.manager.draining = True
        first = await stage.enqueue("kim@a.test")
        second = await stage.enqueue("lee@a.test")
        await ask(stage, "bounce", filter={"ids": [format_queue_id(first)]}, note="wrong list")
        await ask(stage, "delete", filter={"ids": [format_queue_id(second)]})
        await stage.manager.recorder.done()
        assert stage.rows(
            "SELECT status, reported IS NULL FROM recipient WHERE destination = 'a.test' "
            "ORDER BY message_id"
        ) == [("bounced", 0), ("deleted", 1)]
        assert stage.rows("SELECT count(*) FROM message WHERE sender = ''") == [(1,)]

    play(tmp_path, delivered, story)


def test_a_paused_destination_gets_nothing_until_it_is_resumed(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        await ask(stage, "dest_pause", name="A.test", note="their migration")
        await stage.enqueue("kim@a.test")
        await stage.enqueue("kim@b.test")
        await stage.idle()
        assert [r.domain for r in stage.worker.seen] == ["b.test"]
        await ask(stage, "dest_resume", name="a.test")
        await stage.idle()
        assert [r.domain for r in stage.worker.seen] == ["b.test", "a.test"]

    play(tmp_path, delivered, story)


def test_a_pause_for_a_while_ends_by_itself(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        await ask(stage, "dest_pause", name="a.test", **{"for": 600})
        await stage.enqueue("kim@a.test")
        await stage.idle()
        assert stage.worker.seen == []
        stage.now += 601
        await stage.idle()
        assert stage.statuses() == {"delivered": 1}

    play(tmp_path, delivered, story)


def test_a_reset_opens_a_closed_site_at_once(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        stage.manager.draining = True
        for n in range(10):
            await stage.enqueue(f"u{n}@dead.test")
        stage.manager.draining = False
        await stage.idle()
        waiting = stage.statuses()["queued"]
        assert waiting > 0
        assert (await ask(stage, "dest", name="dead.test"))["closed_until"] is not None
        stage.worker.answers = delivered
        await ask(stage, "dest_reset", name="dead.test")
        await stage.idle()
        assert stage.statuses()["delivered"] == waiting

    play(tmp_path, refused, story)


def test_all_closed_sites_are_opened_for_a_flush(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        stage.manager.draining = True
        for n in range(10):
            await stage.enqueue(f"u{n}@dead.test")
        stage.manager.draining = False
        await stage.idle()
        stage.worker.answers = delivered
        assert await ask(stage, "dest_reset_all") == {"sites": 1}
        assert (await ask(stage, "dest", name="dead.test"))["closed_until"] is None
        await ask(stage, "retry", filter={"all": True})
        await stage.idle()
        assert stage.statuses() == {"delivered": 10}
        assert await ask(stage, "dest_reset_all") == {"sites": 0}

    play(tmp_path, refused, story)


def test_a_retry_makes_deferred_mail_due(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        await stage.enqueue("kim@a.test")
        await stage.idle()
        assert stage.statuses() == {"deferred": 1}
        stage.worker.answers = delivered
        await ask(stage, "retry", filter={"all": True})
        await stage.idle()
        assert stage.statuses() == {"delivered": 1}

    play(tmp_path, refused, story)


def test_waiting_for_a_message(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        door = control(stage)
        queue_id = format_queue_id(await stage.enqueue("kim@a.test"))
        answer = await door.wait({"id": queue_id, "timeout": 10}, lambda _: True)
        assert answer["message"]["status"] == "delivered"
        with pytest.raises(ServiceError) as refusal:
            await door.wait({"id": queue_id}, lambda _: False)
        assert refusal.value.code == 5
        with pytest.raises(ServiceError):
            await door.wait({"id": "nonsense"}, lambda _: True)

    play(tmp_path, delivered, story)


def test_waiting_ends_with_its_time(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        queue_id = format_queue_id(await stage.enqueue("kim@a.test"))
        answer = await control(stage).wait({"id": queue_id, "timeout": 0.1}, lambda _: True)
        assert answer["message"]["status"] in {"active", "queued"}

    play(tmp_path, never, story)


def test_status_and_active_tell_what_is_in_flight(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        queue_id = await stage.enqueue("kim@a.test")
        while not stage.worker.seen:  # noqa: ASYNC110 - nothing tells of a start
            await asyncio.sleep(0.005)
        status = await ask(stage, "status")
        assert (status["active"], status["draining"]) == (1, False)
        assert status["store"] == {"writable": True, "reason": ""}
        (site,) = status["sites"]
        assert (site["busy"], site["window"]) == (1, 5)
        active = await ask(stage, "active")
        assert active["recipients"] == [[format_queue_id(queue_id), 1, stage.now]]

    play(tmp_path, never, story)


def test_drain_and_reload_reach_the_service(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        told: list[str] = []
        orders = control(stage, told).orders()
        await orders["drain"]({}, "anna")
        await orders["reload"]({}, "anna")
        assert told == ["drain", "reload"]

    play(tmp_path, delivered, story)
