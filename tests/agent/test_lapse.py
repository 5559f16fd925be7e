"""Messages whose time is over by their senders' own word: returned or reported, once, and not tried after."""

from email import message_from_bytes
from pathlib import Path
from typing import Any

import pytest

from deliveryagent.mail.delivery import DeliveryRequest, DeliveryResult
from deliveryagent.mail.envelope import Notify
from tests.agent.test_custody import until
from tests.agent.test_upkeep import upkeep
from tests.doubles.stage import Stage, play
from tests.doubles.worker_double import delivered, refused


def unreachable(request: DeliveryRequest) -> DeliveryResult:
    """The recipients' site is down; reports to senders get through."""
    return delivered(request) if request.domain == "sender.test" else refused(request)


def tries(stage: Stage) -> int:
    return sum(request.domain == "a.test" for request in stage.worker.seen)


def reports(stage: Stage) -> list[bytes]:
    """The machine-readable parts of what was sent to senders, in order."""
    found = []
    for request in stage.worker.seen:
        if request.domain == "sender.test":
            assert request.content is not None
            report = message_from_bytes(request.content)
            found += [
                part.as_bytes()
                for part in report.walk()
                if part.get_content_type() == "message/delivery-status"
            ]
    return found


async def rounds(stage: Stage) -> None:
    keeper = upkeep(stage)
    for _ in range(3):
        await keeper.round()
        await stage.manager.recorder.done()
        await stage.idle()


