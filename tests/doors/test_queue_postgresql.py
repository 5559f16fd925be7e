"""What only PostgreSQL asks for: rows on their way to it, plans, poolers, refusals at the start."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from deliveryagent.queue import bulk, claims, content, outcomes, postgresql
from deliveryagent.queue import engine as engines
from deliveryagent.queue.bulk import insertion
from deliveryagent.queue.claims import Fetch, GiveBack, Take
from deliveryagent.queue.engine import StoreError, open_reader, open_writer
from deliveryagent.queue.single import execute
from deliveryagent.queue.thread import StoreUnavailable
from deliveryagent.queue.upgrade import current, ensure
from queue_schema.tables import attempt
from tests.doubles.database_proxy import Pooler
from tests.doubles.stores import NOW, PostgresServer, Store, letter, outcome

_TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
_FLOAT = st.floats(allow_nan=False)
_ID = st.integers(min_value=1, max_value=2**62)

SAME_STORE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)


# -- rows on their way ---


@SAME_STORE
@given(st.lists(st.tuples(_TEXT, st.none() | _FLOAT, _ID, st.booleans()), min_size=1, max_size=8))
def test_arrays_bring_every_value_unchanged(
    postgres_store: Store, rows: list[tuple[str, float | None, int, bool]]
) -> None:
    kinds = ("TEXT", "DOUBLE PRECISION", "BIGINT", "BOOLEAN")
    arrays = ", ".join(f"CAST(%s AS {kind}[])" for kind in kinds)
    values = tuple(map(postgresql.array, zip(*rows, strict=True)))
    with postgres_store.engine.begin() as connection:
        driver: Any = connection.connection.driver_connection
        assert driver.execute(f"SELECT * FROM unnest({arrays})", values).fetchall() == rows


@SAME_STORE
@given(st.lists(st.tuples(_ID, _TEXT, _FLOAT, _TEXT), min_size=2, max_size=8))
def test_copied_rows_arrive_unchanged(
    postgres_store: Store, rows: list[tuple[int, str, float, str]]
) -> None:
    with postgres_store.engine.connect() as connection, connection.begin() as transaction:
        connection.execute(text("CREATE TEMP TABLE line (a BIGINT, b TEXT, c FLOAT8, d TEXT)"))
        lines = postgresql.lines(rows)
        if lines is not None:  # the driver's way, then
            driver: Any = connection.connection.driver_connection
            postgresql.copy_lines(driver, "COPY line FROM STDIN (FORMAT csv, NULL 'null')", lines)
            assert driver.execute("SELECT * FROM line").fetchall() == rows
        transaction.rollback()


@pytest.mark.parametrize(
    "said",
    [
        ["plain", "null", "ünï", ""],
        ['say "hello"', "a],[b", "back\\slash", "null", "tab\tand\nline", "plain"],
    ],
)
def test_rows_that_are_new_take_the_short_way_with_any_text(
    postgres_store: Store, said: list[str]
) -> None:
    columns = list(attempt.columns)
    rows = [
        [
            {"message_id": place, "text": one}.get(c.name, "" if c.type.python_type is str else 1)
            for c in columns
        ]
        for place, one in enumerate(said)
    ]
    with postgres_store.engine.begin() as connection:
        insertion(attempt, *(column.name for column in columns)).add(connection, rows)
    stored = postgres_store.rows("SELECT text FROM attempt ORDER BY message_id")
    assert [text for (text,) in stored] == said


# -- plans ---


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[Any, ...]]:
    """Every statement that goes to the driver from now on, with its values."""
    seen: dict[str, tuple[Any, ...]] = {}
    really = bulk._executed

    def noted(connection: Any, said: str, values: tuple[Any, ...]) -> Any:
        seen[said] = values
        return really(connection, said, values)

    monkeypatch.setattr(bulk, "_executed", noted)
    return seen


def test_whatever_runs_for_every_message_follows_an_index(
    postgres_store: Store, statements: dict[str, tuple[Any, ...]]
) -> None:
    """Even where the statistics say that the tables are empty, as they do after a queue was drained."""
    store = postgres_store
    for table in ("message", "recipient", "content", "attempt", "destination"):
        store.force(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
        store.force(f"ANALYZE {table}")
    letters = [letter(f"r{n}@d{n % 7}.example") for n in range(500)]
    store.add(*letters)
    statements.clear()
    found = store.claim()
    assert len(found) == 500
    store.do(content.contents, sorted({one.message_id for one in found}))
    store.settle(*(outcome(one) for one in found[:400]))
    store.settle(*(outcome(one, "deferred") for one in found[400:]))
    store.do(claims.next_ready, 7)
    store.run(claims.give_back, *(GiveBack(f"d{n}.example", 7) for n in range(7)))
    assert len(statements) >= 9
    with store.engine.begin() as connection:
        driver: Any = connection.connection.driver_connection
        for said, values in statements.items():
            plan = driver.execute(f"EXPLAIN {said}", values).fetchall()
            shown = "\n".join(line for (line,) in plan)
            for table in ("message", "recipient", "content", "attempt", "destination"):
                assert f"Scan on {table}" not in shown.replace("Index Only", "Index"), shown


def test_the_first_of_a_long_waiting_line_costs_no_more_than_that_of_a_short_one(
    postgres_store: Store,
) -> None:
    store = postgres_store
    store.add(*(letter(f"r{n}@long.example", arrival=NOW - n) for n in range(3000)))
    store.add(letter("one@short.example"))

    def read(name: str) -> int:
        """Rows that the first of this line made the server read."""
        with store.engine.begin() as connection:
            claims.fetch(connection, [Fetch(name, NOW, None, None, 1)])
            return connection.scalar(_ROWS_READ) or 0

    assert read("long.example") == read("short.example")


_ROWS_READ = text(
    "SELECT CAST(sum(idx_tup_fetch + seq_tup_read) AS INTEGER) FROM pg_stat_xact_user_tables"
)


# -- poolers ---


def test_a_pooler_may_lend_another_connection_for_every_transaction(postgres_store: Store) -> None:
    with Pooler(postgres_store.url) as pooler:
        engine = open_writer(pooler.url)
        store = Store(pooler.url, engine)
        for _ in range(12):  # as many as it takes for a driver to prepare its statements
            store.add(letter("a@one.example"), letter("b@two.example"))
            found = store.claim()
            assert len(found) == 2
            store.settle(*map(outcome, found))
            assert store.value("SHOW lock_timeout") == "5s"
        assert store.see(lambda connection: connection.scalar(text("SHOW lock_timeout"))) == "5s"
        for one in (engine, *store.readers):
            one.dispose()
    assert postgres_store.value("SELECT count(*) FROM attempt") == 24
    assert not postgres_store.problems()


# -- refusals ---


def test_a_database_of_another_encoding_is_refused(postgres_server: PostgresServer) -> None:
    postgres_server.order(
        "CREATE DATABASE old_letters ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0"
    )
    with pytest.raises(StoreError, match="encoding LATIN1") as caught:
        current(open_writer(postgres_server.address("old_letters")))
    assert "ENCODING 'UTF8'" in caught.value.hint


def test_an_old_server_is_refused(postgres_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "OLDEST_POSTGRESQL", 99)
    with pytest.raises(StoreError, match="is too old"):
        current(open_writer(postgres_store.url))


def test_a_database_without_tables_says_what_to_do(postgres_server: PostgresServer) -> None:
    postgres_server.order("CREATE DATABASE nothing_yet")
    with pytest.raises(StoreError, match="no queue yet") as caught:
        ensure(open_writer(postgres_server.address("nothing_yet")))
    assert "dagent db migrate" in caught.value.hint


@pytest.mark.parametrize(
    ("database", "said"),
    [("not_there", 'database "not_there" does not exist'), ("locked_out", "too many connections")],
)
def test_what_the_server_says_about_a_login_is_passed_on(
    postgres_server: PostgresServer, database: str, said: str
) -> None:
    url = postgres_server.address(database)
    if database == "locked_out":
        postgres_server.order("CREATE ROLE few LOGIN CONNECTION LIMIT 0")
        url = postgres_server.address("template_queue").replace("postgres:@", "few:@")
    with pytest.raises(StoreError) as caught:
        current(open_writer(url))
    assert said in str(caught.value)


def test_nothing_is_written_where_only_reads_are_taken(postgres_store: Store) -> None:
    engine = open_reader(postgres_store.url)
    postgres_store.add(letter("a@one.example"))
    with pytest.raises(StoreUnavailable, match="only takes reads"):
        execute(engine, claims.take, [Take(7, NOW, 10)])
    engine.dispose()


def test_a_commit_is_durable_whatever_the_server_is_set_to(postgres_store: Store) -> None:
    name = postgres_store.value("SELECT current_database()")
    with postgres_store.engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
        driver.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
    engine = open_writer(postgres_store.url)
    with engine.begin() as connection:
        assert connection.scalar(text("SHOW synchronous_commit")) == "on"
        assert connection.scalar(text("SHOW transaction_isolation")) == "read committed"
    engine.dispose()


def test_a_missing_driver_is_said_clearly(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: Any, **__: Any) -> Any:
        raise ImportError("No module named 'psycopg'")

    monkeypatch.setattr(engines, "create_engine", none)
    with pytest.raises(StoreError, match="driver is not installed") as caught:
        open_writer("postgresql://nobody@localhost/queue")
    assert "deliveryagent[postgres]" in caught.value.hint


def test_outcomes_recorded_twice_change_nothing_the_second_time(postgres_store: Store) -> None:
    postgres_store.add(*(letter(f"r{n}@one.example") for n in range(20)))
    settlements = [outcome(one) for one in postgres_store.claim()]
    assert postgres_store.settle(*settlements) == [True] * 20
    assert postgres_store.settle(*settlements) == [True] * 20
    assert postgres_store.value("SELECT count(*) FROM attempt") == 20
    assert postgres_store.run(outcomes.settle, *settlements[:3]) == [True] * 3
