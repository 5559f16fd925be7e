"""Makes a large SQLite queue out of a small one, faster than a client could fill it.

Every message is repeated with an earlier arrival: its id moves back by a multiple of the time that
the small queue took to fill, and so do the moments that count from the arrival; the key by which
the queue would know it again gets a number behind it. All else is what the client wrote, column by
column, and rows are written in the order in which they would have arrived. ``dagent db check``
finds nothing to object to in the result.
"""

import shutil
import sqlite3
from pathlib import Path

from benchmarks.programs import Failure

_ID_BITS_BELOW_TIME = 12  # an id is microseconds and twelve drawn bits (mail.envelope)
_MESSAGE_TABLES = {
    "message": "id",
    "content": "message_id",
    "recipient": "message_id",
    "submission_key": "message_id",
}
_ALWAYS_EMPTY = ("attempt", "arriving")


def multiply(small: Path, large: Path, times: int) -> None:
    """Write a queue like ``small`` with so many times its messages to the new file ``large``.

    ``small`` must be newly filled and closed: nothing tried, nothing arriving. Raises
    ``Failure`` otherwise.
    """
    shutil.copyfile(small, large)
    with sqlite3.connect(large, isolation_level=None) as queue:
        queue.execute("PRAGMA journal_mode = OFF")  # the file is thrown away if this fails
        queue.execute("PRAGMA synchronous = OFF")
        queue.execute("PRAGMA cache_size = -262144")
        queue.execute("ATTACH ? AS small", (str(small),))
        for table in _ALWAYS_EMPTY:
            if table in _tables(queue) and _number(queue, f"SELECT count(*) FROM {table}"):
                raise Failure(f"only a queue with an empty table {table} can be multiplied")
        seconds = _span(queue)
        queue.execute("BEGIN")
        for table in reversed(_MESSAGE_TABLES):
            queue.execute(f"DELETE FROM main.{table}")
        for back in range(times - 1, -1, -1):
            for table, key in _MESSAGE_TABLES.items():
                _repeat(queue, table, key, back * seconds)
        earliest = "SELECT min(due) FROM recipient WHERE destination = name"
        queue.execute(f"UPDATE main.destination SET ready = ({earliest})")
        queue.execute("COMMIT")
        queue.execute("DETACH small")
        queue.execute("PRAGMA journal_mode = WAL")
    queue.close()


def _span(queue: sqlite3.Connection) -> int:
    """Whole seconds from the first id to the last, rounded up: repetitions never overlap."""
    first, last = queue.execute("SELECT min(id), max(id) FROM small.message").fetchone()
    return (int(last - first) >> _ID_BITS_BELOW_TIME) // 1_000_000 + 1


def _repeat(queue: sqlite3.Connection, table: str, key: str, back: int) -> None:
    """Write the rows of one table once more, so many seconds earlier."""
    columns = [row[1] for row in queue.execute(f"PRAGMA main.table_info({table})")]
    moved = {
        key: f"{key} - {back * 1_000_000 << _ID_BITS_BELOW_TIME}",
        "due": f"due - {back}",
        "updated": f"updated - {back}",
        "created": f"created - {back}",
        "key": f"\"key\" || '.{back}'" if back else '"key"',
    }
    values = ", ".join(moved.get(column, column) for column in columns)
    names = ", ".join(f'"{column}"' for column in columns)
    queue.execute(
        f"INSERT INTO main.{table} ({names}) SELECT {values} FROM small.{table} ORDER BY {key}"
    )


def _tables(queue: sqlite3.Connection) -> set[str]:
    rows = queue.execute("SELECT name FROM main.sqlite_master WHERE type = 'table'")
    return {str(row[0]) for row in rows}


def _number(queue: sqlite3.Connection, question: str) -> int:
    return int(queue.execute(question).fetchone()[0])
