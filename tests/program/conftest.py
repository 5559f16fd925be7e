"""Fixtures of the whole program: a queue of either kind."""

from pathlib import Path

import pytest

from tests.doubles.stores import PostgresServer, postgres_server

__all__ = ["postgres_server"]


@pytest.fixture(params=["sqlite", "postgresql"])
def queue_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a new queue."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/queue.sqlite3"
    server: PostgresServer = request.getfixturevalue("postgres_server")
    return server.fresh()
