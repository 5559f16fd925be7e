"""News between agents: heard after the commit, once a transaction, and again after a connection broke."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from deliveryagent.queue import news
from deliveryagent.queue.news import EVERYTHING, POOLED, Listener
from tests.doubles.database_proxy import Pooler
from tests.doubles.stores import PostgresServer, Store, letter


class Ear:
    """A listener with what it heard and said."""

    def __init__(self, url: str) -> None:
        self.heard: list[frozenset[str]] = []
        self.deaf: list[str] = []
        self.listener = Listener(url, heard=self.heard.append, deaf=self.deaf.append)

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():  # noqa: ASYNC110 - another thread brings it about
            await asyncio.sleep(0.01)


def played(url: str, scene: Callable[[Ear], Coroutine[Any, Any, None]]) -> None:
    """Play a scene with a listener."""

    async def play() -> None:
        ear = Ear(url)
        try:
            await asyncio.wait_for(scene(ear), 30)
        finally:
            await asyncio.wait_for(ear.listener.close(), 5)
            await ear.listener.close()

    asyncio.run(play())


def test_new_mail_is_heard_by_others_once_it_is_committed(postgres_store: Store) -> None:
    async def scene(ear: Ear) -> None:
        await ear.until(lambda: ear.heard == [EVERYTHING])
        ear.heard.clear()
        with postgres_store.engine.connect() as connection, connection.begin() as transaction:
            news.tell(connection, "shares")
            transaction.rollback()
        postgres_store.add(*(letter(f"r{n}@d{n}.example") for n in range(20)))
        await ear.until(lambda: bool(ear.heard))
        assert ear.heard == [{"mail"}]

    played(postgres_store.url, scene)


def test_mail_that_is_waited_for_already_is_no_news(postgres_store: Store) -> None:
    async def scene(ear: Ear) -> None:
        postgres_store.add(letter("a@one.example"))
        await ear.until(lambda: EVERYTHING in ear.heard)
        ear.heard.clear()
        postgres_store.add(letter("b@one.example"))
        with postgres_store.engine.begin() as connection:
            news.tell(connection, "orders")
        await ear.until(lambda: bool(ear.heard))
        assert ear.heard == [{"orders"}]

    played(postgres_store.url, scene)


def test_after_a_broken_connection_everything_counts_as_news(postgres_store: Store) -> None:
    async def scene(ear: Ear) -> None:
        for times in (1, 2, 3):
            await ear.until(lambda: len(ear.heard) == times)  # noqa: B023 - awaited at once
            postgres_store.value(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                "WHERE datname = current_database() AND query LIKE 'LISTEN%'"
            )
        await ear.until(lambda: len(ear.deaf) == 6)
        assert ear.heard == [EVERYTHING] * 4
        assert [bool(reason) for reason in ear.deaf] == [True, False] * 3, "said once each"

    played(postgres_store.url, scene)


def test_a_server_that_is_away_is_waited_for(
    postgres_server: PostgresServer, postgres_store: Store
) -> None:
    async def scene(ear: Ear) -> None:
        await ear.until(lambda: bool(ear.deaf))
        assert "connection to" in ear.deaf[0]
        assert not ear.heard
        await asyncio.to_thread(postgres_server.revive)
        await ear.until(lambda: bool(ear.heard))
        assert ear.deaf[1:] == [""]

    postgres_store.engine.dispose()
    postgres_server.halt()
    try:
        played(postgres_store.url, scene)
    except BaseException:
        postgres_server.revive()
        raise


def test_behind_a_pooler_there_is_nothing_to_hear_and_it_says_so(postgres_store: Store) -> None:
    async def scene(ear: Ear) -> None:
        await ear.until(lambda: bool(ear.deaf))
        assert ear.deaf == [POOLED]
        assert not ear.heard

    with Pooler(postgres_store.url) as pooler:
        played(pooler.url, scene)


def test_an_sqlite_queue_has_nobody_to_tell(sqlite_store: Store) -> None:
    with sqlite_store.engine.begin() as connection:
        news.tell(connection, "mail")


@pytest.mark.parametrize("kind", ["mail", "orders", "shares"])
def test_everything_is_all_kinds_of_news(kind: str) -> None:
    assert kind in EVERYTHING
