"""Statements for many rows, and judging what went wrong."""

import sqlite3

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import create_engine, select
from sqlalchemy.exc import IntegrityError, InterfaceError, OperationalError, ProgrammingError

from deliveryagent.queue import faults
from deliveryagent.queue.bulk import Bulk, insertion, item, rows_of
from deliveryagent.queue.engine import StoreError
from queue_schema.tables import arriving, submission_key
from tests.doubles.stores import Store, letter

_all = insertion(submission_key, "key", "message_id", "digest", "created")


@pytest.mark.parametrize("count", [0, 1, 2, 3, 127, 128, 129, 1000])
def test_any_number_of_rows_arrives(store: Store, count: int) -> None:
    rows = [(f"k{n}", n, bytes([n % 256]), n / 3) for n in range(count)]
    with store.engine.begin() as connection:
        assert _all.run(connection, rows) == count
        assert _all.run(connection, rows) == 0, "rows that are there stay as they are"
    stored = store.rows(
        "SELECT key, message_id, digest, created FROM submission_key ORDER BY message_id"
    )
    assert [
        (key, number, bytes(digest), created) for key, number, digest, created in stored
    ] == rows


def test_values_are_never_taken_for_sql(store: Store) -> None:
    odd = ["'; DROP TABLE message; --", "%s %b %(x)s ?", "item.key FROM item", "\u00fc\u2028\\", ""]
    with store.engine.begin() as connection:
        _all.run(connection, [(text, n, b"\0", 0.0) for n, text in enumerate(odd)])
    rows = store.rows("SELECT key FROM submission_key ORDER BY message_id")
    assert [row[0] for row in rows] == odd


def test_portions_are_powers_of_two_and_never_too_large() -> None:
    dialect = create_engine("sqlite://").dialect
    wide = item(*((f"c{n}", arriving.c.started.type) for n in range(500)))
    bulk = Bulk(select(*wide.c), wide)
    assert bulk._most == 64
    assert bulk._listed(dialect, 64).count("?") == 32_000


def test_answers_of_every_portion_are_given(store: Store) -> None:
    rows = item(arriving.c.message_id)
    echo = Bulk(select((rows.c.message_id + 1).label("next")).select_from(rows), rows)
    with store.engine.begin() as connection:
        found = [row[0] for row in echo.answers(connection, [(n,) for n in range(300)])]
    assert sorted(found) == list(range(1, 301))


def test_fields_of_structs_become_rows() -> None:
    one = letter("x@a.example")
    assert rows_of(("queue_id", "origin"), [one]) == [(one.queue_id, "uid=0")]


# -- faults ---


def wrapped(
    original: Exception, kind: type[OperationalError] = OperationalError
) -> OperationalError:
    return kind("sql", None, original)


@given(st.integers(1, 30), st.integers(0, 20))
def test_sqlite_errors_are_judged_by_their_primary_code(primary: int, extended: int) -> None:
    original = sqlite3.OperationalError("x")
    original.sqlite_errorcode = extended << 8 | primary
    error = wrapped(original)
    assert bool(faults.trouble(error)) == (primary in faults._SQLITE)
    assert faults.connection_usable(error) == (primary in {5, 6, 13, 15})
    assert faults.trouble(original) == faults.trouble(error)


@pytest.mark.parametrize(
    ("state", "trouble"),
    [
        ("08006", "connection"),
        ("53100", "disk is full"),
        ("53200", "short of resources"),
        ("53300", "too many connections"),
        ("55P03", "locks what we need"),
        ("57P01", "stopped or interrupted"),
        ("25006", "only takes reads"),
        ("40P01", "repeat"),
        ("23505", ""),
        ("42601", ""),
    ],
)
def test_postgresql_errors_are_judged_by_their_state(state: str, trouble: str) -> None:
    original = Exception("x")
    original.sqlstate = state  # type: ignore[attr-defined]
    error = wrapped(original)
    assert trouble in faults.trouble(error)
    assert bool(trouble) == bool(faults.trouble(error))
    assert faults.repeatable(error) == (state == "40P01")
    assert faults.connection_usable(error) == (state in {"40P01", "53100", "55P03"})


def test_other_errors_are_judged_by_their_kind() -> None:
    lost = psycopg.OperationalError("server closed the connection unexpectedly")
    assert "connection" in faults.trouble(lost)
    assert "connection" in faults.trouble(wrapped(lost))
    assert "connection" in faults.trouble(InterfaceError("sql", None, psycopg.InterfaceError("x")))
    assert faults.trouble(IntegrityError("sql", None, Exception("x"))) == ""
    assert faults.trouble(ProgrammingError("sql", None, Exception("x"))) == ""
    assert faults.trouble(ValueError("x")) == ""
    assert faults.trouble(StoreError("no file")) == "no file"
    assert not faults.repeatable(ValueError("x"))
