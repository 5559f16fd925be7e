"""Mail that applications enqueue by SQL while an agent runs: found when the news come, and when they are lost.

The clock of the stage stands still unless a test moves it, so nothing is looked at again by itself.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy import text

from deliveryagent.agent.custody import LOOK_AGAIN
from deliveryagent.agent.membership import Membership
from deliveryagent.queue import inflow, news
from deliveryagent.queue.leases import FOREVER
from deliveryagent.queue.news import EVERYTHING, Listener
from tests.doubles.sql_door import enqueue, note_terms, usual_terms
from tests.doubles.stage import Stage, play
from tests.doubles.stores import PostgresServer, Store, postgres_server, postgres_store
from tests.doubles.worker_double import delivered

__all__ = ["PostgresServer", "postgres_server", "postgres_store"]


@pytest.fixture
def queue(postgres_store: Store) -> Store:
    note_terms(postgres_store, usual_terms())
    return postgres_store


@asynccontextmanager
async def listening(stage: Stage, url: str) -> AsyncIterator[set[str]]:
    """The stage's agent hears the news of its queue; what it heard."""
    side, ledger = stage.database.beside(), stage.database.beside()
    membership = Membership(
        database=side,
        ledger=ledger,
        agent=stage.agent,
        manager=stage.manager,
        clock=stage.clock,
        lease=FOREVER,
    )
    membership.slots.go_alone()
    heard: set[str] = set()

    def hear(found: frozenset[str]) -> None:
        heard.update(found)
        membership.heard(found)

    listener = Listener(url, heard=hear)
    try:
        await until(lambda: heard == EVERYTHING)
        await stage.idle()
        heard.clear()
        yield heard
    finally:
        await listener.close()
        for thread in (side, ledger):
            await thread.close(0.0)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - another thread brings it about
            await asyncio.sleep(0.02)


def by_sql(queue: Store, *recipients: str) -> None:
    with queue.engine.begin() as connection:
        enqueue(connection, recipients)


def test_mail_enqueued_by_sql_goes_out_as_soon_as_it_is_committed(
    queue: Store, tmp_path: Path
) -> None:
    async def story(stage: Stage) -> None:
        stage.now = time.time() + 60
        async with listening(stage, queue.url) as heard:
            for number in (1, 2):
                await asyncio.to_thread(by_sql, queue, f"kim@a{number}.test", "lee@b.test")
                await until(lambda: stage.statuses() == {"delivered": 2 * number})  # noqa: B023
            assert "inflow" in heard

    play(tmp_path, delivered, story, url=queue.url)


def test_mail_whose_news_were_lost_is_found_at_the_next_look(queue: Store, tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        stage.now = time.time() + 60
        await stage.idle()
        by_sql(queue, "kim@a.test")
        await stage.idle()
        assert stage.statuses() == {"queued": 1}, "other news are no reason to look for it"
        stage.now += LOOK_AGAIN + 1
        await stage.idle()
        assert stage.statuses() == {"delivered": 1}

    play(tmp_path, delivered, story, url=queue.url)


def test_where_no_news_arrive_every_look_finds_it(queue: Store, tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        stage.now = time.time() + 60
        stage.manager.custody.deaf = True
        await stage.idle()
        by_sql(queue, "kim@a.test")
        await stage.idle()
        assert stage.statuses() == {"delivered": 1}

    play(tmp_path, delivered, story, url=queue.url)


def test_after_trouble_with_the_store_it_is_looked_for(queue: Store, tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        stage.now = time.time() + 60
        await stage.idle()
        by_sql(queue, "kim@a.test")
        stage.manager.custody.doubt()
        await stage.idle()
        assert stage.statuses() == {"delivered": 1}

    play(tmp_path, delivered, story, url=queue.url)


def test_the_functions_of_an_older_program_bring_their_mail_too(
    queue: Store, tmp_path: Path
) -> None:
    """They call it mail, as agents do; that leads to it at the next look."""
    with queue.engine.begin() as connection:
        for (function,) in connection.execute(
            text(
                "SELECT pg_get_functiondef(oid) FROM pg_proc "
                "WHERE proname = 'enqueue' AND prosrc LIKE '%''inflow''%'"
            )
        ).all():
            older = function.replace("'inflow'", "'mail'")
            connection.exec_driver_sql(older, execution_options={"no_parameters": True})

    async def story(stage: Stage) -> None:
        stage.now = time.time() + 60
        async with listening(stage, queue.url) as heard:
            await asyncio.to_thread(by_sql, queue, "kim@a.test")
            await until(lambda: "mail" in heard)
            stage.now += LOOK_AGAIN + 1
            await until(lambda: stage.statuses() == {"delivered": 1})

    play(tmp_path, delivered, story, url=queue.url)


def test_the_owner_of_a_destination_hears_what_another_agent_found(queue: Store) -> None:
    async def scene() -> None:
        heard: set[str] = set()
        listener = Listener(queue.url, heard=heard.update)
        try:
            await until(lambda: heard == EVERYTHING)
            heard.clear()
            for agent in (1, 2):
                queue.register(agent)
            by_sql(queue, "kim@a.test")
            with queue.engine.begin() as connection:
                inflow.absorb(connection, {1})
                connection.execute(text("UPDATE destination SET owner = 1, ready = NULL"))
            by_sql(queue, "lee@a.test")
            with queue.engine.begin() as connection:
                inflow.absorb(connection, {1})
                news.tell(connection, "orders")
            await until(lambda: "orders" in heard)
            assert "mail" not in heard, "it is the owner itself"
            by_sql(queue, "max@a.test")
            queue.force("UPDATE destination SET ready = NULL")
            with queue.engine.begin() as connection:
                inflow.absorb(connection, {2})
            await until(lambda: "mail" in heard)
        finally:
            await listener.close()

    asyncio.run(scene())
