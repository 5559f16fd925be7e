"""Priorities as the whole manager keeps them: from the store, from memory, and after a failed attempt."""

import asyncio
from collections.abc import Iterable
from pathlib import Path

import msgspec

from deliveryagent.agent.active import FIRST_QUOTA
from deliveryagent.mail.delivery import DeliveryRequest, DeliveryResult, Handling
from deliveryagent.mail.submission import Submission
from deliveryagent.queue import submissions
from tests.agent.test_custody import first_never, requested, until
from tests.agent.test_newcomers import no_claims
from tests.doubles.stage import Stage, play
from tests.doubles.worker_double import delivered, refused


async def put_in(stage: Stage, wanted: Iterable[Submission]) -> None:
    """As another agent, or an application's transaction, brings mail."""
    await asyncio.gather(*(stage.database.submit(submissions.add, one) for one in wanted))


def kinds(stage: Stage) -> list[str]:
    """What left, in order, by the first letter of the recipient."""
    return [request.recipients[0].address[0] for request in stage.worker.seen]


def test_of_a_long_line_in_the_store_the_higher_priorities_leave_first(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        stage.manager.draining = True
        await put_in(stage, stage.letters(*(f"low{n}@a.test" for n in range(100)), priority=-5))
        await put_in(stage, stage.letters(*(f"usual{n}@a.test" for n in range(300))))
        await put_in(stage, stage.letters(*(f"high{n}@a.test" for n in range(60)), priority=1))
        await put_in(stage, stage.letters(*(f"top{n}@a.test" for n in range(20)), priority=9))
        stage.manager.draining = False
        await stage.idle()
        order = kinds(stage)
        assert max(place for place, kind in enumerate(order) if kind == "h") < order.index("u")
        assert max(place for place, kind in enumerate(order) if kind == "t") < order.index("h")
        # Lower ones leave where nothing else is at hand, and by their turn.
        assert order[: order.index("u")].count("l") <= 40
        last = max(place for place, kind in enumerate(order) if kind == "u")
        assert order[:last].count("l") <= 80, "many wait for all others"
        assert "l" in order[:last], "but not all"
        assert stage.statuses() == {"delivered": 480}

    play(tmp_path, delivered, story, site_limit=1, delay=0.002)


def test_a_higher_priority_from_outside_passes_what_is_in_memory(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        await put_in(stage, stage.letters(*(f"usual{n}@a.test" for n in range(400))))
        stage.manager.nudge()
        await until(lambda: len(stage.worker.seen) > FIRST_QUOTA)
        await put_in(stage, stage.letters("high@a.test", priority=1))
        stage.manager.nudge()
        left_before = len(stage.worker.seen)
        await until(lambda: "h" in kinds(stage))
        assert kinds(stage).index("h") - left_before < 200
        await stage.idle()
        assert requested(stage).total() == 401

    play(tmp_path, delivered, story, site_limit=1, delay=0.005)


def test_a_higher_priority_of_our_own_joins_in_memory_whatever_waits_outside(
    tmp_path: Path,
) -> None:
    async def story(stage: Stage) -> None:
        await put_in(stage, stage.letters(*(f"usual{n}@a.test" for n in range(300))))
        stage.manager.nudge()
        await until(lambda: stage.worker.seen and stage.manager.schedule.size >= FIRST_QUOTA // 2)
        async with stage.manager._wheel:  # nothing is claimed
            before = len(stage.worker.seen)
            await stage.take_over(stage.letters("high@a.test", priority=2))
            await until(lambda: "h" in kinds(stage))
            assert kinds(stage).index("h") - before < 20
        await stage.idle()
        assert requested(stage).total() == 301
        assert set(requested(stage).values()) == {1}

    play(tmp_path, delivered, story, site_limit=1, delay=0.005)


def test_newcomers_stand_in_memory_by_their_priorities(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        await stage.idle()
        await stage.take_over(stage.letters("first@a.test"))
        await until(lambda: stage.worker.seen and stage.destination("a.test").open)
        async with stage.manager._wheel:  # nothing is claimed
            for address, priority in (("low", -1), ("usual", 0), ("high", 4)):
                await stage.take_over(stage.letters(f"{address}@a.test", priority=priority))
            (lane,) = stage.destination("a.test").lanes.values()
            assert [batch.recipients[0].address for batch in lane.pending] == [
                "high@a.test",
                "usual@a.test",
                "low@a.test",
            ]

    play(tmp_path, first_never, story, site_limit=1)


def test_a_priority_is_kept_for_later_attempts(tmp_path: Path) -> None:
    def unreachable_at_first(request: DeliveryRequest) -> DeliveryResult | None:
        return refused(request) if request.recipients[0].attempt == 1 else delivered(request)

    async def story(stage: Stage) -> None:
        await stage.enqueue("usual@a.test")
        await stage.idle()
        await stage.enqueue("high@a.test", priority=5)
        await stage.idle()
        ((priority, due),) = stage.rows(
            "SELECT priority, due FROM recipient JOIN message ON message.id = message_id "
            "WHERE address = 'high@a.test'"
        )
        assert (priority, due > stage.now) == (5, True), "it waits like any other until then"
        stage.now += 3600
        await stage.idle()
        later = [r for r in stage.worker.seen if r.recipients[0].attempt == 2]
        assert [r.recipients[0].address for r in later] == ["high@a.test", "usual@a.test"]
        assert stage.rows("SELECT count(*) FROM attempt WHERE queue_time > 3601") == [(0,)]

    play(tmp_path, unreachable_at_first, story, site_limit=1)


def test_waiting_for_an_hour_before_the_arrival_is_no_waiting(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        await stage.enqueue("high@a.test", priority=9)
        await stage.idle()
        assert stage.rows("SELECT queue_time < 60 FROM attempt") == [(1,)]

    def delivered_now(request: DeliveryRequest) -> DeliveryResult:
        return msgspec.structs.replace(delivered(request), started=request.arrival + 1)

    play(tmp_path, delivered_now, story)


def test_a_worker_is_told_what_a_message_asks_of_its_way(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        by = stage.now + 600
        async with no_claims(stage):
            asked = stage.letters(
                "new@a.test", priority=-3, deliver_by=by, by_mode="N", require_tls=True
            )
            await stage.take_over(asked)
        await put_in(stage, stage.letters("old@b.test", deliver_by=by, by_mode="R"))
        await stage.enqueue("plain@c.test")
        await stage.idle()
        assert {r.recipients[0].address[:3]: r.handling for r in stage.worker.seen} == {
            "new": Handling(-3, by, "N", require_tls=True),
            "old": Handling(0, by, "R"),
            "pla": None,
        }

    play(tmp_path, delivered, story)
