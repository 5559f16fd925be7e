"""The call of the SQL function that enqueues, on a connection that belongs to an application (PostgreSQL only).

Guarantees: runs one statement in whatever transaction the connection is in; never begins, commits or rolls
back. What the function refuses comes as :class:`Refused`; all other errors stay what they are.
"""

from typing import Any

import msgspec
from sqlalchemy import (
    Boolean,
    Connection,
    DateTime,
    LargeBinary,
    Text,
    bindparam,
    func,
    select,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, scoped_session


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """The arguments of the function, in its order. ``at`` is an aware ``datetime`` or None."""

    sender: str
    recipients: list[str]
    content: bytes
    key: str | None
    at: Any
    tags: dict[str, str]
    dsn: str | None
    ret: str | None
    envid: str | None
    hold: bool


class Refused(Exception):  # noqa: N818 - an answer, not a fault
    """The database refused: its SQLSTATE, one sentence why, and what to do about it."""

    def __init__(self, state: str, text: str, hint: str) -> None:
        super().__init__(text)
        self.state = state
        self.hint = hint


_TYPES: dict[str, Any] = {
    "sender": Text(),
    "recipients": ARRAY(Text()),
    "content": LargeBinary(),
    "key": Text(),
    "at": DateTime(timezone=True),
    "tags": JSONB(),
    "dsn": Text(),
    "ret": Text(),
    "envid": Text(),
    "hold": Boolean(),
}
_enqueue = select(
    func.deliveryagent.enqueue(*(bindparam(name, type_=kind) for name, kind in _TYPES.items()))
)
_PSYCOPG = (
    "SELECT deliveryagent.enqueue(%s::text, %s::text[], %s::bytea, %s::text, %s::timestamptz,"
    " %s::jsonb, %s::text, %s::text, %s::text, %s::boolean)"
)


def connection_of(given: Any) -> Connection | None:
    """The connection of a SQLAlchemy session or connection; None for anything else."""
    if isinstance(given, Session | scoped_session):
        return given.connection()
    return given if isinstance(given, Connection) else None


def by_sqlalchemy(connection: Connection, call: Call) -> str:
    """Run it on a SQLAlchemy connection; returns the queue id."""
    try:
        return str(connection.scalar(_enqueue, msgspec.structs.asdict(call)))
    except DBAPIError as error:
        if refused := _refusal(error.orig):
            raise refused from error
        raise


def by_psycopg(connection: Any, call: Call) -> str:
    """Run it on a connection of psycopg 3; returns the queue id."""
    import psycopg  # noqa: PLC0415 - an extra; who comes here has it
    from psycopg.rows import tuple_row  # noqa: PLC0415

    values = msgspec.structs.asdict(call)
    values["tags"] = msgspec.json.encode(call.tags).decode()
    try:
        with connection.cursor(row_factory=tuple_row) as cursor:
            cursor.execute(_PSYCOPG, list(values.values()))
            return str(cursor.fetchone()[0])
    except psycopg.Error as error:
        if refused := _refusal(error):
            raise refused from error
        raise


_ADVICE = {
    "3F000": "Run dagent db migrate on this database, or connect to the one the queue is in.",
    "42883": "Run dagent db migrate on this database, or connect to the one the queue is in.",
    "42501": "An administrator has to run, for the user of this connection: GRANT deliveryagent_enqueue TO ...",
}


def _refusal(error: Any) -> Refused | None:
    """What the function, or the lack of it, says; None when the error is about something else."""
    state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None) or ""
    details = getattr(error, "diag", None)
    said = getattr(details, "message_primary", None) or str(error)
    if state.startswith("ML"):
        return Refused(state, said, getattr(details, "message_hint", None) or "")
    if state in _ADVICE and "deliveryagent" in said:
        return Refused(state, said, _ADVICE[state])
    return None
