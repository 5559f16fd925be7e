"""The schema of the queue: which one a store has, and the steps to the one this program knows.

A new SQLite file gets the schema by itself; an older queue is changed only when somebody says so
(``dagent db migrate``). Guarantees: all steps of one call are one transaction, so a kill in the middle changes
nothing; a queue that a newer program has changed is worked on if its schema says that programs of ours still
may (``oldest_program`` in ``meta``), and refused with a clear word otherwise. Alembic is imported only when
there is something to do.

Old and new agents on one queue: a migration that only adds (tables, columns with defaults, indexes) leaves
``oldest_program`` as it is; agents are then renewed one by one. One that takes away or changes the meaning of
something sets ``oldest_program`` to its own revision, and comes a release after the last program that needed
what it takes (expand, then contract).
"""

from typing import TYPE_CHECKING

import msgspec
from sqlalchemy import Connection, Engine, inspect, select, text

from deliveryagent.queue import faults
from deliveryagent.queue.engine import StoreError
from deliveryagent.queue.moves import demand_unmarked
from queue_schema import HEAD, functions
from queue_schema.tables import meta

if TYPE_CHECKING:
    from alembic.config import Config

_IDENTITY = select(meta.c.value).where(meta.c.name == "identity")
_NO_LIMIT = text("SET LOCAL statement_timeout = 0")  # an index on a large table takes its time
_OLDEST_PROGRAM = select(meta.c.value).where(meta.c.name == "oldest_program")


class Step(msgspec.Struct, frozen=True):
    """One migration: its revision and what it does, in a sentence."""

    revision: str
    text: str


def head() -> str:
    """The schema this program knows."""
    return HEAD


def current(engine: Engine) -> str:
    """The schema the store has, empty when it has none yet."""
    try:
        with engine.connect() as connection:
            return _current(connection)
    except Exception as error:
        raise _unusable(error) from error


def plan(engine: Engine) -> list[Step]:
    """The steps ``migrate`` would take, in order; raises ``StoreError`` for a schema too new for us.

    None for a newer schema that is compatible: its own program has taken its steps.
    """
    from alembic.script import ScriptDirectory  # noqa: PLC0415 - a quarter of a second

    have = current(engine)
    script = ScriptDirectory.from_config(_config(None))
    known = [step.revision for step in script.walk_revisions()]
    if have and have not in known:
        _demand_compatible(engine, have)
        return []
    steps = script.iterate_revisions("head", have or "base")
    return [Step(s.revision, (s.doc or "").strip()) for s in reversed(list(steps))]


def migrate(engine: Engine) -> list[Step]:
    """Take all steps to the newest schema in one transaction; returns those taken."""
    from alembic import command  # noqa: PLC0415 - a quarter of a second

    steps = plan(engine)
    if steps:
        try:
            with engine.begin() as connection:
                if connection.dialect.name == "postgresql":
                    connection.execute(_NO_LIMIT)
                command.upgrade(_config(connection), "head")
        except Exception as error:
            raise _unusable(error) from error
    return steps


def renew_functions(engine: Engine) -> bool:
    """Install the SQL functions of this program where others or none are; whether anything was changed."""
    if engine.dialect.name != "postgresql" or current(engine) != HEAD:
        return False
    with engine.begin() as connection:
        changed = any(functions.differences(connection)) or not functions.role_is_ready(connection)
        if changed:
            functions.install(connection)
    return changed


def by_hand(engine: Engine) -> str:
    """What somebody with more rights has to run before applications can enqueue; empty when nothing."""
    if engine.dialect.name != "postgresql":
        return ""
    with engine.connect() as connection:
        return "" if functions.role_is_ready(connection) else functions.BY_HAND


def ensure(engine: Engine, *, copied: bool = False) -> bytes:
    """See to it that the store has our schema; returns the queue's identity (16 octets).

    An empty SQLite file gets the schema; anything else that is not up to date raises ``StoreError``, as does
    a queue that is copied, was, or is an incomplete copy, unless the caller is who copies it (``copied``).
    """
    have = current(engine)
    if not have and engine.dialect.name == "sqlite":
        migrate(engine)
    elif not have:
        raise StoreError(
            "the database has no queue yet", "run dagent db migrate once to create its tables"
        )
    elif have != HEAD:
        if have < HEAD:
            raise StoreError(
                f"the queue has schema {have}, this program needs {HEAD}", "run dagent db migrate"
            )
        _demand_compatible(engine, have)
    if not copied:
        with engine.connect() as connection:
            demand_unmarked(connection)
    return identity(engine)


def identity(engine: Engine) -> bytes:
    """The 16 octets by which files beside the queue know it."""
    with engine.connect() as connection:
        found = connection.scalar(_IDENTITY)
    if found is None:
        raise StoreError("the queue has lost its identity", "restore it from a backup")
    return bytes(found)


def _current(connection: Connection) -> str:
    tables = inspect(connection).get_table_names()
    if "alembic_version" not in tables:
        return ""
    return connection.scalar(text("SELECT version_num FROM alembic_version")) or ""


def _config(connection: Connection | None) -> "Config":
    from alembic.config import Config  # noqa: PLC0415 - a quarter of a second

    config = Config()
    config.set_main_option("script_location", "queue_schema:")
    config.attributes["connection"] = connection
    return config


def _demand_compatible(engine: Engine, have: str) -> None:
    """Raise ``StoreError`` unless the newer schema says that programs of ours may work with it."""
    with engine.connect() as connection:
        oldest = connection.scalar(_OLDEST_PROGRAM)
    if oldest is None or bytes(oldest).decode() > HEAD:
        raise StoreError(
            f"the queue has schema {have}, this program knows schemas up to {HEAD}",
            "a newer deliveryagent has used this queue: install that version again",
        )


def _unusable(error: Exception) -> Exception:
    reason = faults.trouble(error)
    if isinstance(error, StoreError) or not reason:
        return error
    return StoreError(reason, "see that [queue] url is right, and the state of the database's disk")
