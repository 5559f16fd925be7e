"""Idle sessions: who gets them, for how long they are kept, and that they say goodbye."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from deliveryagent.agent import connections
from deliveryagent.agent.connections import Connections
from deliveryagent.agent.settings import ReuseSettings
from tests.doubles.courier import until


@dataclass(eq=False)
class FakeSession:
    """A session that only remembers."""

    key: str = "a"
    site: str = "example.net"
    reuse: ReuseSettings = field(default_factory=ReuseSettings)
    opened: float = 0.0
    usable: bool = True
    left: int = 0

    def leave(self, *, heard: bool = False) -> None:
        self.left += 1


def limits(**seconds: float) -> ReuseSettings:
    times: dict[str, Any] = {
        f"connection_{name}_time_limit": value for name, value in seconds.items()
    }
    return ReuseSettings(**times)


def run(
    story: Callable[[Connections, float], Awaitable[None]], limit: int = 10, spare: int = 99
) -> None:
    async def go() -> None:
        kept = Connections(limit=limit, spare=lambda _: spare)
        await story(kept, asyncio.get_running_loop().time())
        kept.close()

    asyncio.run(go())


def test_a_session_is_found_by_any_of_its_keys_and_only_once() -> None:
    async def story(kept: Connections, now: float) -> None:
        session = FakeSession("b", opened=now)
        kept.put(session)
        assert kept.take(["a"]) is None
        assert kept.take(["a", "b"]) is session
        assert kept.take(["a", "b"]) is None
        assert (len(kept), session.left) == (0, 0)

    run(story)


def test_the_latest_is_taken_first() -> None:
    async def story(kept: Connections, now: float) -> None:
        first, second = FakeSession(opened=now), FakeSession(opened=now)
        kept.put(first)
        kept.put(second)
        assert kept.take(["a"]) is second
        assert kept.take(["a"]) is first

    run(story)


@pytest.mark.parametrize(
    "session",
    [
        FakeSession(usable=False),
        FakeSession(reuse=limits(cache=0)),
        FakeSession(opened=-1000.0),
    ],
    ids=["unusable", "no cache", "too old"],
)
def test_what_cannot_be_kept_leaves_at_once(session: FakeSession) -> None:
    async def story(kept: Connections, now: float) -> None:
        session.opened += now
        kept.put(session)
        assert (len(kept), session.left) == (0, 1)

    run(story)


def test_a_session_that_was_closed_meanwhile_is_passed_over() -> None:
    async def story(kept: Connections, now: float) -> None:
        good, gone = FakeSession(opened=now), FakeSession(opened=now)
        kept.put(good)
        kept.put(gone)
        gone.usable = False
        assert kept.take(["a"]) is good
        assert (gone.left, len(kept)) == (1, 0)

    run(story)


@pytest.mark.parametrize("seconds", [{"cache": 0.1}, {"cache": 5.0, "reuse": 0.1}])
def test_sessions_whose_time_is_over_leave_by_themselves(seconds: dict[str, float]) -> None:
    async def story(kept: Connections, now: float) -> None:
        session = FakeSession(opened=now, reuse=limits(**seconds))
        kept.put(session)
        await until(lambda: session.left == 1)
        assert len(kept) == 0

    run(story)


def test_no_session_outlives_its_time_between_two_looks() -> None:
    async def story(kept: Connections, now: float) -> None:
        session = FakeSession(opened=now, reuse=limits(cache=0.02))
        kept.put(FakeSession("b", opened=now))
        kept.put(session)
        await asyncio.sleep(0.04)
        assert kept.take(["a"]) is None
        assert session.left == 1

    run(story)


def test_their_number_is_limited() -> None:
    async def story(kept: Connections, now: float) -> None:
        sessions = [FakeSession(str(n), opened=now) for n in range(30)]
        for session in sessions:
            kept.put(session)
            assert len(kept) <= 10
        assert sum(session.left for session in sessions) == 30 - len(kept)
        assert kept.take(["29"]) is sessions[29]

    run(story)


def test_the_sessions_of_one_site_can_be_ended() -> None:
    async def story(kept: Connections, now: float) -> None:
        here = FakeSession(opened=now)
        there = FakeSession(opened=now, site="example.com")
        kept.put(here)
        kept.put(there)
        kept.release(["example.net"])
        assert (here.left, there.left, len(kept)) == (1, 0, 1)
        kept.release([])
        assert (there.left, len(kept)) == (1, 0)

    run(story)


@pytest.mark.parametrize(
    ("spare", "gone"), [(2, [1, 0, 0]), (0, [1, 1, 1]), (-1, [1, 1, 1]), (3, [0] * 3)]
)
def test_idle_sessions_make_room_where_a_site_has_no_place_for_them(
    spare: int, gone: list[int]
) -> None:
    async def story(kept: Connections, now: float) -> None:
        early = limits(cache=1.0)
        here = [FakeSession(opened=now, reuse=early)]
        here += [FakeSession(key, opened=now) for key in "ba"]
        there = FakeSession(opened=now, site="example.com", reuse=early)
        for session in (*here, there):
            kept.put(session)
        kept.fit("example.org")
        kept.fit("example.net")
        assert [session.left for session in here] == gone
        assert (there.left, len(kept)) == (0, 4 - sum(gone))
        taken = [kept.take([key]) for key in ("b", "a", "a", "a")]
        kept.fit("example.net")
        assert sum(session.left for session in here if session in taken) == 0

    run(story, spare=spare)


def test_after_closing_nothing_is_kept() -> None:
    async def story(kept: Connections, now: float) -> None:
        first, second = FakeSession(opened=now), FakeSession(opened=now)
        kept.put(first)
        kept.close()
        kept.put(second)
        assert (first.left, second.left, len(kept)) == (1, 1, 0)

    run(story)


def test_a_detour_serves_its_own_way_for_a_time() -> None:
    async def story(kept: Connections, now: float) -> None:
        def put() -> Any:
            session = FakeSession("backup", opened=now)
            kept.put(session)
            return session

        session = put()
        assert kept.take(["primary"], "way") is None
        kept.note_detour("way", "backup", 0.1)
        assert kept.take(["primary"], "other way") is None
        assert kept.take(["primary"], "way") is session
        put()
        await asyncio.sleep(0.12)
        assert kept.take(["primary"], "way") is None

    run(story)


def test_a_detour_without_sessions_is_forgotten() -> None:
    async def story(kept: Connections, now: float) -> None:
        kept.put(FakeSession("other", opened=now))
        kept.note_detour("way", "backup", 60.0)
        assert kept.take(["primary"], "way") is None
        kept.put(FakeSession("backup", opened=now))
        assert kept.take(["primary"], "way") is None

    run(story)


def test_a_peer_that_could_not_bear_an_early_message_is_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def story(kept: Connections, _: float) -> None:
        kept.note_shy("a")
        assert kept.shy("a")
        assert not kept.shy("b")
        for number in range(connections.SHY_KEPT):
            kept.note_shy(number)
        assert not kept.shy("a")  # the oldest make room
        monkeypatch.setattr(connections, "SHY", 0.0)
        kept.note_shy("c")
        assert not kept.shy("c")

    run(story)
