"""Leases and the fence, on a real PostgreSQL: who owns what, and who may write."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from deliveryagent.queue import claims, leases, outcomes
from deliveryagent.queue.claims import Take
from deliveryagent.queue.engine import StoreError
from deliveryagent.queue.leases import Recovery, Renewal
from deliveryagent.queue.operation import Fenced
from deliveryagent.queue.thread import Database, StoreUnavailable
from tests.doubles.stores import NOW, Store, letter, outcome


def expire(store: Store, agent: int) -> None:
    store.force("UPDATE agent SET lease_until = 1 WHERE id = :id", id=agent)


def test_a_renewal_counts_from_the_moment_it_is_carried_out(store: Store) -> None:
    store.register(1)
    expire(store, 1)
    renewal = Renewal(agent=1, length=20, draining=True, destinations=3, waiting=40, in_flight=5)
    (member,) = store.do(leases.renew, renewal)
    assert 19 < member.left <= 20
    facts = (member.draining, member.destinations, member.waiting, member.in_flight)
    assert facts == (True, 3, 40, 5)
    assert (member.agent, member.host, member.pid) == (1, "host", 1)


def test_members_are_listed_the_eldest_first(store: Store) -> None:
    store.register(2)
    store.register(1)
    assert [one.agent for one in store.do(leases.present, None)] == [1, 2]


def test_an_agent_late_with_its_renewal_has_lost_nothing_that_nobody_took(store: Store) -> None:
    store.add(letter("x@a.example"))
    store.take(agent=1)
    expire(store, 1)
    (member,) = store.do(leases.renew, Renewal(agent=1, length=20))
    assert member.left > 0
    assert store.do(leases.recover, Recovery(alone=False)) == 0
    assert store.value("SELECT owner FROM destination") == 1


def test_who_was_taken_for_dead_writes_nothing_any_more(postgres_store: Store) -> None:
    store = postgres_store
    store.add(letter("x@a.example"))
    store.register(1)
    fence = leases.fence(1)
    with store.engine.begin() as connection:
        fence(connection)
    expire(store, 1)
    with store.engine.begin() as connection:
        fence(connection)  # nobody took over yet
    store.register(2)
    assert store.do(leases.recover, Recovery(alone=False)) == 0
    with store.engine.begin() as connection, pytest.raises(Fenced):
        fence(connection)


@contextmanager
def open_transaction(store: Store, agent: int) -> Iterator[Connection]:
    """An agent in the middle of a transaction."""
    with store.engine.begin() as connection:
        leases.fence(agent)(connection)
        yield connection


def test_nobody_takes_over_in_the_middle_of_a_transaction(postgres_store: Store) -> None:
    store = postgres_store
    store.add(letter("x@a.example"))
    (claimed,) = store.claim()
    expire(store, 7)
    store.register(2)
    with open_transaction(store, 7) as connection:
        with store.engine.begin() as other:
            assert other.scalars(leases._over).all() == []
        assert outcomes.settle(connection, [outcome(claimed)]) == [True]
    assert store.do(leases.recover, Recovery(alone=False)) == 1
    assert store.value("SELECT status FROM recipient") == "delivered"


def test_who_stands_still_in_the_middle_of_a_transaction_is_taken_over_at_the_second_look(
    postgres_store: Store,
) -> None:
    store = postgres_store
    store.add(letter("x@a.example"))
    (claimed,) = store.claim()
    store.register(2)
    with suppress(DBAPIError), open_transaction(store, 7) as connection:
        outcomes.settle(connection, [outcome(claimed)])
        expire(store, 7)
        assert store.do(leases.recover, Recovery(alone=False)) == 0
        until = time.monotonic() + 10
        while not store.do(leases.recover, Recovery(alone=False)):
            assert time.monotonic() < until
            time.sleep(0.05)
        outcomes.settle(connection, [outcome(claimed)])
    assert store.value("SELECT status FROM recipient") == "queued"
    assert store.rows("SELECT id FROM agent") == [(2,)]


def test_an_agent_in_time_is_left_alone_in_its_transaction(postgres_store: Store) -> None:
    store = postgres_store
    store.add(letter("x@a.example"))
    (claimed,) = store.claim()
    store.register(2)
    expire(store, 2)
    with open_transaction(store, 7) as connection:
        store.do(leases.recover, Recovery(alone=False))
        assert outcomes.settle(connection, [outcome(claimed)]) == [True]
    assert store.value("SELECT status FROM recipient") == "delivered"


def test_a_renewal_does_not_wait_for_a_transaction(postgres_store: Store) -> None:
    postgres_store.register(1)
    with open_transaction(postgres_store, 1):
        began = time.monotonic()
        postgres_store.do(leases.renew, Renewal(agent=1, length=20))
        assert time.monotonic() - began < 4, "it would have waited for the lock's time limit"


def test_two_that_take_over_at_once_do_not_wait_for_each_other(postgres_store: Store) -> None:
    store = postgres_store
    store.add(*(letter(f"x@d{n}.example") for n in range(50)))
    store.take(agent=1)
    expire(store, 1)
    freed: list[int] = []

    def recover() -> None:
        freed.append(store.do(leases.recover, Recovery(alone=False)))

    threads = [threading.Thread(target=recover) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(freed) == 50
    assert store.rows("SELECT 1 FROM destination WHERE owner IS NOT NULL OR ready IS NULL") == []


def test_an_agent_goes_alone_only_when_it_is(store: Store) -> None:
    store.register(1)
    store.register(2)
    assert store.run(leases.go_alone, 1, 2) == [False, False]
    store.do(leases.retire, 2)
    assert store.do(leases.go_alone, 1) is True
    assert store.value("SELECT sharing FROM agent") in (False, 0)


# -- the database thread ---


def test_the_database_thread_ends_all_writing_when_the_lease_is_lost(
    postgres_store: Store,
) -> None:
    store = postgres_store
    store.add(letter("x@a.example"), letter("y@a.example"))
    first, second = store.claim()

    async def story() -> None:
        lost = asyncio.Event()
        database = Database(store.engine, fence=leases.fence(7), on_fenced=lost.set)
        beside = database.beside()
        assert await database.submit(outcomes.settle, outcome(first)) is True
        expire(store, 7)
        store.do(leases.recover, Recovery(alone=False))
        with pytest.raises(StoreUnavailable, match="lease is lost"):
            await database.submit(outcomes.settle, outcome(second))
        async with asyncio.timeout(5):
            await lost.wait()
        with pytest.raises(StoreUnavailable, match="lease is lost"):
            await database.submit(claims.take, Take(7, NOW, 10))
        with pytest.raises(StoreUnavailable):
            await beside.submit(leases.renew, Renewal(agent=7, length=20))
        await database.close(0.0)
        await beside.close(0.0)

    asyncio.run(story())
    assert store.rows("SELECT status FROM recipient ORDER BY message_id") == [
        ("delivered",),
        ("queued",),
    ]


def test_the_fence_holds_for_facts_that_were_kept_while_the_store_was_away(
    postgres_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = postgres_store
    store.add(letter("x@a.example"))
    (claimed,) = store.claim()

    async def story() -> None:
        states: list[bool] = []
        database = Database(
            store.engine,
            fence=leases.fence(7),
            on_state=lambda writable, _: states.append(writable),
        )
        real = Database._connected
        away: dict[str, Any] = {"is": True}

        def connected(self: Database) -> Connection:
            if away["is"]:
                raise StoreError("the database is away")
            return real(self)

        monkeypatch.setattr(Database, "_connected", connected)
        settled = database.submit(outcomes.settle, outcome(claimed))
        async with asyncio.timeout(10):
            while False not in states:  # noqa: ASYNC110 - told by a callback
                await asyncio.sleep(0.01)
        expire(store, 7)
        store.do(leases.recover, Recovery(alone=False))
        away["is"] = False
        with pytest.raises(StoreUnavailable, match="lease is lost"):
            await settled
        await database.close(0.0)

    asyncio.run(story())
    assert store.value("SELECT status FROM recipient") == "queued"


def test_questions_are_not_fenced(postgres_store: Store) -> None:
    async def story() -> None:
        database = Database(postgres_store.engine, fence=leases.fence(7))
        assert await database.submit(leases.present, None) == []
        await database.close(0.0)

    asyncio.run(story())


def test_a_transaction_costs_one_statement_more(postgres_store: Store) -> None:
    """However many outcomes it records."""
    store = postgres_store
    store.add(*(letter(f"x{n}@a.example") for n in range(100)))
    claimed = store.claim()
    statements: list[str] = []

    async def story() -> None:
        def fence(connection: Connection) -> None:
            statements.append("fence")
            leases.fence(7)(connection)

        database = Database(store.engine, fence=fence)
        await database.submit_all(outcomes.settle, [outcome(one) for one in claimed])
        await database.close(0.0)

    asyncio.run(story())
    assert statements == ["fence"]
    with store.engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM attempt")).scalar() == 100