def test_mail_to_be_returned_fails_at_its_time_and_is_not_tried_again(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        await stage.enqueue("kim@a.test", deliver_by=stage.now + 60, by_mode="R")
        await stage.idle()
        await rounds(stage)
        assert (stage.statuses(), tries(stage)) == ({"deferred": 1}, 1)
        stage.now += 61
        await rounds(stage)
        assert tries(stage) == 1
        (report,) = reports(stage)
        assert b"Action: failed" in report
        assert b"Status: 5.4.7" in report
        assert b"Deliver-By-Date: " in report
        assert stage.statuses() == {"expired": 1, "delivered": 1}
        assert stage.rows("SELECT count(*) FROM deadline") == [(0,)]
        stage.now += 3600
        await stage.idle()
        assert tries(stage) == 1

    play(tmp_path, unreachable, story)


def test_a_request_whose_time_is_over_never_leaves(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        stage.manager.draining = True
        await stage.enqueue("kim@a.test", "sam@a.test", deliver_by=stage.now + 1, by_mode="RT")
        await stage.enqueue("usual@a.test")
        stage.now += 2
        stage.manager.draining = False
        await stage.idle()
        (request,) = (request for request in stage.worker.seen if request.domain == "a.test")
        assert request.recipients[0].address == "usual@a.test"
        (report,) = reports(stage)
        assert report.count(b"Status: 5.4.7") == 2
        assert stage.manager.schedule.size == 0
        assert stage.manager.custody.content == 0
        assert stage.statuses() == {"expired": 2, "delivered": 2}

    play(tmp_path, delivered, story, site_limit=1)


def test_what_is_too_late_takes_no_place_from_others(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        stage.manager.draining = True
        for n in range(50):
            await stage.enqueue(f"late{n}@a.test", sender="", deliver_by=stage.now + 1, by_mode="R")
        await stage.enqueue("usual@a.test")
        stage.now += 2
        stage.manager.draining = False
        await stage.idle()
        assert tries(stage) == 1
        assert stage.statuses() == {"expired": 50, "delivered": 1}
        assert not stage.manager.schedule.in_flight

    play(tmp_path, delivered, story, site_limit=1)


def test_an_attempt_that_ends_too_late_was_the_last(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        await stage.enqueue("kim@a.test", deliver_by=stage.now + 5, by_mode="R")
        await until(lambda: stage.worker.seen)
        stage.now += 6
        await stage.idle()
        assert stage.statuses() == {"expired": 1, "delivered": 1}
        (report,) = reports(stage)
        assert b"Status: 5.4.7" in report
        assert b"connection refused" in report, "with the answer of that attempt"

    play(tmp_path, unreachable, story, delay=0.1)


def test_what_was_taken_in_time_is_delivered(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        await stage.enqueue("kim@a.test", deliver_by=stage.now + 5, by_mode="R")
        await until(lambda: stage.worker.seen)
        stage.now += 6
        await stage.idle()
        await rounds(stage)
        assert stage.statuses() == {"delivered": 1}

    play(tmp_path, delivered, story, delay=0.1)


def test_a_sender_is_told_once_that_its_time_is_over_and_delivery_goes_on(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        await stage.enqueue("kim@a.test", deliver_by=stage.now + 60, by_mode="N")
        await stage.idle()
        await rounds(stage)
        assert reports(stage) == []
        stage.now += 61
        await rounds(stage)
        (report,) = reports(stage)
        assert b"Action: delayed" in report
        assert b"Status: 4.4.7" in report
        assert stage.rows("SELECT count(*) FROM deadline") == [(0,)]
        stage.now += 86400.0  # the usual warning would have been due as well
        await rounds(stage)
        assert len(reports(stage)) == 1
        stage.worker.answers = delivered
        stage.now += 86400.0
        await stage.idle()
        assert set(stage.statuses()) == {"delivered"}
        assert tries(stage) > 1

    play(tmp_path, unreachable, story)


def test_the_usual_warning_waits_for_the_time_the_sender_named(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        await stage.enqueue("kim@a.test", deliver_by=stage.now + 2 * 86400, by_mode="N")
        await stage.idle()
        stage.now += 86400.0
        await rounds(stage)
        assert reports(stage) == []
        stage.now += 86401.0
        await rounds(stage)
        assert len(reports(stage)) == 1

    play(tmp_path, unreachable, story)


@pytest.mark.parametrize(
    ("mode", "options"),
    [("R", {"sender": ""}), ("N", {"sender": ""}), ("NT", {"sender": ""})],
)
def test_nobody_is_told_where_there_is_nobody(
    tmp_path: Path, mode: str, options: dict[str, Any]
) -> None:
    async def story(stage: Stage) -> None:
        await stage.enqueue("kim@a.test", deliver_by=stage.now + 60, by_mode=mode, **options)
        await stage.idle()
        stage.now += 61
        await rounds(stage)
        assert stage.rows("SELECT count(*) FROM message") == [(1,)]
        assert stage.rows("SELECT count(*) FROM deadline") == [(0,)]

    play(tmp_path, unreachable, story)


@pytest.mark.parametrize(
    ("mode", "notify", "told"),
    [
        ("R", Notify.NEVER, 0),
        ("R", Notify.DELAY, 0),
        ("R", Notify.FAILURE, 1),
        ("N", Notify.NEVER, 0),
        ("N", Notify.FAILURE, 0),
        ("N", Notify.DELAY, 1),
    ],
)
def test_notices_respect_what_was_wished_for(
    tmp_path: Path, mode: str, notify: Notify, told: int
) -> None:
    async def story(stage: Stage) -> None:
        queue_id = await stage.enqueue("kim@a.test", deliver_by=stage.now + 60, by_mode=mode)
        await stage.idle()
        with stage.engine.begin() as connection:
            connection.exec_driver_sql(
                f"UPDATE recipient SET notify = {int(notify)} WHERE message_id = {queue_id}"
            )
        stage.now += 61
        await rounds(stage)
        assert len(reports(stage)) == told

    play(tmp_path, unreachable, story)


def test_many_that_are_late_at_once_are_all_seen_to(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        stage.manager.draining = True
        names = [f"u{n}@d{n % 9}.test" for n in range(600)]
        for name in names:
            await stage.enqueue(name, sender="", deliver_by=stage.now + 60, by_mode="R")
        stage.now += 61
        await upkeep(stage).round()
        assert stage.statuses() == {"expired": 600}
        assert stage.rows("SELECT count(*) FROM deadline") == [(0,)]

    play(tmp_path, delivered, story)
