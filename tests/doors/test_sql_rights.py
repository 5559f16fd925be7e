"""Who may call the SQL functions, with what, and how functions that are not ours are found."""

import time
from collections.abc import Iterator

import pytest
from alembic import command
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from deliveryagent.cli import run
from deliveryagent.queue.engine import open_writer
from deliveryagent.queue.upgrade import _config, by_hand, migrate, renew_functions
from queue_schema import functions
from tests.doubles.sql_door import enqueue, note_terms, usual_terms
from tests.doubles.stores import PostgresServer, Store


@pytest.fixture
def queue(postgres_store: Store) -> Store:
    note_terms(postgres_store, usual_terms())
    return postgres_store


@pytest.fixture
def application(queue: Store) -> Iterator[Connection]:
    """A connection of somebody who may enqueue and do nothing else."""
    queue.force("DROP ROLE IF EXISTS clerk")
    queue.force("CREATE ROLE clerk LOGIN IN ROLE deliveryagent_enqueue")
    engine = open_writer(queue.url.replace("postgres:@", "clerk:@"))
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT session_user")) == "clerk"
        connection.rollback()
        yield connection
    engine.dispose()


def test_the_role_can_enqueue_and_nothing_else(queue: Store, application: Connection) -> None:
    queue_id = enqueue(application)
    assert application.scalar(
        text("SELECT deliveryagent.enqueue('', ARRAY['x@y.example'], 'Subject: text')")
    )
    application.commit()
    assert queue.value("SELECT origin FROM message WHERE id = :id", id=queue_id) == "sql=clerk"
    relations = queue.rows(
        "SELECT c.oid::regclass::text, c.relkind::text FROM pg_class AS c "
        "JOIN pg_namespace AS n ON n.oid = c.relnamespace "
        "WHERE n.nspname IN ('public', 'deliveryagent') AND c.relkind IN ('r', 'S')"
    )
    assert len(relations) > 15
    for name, kind in relations:
        rights = "SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER, MAINTAIN"
        asked = f"has_table_privilege('clerk', '{name}', '{rights}')"
        if kind == "S":
            asked = f"has_sequence_privilege('clerk', '{name}', 'USAGE, SELECT, UPDATE')"
        assert queue.value(f"SELECT {asked}") is False, name
    callable_ = queue.rows(
        "SELECT DISTINCT p.proname FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace "
        "WHERE n.nspname = 'deliveryagent' AND has_function_privilege('clerk', p.oid, 'EXECUTE')"
    )
    assert callable_ == [("enqueue",)]


def test_others_may_not_even_enqueue(queue: Store) -> None:
    queue.force("DROP ROLE IF EXISTS stranger")
    queue.force("CREATE ROLE stranger LOGIN")
    engine = open_writer(queue.url.replace("postgres:@", "stranger:@"))
    with engine.connect() as connection, pytest.raises(DBAPIError, match="permission denied"):
        enqueue(connection)
    engine.dispose()


def test_a_caller_cannot_slip_objects_of_his_own_under_the_functions(
    queue: Store, application: Connection
) -> None:
    application.execute(text("SET standard_conforming_strings = off"))
    application.execute(text("CREATE TEMP TABLE message (id bigint)"))
    application.execute(
        text(
            "CREATE FUNCTION pg_temp.sha256(bytea) RETURNS bytea LANGUAGE sql AS "
            "'SELECT CAST(NULL AS bytea)'"
        )
    )
    application.execute(text("SET search_path = pg_temp, public"))
    queue_id = enqueue(application, ["Kim.Lee@Example.net"], key="k")
    application.commit()
    assert queue.value("SELECT digest IS NOT NULL FROM submission_key") is True
    assert queue.value("SELECT destination FROM recipient") == "example.net"
    assert queue.value("SELECT count(*) FROM message WHERE id = :id", id=queue_id) == 1


def test_the_name_of_a_database_user_cannot_forge_a_header_field(queue: Store) -> None:
    name = 'x"\r\nBcc: y (é'
    queue.force(f"""DROP ROLE IF EXISTS "{name.replace('"', '""')}" """)
    queue.force(f"""CREATE ROLE "{name.replace('"', '""')}" SUPERUSER""")
    with queue.engine.begin() as connection:
        connection.execute(
            text("SELECT set_config('session_authorization', :n, true)"), {"n": name}
        )
        enqueue(connection)
    ((data,),) = queue.rows("SELECT data FROM content")
    assert (
        bytes(data).split(b"\r\n")[0].endswith(b"(deliveryagent, from database user x???Bcc??y???)")
    )


# -- functions that are not there, or not ours ---


def test_missing_and_foreign_functions_are_found_and_renewed(queue: Store) -> None:
    assert renew_functions(queue.engine) is False
    assert by_hand(queue.engine) == ""
    queue.force("DROP FUNCTION deliveryagent.wire_form")
    queue.force(
        "CREATE OR REPLACE FUNCTION deliveryagent.shown_id(id bigint) RETURNS text "
        "LANGUAGE sql AS 'SELECT ''x'''"
    )
    found = {problem.code: problem.sample for problem in queue.problems(time.time())}
    assert found == {"functions_missing": ("wire_form",), "functions_other": ("shown_id",)}
    assert renew_functions(queue.engine) is True
    assert queue.problems(time.time()) == []
    with queue.engine.begin() as connection:
        enqueue(connection)


def db(store: Store, *words: str) -> int:
    return run(
        ["--set", f"queue.url={store.url}", "--set", "hostname=new.example.org", "db", *words]
    )


def test_db_migrate_renews_functions_and_terms(
    queue: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    assert db(queue, "migrate") == 0
    assert "up to date" in capsys.readouterr().out
    assert queue.value("SELECT hostname FROM deliveryagent.terms") == "new.example.org"
    queue.force("DROP FUNCTION deliveryagent.wire_form")
    assert db(queue, "check") == 1
    assert "functions_missing" in capsys.readouterr().out
    assert db(queue, "migrate") == 0
    assert capsys.readouterr().out == "The SQL functions were renewed.\n"
    assert db(queue, "check") == 0


def test_the_migration_of_the_functions_goes_both_ways(postgres_server: PostgresServer) -> None:
    postgres_server.order("CREATE DATABASE up_and_down")
    store = Store(url := postgres_server.address("up_and_down"), open_writer(url))
    with store.engine.begin() as connection:
        command.upgrade(_config(connection), "0003")
    note_terms(store, usual_terms())
    with store.engine.begin() as connection:
        enqueue(connection)
        enqueue(connection, ["held@held.example"], hold=True)
    with store.engine.begin() as connection:
        command.downgrade(_config(connection), "0002")
    assert store.value("SELECT count(*) FROM pg_namespace WHERE nspname = 'deliveryagent'") == 0
    ready = store.rows("SELECT name, ready IS NULL FROM destination ORDER BY name")
    assert ready == [("example.net", False), ("held.example", True)]
    assert migrate(store.engine)[0].revision == "0003"
    assert store.problems(time.time()) == []
    store.engine.dispose()


def test_who_may_not_create_roles_is_told_what_to_run(postgres_server: PostgresServer) -> None:
    store = Store(url := postgres_server.fresh(), open_writer(url))
    store.force("REVOKE USAGE ON SCHEMA deliveryagent FROM deliveryagent_enqueue")
    assert "GRANT USAGE ON SCHEMA deliveryagent" in by_hand(store.engine)
    for statement in functions.BY_HAND.split("; "):
        if not statement.startswith("CREATE ROLE"):
            store.force(statement)
    assert by_hand(store.engine) == ""
    store.engine.dispose()
