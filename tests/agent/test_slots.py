"""An agent's part of a site's limit, against the real ledger."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, cast

from deliveryagent.agent import frames
from deliveryagent.agent.active import Site
from deliveryagent.agent.crew import Worker
from deliveryagent.agent.rules import Rules
from deliveryagent.agent.schedule import Schedule
from deliveryagent.agent.slots import Slots
from deliveryagent.mail.delivery import Pressure
from deliveryagent.policy.concurrency import UNLIMITED, ConcurrencySettings
from deliveryagent.policy.retry import RetrySettings
from deliveryagent.policy.routing import RelaySettings, Router
from deliveryagent.queue.claims import Claimed
from deliveryagent.queue.thread import Database, StoreUnavailable
from tests.doubles.stores import NOW, PostgresServer, Store, postgres_server, postgres_store

__all__ = ["PostgresServer", "postgres_server", "postgres_store"]

LIMIT = 10


class Hand:
    """A worker that only ends sessions."""

    def __init__(self) -> None:
        self.pid = 1
        self.heard: list[frames.ToWorker] = []
        self.deaf = False
        self.slots: Slots | None = None

    def say(self, frame: frames.ToWorker) -> None:
        self.heard.append(frame)
        if not self.deaf:
            asyncio.get_running_loop().call_soon(self.answer)

    def answer(self) -> None:
        """Say that the sessions are ended."""
        last = self.heard[-1]
        assert self.slots is not None
        assert isinstance(last, frames.Release)
        self.slots.released(cast("Worker", self), last.serial)


class Agent:
    """A schedule with its slots; ``work`` is what it has waiting."""

    def __init__(self, store: Store, number: int) -> None:
        self.number = number
        self.rules = Rules(
            router=Router((), RelaySettings()),
            retry=RetrySettings(),
            concurrency=ConcurrencySettings(initial_destination_concurrency=LIMIT),
            recipient_limit=lambda _: 50,
            site_limit=lambda route: 0 if route == 7 else LIMIT,
            shutdown_grace=1.0,
        )
        self.schedule = Schedule(rules=self.rules, rng=random.Random(1))
        self.database = Database(store.engine)
        self.hand = Hand()
        self.slots = Slots(
            database=self.database,
            agent=number,
            schedule=self.schedule,
            workers=lambda: [cast("Worker", self.hand)],
            started=lambda: None,
            clock=lambda: NOW,
        )
        self.hand.slots = self.slots
        self.flying: list[int] = []
        self._next = number * 1_000_000

    def wait(self, count: int, site: str = "mx", route: int = -1) -> Site:
        """So many requests wait for a site."""
        destination = self.schedule.destination(f"d.{site}")
        lane = self.schedule.lane(destination, site, route)
        self.schedule.assign(lane, self.schedule.site(site, route))
        for _ in range(count):
            self._next += 1
            list(self.schedule.add(lane, [recipient(self._next)], 50, {}))
        return self.schedule.sites[site]

    def go(self) -> int:
        """Start what may start; how many requests are in flight now."""
        self.flying += [batch.serial for batch in self.schedule.next_batches(NOW)]
        self.slots.look()
        return len(self.flying)

    def end(self, count: int) -> None:
        """So many requests end."""
        for serial in self.flying[:count]:
            batch = self.schedule.complete(serial, Pressure.NONE, "", NOW)
            assert batch is not None
            self.schedule.settled(batch)
        del self.flying[:count]

    async def until(self, count: int) -> None:
        """Wait until so many requests are in flight."""
        async with asyncio.timeout(20):
            while self.go() != count:
                await self.slots.news()
                await asyncio.sleep(0.02)


def recipient(queue_id: int) -> Claimed:
    facts: dict[str, Any] = {
        "message_id": queue_id, "number": 1, "address": "a@d.mx", "destination": "d.mx",
        "bulk": False, "attempts": 0, "due": NOW, "notify": 0, "orcpt": "", "warned": None,
        "sender": "s@x", "size": 1, "dotted": False, "eightbit": False, "utf8": False,
        "long_lines": False, "ret": "", "envid": "", "recipient_count": 1, "crashes": 0,
    }  # fmt: skip
    return Claimed(**facts)


def play(store: Store, story: Callable[..., Awaitable[None]], *, agents: int = 2) -> None:
    """Tell a story of registered agents."""

    async def tell() -> None:
        found = []
        for number in range(1, agents + 1):
            store.register(number)
            found.append(Agent(store, number))
        tasks = [asyncio.create_task(agent.slots.run()) for agent in found]
        try:
            await story(*found)
            assert not any(task.done() for task in tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for agent in found:
                await agent.database.close(0.0)

    asyncio.run(tell())


def test_among_others_nothing_starts_before_the_ledger_gave_slots(postgres_store: Store) -> None:
    async def story(one: Agent, _: Agent) -> None:
        one.wait(3)
        assert one.go() == 0
        await one.until(3)

    play(postgres_store, story)


def test_alone_every_site_is_ours_and_nobody_is_asked(postgres_store: Store) -> None:
    async def story(one: Agent) -> None:
        one.slots.go_alone()
        site = one.wait(20)
        assert one.go() == LIMIT
        assert site.share == UNLIMITED
        assert postgres_store.rows("SELECT 1 FROM site_share") == []

    play(postgres_store, story, agents=1)


def test_a_site_without_a_limit_needs_no_slots(postgres_store: Store) -> None:
    async def story(one: Agent, _: Agent) -> None:
        one.wait(30, "big", route=7)
        assert one.go() == 0
        assert one.go() > 0
        assert postgres_store.rows("SELECT 1 FROM site_share") == []

    play(postgres_store, story)


def test_two_agents_end_with_half_each_and_are_never_above_the_limit(
    postgres_store: Store,
) -> None:
    async def story(one: Agent, two: Agent) -> None:
        one.wait(100)
        two.wait(100)
        await one.until(LIMIT)
        await two.slots.news()
        assert two.go() == 0
        async with asyncio.timeout(20):
            while len(two.flying) < LIMIT // 2:
                await one.slots.news()
                await two.slots.news()
                one.end(1)
                await asyncio.sleep(0.05)
                assert one.go() + two.go() <= LIMIT
        assert any(isinstance(f, frames.Release) for f in one.hand.heard)
        await one.until(LIMIT // 2)

    play(postgres_store, story)


def test_slots_are_not_given_away_before_idle_sessions_are_ended(postgres_store: Store) -> None:
    async def story(one: Agent, two: Agent) -> None:
        one.wait(LIMIT)
        await one.until(LIMIT)
        one.hand.deaf = True
        one.end(LIMIT)
        two.wait(1)
        for _ in range(5):
            await one.slots.news()
            await asyncio.sleep(0.05)
        assert two.go() == 0
        one.hand.deaf = False
        await asyncio.sleep(0)
        async with asyncio.timeout(20):
            while two.go() < 1:
                await one.slots.news()
                await two.slots.news()
                await asyncio.sleep(0.05)

    play(postgres_store, story)


def test_what_ends_while_idle_sessions_are_ended_goes_back_later(postgres_store: Store) -> None:
    """It leaves idle sessions of its own, of which the workers' answer says nothing."""
    slots = "SELECT slots FROM site_share WHERE agent = 1"

    async def story(one: Agent, two: Agent) -> None:
        one.wait(100)
        await one.until(LIMIT)
        one.hand.deaf = True
        two.wait(100)
        two.go()
        one.end(2)
        async with asyncio.timeout(20):
            while not one.hand.heard:
                await one.slots.news()
                await asyncio.sleep(0.02)
            one.end(3)
            one.hand.answer()
            while postgres_store.rows(slots) == [(LIMIT,)]:  # noqa: ASYNC110 - nobody tells a test
                await asyncio.sleep(0.02)
            assert postgres_store.rows(slots) == [(LIMIT - 2,)]
            one.hand.deaf = False
            one.hand.answer()
            await two.until(LIMIT // 2)

    play(postgres_store, story)


def test_what_is_not_used_goes_back_by_itself(postgres_store: Store) -> None:
    async def story(one: Agent, two: Agent) -> None:
        one.wait(2)
        await one.until(2)
        one.end(2)
        two.wait(20)
        await two.slots.news()
        two.go()
        async with asyncio.timeout(20):
            while two.go() < LIMIT:
                await one.slots.news()
                await two.slots.news()
                await asyncio.sleep(0.05)
        assert postgres_store.rows("SELECT agent FROM site_share") == [(2,)]

    play(postgres_store, story)


def test_an_agent_that_was_alone_tells_what_it_has_in_flight(postgres_store: Store) -> None:
    async def story(one: Agent, two: Agent) -> None:
        postgres_store.force("UPDATE agent SET sharing = false WHERE id = 1")
        one.slots.go_alone()
        one.wait(100)
        assert one.go() == LIMIT
        one.end(3)
        two.wait(100)
        two.go()
        await asyncio.sleep(0.2)
        await two.slots.news()
        assert two.go() == 0, "nobody knows yet what the other has"
        await one.slots.join()
        rows = postgres_store.rows("SELECT slots FROM site_share WHERE agent = 1")
        assert rows == [(LIMIT - 3,)]
        assert [f.sites for f in one.hand.heard if isinstance(f, frames.Release)] == [[]]
        await two.until(3)
        assert one.go() + two.go() <= LIMIT

    play(postgres_store, story)


def test_a_ledger_that_cannot_be_asked_is_asked_again(postgres_store: Store) -> None:
    async def story(one: Agent, _: Agent) -> None:
        real = one.database.submit
        failures = 2

        def submit(operation: Any, item: Any) -> Any:
            nonlocal failures
            if failures:
                failures -= 1
                raise StoreUnavailable("away")
            return real(operation, item)

        one.database.submit = submit  # type: ignore[method-assign]
        one.wait(3)
        async with asyncio.timeout(20):
            while one.go() != 3:  # noqa: ASYNC110 - nobody tells a test
                await asyncio.sleep(0.05)
        assert failures == 0

    play(postgres_store, story)
