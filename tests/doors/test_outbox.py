"""``deliveryagent.enqueue``: inside the transaction of an application, by SQLAlchemy and psycopg."""

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from email.message import EmailMessage
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from deliveryagent import EnqueueError, enqueue
from deliveryagent.protocol.local import ExitCode
from deliveryagent.queue.engine import open_writer
from tests.doubles.sql_door import note_terms, usual_terms
from tests.doubles.stores import PostgresServer, Store

LETTER = b"From: shop@example.org\r\nTo: kim@example.net\r\nSubject: x\r\n\r\nhello\r\n"


@pytest.fixture(scope="module")
def queue(postgres_server: PostgresServer) -> Iterator[Store]:
    url = postgres_server.fresh()
    store = Store(url, open_writer(url))
    note_terms(store, usual_terms())
    yield store
    store.engine.dispose()


@pytest.fixture
def engine(queue: Store) -> Iterator[Engine]:
    """The application's own engine; the queue is empty."""
    queue.force("TRUNCATE message, content, recipient, submission_key, destination CASCADE")
    engine = create_engine(queue.url.replace("postgresql://", "postgresql+psycopg://"))
    yield engine
    engine.dispose()


def recipients(queue: Store) -> list[str]:
    return [
        row[0] for row in queue.rows("SELECT address FROM recipient ORDER BY message_id, number")
    ]


def content(queue: Store) -> bytes:
    return bytes(queue.value("SELECT data FROM content"))


def shown_ids(queue: Store) -> list[str]:
    rows = queue.rows("SELECT deliveryagent.shown_id(id) FROM message ORDER BY id")
    return [row[0] for row in rows]


# -- whose transaction ---


def test_a_connection_of_sqlalchemy_keeps_its_transaction(queue: Store, engine: Engine) -> None:
    with engine.connect() as connection:
        enqueue(connection, LETTER)
        connection.rollback()
        queue_id = enqueue(connection, LETTER)
        assert connection.in_transaction()
        assert shown_ids(queue) == []
        connection.commit()
    assert shown_ids(queue) == [queue_id]


def test_sessions_of_sqlalchemy_too(queue: Store, engine: Engine) -> None:
    with Session(engine) as session:
        enqueue(session, LETTER)
    assert shown_ids(queue) == [], "closed without a commit"
    with Session(engine) as session, session.begin():
        first = enqueue(session, LETTER)
    registry = scoped_session(sessionmaker(engine))
    second = enqueue(registry, LETTER)
    registry.commit()
    registry.remove()
    assert shown_ids(queue) == [first, second]


def test_a_connection_of_psycopg_whatever_its_rows_look_like(queue: Store, engine: Engine) -> None:
    with psycopg.connect(queue.url, row_factory=dict_row) as connection:
        enqueue(connection, LETTER)
        connection.rollback()
        queue_id = enqueue(connection, LETTER, tags={"app": "ü"}, key="k")
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS
        assert enqueue(connection, LETTER, tags={"app": "ü"}, key="k") == queue_id
    assert shown_ids(queue) == [queue_id]
    assert queue.value("SELECT tags FROM message") == '{"app":"ü"}'


def test_a_savepoint_keeps_the_rest_of_a_transaction(queue: Store, engine: Engine) -> None:
    with engine.begin() as connection:
        first = enqueue(connection, LETTER, key="k")
        savepoint = connection.begin_nested()
        with pytest.raises(EnqueueError, match=f"another message: {first}") as caught:
            enqueue(connection, LETTER + b"more\n", key="k")
        savepoint.rollback()
        second = enqueue(connection, LETTER)
    assert caught.value.code == ExitCode.BAD_DATA
    assert shown_ids(queue) == [first, second]


def test_an_address_is_judged_before_the_transaction_is_touched(
    queue: Store, engine: Engine
) -> None:
    with engine.begin() as connection:
        for wrong in ({"recipients": "a b@c.example"}, {"sender": "@x"}, {"recipients": "a@-.x"}):
            with pytest.raises(EnqueueError, match="is not acceptable") as caught:
                enqueue(connection, LETTER, **wrong)  # type: ignore[arg-type]
            assert caught.value.code == ExitCode.BAD_DATA
        queue_id = enqueue(connection, LETTER)
    assert shown_ids(queue) == [queue_id]


