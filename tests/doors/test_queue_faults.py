"""A PostgreSQL in trouble: what was handed in is recorded exactly once, and people are told why it waits."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import psycopg
import pytest
from sqlalchemy import text

from deliveryagent.mail.submission import Accepted
from deliveryagent.queue import claims, faults, outcomes, submissions
from deliveryagent.queue import engine as engines
from deliveryagent.queue.claims import Holding, Take, Taken
from deliveryagent.queue.engine import open_writer
from deliveryagent.queue.single import execute
from deliveryagent.queue.thread import Database, StoreUnavailable
from tests.doubles.database_proxy import Cutter
from tests.doubles.stores import AGENT, NOW, PostgresServer, Store, letter, outcome

T = TypeVar("T")

States = list[tuple[bool, str]]


def played(url: str, scene: Callable[[Database, States], Coroutine[Any, Any, T]]) -> T:
    """Play a scene with a database thread; the list is what it said about the store."""

    async def play() -> T:
        engine = open_writer(url)
        states: States = []
        database = Database(engine, on_state=lambda good, why: states.append((good, why)))
        try:
            return await asyncio.wait_for(scene(database, states), 60)
        finally:
            await database.close(1)
            engine.dispose()

    return asyncio.run(play())


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread brings about."""
    while not condition():  # noqa: ASYNC110 - there is nothing to be woken by
        await asyncio.sleep(0.01)


def raise_at(store: Store, table: str, code: str, times: int = 1_000_000) -> None:
    """Let the server answer the next inserts into a table with an error of its own."""
    store.force("CREATE SEQUENCE told")
    store.force(
        "CREATE FUNCTION complain() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"IF nextval('told') <= {times} THEN RAISE EXCEPTION 'no room' USING ERRCODE = '{code}'; "
        "END IF; RETURN NEW; END $$"
    )
    store.force(
        f"CREATE TRIGGER complain BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION complain()"
    )


# -- a commit of unknown result ---


@pytest.mark.parametrize("when", ["before", "after"])
def test_outcomes_whose_commit_lost_its_connection_are_recorded_once(
    postgres_store: Store, when: Any
) -> None:
    postgres_store.add(*(letter(f"r{n}@one.example") for n in range(50)))
    found = postgres_store.claim()

    with Cutter(postgres_store.url) as cutter:

        async def scene(database: Database, states: States) -> list[bool]:
            await database.submit(claims.next_ready, AGENT)
            cutter.cut_at(b"COMMIT\0", when)
            answers = [database.submit(outcomes.settle, outcome(one)) for one in found]
            told = await asyncio.gather(*answers)
            await until(lambda: states[-1:] == [(True, "")])
            return told

        assert played(cutter.url, scene) == [True] * 50
        assert cutter.cuts == 1
    assert postgres_store.value("SELECT count(*) FROM attempt") == 50
    assert not postgres_store.problems()


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_message_whose_commit_lost_its_connection_is_taken_once(
    postgres_store: Store, when: Any
) -> None:
    one = letter("a@one.example", "b@two.example", key="order-4711")
    with Cutter(postgres_store.url) as cutter:

        async def scene(database: Database, _: States) -> Any:
            await database.submit(claims.next_ready, AGENT)
            cutter.cut_at(b"COMMIT\0", when)
            return await database.submit(submissions.add, one)

        assert played(cutter.url, scene) == Accepted(one.queue_id)
    assert postgres_store.value("SELECT count(*) FROM message") == 1
    assert postgres_store.value("SELECT count(*) FROM recipient") == 2
    assert not postgres_store.problems()


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_program_without_a_database_thread_resolves_it_as_well(
    postgres_store: Store, when: Any
) -> None:
    with Cutter(postgres_store.url) as cutter:
        engine = open_writer(cutter.url)
        execute(engine, claims.next_ready, [AGENT])
        cutter.cut_at(b"COMMIT\0", when)
        one = letter("a@one.example")
        assert execute(engine, submissions.add, [one]) == [Accepted(one.queue_id)]
        engine.dispose()
    assert postgres_store.value("SELECT count(*) FROM message") == 1


def test_a_connection_lost_within_a_transaction_is_told_at_once(postgres_store: Store) -> None:
    with Cutter(postgres_store.url) as cutter:
        engine = open_writer(cutter.url)
        execute(engine, claims.next_ready, [AGENT])
        cutter.cut_at(b"INSERT INTO message", "before")
        with pytest.raises(StoreUnavailable, match="connection to the database was lost"):
            execute(engine, submissions.add, [letter("a@one.example")])
        engine.dispose()


def test_what_an_agent_owns_without_knowing_it_can_be_freed(postgres_store: Store) -> None:
    postgres_store.add(letter("a@one.example"), letter("b@two.example"))
    postgres_store.register()
    with Cutter(postgres_store.url) as cutter:

        async def scene(database: Database, _: States) -> list[Taken]:
            await database.submit(claims.next_ready, AGENT)
            cutter.cut_at(b"COMMIT\0", "after")
            return await database.submit(claims.take, Take(AGENT, NOW, 10))

        assert played(cutter.url, scene) == [], "taken, but nobody was told what"
    assert postgres_store.do(claims.disown, Holding(AGENT, ("two.example",))) == 1
    assert [one.name for one in postgres_store.take()] == ["one.example"]
    assert postgres_store.do(claims.disown, Holding(AGENT, ())) == 2
    assert len(postgres_store.take()) == 2


# -- the server goes away ---


