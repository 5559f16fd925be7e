"""Fixtures of the doors: stores of both kinds."""

from tests.doubles.stores import (
    empty_queue_file,
    postgres_server,
    postgres_store,
    sqlite_store,
    store,
)

__all__ = ["empty_queue_file", "postgres_server", "postgres_store", "sqlite_store", "store"]