# -- the message ---


def test_sender_and_recipients_come_from_the_header_section(queue: Store, engine: Engine) -> None:
    message = EmailMessage()
    message["From"] = "Shop <shop@example.org>, Other <other@example.org>"
    message["Sender"] = "Robot <robot@example.org>"
    message["To"] = "Kim <kim@example.net>, lee@example.com"
    message["Bcc"] = "secret@example.org"
    message["Subject"] = "Grüße"
    message.set_content("Hallo\n")
    with engine.begin() as connection:
        enqueue(connection, message)
    assert recipients(queue) == ["kim@example.net", "lee@example.com", "secret@example.org"]
    assert queue.value("SELECT sender FROM message") == "robot@example.org"
    assert b"secret" not in content(queue)
    assert b"Subject: =?utf-8?" in content(queue)


def test_a_message_that_was_resent_goes_to_whom_it_was_resent(queue: Store, engine: Engine) -> None:
    head = b"Resent-From: ann@example.org\nResent-To: bob@example.org\nResent-Date: now\n"
    with engine.begin() as connection:
        enqueue(connection, b"From mbox line\r\n" + head + LETTER)
    assert recipients(queue) == ["bob@example.org"]
    assert queue.value("SELECT sender FROM message") == "ann@example.org"


def test_what_is_said_counts_more_than_what_the_header_says(queue: Store, engine: Engine) -> None:
    at = datetime.fromtimestamp(2e9, UTC)
    with engine.begin() as connection, pytest.raises(EnqueueError, match="a year ahead"):
        enqueue(connection, LETTER, at=at)
    with engine.begin() as connection:
        enqueue(
            connection,
            LETTER,
            sender="",
            recipients=["root", "x@Bücher.example", "ü@bücher.example"],
            dsn=["success", "delay"],
            ret="hdrs",
            envid="e1",
            tags={"b": "1", "a": "2"},
            hold=True,
        )
    assert recipients(queue) == [
        "root@mail.example.org",
        "x@xn--bcher-kva.example",
        "ü@xn--bcher-kva.example",
    ]
    assert queue.rows("SELECT sender, ret, envid, tags FROM message") == [
        ("", "HDRS", "e1", '{"a":"2","b":"1"}')
    ]
    assert queue.rows("SELECT DISTINCT status, notify FROM recipient") == [("held", 10)]


def test_an_international_message_keeps_its_letters(queue: Store, engine: Engine) -> None:
    message = EmailMessage()
    message["From"] = "shop@example.org"
    message["To"] = "kim@example.net"
    message.set_content("x")
    with engine.begin() as connection:
        enqueue(connection, message, recipients=["ü@example.net"])
        other = b"From: \xc3\xbc@example.org\nTo: kim@example.net\n\n"
        enqueue(connection, other)
    assert queue.rows("SELECT sender, utf8 FROM message ORDER BY id") == [
        ("shop@example.org", False),
        ("ü@example.org", True),
    ]


@pytest.mark.parametrize(
    ("octets", "said"),
    [
        (b"To: kim@example.net\n\n", "does not name one sender"),
        (b"From: a@x.example, b@x.example\nTo: kim@example.net\n\n", "does not name one sender"),
        (b"From: a@x.example\n\n", "no recipients"),
        (b"From: a@x.example\nTo: <broken\n\n", "cannot read the addresses"),
        (b"From: a@x.example\nTo: \xff@x.example\n\n", "not valid UTF-8|cannot contain"),
    ],
)
def test_a_header_section_that_names_nobody_is_refused(
    engine: Engine, octets: bytes, said: str
) -> None:
    with engine.begin() as connection, pytest.raises(EnqueueError, match=said) as caught:
        enqueue(connection, octets)
    assert caught.value.code == ExitCode.BAD_DATA


def test_times_that_are_none_are_refused(engine: Engine) -> None:
    with engine.begin() as connection:
        for at in (float("inf"), float("nan"), datetime(2030, 1, 1)):  # noqa: DTZ001
            with pytest.raises(EnqueueError) as caught:
                enqueue(connection, LETTER, at=at)
            assert caught.value.code == ExitCode.USAGE