def test_facts_outlive_killed_backends(postgres_store: Store) -> None:
    postgres_store.add(*(letter(f"r{n}@one.example") for n in range(100)))
    found = postgres_store.claim()

    async def scene(database: Database, _: States) -> list[bool]:
        told: list[asyncio.Future[bool]] = []
        for place, one in enumerate(found):
            told.append(database.submit(outcomes.settle, outcome(one)))
            if place % 20 == 0:
                postgres_store.value(
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            await asyncio.sleep(0.001)
        return list(await asyncio.gather(*told))

    assert played(postgres_store.url, scene) == [True] * 100
    assert postgres_store.value("SELECT count(*) FROM attempt") == 100


def test_facts_outlive_a_restart_of_the_server(
    postgres_server: PostgresServer, postgres_store: Store
) -> None:
    postgres_store.add(*(letter(f"r{n}@one.example") for n in range(40)))
    found = postgres_store.claim()
    postgres_store.engine.dispose()

    async def scene(database: Database, states: States) -> list[bool]:
        await database.submit(outcomes.settle, outcome(found[0]))
        await asyncio.to_thread(postgres_server.halt)
        told = [database.submit(outcomes.settle, outcome(one)) for one in found[1:]]
        try:
            await until(lambda: bool(states))
            with pytest.raises(StoreUnavailable, match="connection to the database was lost"):
                await database.submit(claims.next_ready, AGENT)
            assert not any(answer.done() for answer in told)
        finally:
            await asyncio.to_thread(postgres_server.revive)
        answers = await asyncio.gather(*told)
        await until(lambda: states[-1] == (True, ""))
        assert len(states) == 2, "said once when it stopped, and once when it went on"
        return list(answers)

    assert played(postgres_store.url, scene) == [True] * 39
    assert postgres_store.value("SELECT count(*) FROM attempt") == 40


# -- others in the way ---


def test_a_foreign_transaction_that_locks_us_out_is_named(
    postgres_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(engines._SESSION, "lock_timeout", "100ms")
    postgres_store.add(letter("a@one.example"))
    (found,) = postgres_store.claim()
    foreign = open_writer(f"{postgres_store.url}&application_name=nightly+report")

    async def scene(database: Database, states: States) -> tuple[str, bool]:
        with foreign.begin() as connection:
            connection.execute(text("SELECT 1 FROM recipient FOR UPDATE"))
            told = database.submit(outcomes.settle, outcome(found))
            await until(lambda: bool(states))
            (_, reason) = states[0]
            assert not told.done()
        return reason, await told

    reason, recorded = played(postgres_store.url, scene)
    foreign.dispose()
    assert "another transaction locks what we need" in reason
    assert "(nightly report, user postgres) has had a transaction open for" in reason
    assert recorded


@pytest.mark.parametrize("code", ["40001", "40P01"])
def test_a_transaction_the_database_wants_repeated_is_repeated_at_once(
    postgres_store: Store, code: str
) -> None:
    raise_at(postgres_store, "message", code, times=2)

    async def scene(database: Database, states: States) -> bool:
        one = letter("a@one.example")
        assert await database.submit(submissions.add, one) == Accepted(one.queue_id)
        return not states

    assert played(postgres_store.url, scene), "nobody needs to hear of it"


def test_a_full_disk_stops_what_is_new_and_keeps_what_happened(postgres_store: Store) -> None:
    postgres_store.add(letter("a@one.example"))
    (found,) = postgres_store.claim()
    raise_at(postgres_store, "attempt", "53100")

    async def scene(database: Database, states: States) -> bool:
        told = database.submit(outcomes.settle, outcome(found))
        await until(lambda: bool(states))
        assert states[0] == (False, "the disk is full: no room")
        with pytest.raises(StoreUnavailable, match="the disk is full"):
            await database.submit(submissions.add, letter("b@one.example"))
        postgres_store.force("DROP TRIGGER complain ON attempt")
        return await told

    assert played(postgres_store.url, scene)


def test_a_table_changed_under_prepared_statements_is_no_trouble(postgres_store: Store) -> None:
    async def scene(database: Database, states: States) -> bool:
        for change in ("TYPE VARCHAR(500)", "TYPE TEXT"):
            for _ in range(8):
                await database.submit(submissions.add, letter("a@one.example"))
                await database.submit(claims.take, Take(AGENT, NOW, 10))
                await database.submit(
                    claims.fetch, claims.Fetch("one.example", NOW, None, None, 10)
                )
            postgres_store.force(f"ALTER TABLE recipient ALTER COLUMN address {change}")
        found = await database.submit(
            claims.fetch, claims.Fetch("one.example", NOW, None, None, 100)
        )
        return not states and len(found.recipients) == 16

    postgres_store.register()
    assert played(postgres_store.url, scene)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (psycopg.errors.TooManyConnections(), "too many connections"),
        (psycopg.errors.ReadOnlySqlTransaction(), "only takes reads"),
        (psycopg.errors.UndefinedTable(), "lost a table"),
        (psycopg.errors.IdleInTransactionSessionTimeout(), "ended our transaction"),
        (psycopg.errors.InvalidSqlStatementName(), "pooler"),
        (psycopg.errors.QueryCanceled(), "took too long"),
        (psycopg.OperationalError("x failed: FATAL:  starting\nhint"), "lost: FATAL: starting"),
    ],
)
def test_troubles_are_told_in_plain_words(error: psycopg.Error, sentence: str) -> None:
    assert sentence in faults.trouble(error)


def test_a_mistake_is_no_trouble() -> None:
    assert not faults.trouble(psycopg.errors.UniqueViolation())
    assert not faults.connection_usable(psycopg.errors.AdminShutdown())
    assert faults.connection_usable(psycopg.errors.LockNotAvailable())
