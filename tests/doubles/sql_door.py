"""A PostgreSQL queue that applications enqueue into: its terms, and what a message left in it."""

from collections.abc import Sequence
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from deliveryagent.intake.submit import Terms
from deliveryagent.mail.envelope import parse_queue_id
from deliveryagent.protocol.arrival import LimitSettings
from deliveryagent.queue import inflow
from deliveryagent.queue.inflow import Conditions
from tests.doubles.stores import Store

HOSTNAME = "mail.example.org"
LETTER = b"Subject: hello\r\nTo: kim@example.net\r\n\r\nhello\r\n"
ARGUMENTS = ("key", "at", "tags", "dsn", "ret", "envid", "hold")

_CALL = text(
    "SELECT deliveryagent.enqueue(:sender, CAST(:recipients AS text[]), CAST(:content AS bytea), "
    "CAST(:key AS text), CAST(:at AS timestamptz), CAST(:tags AS jsonb), CAST(:dsn AS text), "
    "CAST(:ret AS text), CAST(:envid AS text), CAST(:hold AS boolean))"
)


def note_terms(store: Store, terms: Terms) -> None:
    """Let the SQL functions go by what a local socket goes by."""
    limits = terms.limits
    store.do(
        inflow.note_terms,
        Conditions(
            hostname=terms.hostname,
            message_size_limit=limits.message_size_limit,
            recipient_limit=limits.recipient_limit,
            header_size_limit=limits.header_size_limit,
            hopcount_limit=limits.hopcount_limit,
            bulk_after=terms.bulk_after,
        ),
    )


def usual_terms() -> Terms:
    return Terms(hostname=HOSTNAME, limits=LimitSettings())


def enqueue(
    connection: Connection,
    recipients: Sequence[str | None] | None = ("kim@example.net",),
    *,
    sender: str | None = "shop@example.org",
    content: bytes | None = LETTER,
    **wishes: Any,
) -> int:
    """Call the SQL function; the queue id as a number."""
    values = dict.fromkeys(ARGUMENTS) | wishes
    found = connection.scalar(
        _CALL,
        {
            "sender": sender,
            "recipients": None if recipients is None else list(recipients),
            "content": content,
            **values,
        },
    )
    assert isinstance(found, str)
    return parse_queue_id(found)


def left_behind(connection: Connection, queue_id: int) -> dict[str, list[tuple[Any, ...]]]:
    """Every row there is of a message, and of the destinations."""
    inflow.absorb(connection)

    def rows(sql: str) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in connection.execute(text(sql), {"id": queue_id})]

    return {
        "message": rows("SELECT * FROM message WHERE id = :id"),
        "content": rows("SELECT * FROM content WHERE message_id = :id ORDER BY part"),
        "recipient": rows("SELECT * FROM recipient WHERE message_id = :id ORDER BY number"),
        "key": rows("SELECT * FROM submission_key WHERE message_id = :id"),
        "destination": rows("SELECT * FROM destination ORDER BY name"),
    }


def refusal(queue: Store, *arguments: Any, **wishes: Any) -> tuple[str, str, str]:
    """SQLSTATE, message and hint of a call that is refused, which leaves nothing behind."""
    before = queue.value("SELECT count(*) FROM message")
    with queue.engine.connect() as connection, pytest.raises(DBAPIError) as caught:
        enqueue(connection, *arguments, **wishes)
    assert queue.value("SELECT count(*) FROM message") == before
    assert isinstance(caught.value.orig, psycopg.Error)
    said = caught.value.orig.diag
    return said.sqlstate or "", said.message_primary or "", said.message_hint or ""
