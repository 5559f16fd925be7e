"""A connection that can only read, for commands: opened in milliseconds, without SQLAlchemy.

Importing SQLAlchemy takes longer than everything a command that looks into the queue has to do. What such
commands ask is written as plain SQL, the same text for SQLite and PostgreSQL, with ``:name`` for values.
Guarantees: nothing can be changed through it; values are never part of a statement's text; all questions of one
reader see one state of the queue, and Ctrl-C ends the longest of them. What cannot be opened raises
``StoreError`` with a hint.
"""

import os
import re
import sqlite3
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Self
from urllib.parse import quote

from deliveryagent.queue.store import CONNECTING, StoreError, examine

_BUSY_TIMEOUT = 5000  # milliseconds to wait for somebody's backup or shell
_CACHE_KIB = 65536
_BREATH = 1_000_000  # steps of SQLite's machine, some 10 ms
_MARK = re.compile(r"(?<!:):([a-z_]+)")
_BEGIN = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_SETTINGS = (
    "SET LOCAL lock_timeout = '5s'; SET LOCAL statement_timeout = '10min'; SET LOCAL jit = off"
)


class Reader:
    """An open queue. ``driver`` is a connection of ``sqlite3``, or of psycopg with ``postgresql``."""

    def __init__(self, driver: Any, *, postgresql: bool) -> None:
        self._driver = driver
        self._postgresql = postgresql

    @classmethod
    def over(cls, connection: Any) -> Self:
        """The same questions inside a transaction of an SQLAlchemy connection."""
        driver = connection.connection.driver_connection
        return cls(driver, postgresql=connection.dialect.name == "postgresql")

    def rows(self, text: str, /, **values: Any) -> Sequence[Any]:
        """All rows of an answer."""
        if self._postgresql:
            found: Sequence[Any] = self._driver.execute(
                _for_postgresql(text), values, prepare=False
            ).fetchall()
            return found
        try:
            return self._driver.execute(text, values).fetchall()  # type: ignore[no-any-return]
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT:
                raise KeyboardInterrupt from None  # nobody else interrupts it (``_breathe``)
            raise

    def value(self, text: str, /, **values: Any) -> Any:
        """The first column of the only row; None when there is none."""
        rows = self.rows(text, **values)
        return rows[0][0] if rows else None

    @property
    def moment(self) -> str:
        """The SQL for the present time on the clock of the store, in seconds since the epoch."""
        if self._postgresql:
            return "extract(epoch FROM clock_timestamp())"
        return "(julianday('now') - 2440587.5) * 86400.0"

    @property
    def places(self) -> str:
        """The SQL for a table of ``message_id`` and ``number`` from ``:places``, a JSON list of pairs."""
        if self._postgresql:
            return (
                "(SELECT CAST(value ->> 0 AS bigint) AS message_id, CAST(value ->> 1 AS integer) AS "
                "number FROM json_array_elements(CAST(:places AS json)))"
            )
        return (
            "(SELECT json_extract(value, '$[0]') AS message_id, "
            "json_extract(value, '$[1]') AS number FROM json_each(:places))"
        )

    def close(self) -> None:
        """End the connection; a pooler is given back a connection without a transaction."""
        try:
            if self._postgresql and not self._driver.closed:
                self._driver.rollback()
        finally:
            self._driver.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@lru_cache(maxsize=64)
def _for_postgresql(text: str) -> str:
    return _MARK.sub(r"%(\1)s", text.replace("%", "%%"))


def open_queue(url: str) -> Reader:
    """The queue at this address; raises ``StoreError`` when there is none yet."""
    kind, _, rest = url.partition("://")
    match kind:
        case "sqlite" | "sqlite+pysqlite":
            return _open_sqlite(rest.partition("?")[0].removeprefix("/"))
        case "postgresql" | "postgres" | "postgresql+psycopg":
            return _open_postgresql(f"postgresql://{rest}")
        case _:
            from deliveryagent.queue.engine import store_url  # noqa: PLC0415 - it knows how to tell

            store_url(url)
            raise AssertionError(url)


def _open_sqlite(name: str) -> Reader:
    if not name or name == ":memory:":
        raise StoreError("an SQLite queue needs a file", "write sqlite:////path/to/file")
    file = os.path.abspath(name)  # noqa: PTH100 - pathlib takes 10 ms to load
    if not os.path.exists(file):  # noqa: PTH110
        raise StoreError(f"there is no queue at {file}", "start the service, or send a message")
    examine(file)
    connection = sqlite3.connect(f"file:{quote(file)}?mode=ro", uri=True, isolation_level=None)
    try:
        for pragma in (
            f"busy_timeout = {_BUSY_TIMEOUT}",
            f"cache_size = -{_CACHE_KIB}",
            "query_only = ON",
            "wal_autocheckpoint = 0",
        ):
            connection.execute(f"PRAGMA {pragma}").fetchall()
        connection.execute("BEGIN")
        connection.set_progress_handler(_breathe, _BREATH)
    except BaseException:
        connection.close()
        raise
    return Reader(connection, postgresql=False)


def _breathe() -> int:
    """Called now and then during a long question: Python sees to signals, and Ctrl-C ends the question."""
    return 0


def _open_postgresql(url: str) -> Reader:
    try:
        import psycopg  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise StoreError(
            "the PostgreSQL driver is not installed", "pip install 'deliveryagent[postgres]'"
        ) from error
    missing = {name: value for name, value in CONNECTING.items() if f"{name}=" not in url}
    connection = psycopg.connect(url, autocommit=True, **missing)  # type: ignore[arg-type]
    try:
        connection.execute(f"{_BEGIN}; {_SETTINGS}", prepare=False)
    except BaseException:
        connection.close()
        raise
    return Reader(connection, postgresql=True)
