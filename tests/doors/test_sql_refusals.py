"""What the SQL function refuses, and by which limits."""

from collections.abc import Iterator
from typing import Any

import pytest

from deliveryagent.intake.submit import Terms
from deliveryagent.protocol.arrival import LimitSettings
from deliveryagent.queue.engine import open_writer
from deliveryagent.setting import ByteSize
from tests.doubles.sql_door import LETTER, enqueue, note_terms, refusal, usual_terms
from tests.doubles.stores import PostgresServer, Store


@pytest.fixture(scope="module")
def queue(postgres_server: PostgresServer) -> Iterator[Store]:
    url = postgres_server.fresh()
    store = Store(url, open_writer(url))
    note_terms(store, usual_terms())
    yield store
    store.engine.dispose()


@pytest.mark.parametrize(
    ("change", "state", "said"),
    [
        ({"sender": None}, "ML001", "the sender is null"),
        ({"sender": "a b@x.example"}, "ML001", "the sender is not acceptable"),
        ({"recipients": None}, "ML002", "the message has no recipients"),
        ({"recipients": []}, "ML002", "the message has no recipients"),
        ({"recipients": [None]}, "ML002", "a recipient is not acceptable: it is null"),
        ({"recipients": ["a@b.example", None]}, "ML002", "a recipient is not acceptable"),
        ({"recipients": ["a@bücher.example"]}, "ML002", "is not written in ASCII"),
        ({"content": None}, "ML003", "the content is null"),
        ({"content": b"a\0b"}, "ML003", "NUL octet"),
        ({"dsn": "sometimes"}, "ML004", '"sometimes" is no kind of report'),
        ({"ret": "half"}, "ML004", '"half" is not what a report can return'),
        ({"envid": "ü"}, "ML004", "beyond ASCII"),
        ({"key": "x" * 201}, "ML004", "the key has more than 200 characters"),
        ({"tags": "[1]"}, "ML004", "not an object"),
        ({"tags": '{"a": 1}'}, "ML004", 'the value of the tag "a" is not a text'),
        ({"at": "infinity"}, "ML004", "more than a year ahead"),
    ],
)
def test_what_cannot_be_taken_is_refused_with_a_state_of_its_own(
    queue: Store, change: dict[str, Any], state: str, said: str
) -> None:
    found, sentence, _ = refusal(queue, **{"recipients": ["kim@example.net"]} | change)
    assert found == state
    assert said in sentence


def test_limits_are_those_that_the_agents_wrote_down(postgres_store: Store) -> None:
    queue = postgres_store
    tight = LimitSettings(
        message_size_limit=ByteSize(2000),
        recipient_limit=1,
        header_size_limit=ByteSize(500),
        hopcount_limit=1,
    )
    note_terms(queue, Terms(hostname="tight.example.org", limits=tight))
    assert "2000 octets" in refusal(queue, content=LETTER + b"x\n" * 1000)[1]
    assert "2000 octets" in refusal(queue, content=bytes([120]) * 1_000_000)[1]
    assert "more than 1" in refusal(queue, ["a@a.example", "b@b.example"])[1]
    assert "500 octets" in refusal(queue, content=b"Subject: " + b"x" * 600)[1]
    assert "2 hosts" in refusal(queue, content=b"Received: a\n" * 2)[1]
    with queue.engine.begin() as connection:
        enqueue(connection, ["postmaster"])
    assert queue.value("SELECT max(address) FROM recipient") == "postmaster@tight.example.org"


def test_a_queue_that_knows_no_limits_yet_takes_nothing(postgres_store: Store) -> None:
    state, _, hint = refusal(postgres_store)
    assert state == "ML006"
    assert "dagent db migrate" in hint
