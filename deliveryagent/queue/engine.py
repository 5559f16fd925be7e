"""Opens the store: SQLite or PostgreSQL, for writing or for reading only.

Guarantees: a committed transaction is on stable storage (SQLite: WAL with synchronous=FULL; PostgreSQL: never
with synchronous_commit=off); a transaction for writing takes SQLite's write lock at its begin, so that it
cannot fail half way; a reader cannot write, and never checkpoints. A file is created only by
``open_writer``, and never to replace one that vanished while in use: connections that come later demand that
it is there. What cannot be opened raises ``StoreError`` with a hint.

SQLite before 3.51.3 can damage a WAL when two connections write and checkpoint at the same moment, hence one
writer (``lock``) that alone checkpoints, and ``sqlite_version_warning``.
"""

import os
import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import NullPool

SOUND_SQLITE = (3, 51, 3)
OLDEST_SQLITE = (3, 35, 0)

_MAGIC = b"SQLite format 3\x00"
_BUSY_TIMEOUT = 5000  # milliseconds to wait for somebody's backup or shell
_PAGE_SIZE = 8192  # a 2 KiB message fills a smaller page badly
_CHECKPOINT = (
    2000  # pages: 16 MB of log, most of it rewritten content pages that are written back once
)
_LOG_LIMIT = 64 * 1024 * 1024
_CACHE_KIB = 65536


class StoreError(Exception):
    """The store cannot be used at all; ``hint`` is a sentence on what to do about it."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def sqlite_version_warning(version: tuple[int, ...] = sqlite3.sqlite_version_info) -> str:
    """What people should know of the linked SQLite library, empty when it is sound."""
    if version >= SOUND_SQLITE:
        return ""
    have, sound = (".".join(map(str, parts)) for parts in (version, SOUND_SQLITE))
    return (
        f"SQLite {have} can damage its log when two programs write to the queue at the same moment "
        f"(fixed in {sound}); let only deliveryagent open the queue file for writing"
    )


def store_url(url: str) -> URL:
    """The address with its driver made explicit; raises ``StoreError`` for what is no store of ours."""
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise StoreError(
            f'"{url}" is no database address',
            "write it like sqlite:////var/lib/deliveryagent/queue.sqlite3",
        ) from error
    match parsed.drivername:
        case "sqlite" | "sqlite+pysqlite":
            if not parsed.database or parsed.database == ":memory:":
                raise StoreError("an SQLite queue needs a file", "write sqlite:////path/to/file")
            return parsed.set(drivername="sqlite")
        case "postgresql" | "postgres" | "postgresql+psycopg":
            return parsed.set(drivername="postgresql+psycopg")
        case other:
            raise StoreError(
                f'a queue cannot be kept in "{other}"', "use sqlite:// or postgresql://"
            )


def store_file(url: str) -> Path | None:
    """The queue file of an SQLite address, None for PostgreSQL."""
    parsed = store_url(url)
    return Path(parsed.database) if parsed.drivername == "sqlite" and parsed.database else None


def open_writer(url: str) -> Engine:
    """The engine of the one who writes; creates an SQLite file (without tables) where there is none.

    Callers hold the :class:`~deliveryagent.queue.lock.QueueLock` of an SQLite file.
    """
    file = store_file(url)
    if file is None:
        return _open_postgresql(url, read_only=False)
    if not file.exists() or file.stat().st_size == 0:
        _create(file)
    _examine(file)
    return _open_sqlite(file, read_only=False)


def open_reader(url: str) -> Engine:
    """An engine that can only read; raises ``StoreError`` when there is no queue yet."""
    file = store_file(url)
    if file is None:
        return _open_postgresql(url, read_only=True)
    if not file.exists():
        raise StoreError(f"there is no queue at {file}", "start the service, or send a message")
    _examine(file)
    return _open_sqlite(file, read_only=True)


# -- SQLite ---


def _create(file: Path) -> None:
    if not file.parent.is_dir():
        raise StoreError(
            f"the directory {file.parent} does not exist",
            f"create it for the service's user (install -d -m 750 {file.parent}), or set [queue] url",
        )
    try:
        os.close(os.open(file, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o640))
        connection = sqlite3.connect(_address(file, "rw"), uri=True, isolation_level=None)
        try:
            # Both are properties of the file and must be there before the first table.
            connection.execute(f"PRAGMA page_size = {_PAGE_SIZE}")
            connection.execute("PRAGMA journal_mode = WAL")
        finally:
            connection.close()
    except (OSError, sqlite3.Error) as error:
        raise StoreError(
            f"the queue file {file} cannot be created: {error}", "see who owns its directory"
        ) from error


def _examine(file: Path) -> None:
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        raise StoreError(
            f"SQLite {sqlite3.sqlite_version} is too old", "deliveryagent needs 3.35 or newer"
        )
    try:
        with file.open("rb") as stream:
            magic = stream.read(len(_MAGIC))
    except OSError as error:
        raise StoreError(
            f"the queue file {file} cannot be read: {error.strerror}",
            "run this as the service's user, or as root",
        ) from error
    if magic not in (_MAGIC, b""):
        raise StoreError(
            f"{file} is not an SQLite database", "move it away, or set [queue] url to another file"
        )


def _address(file: Path, mode: str) -> str:
    return f"{file.absolute().as_uri()}?mode={mode}"


def _open_sqlite(file: Path, *, read_only: bool) -> Engine:
    address = _address(file, "ro" if read_only else "rw")

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(
            address, uri=True, isolation_level=None, check_same_thread=False, cached_statements=512
        )
        try:
            _tune(connection, read_only=read_only)
        except BaseException:
            connection.close()
            raise
        return connection

    engine = create_engine("sqlite://", creator=connect, poolclass=NullPool)
    begin = "BEGIN" if read_only else "BEGIN IMMEDIATE"

    @event.listens_for(engine, "begin")
    def _(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


def _tune(connection: sqlite3.Connection, *, read_only: bool) -> None:
    pragmas = {"busy_timeout": _BUSY_TIMEOUT, "cache_size": -_CACHE_KIB, "foreign_keys": "ON"}
    if read_only:
        pragmas |= {"query_only": "ON", "wal_autocheckpoint": 0}
    else:
        pragmas |= {
            "journal_mode": "WAL",
            "synchronous": "FULL",
            "wal_autocheckpoint": _CHECKPOINT,
            "journal_size_limit": _LOG_LIMIT,
            # Zeroes freed octets where that costs no further page: content is overwritten by its successor.
            "secure_delete": "FAST",
        }
    for name, value in pragmas.items():
        connection.execute(f"PRAGMA {name} = {value}").fetchall()


# -- PostgreSQL ---


def _open_postgresql(url: str, *, read_only: bool) -> Engine:
    options: dict[str, Any] = {"connect_timeout": 10, "application_name": "deliveryagent"}
    try:
        # Statements for many rows at once are written with positional marks.
        engine = create_engine(
            store_url(url), poolclass=NullPool, paramstyle="format", connect_args=options
        )
    except ImportError as error:
        raise StoreError(
            "the PostgreSQL driver is not installed", "pip install 'deliveryagent[postgres]'"
        ) from error

    @event.listens_for(engine, "connect")
    def _(connection: Any, _: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SHOW synchronous_commit")
            if cursor.fetchone()[0] == "off":
                cursor.execute("SET synchronous_commit = on")
            cursor.execute("SET lock_timeout = '5s'")
            if read_only:
                cursor.execute("SET default_transaction_read_only = on")
        connection.commit()
        connection.prepared_max = 500

    return engine
