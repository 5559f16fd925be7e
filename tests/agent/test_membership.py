"""One agent among others: a real manager, and the leases of a real PostgreSQL."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import monotonic

import pytest

from deliveryagent.agent.membership import Membership
from deliveryagent.mail.delivery import DeliveryRequest
from deliveryagent.queue import leases, recalls, sites
from deliveryagent.queue.sites import SiteState
from deliveryagent.queue.thread import Database, StoreUnavailable
from tests.doubles.stage import Stage
from tests.doubles.stores import PostgresServer, Store, letter, postgres_server, postgres_store

__all__ = ["PostgresServer", "postgres_server", "postgres_store"]

ME = 5
LEASE = 8.0


class Scene:
    """A manager whose membership is that of agent ``ME`` of another queue, on PostgreSQL."""

    def __init__(self, stage: Stage, store: Store) -> None:
        self.stage = stage
        self.manager = stage.manager
        self.store = store
        self.lost = asyncio.Event()
        self.database = Database(store.engine, fence=leases.fence(ME), on_fenced=self.lost.set)
        self.ledger = self.database.beside()
        self.membership = Membership(
            database=self.database,
            ledger=self.ledger,
            agent=ME,
            manager=stage.manager,
            clock=stage.clock,
            lease=LEASE,
        )

    def members(self) -> dict[int, bool]:
        """The agents of the queue, and whether they share sites."""
        return {row[0]: bool(row[1]) for row in self.store.rows("SELECT id, sharing FROM agent")}

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not true():  # noqa: ASYNC110 - nobody tells a test
                await asyncio.sleep(0.02)


def never(_: DeliveryRequest) -> None:
    """Deliveries that do not end."""


def play(tmp_path: Path, store: Store, story: Callable[[Scene], Awaitable[None]]) -> None:
    """Tell a story with the manager's wheel and the membership turning."""

    async def tell() -> None:
        stage = Stage(tmp_path, never)
        one = leases.Registration(
            agent=stage.agent, host="h", pid=1, started=stage.now, length=leases.FOREVER
        )
        await stage.database.submit(leases.register, one)
        store.register(ME, LEASE)
        scene = Scene(stage, store)
        await scene.membership.begin()
        tasks = [
            asyncio.create_task(stage.manager.run()),
            asyncio.create_task(scene.membership.run()),
        ]
        try:
            await story(scene)
            assert not any(task.done() for task in tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for thread in (stage.database, scene.database, scene.ledger):
                await thread.close(0.0)
            stage.engine.dispose()

    asyncio.run(tell())


SHARES = frozenset({"shares"})


def test_an_agent_is_alone_until_another_comes_and_again_when_that_has_left(
    tmp_path: Path, postgres_store: Store
) -> None:
    async def story(scene: Scene) -> None:
        assert scene.membership.slots.alone
        assert scene.members() == {ME: False}
        assert scene.membership.is_eldest()
        scene.store.register(2)
        scene.membership.heard(SHARES)
        await scene.until(lambda: scene.members() == {ME: True, 2: True})
        await scene.until(lambda: not scene.membership.slots.alone)
        await scene.until(lambda: scene.manager.custody.among)
        assert not scene.membership.is_eldest()
        scene.store.do(leases.retire, 2)
        scene.membership.heard(SHARES)
        await scene.until(lambda: scene.members() == {ME: False})
        await scene.until(lambda: not scene.manager.custody.among)

    play(tmp_path, postgres_store, story)


def test_what_a_silent_agent_owned_is_freed(tmp_path: Path, postgres_store: Store) -> None:
    async def story(scene: Scene) -> None:
        scene.store.add(letter("x@a.example"))
        scene.store.take(agent=9)
        scene.store.force("UPDATE agent SET lease_until = 1 WHERE id = 9")
        scene.membership.heard(SHARES)
        await scene.until(lambda: 9 not in scene.members())
        assert scene.store.value("SELECT owner FROM destination") is None

    play(tmp_path, postgres_store, story)


def test_who_was_cut_off_itself_is_patient_with_the_others(
    tmp_path: Path, postgres_store: Store
) -> None:
    async def story(scene: Scene) -> None:
        scene.store.register(9)
        scene.store.force("UPDATE agent SET lease_until = 1 WHERE id = 9")
        scene.manager.unleased = True
        scene.membership.tell()
        await scene.until(lambda: not scene.manager.unleased)
        await asyncio.sleep(0.3)
        assert 9 in scene.members()

    play(tmp_path, postgres_store, story)


def test_workers_are_told_until_when_they_may_deliver(
    tmp_path: Path, postgres_store: Store
) -> None:
    async def story(scene: Scene) -> None:
        first = scene.membership.until
        assert monotonic() < first <= monotonic() + LEASE
        scene.membership.tell()
        await scene.until(lambda: scene.membership.until > first)
        assert scene.stage.worker.lease == scene.membership.until
        left = scene.store.value(
            "SELECT lease_until - EXTRACT(EPOCH FROM clock_timestamp()) FROM agent"
        )
        assert float(left) > scene.membership.until - monotonic(), "workers stop first"

    play(tmp_path, postgres_store, story)


def test_without_a_lease_nothing_is_handed_out(
    tmp_path: Path, postgres_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(scene: Scene) -> None:
        real = scene.database.submit

        def submit(*_: object) -> None:
            raise StoreUnavailable("the database is away")

        monkeypatch.setattr(scene.database, "submit", submit)
        scene.membership._renewed(monotonic() + 0.1)
        await scene.until(lambda: scene.manager.unleased)
        await scene.stage.enqueue("x@a.example")
        await asyncio.sleep(0.2)
        assert scene.stage.worker.seen == []
        monkeypatch.setattr(scene.database, "submit", real)
        await scene.until(lambda: len(scene.stage.worker.seen) == 1)

    play(tmp_path, postgres_store, story)


def test_an_agent_that_was_taken_for_dead_hears_of_it(
    tmp_path: Path, postgres_store: Store
) -> None:
    async def story(scene: Scene) -> None:
        scene.store.force("UPDATE agent SET lease_until = 1")
        scene.store.do(leases.recover, leases.Recovery(alone=False))
        scene.membership.tell()
        async with asyncio.timeout(20):
            await scene.lost.wait()

    play(tmp_path, postgres_store, story)


def test_an_agent_with_much_gives_half_to_one_that_has_nothing(
    tmp_path: Path, postgres_store: Store
) -> None:
    async def story(scene: Scene) -> None:
        schedule = scene.manager.schedule
        for number in range(40):
            await scene.stage.enqueue(*(f"u{n}@d{number % 10}.example" for n in range(10)))
        await scene.until(lambda: len(schedule.destinations) == 10)
        scene.store.register(9)
        scene.membership.heard(SHARES)
        await scene.until(lambda: sum(d.leaving for d in schedule.destinations.values()) == 5)
        scene.membership.heard(SHARES)
        await asyncio.sleep(0.3)
        leaving = sum(d.leaving for d in schedule.destinations.values())
        assert leaving == 5, "once, until the other one says that it still has nothing"

    play(tmp_path, postgres_store, story)


def test_a_recalled_destination_is_let_go(tmp_path: Path, postgres_store: Store) -> None:
    async def story(scene: Scene) -> None:
        schedule = scene.manager.schedule
        for name in ("a.example", "b.example"):
            await scene.stage.enqueue(f"x@{name}")
            scene.store.add(letter(f"x@{name}"))
        scene.store.take(agent=ME)
        await scene.until(lambda: len(schedule.in_flight) == 2)
        scene.store.do(recalls.ask, ["a.example"])
        scene.membership.heard(frozenset({"orders"}))
        await scene.until(lambda: schedule.destinations["a.example"].leaving)
        assert not schedule.destinations["b.example"].leaving

    play(tmp_path, postgres_store, story)


def test_what_others_learn_of_a_site_is_heard(tmp_path: Path, postgres_store: Store) -> None:
    async def story(scene: Scene) -> None:
        now, schedule = scene.stage.now, scene.manager.schedule
        await scene.stage.enqueue("x@a.example")
        await scene.until(lambda: bool(schedule.in_flight))
        (site,) = schedule.sites.values()

        def say(closed_until: float | None, reason: str, updated: float) -> None:
            state = SiteState(
                name=site.name,
                concurrency=2.0,
                closed_until=closed_until,
                reason=reason,
                updated=updated,
            )
            scene.store.do(sites.save, state)
            scene.membership.heard(SHARES)

        say(None, "421 slow down", now + 1)
        await scene.until(lambda: site.window.size == 2.0)
        assert site.window.reason == "421 slow down"
        say(now + 300, "refused", now + 2)
        await scene.until(lambda: schedule.closed_until(site, now) == now + 300)
        say(None, "", now + 3)
        await scene.until(lambda: not site.window.closed_until)

    play(tmp_path, postgres_store, story)


def test_mail_that_others_took_in_is_looked_for_at_once(
    tmp_path: Path, postgres_store: Store
) -> None:
    async def story(scene: Scene) -> None:
        await scene.until(lambda: scene.manager.idle)
        scene.manager.idled.clear()
        scene.membership.heard(frozenset({"mail", "inflow"}))
        assert not scene.manager.idle

    play(tmp_path, postgres_store, story)
