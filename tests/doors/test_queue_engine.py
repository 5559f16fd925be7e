"""Opening stores, and who may write to them."""

import multiprocessing
import os
import sqlite3
import stat
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from deliveryagent.queue import engine as engines
from deliveryagent.queue.engine import (
    StoreError,
    open_reader,
    open_writer,
    sqlite_version_warning,
    store_file,
    store_url,
)
from deliveryagent.queue.lock import LockHeld, QueueLock
from deliveryagent.queue.upgrade import ensure
from tests.doubles.stores import Store


def pragma(url: str, name: str, *, reader: bool = False) -> object:
    engine = open_reader(url) if reader else open_writer(url)
    with engine.connect() as connection:
        found = connection.execute(text(f"PRAGMA {name}")).scalar()
    engine.dispose()
    return found


def test_a_writer_syncs_every_commit(sqlite_store: Store) -> None:
    asked = (
        "journal_mode",
        "synchronous",
        "foreign_keys",
        "busy_timeout",
        "query_only",
        "page_size",
    )
    assert [pragma(sqlite_store.url, name) for name in asked] == ["wal", 2, 1, 5000, 0, 8192]
    assert pragma(sqlite_store.url, "secure_delete") == 2
    assert pragma(sqlite_store.url, "journal_size_limit") == 64 * 1024 * 1024


def test_a_reader_can_neither_write_nor_checkpoint(sqlite_store: Store) -> None:
    assert pragma(sqlite_store.url, "query_only", reader=True) == 1
    assert pragma(sqlite_store.url, "wal_autocheckpoint", reader=True) == 0
    engine = open_reader(sqlite_store.url)
    with engine.connect() as connection, pytest.raises(DBAPIError, match="readonly"):
        connection.execute(text("DELETE FROM message"))
    engine.dispose()


def test_a_reader_of_postgresql_cannot_write_either(postgres_store: Store) -> None:
    engine = open_reader(postgres_store.url)
    with engine.connect() as connection, pytest.raises(DBAPIError, match="read-only"):
        connection.execute(text("DELETE FROM message"))
    engine.dispose()


def test_postgresql_never_answers_before_the_disk_does(postgres_store: Store) -> None:
    with postgres_store.engine.connect() as connection:
        connection.execute(text("ALTER ROLE postgres SET synchronous_commit = off"))
        connection.commit()
    engine = open_writer(postgres_store.url)
    with engine.connect() as connection:
        assert connection.execute(text("SHOW synchronous_commit")).scalar() == "on"
        connection.execute(text("ALTER ROLE postgres RESET synchronous_commit"))
        connection.commit()
    engine.dispose()


def test_a_writing_transaction_locks_at_its_begin(sqlite_store: Store) -> None:
    other = sqlite3.connect(store_file(sqlite_store.url) or "", timeout=0, isolation_level=None)
    with sqlite_store.engine.begin(), pytest.raises(sqlite3.OperationalError, match="locked"):
        other.execute("BEGIN IMMEDIATE")
    other.close()


def test_reading_goes_on_while_somebody_writes(sqlite_store: Store) -> None:
    with sqlite_store.engine.begin() as connection:
        connection.execute(text("INSERT INTO arriving VALUES (1, 1.0)"))
        assert sqlite_store.see(lambda c: c.execute(text("SELECT * FROM arriving")).all()) == []


def test_a_new_file_is_readable_by_its_group_only(tmp_path: Path) -> None:
    file = tmp_path / "new.sqlite3"
    engine = open_writer(f"sqlite:///{file}")
    ensure(engine)
    engine.dispose()
    assert stat.S_IMODE(file.stat().st_mode) & 0o027 == 0


def test_drivers_are_made_explicit() -> None:
    assert store_url("postgresql://u@h/d").drivername == "postgresql+psycopg"
    assert store_url("postgres://u@h/d").drivername == "postgresql+psycopg"
    assert store_url("sqlite:////x/y").drivername == "sqlite"
    assert store_file("sqlite:////x/y") == Path("/x/y")
    assert store_file("postgresql://u@h/d") is None


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("nonsense", "no database address"),
        ("mysql://h/d", 'cannot be kept in "mysql"'),
        ("sqlite://", "needs a file"),
        ("sqlite:///:memory:", "needs a file"),
    ],
)
def test_what_is_no_store_is_refused_with_advice(url: str, says: str) -> None:
    with pytest.raises(StoreError, match=says) as caught:
        open_writer(url)
    assert caught.value.hint


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no/such does not exist") as caught:
        open_writer(f"sqlite:///{tmp_path}/no/such/queue.sqlite3")
    assert "install -d" in caught.value.hint


def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "letter.txt"
    file.write_text("Dear Ann, this is not a database\n")
    for opener in (open_writer, open_reader):
        with pytest.raises(StoreError, match="not an SQLite database"):
            opener(f"sqlite:///{file}")
    assert file.read_text().startswith("Dear Ann")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "queue.sqlite3"
    file.write_bytes(b"x")
    file.chmod(0)
    with pytest.raises(StoreError, match="cannot be read"):
        open_writer(f"sqlite:///{file}")


def test_reading_does_not_make_a_queue(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no queue"):
        open_reader(f"sqlite:///{tmp_path}/queue.sqlite3")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_vanished_is_not_made_again(sqlite_store: Store) -> None:
    file = store_file(sqlite_store.url)
    assert file is not None
    file.unlink()
    with pytest.raises(DBAPIError, match="unable to open"):
        sqlite_store.engine.connect()
    assert not file.exists()


def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise ImportError("psycopg")

    monkeypatch.setattr(engines, "create_engine", missing)
    with pytest.raises(StoreError, match="driver is not installed") as caught:
        open_writer("postgresql://h/d")
    assert "pip install" in caught.value.hint


def test_old_sqlite_libraries_are_warned_about() -> None:
    assert "3.40.1" in sqlite_version_warning((3, 40, 1))
    assert sqlite_version_warning((3, 51, 3)) == ""
    assert sqlite_version_warning((3, 52, 0)) == ""


def test_a_sqlite_that_is_too_old_is_refused(
    sqlite_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 34, 0))
    with pytest.raises(StoreError, match="too old"):
        open_writer(sqlite_store.url)


# -- the lock ---


def hold(queue: Path, ready: "multiprocessing.connection.Connection") -> None:
    with QueueLock(queue):
        ready.send(os.getpid())
        ready.recv()


def test_a_second_writer_is_refused_and_told_who_the_first_is(tmp_path: Path) -> None:
    queue = tmp_path / "queue.sqlite3"
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    first = context.Process(target=hold, args=(queue, theirs))
    first.start()
    pid = ours.recv()
    with pytest.raises(LockHeld, match=f"process {pid}") as caught:
        QueueLock(queue)
    assert caught.value.pid == pid
    first.kill()
    first.join()
    with QueueLock(queue):
        written = (tmp_path / "queue.sqlite3.lock").read_text()
    assert written == f"{os.getpid()}\n"


def test_the_lock_can_be_taken_again_after_it_was_given_up(tmp_path: Path) -> None:
    lock = QueueLock(tmp_path / "q")
    lock.close()
    lock.close()
    with QueueLock(tmp_path / "q"), pytest.raises(LockHeld):
        QueueLock(tmp_path / "q")


def test_a_lock_without_a_directory_says_so(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="lock file"):
        QueueLock(tmp_path / "no" / "queue")
