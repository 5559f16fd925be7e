"""The schema and its migrations."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, text

from deliveryagent.queue import upgrade
from deliveryagent.queue.engine import StoreError, open_writer
from queue_schema import HEAD
from queue_schema.tables import metadata
from tests.doubles.stores import PostgresServer, Store, letter, outcome

REVISIONS = [f"{number:04}" for number in range(1, int(HEAD) + 1)]


def test_the_migrations_make_the_tables_the_program_knows(store: Store) -> None:
    with store.engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, metadata) == []


def test_the_migrations_make_the_same_sqlite_text_as_the_tables(sqlite_store: Store) -> None:
    """Checks and options of tables, which the comparison above does not see."""
    direct = create_engine("sqlite://")
    metadata.create_all(direct)

    def texts(engine: Any) -> set[str]:
        with engine.connect() as connection:
            rows = connection.execute(text("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL"))
            return {normal(row[0]) for row in rows if "alembic" not in row[0]}

    def normal(sql: str) -> str:
        body = re.sub(r"\s+", " ", sql)
        # A column that was added later stands behind the constraints.
        clauses = sorted(part.strip(" ,)") for part in body.split(","))
        return " | ".join(clauses)

    assert texts(sqlite_store.engine) == texts(direct)


def test_the_stated_head_is_the_newest_migration() -> None:
    script = ScriptDirectory.from_config(upgrade._config(None))
    assert script.get_current_head() == HEAD == upgrade.head()


def test_a_new_file_gets_schema_and_identity(tmp_path: Path) -> None:
    engine = open_writer(f"sqlite:///{tmp_path}/queue.sqlite3")
    assert upgrade.current(engine) == ""
    assert [step.revision for step in upgrade.plan(engine)] == REVISIONS
    identity = upgrade.ensure(engine)
    assert len(identity) == 16
    assert upgrade.ensure(engine) == upgrade.identity(engine) == identity
    assert upgrade.current(engine) == HEAD
    assert upgrade.plan(engine) == upgrade.migrate(engine) == []
    engine.dispose()


def test_two_queues_have_two_identities(tmp_path: Path) -> None:
    found = set()
    for name in "ab":
        engine = open_writer(f"sqlite:///{tmp_path}/{name}")
        found.add(upgrade.ensure(engine))
        engine.dispose()
    assert len(found) == 2


def test_a_database_server_is_changed_only_when_told(postgres_server: PostgresServer) -> None:
    postgres_server.order("CREATE DATABASE bare")
    engine = open_writer(str(postgres_server._server.get_uri("bare")))
    with pytest.raises(StoreError, match="no queue yet") as caught:
        upgrade.ensure(engine)
    assert "dagent db migrate" in caught.value.hint
    assert [step.revision for step in upgrade.migrate(engine)] == REVISIONS
    assert len(upgrade.ensure(engine)) == 16
    engine.dispose()


def test_a_newer_schema_is_refused(store: Store) -> None:
    store.force("UPDATE alembic_version SET version_num = '9999'")
    store.force("DELETE FROM meta WHERE name = 'oldest_program'")
    for step in (upgrade.ensure, upgrade.plan, upgrade.migrate):
        with pytest.raises(StoreError, match=rf"schema 9999.*up to {HEAD}") as caught:
            step(store.engine)
        assert "newer" in caught.value.hint


def a_revision_ahead(store: Store, oldest_program: str) -> str:
    """Make the schema one revision newer, for programs from ``oldest_program`` on; the newer revision."""
    ahead = f"{int(HEAD) + 1:04}"
    store.force("ALTER TABLE agent ADD COLUMN mood TEXT DEFAULT '' NOT NULL")
    store.force("UPDATE alembic_version SET version_num = :ahead", ahead=ahead)
    store.force(
        "UPDATE meta SET value = :oldest WHERE name = 'oldest_program'",
        oldest=oldest_program.encode(),
    )
    return ahead


def test_a_newer_schema_that_says_it_is_compatible_is_worked_on(store: Store) -> None:
    ahead = a_revision_ahead(store, oldest_program=HEAD)
    assert len(upgrade.ensure(store.engine)) == 16
    assert upgrade.plan(store.engine) == upgrade.migrate(store.engine) == []
    assert upgrade.current(store.engine) == ahead
    store.add(letter("x@a.example"))
    (claimed,) = store.claim()
    assert store.settle(outcome(claimed)) == [True]
    assert store.problems() == []


def test_a_newer_schema_that_needs_newer_programs_is_refused(store: Store) -> None:
    ahead = a_revision_ahead(store, oldest_program=f"{int(HEAD) + 1:04}")
    for step in (upgrade.ensure, upgrade.plan, upgrade.migrate):
        with pytest.raises(StoreError, match=f"schema {ahead}.*up to {HEAD}"):
            step(store.engine)


def test_a_queue_of_the_first_schema_is_migrated_with_its_mail(tmp_path: Path) -> None:
    engine = open_writer(f"sqlite:///{tmp_path}/queue.sqlite3")
    with engine.begin() as connection:
        command.upgrade(upgrade._config(connection), "0001")
        for sql in (
            "INSERT INTO agent (id, host, pid, started, lease_until) VALUES (5, 'h', 1, 0, 9e9)",
            "INSERT INTO destination (name, owner) VALUES ('a.example', 5)",
            "INSERT INTO site (name, concurrency, updated, paused_until) VALUES ('mx', 3, 7, 9e9)",
        ):
            connection.execute(text(sql))
    upgrade.migrate(engine)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM agent")).scalar() == 0
        found = connection.execute(text("SELECT name, ready, owner FROM destination")).all()
        assert found == [("a.example", 0.0, None)]
        assert connection.execute(text("SELECT name, concurrency FROM site")).all() == [("mx", 3.0)]
    engine.dispose()


def test_mail_that_waited_under_an_older_schema_asks_for_nothing(store: Store) -> None:
    one = letter("ann@a.example")
    store.add(one)
    for column in ("priority", "deliver_by", "by_mode", "require_tls"):
        store.force(f"ALTER TABLE message DROP COLUMN {column}")
    store.force("DROP TABLE deadline")
    store.force("UPDATE alembic_version SET version_num = '0005'")
    assert [step.revision for step in upgrade.migrate(store.engine)] == REVISIONS[5:]
    (found,) = store.claim()
    assert (found.priority, found.deliver_by, found.by_mode, found.require_tls) == (0, 0, "", False)
    store.settle(outcome(found))
    assert store.problems() == []


def test_an_older_schema_asks_for_the_migration(store: Store) -> None:
    store.force("UPDATE alembic_version SET version_num = '0000'")
    with pytest.raises(StoreError, match="schema 0000") as caught:
        upgrade.ensure(store.engine)
    assert "dagent db migrate" in caught.value.hint


def test_a_damaged_file_is_reported_and_kept(sqlite_store: Store, tmp_path: Path) -> None:
    file = tmp_path / "queue.sqlite3"
    sqlite_store.engine.dispose()
    with file.open("r+b") as stream:
        stream.seek(100)
        stream.write(b"\xff" * 4000)
    engine = open_writer(sqlite_store.url)
    with pytest.raises(StoreError, match="damaged"):
        upgrade.ensure(engine)
    engine.dispose()
    assert file.stat().st_size > 4000


def test_a_lost_identity_is_not_made_up(store: Store) -> None:
    store.force("DELETE FROM meta")
    with pytest.raises(StoreError, match="identity"):
        upgrade.ensure(store.engine)


_SLOW_MIGRATION = """
import sys, time
from alembic.runtime.migration import MigrationContext
from deliveryagent.queue.engine import open_writer
from deliveryagent.queue import upgrade
real = MigrationContext.run_migrations
def slow(self, **kw):
    real(self, **kw)
    print("made", flush=True)
    time.sleep(30)
MigrationContext.run_migrations = slow
upgrade.ensure(open_writer(sys.argv[1]))
"""


def test_a_kill_in_the_middle_of_a_migration_leaves_no_half_schema(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/queue.sqlite3"
    child = subprocess.Popen([sys.executable, "-c", _SLOW_MIGRATION, url], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"made\n"
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    engine = open_writer(url)
    assert upgrade.current(engine) == ""
    assert len(upgrade.ensure(engine)) == 16
    engine.dispose()
