"""What readers and writers of the queue have to know of where it is kept.

Light: imports no database but SQLite's module.
"""

import sqlite3

OLDEST_SQLITE = (3, 35, 0)
CONNECTING = {
    "application_name": "deliveryagent",
    "client_encoding": "utf8",
    "connect_timeout": "10",
    # A server that vanished without a word is given up after some 20 seconds, not after a quarter of an hour.
    "keepalives_idle": "10",
    "keepalives_interval": "3",
    "keepalives_count": "3",
    "tcp_user_timeout": "20000",
}
"""How to connect to PostgreSQL, where the address does not say otherwise."""

_MAGIC = b"SQLite format 3\x00"


class StoreError(Exception):
    """The store cannot be used at all; ``hint`` is a sentence on what to do about it."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def examine(file: str) -> None:
    """Raise ``StoreError`` when a file can be no queue of ours."""
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        raise StoreError(
            f"SQLite {sqlite3.sqlite_version} is too old", "deliveryagent needs 3.35 or newer"
        )
    try:
        with open(file, "rb") as stream:  # noqa: PTH123 - pathlib takes 10 ms to load
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
