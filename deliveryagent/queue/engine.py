"""Opens the store: SQLite or PostgreSQL, for writing or for reading only.

Guarantees: a committed transaction is on stable storage (SQLite: WAL with synchronous=FULL; PostgreSQL: never
with synchronous_commit=off); a transaction for writing takes SQLite's write lock at its begin, so that it
cannot fail half way; a reader cannot write, and never checkpoints. A file is created only by
``open_writer``, and never to replace one that vanished while in use: connections that come later demand that
it is there. What cannot be opened raises ``StoreError`` with a hint.

SQLite before 3.51.3 can damage a WAL when two connections write and checkpoint at the same moment, hence one
writer (``lock``) that alone checkpoints, and ``sqlite_version_warning``.

On PostgreSQL every transaction is begun with its isolation level spelled out and under time limits, and a
pooler between us and the server is noticed: then nothing is left to the session (``is_pooled``).
"""

import os
import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import ConnectionPoolEntry, NullPool

from deliveryagent.queue.store import CONNECTING, StoreError, examine

__all__ = [
    "OLDEST_POSTGRESQL",
    "SOUND_SQLITE",
    "StoreError",
    "is_pooled",
    "open_reader",
    "open_writer",
    "shown",
    "sqlite_version_warning",
    "store_file",
    "store_url",
]

SOUND_SQLITE = (3, 51, 3)

_BUSY_TIMEOUT = 5000  # milliseconds to wait for somebody's backup or shell
_PAGE_SIZE = 8192  # a 2 KiB message fills a smaller page badly
_CHECKPOINT = (
    2000  # pages: 16 MB of log, most of it rewritten content pages that are written back once
)
_LOG_LIMIT = 64 * 1024 * 1024
_CACHE_KIB = 65536

OLDEST_POSTGRESQL = 13

_FACTS = """SELECT pg_backend_pid(), current_setting('server_encoding'),
    CAST(current_setting('server_version_num') AS INTEGER), current_setting('synchronous_commit')"""
LOCK_TIMEOUT = "5s"
"""Whoever locks our rows for longer is named, and tried again."""

_SESSION = {
    "lock_timeout": LOCK_TIMEOUT,
    "statement_timeout": "10min",
    "idle_in_transaction_session_timeout": "10s",  # a stopped process must not hold locks for ever
    "jit": "off",
}
# What an agent runs all the time follows an index, whatever the statistics say of tables that are empty at one
# moment and hold a million rows at the next; planning each time would cost more than running.
_WRITER = {
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
}
_WRITING = "READ COMMITTED READ WRITE"
_READING = "REPEATABLE READ READ ONLY"  # one state of the queue, as on SQLite


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


def shown(url: str) -> str:
    """The address as people may see it: without the password."""
    address = store_url(url)
    return address.set(drivername=address.get_backend_name()).render_as_string()


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
    examine(str(file))
    return _open_sqlite(file, read_only=False)


def open_reader(url: str) -> Engine:
    """An engine that can only read; raises ``StoreError`` when there is no queue yet."""
    file = store_file(url)
    if file is None:
        return _open_postgresql(url, read_only=True)
    if not file.exists():
        raise StoreError(f"there is no queue at {file}", "start the service, or send a message")
    examine(str(file))
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
    try:
        # Statements for many rows at once are written with positional marks.
        engine = create_engine(
            _with_usual(url), poolclass=NullPool, paramstyle="format", use_native_hstore=False
        )
    except ImportError as error:
        raise StoreError(
            "the PostgreSQL driver is not installed", "pip install 'deliveryagent[postgres]'"
        ) from error

    @event.listens_for(engine, "connect")
    def _(connection: Any, record: ConnectionPoolEntry) -> None:
        record.info["begin"] = _settle_in(connection, read_only=read_only)

    @event.listens_for(engine, "begin")
    def _(connection: Connection) -> None:
        driver: Any = connection.connection.driver_connection
        driver.execute(connection.info["begin"], prepare=False)

    return engine


def connecting(url: str) -> dict[str, Any]:
    """What the driver's own ``connect`` takes to reach the database of this address."""
    address = _with_usual(url)
    return dict(address.get_dialect()().create_connect_args(address)[1])


def _with_usual(url: str) -> URL:
    """The address with all that is usual for us, unless it says otherwise."""
    address = store_url(url)
    return address.set(query=CONNECTING | dict(address.query))


def _settle_in(connection: Any, *, read_only: bool) -> str:
    """Examine the server and set the connection up; returns what begins a transaction on it."""
    connection.rollback()
    connection.autocommit = True  # transactions are begun by our own words
    pid, encoding, version, durable = connection.execute(_FACTS).fetchone()
    if version < OLDEST_POSTGRESQL * 10_000:
        raise StoreError(
            f"PostgreSQL {version // 10_000} is too old",
            f"deliveryagent needs {OLDEST_POSTGRESQL} or newer",
        )
    if encoding != "UTF8":
        raise StoreError(
            f"the database has the encoding {encoding}, mail needs UTF8",
            "create it anew: CREATE DATABASE name ENCODING 'UTF8' TEMPLATE template0",
        )
    settings = _SESSION | ({} if read_only else _WRITER)
    if durable == "off":
        settings["synchronous_commit"] = "on"
    begin = f"BEGIN ISOLATION LEVEL {_READING if read_only else _WRITING}"
    if is_pooled(connection, pid):
        connection.prepare_threshold = None
        return "; ".join([begin, *(f"SET LOCAL {k} = '{v}'" for k, v in settings.items())])
    connection.prepared_max = 500
    connection.execute("; ".join(f"SET {k} = '{v}'" for k, v in settings.items()))
    return begin


def is_pooled(connection: Any, pid: int) -> bool:
    """Whether a pooler stands between this driver connection and the server process ``pid``.

    A pooler lends its server connections for a transaction at a time: nothing that belongs to a session
    (settings, prepared statements, LISTEN) can be relied on. It shows by the process id that it made up when we
    logged in.
    """
    return bool(connection.info.backend_pid != pid)
