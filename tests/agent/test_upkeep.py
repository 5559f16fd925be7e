"""Expiry and delay warnings where mail only waits; the purge of history."""

import asyncio
from pathlib import Path

import pytest

from deliveryagent.agent.upkeep import Upkeep
from deliveryagent.mail.delivery import DeliveryRequest, DeliveryResult
from deliveryagent.mail.submission import StagedPart
from deliveryagent.policy.retry import RetrySettings
from deliveryagent.queue import submissions
from deliveryagent.setting import Duration
from tests.doubles.stage import Stage, play
from tests.doubles.worker_double import delivered, refused

SETTINGS = RetrySettings()
LIFETIME = SETTINGS.maximal_queue_lifetime


def upkeep(stage: Stage, *, retention: float = 30 * 86400.0) -> Upkeep:
    return Upkeep(
        database=stage.database,
        manager=stage.manager,
        retention=retention,
        clock=stage.clock,
    )


def unreachable(request: DeliveryRequest) -> DeliveryResult:
    """The recipients' site is down; reports to senders get through."""
    return delivered(request) if request.domain == "sender.test" else refused(request)


async def close_site(stage: Stage, count: int = 8) -> None:
    """Fill a destination and let it fail until it is closed."""
    stage.manager.draining = True
    for n in range(count):
        await stage.enqueue(f"u{n}@dead.test")
    stage.manager.draining = False
    await stage.idle()
    assert stage.statuses().get("queued"), "some only wait, without an attempt"


def test_a_clock_that_jumps_ahead_expires_nothing_before_a_last_attempt(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        await close_site(stage)
        stage.now += LIFETIME + 60
        stage.worker.answers = delivered
        await upkeep(stage).round()
        assert "expired" not in stage.statuses()
        await stage.idle()
        assert stage.rows(
            "SELECT status, count(*) FROM recipient WHERE destination = 'dead.test' GROUP BY status"
        ) == [("delivered", 8)]

    play(tmp_path, unreachable, story)


def test_mail_behind_a_site_that_is_still_down_expires_with_its_reason(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        await close_site(stage)
        stage.now += LIFETIME + 60
        keeper = upkeep(stage)
        await keeper.round()
        await stage.idle()  # the last attempts fail, the rest finds the site closed again
        await keeper.round()
        await stage.manager.recorder.done()
        await stage.idle()
        statuses = stage.statuses()
        assert statuses["expired"] == 8
        assert statuses["delivered"] >= 1, "the senders were told"
        assert stage.rows("SELECT count(*) FROM recipient WHERE owed <> ''") == [(0,)]
        assert stage.rows(
            "SELECT count(*) FROM recipient WHERE status = 'expired' AND reported IS NULL"
        ) == [(0,)]

    play(tmp_path, unreachable, story)


def test_a_message_that_waits_long_is_warned_of_once(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        await close_site(stage)
        keeper = upkeep(stage)
        stage.now += SETTINGS.delay_warning_time + 60
        for _ in range(3):
            await keeper.round()
            await stage.manager.recorder.done()
        assert stage.rows("SELECT count(*) FROM recipient WHERE warned IS NOT NULL") == [(8,)]
        warnings = stage.rows("SELECT count(*) FROM message WHERE sender = ''")
        assert warnings == [(8,)], "one for each message, whatever happens later"

    play(tmp_path, unreachable, story)


def test_no_warning_is_written_where_none_is_wanted(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        await close_site(stage)
        stage.now += 10 * 86400.0
        await upkeep(stage)._warn(stage.now)
        await stage.manager.recorder.done()
        assert stage.rows("SELECT count(*) FROM message WHERE sender = ''") == [(0,)]

    play(tmp_path, unreachable, story, retry=RetrySettings(delay_warning_time=Duration(0.0)))


def test_history_is_forgotten_when_its_time_is_over(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        await stage.enqueue("kim@a.test")
        await stage.idle()
        keeper = upkeep(stage, retention=3600.0)
        await keeper.round()
        assert stage.statuses() == {"delivered": 1}
        stage.now += 7200.0
        for _ in range(3):
            await keeper.round()
        assert stage.rows("SELECT count(*) FROM message") == [(0,)]
        assert stage.rows("SELECT count(*) FROM attempt") == [(0,)]

    play(tmp_path, delivered, story)


def test_rounds_pause_while_the_store_is_in_trouble(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deliveryagent.agent.upkeep.INTERVAL", 0.01)

    async def story(stage: Stage) -> None:
        def abandoned() -> int:
            return int(stage.rows("SELECT count(*) FROM arriving")[0][0])

        part = StagedPart(queue_id=5, part=0, data=b"x", started=stage.now - 100_000)
        await stage.database.submit(submissions.stage, part)
        stage.manager.store_trouble = "the disk is full"
        running = asyncio.create_task(upkeep(stage).run())
        await asyncio.sleep(0.1)
        assert abandoned() == 1
        stage.manager.store_trouble = ""
        async with asyncio.timeout(5):
            while abandoned():  # noqa: ASYNC110 - only the database knows
                await asyncio.sleep(0.01)
        running.cancel()

    play(tmp_path, delivered, story)