# -- where it cannot be used ---


def sqlite_connections() -> Iterator[Any]:
    engine = create_engine("sqlite://")
    yield engine.connect()
    yield Session(engine)
    yield sqlite3.connect(":memory:")


def test_sqlite_is_refused_with_the_way_that_works() -> None:
    for connection in sqlite_connections():
        with pytest.raises(EnqueueError, match="one writer, the agent") as caught:
            enqueue(connection, LETTER)
        assert "deliveryagent.Client" in caught.value.hint
        assert caught.value.code == ExitCode.USAGE
        connection.close()


def test_what_is_no_connection_is_refused(queue: Store, engine: Engine) -> None:
    for thing in (engine, object(), None):
        with pytest.raises(EnqueueError) as caught:
            enqueue(thing, LETTER)
        assert caught.value.code == ExitCode.USAGE

    async def ask() -> None:
        async with await psycopg.AsyncConnection.connect(queue.url) as connection:
            enqueue(connection, LETTER)

    with pytest.raises(EnqueueError, match="asynchronous"):
        asyncio.run(ask())


def test_a_database_without_a_queue_and_a_user_without_rights_are_told_apart(
    queue: Store, engine: Engine, postgres_server: PostgresServer
) -> None:
    postgres_server.order("CREATE DATABASE elsewhere")
    url = postgres_server.address("elsewhere").replace("sql:", "sql+psycopg:")
    other = create_engine(url)
    with other.connect() as connection, pytest.raises(EnqueueError) as caught:
        enqueue(connection, LETTER)
    other.dispose()
    assert caught.value.code == ExitCode.BAD_CONFIGURATION
    assert "dagent db migrate" in caught.value.hint
    queue.force("DROP ROLE IF EXISTS nobody_special")
    queue.force("CREATE ROLE nobody_special LOGIN")
    url = queue.url.replace("postgres:@", "nobody_special:@")
    with psycopg.connect(url) as connection, pytest.raises(EnqueueError) as caught:
        enqueue(connection, LETTER)
    assert caught.value.code == ExitCode.NOT_PERMITTED
    assert "GRANT deliveryagent_enqueue" in caught.value.hint


def test_errors_that_are_not_about_mail_stay_what_they_are(engine: Engine) -> None:
    with psycopg.connect(engine.url.render_as_string().replace("+psycopg", "")) as connection:
        connection.execute("SET TRANSACTION READ ONLY")
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            enqueue(connection, LETTER)


def test_it_works_from_inside_a_running_transaction_of_run_sync(engine: Engine) -> None:
    """``run_sync`` hands the synchronous connection and the arguments over as they are."""

    def run_sync(function: Any, *arguments: Any, **named: Any) -> Any:
        with engine.begin() as connection:
            assert isinstance(connection, Connection)
            return function(connection, *arguments, **named)

    assert len(run_sync(enqueue, LETTER, key="k")) == 13


def test_the_package_stays_light_until_it_is_used() -> None:
    program = (
        "import sys, deliveryagent\n"
        "assert not {'sqlalchemy', 'deliveryagent.outbox', 'email'} & set(sys.modules)\n"
        "from deliveryagent import enqueue\n"
        "assert callable(enqueue) and callable(deliveryagent.enqueue)\n"
        "assert 'sqlalchemy' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_refused_wish_of_the_database_has_its_code(engine: Engine) -> None:
    for wish in ({"dsn": "sometimes"}, {"ret": "half"}, {"tags": {"": "x"}}, {"key": "\t"}):
        with engine.begin() as connection, pytest.raises(EnqueueError) as caught:
            enqueue(connection, LETTER, **wish)  # type: ignore[arg-type,unused-ignore]
        assert caught.value.code == ExitCode.USAGE
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM deliveryagent.terms"))
        with pytest.raises(EnqueueError) as caught:
            enqueue(connection, LETTER)
        connection.rollback()
    assert caught.value.code == ExitCode.BAD_CONFIGURATION
