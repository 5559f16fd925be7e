"""New mail on its way in: made ready before its commit, handed out right after it, and only once."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from deliveryagent.agent import frames
from deliveryagent.mail.delivery import DeliveryRequest, DeliveryResult
from deliveryagent.mail.nexthop import HostAddresses, MailHosts
from deliveryagent.queue import claims, submissions
from deliveryagent.queue.operation import Operation
from deliveryagent.queue.thread import StoreUnavailable
from tests.agent.test_custody import never, requested, until
from tests.doubles.stage import Stage, play
from tests.doubles.worker_double import delivered

OTHER = 4711


@asynccontextmanager
async def no_claims(stage: Stage) -> AsyncIterator[None]:
    """While the claim wheel stands, mail can only get in by itself."""
    await stage.idle()
    async with stage.manager._wheel:
        yield


def owners(stage: Stage) -> dict[str, int | None]:
    return dict(stage.rows("SELECT name, owner FROM destination"))


def test_mail_for_a_new_destination_is_handed_out_without_asking_the_store_again(
    tmp_path: Path,
) -> None:
    async def story(stage: Stage) -> None:
        async with no_claims(stage):
            (letter,) = stage.letters("kim@a.test")
            await stage.take_over([letter])
            await until(lambda: stage.worker.seen)
        (seen,) = stage.worker.seen
        assert (seen.queue_id, seen.content) == (letter.queue_id, letter.parts[0])
        assert owners(stage) == {"a.test": stage.agent}
        await stage.idle()
        assert stage.statuses() == {"delivered": 1}
        assert stage.manager.custody.content == 0

    play(tmp_path, delivered, story)


def test_the_next_hop_is_looked_up_before_the_commit(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        asked: list[str] = []

        def site(next_hop: str) -> str:
            asked.append(next_hop)
            return "a-site"

        stage.worker.site = site
        stage.manager.coming(stage.letters("kim@a.test", "sam@a.test", "kim@b.test"))
        await until(lambda: len(asked) == 2)
        assert not stage.worker.seen, "nothing is in the queue yet"
        await stage.take_over(stage.letters("kim@a.test"))
        await stage.idle()
        assert sorted(asked) == ["a.test", "b.test"], "and not asked for again"

    play(tmp_path, delivered, story)


def test_mail_that_waited_at_the_destination_comes_along(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        async with no_claims(stage):
            (old,) = stage.letters("old@a.test")
            await stage.database.submit(submissions.add, old)
            await stage.take_over(stage.letters("new@a.test"))
            await until(lambda: len(stage.worker.seen) == 2)
        await stage.idle()
        assert requested(stage) == {"old@a.test": 1, "new@a.test": 1}

    play(tmp_path, delivered, story)


def test_more_mail_joins_while_the_destination_is_just_becoming_ours(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        async with no_claims(stage):
            names = [f"u{n}@a.test" for n in range(30)]
            await asyncio.gather(*(stage.take_over(stage.letters(name)) for name in names))
            await until(lambda: stage.statuses() == {"delivered": 30})
        assert requested(stage) == Counter(names)

    play(tmp_path, delivered, story)


def test_a_paused_destination_and_somebody_elses_are_left_alone(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        await stage.idle()
        await stage.database.submit(submissions.add, *stage.letters("first@paused.test"))
        await stage.database.submit(submissions.add, *stage.letters("first@other.test"))
        with stage.engine.begin() as connection:
            driver = connection.exec_driver_sql
            driver(f"UPDATE destination SET paused_until = {stage.now + 60} WHERE name LIKE 'p%'")
            driver(
                "INSERT INTO agent (id, host, pid, started, lease_until) "
                f"SELECT {OTHER}, host, pid, started, lease_until FROM agent"
            )
            driver(f"UPDATE destination SET owner = {OTHER} WHERE name LIKE 'o%'")
        async with no_claims(stage):
            wanted = stage.letters("kim@paused.test", "kim@other.test", "kim@a.test")
            await stage.take_over(wanted)
            await until(lambda: stage.worker.seen)
        await stage.idle()
        assert requested(stage) == {"kim@a.test": 1}
        assert owners(stage)["other.test"] == OTHER

    play(tmp_path, delivered, story)


def test_with_several_recipients_or_later_or_on_hold_it_goes_the_usual_way(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        await stage.take_over(stage.letters("later@a.test", not_before=stage.now + 60))
        assert not stage.manager.custody.coming
        await stage.idle()
        assert not stage.worker.seen

    play(tmp_path, delivered, story)


def test_a_refused_taking_up_leaves_the_mail_to_the_claim_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: object, items: Sequence[object]) -> list[Any]:
        raise StoreUnavailable(f"not {len(items)} now")

    monkeypatch.setattr(claims, "take_up", Operation(fails, reports=True))

    async def story(stage: Stage) -> None:
        await stage.take_over(stage.letters("kim@a.test"))
        await stage.idle()
        assert stage.statuses() == {"delivered": 1}
        assert not stage.manager.custody.coming

    play(tmp_path, delivered, story)


def test_nothing_is_taken_up_while_the_wheels_are_held(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        stage.manager.coming(stage.letters("kim@a.test"))
        assert stage.manager.custody.coming == {"a.test"}
        async with stage.manager.still():
            assert not stage.manager.custody.coming
            await stage.take_over(stage.letters("sam@b.test"))
            assert not stage.manager.schedule.destinations
        await stage.idle()
        assert requested(stage) == {"sam@b.test": 1}

    play(tmp_path, delivered, story)


def test_what_is_owned_but_not_yet_told_is_not_disowned(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        stage.manager.custody.doubt()
        await asyncio.gather(*(stage.take_over(stage.letters(f"k@d{n}.test")) for n in range(20)))
        await until(lambda: len(stage.worker.seen) == 20)
        ours = {name for name, owner in owners(stage).items() if owner == stage.agent}
        assert ours == {f"d{n}.test" for n in range(20)}

    play(tmp_path, never, story)


def test_leaving_gives_back_what_was_just_taken_up(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        async with no_claims(stage):
            (letter,) = stage.letters("kim@a.test")
            taken = asyncio.ensure_future(stage.take_over([letter]))
            await asyncio.sleep(0)
            stage.manager.draining = True
            await stage.manager.leave()
            await taken
        assert owners(stage) == {"a.test": None}

    def returned(request: DeliveryRequest) -> DeliveryResult | None:
        raise AssertionError(request)

    play(tmp_path, returned, story)


@pytest.mark.parametrize("home", [None, 5], ids=["new", "of a worker that is gone"])
def test_the_worker_that_gets_the_requests_is_told_what_another_found(
    tmp_path: Path, home: int | None
) -> None:
    async def story(stage: Stage) -> None:
        await stage.idle()
        heard: list[frames.ToWorker] = []
        sites = stage.manager.sites
        hosts = MailHosts((HostAddresses("mx.a.test", 10, ("192.0.2.1",)),))
        if home is not None:
            stage.manager.schedule.site("mx.a.test", -1).home = home
        sites._lookups[99] = ("a.test", -1)
        sites._waiting["a.test"] = []
        stage.worker.say = heard.append  # type: ignore[method-assign, assignment]
        sites.answered(frames.Site(99, "mx.a.test", 60.0, hosts), 7, stage.now)
        assert heard == [frames.Hosts("a.test", -1, hosts, 60.0)]

    play(tmp_path, delivered, story)
