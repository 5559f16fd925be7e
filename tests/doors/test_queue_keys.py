"""Idempotency keys that other transactions are about to have (PostgreSQL)."""

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest
from sqlalchemy import text

from deliveryagent.mail.submission import (
    Accepted,
    Answer,
    Duplicate,
    KeyBusy,
    KeyConflict,
    StagedPart,
    Submission,
)
from deliveryagent.queue import keys, submissions
from deliveryagent.queue.thread import Database
from tests.doubles.sql_door import enqueue, note_terms, usual_terms
from tests.doubles.stores import NOW, Store, letter


@pytest.fixture
def queue(postgres_store: Store) -> Iterator[Store]:
    note_terms(postgres_store, usual_terms())
    yield postgres_store
    assert postgres_store.problems(time.time()) == []


def keyed(key: str, queue_id: int = 0) -> Submission:
    return letter("kim@example.net", key=key, queue_id=queue_id, arrival=NOW - 10)


def test_an_open_transaction_of_an_application_stops_nobody_but_its_own_key(queue: Store) -> None:
    said: list[tuple[bool, str]] = []
    items = [letter("a@a.example"), keyed("theirs"), keyed("ours"), letter("b@b.example")]

    async def all_at_once() -> list[Answer]:
        database = Database(queue.engine, on_state=lambda good, why: said.append((good, why)))
        try:
            answers = [database.submit(submissions.add, one) for one in items]
            return await asyncio.wait_for(asyncio.gather(*answers), 60)
        finally:
            await database.close(1)

    with queue.engine.connect() as application:
        enqueue(application, key="theirs")
        answers = asyncio.run(all_at_once())
        application.rollback()
    taken = [Accepted(one.queue_id) for one in items]
    assert answers == [taken[0], KeyBusy(), taken[2], taken[3]]
    assert said == [], "the store is well"
    assert queue.value("SELECT count(*) FROM message") == 3
    assert queue.do(submissions.add, items[1]) == taken[1], "nobody has the key after all"


def test_once_the_transaction_is_committed_the_key_is_its(queue: Store) -> None:
    one = keyed("theirs")
    with queue.engine.connect() as application:
        theirs = enqueue(application, key="theirs")
        assert queue.do(submissions.add, one) == KeyBusy()
        application.commit()
    assert queue.do(submissions.add, one) == KeyConflict(theirs)


def test_keys_in_the_way_are_found_among_many(queue: Store) -> None:
    items = [keyed(f"k{n}") for n in range(300)]
    wanted = {3, 4, 150, 299}
    with queue.engine.connect() as application:
        for n in wanted:
            enqueue(application, key=f"k{n}")
        answers = queue.run(submissions.add, *items)
        application.rollback()
    assert {place for place, one in enumerate(answers) if one == KeyBusy()} == wanted
    assert queue.value("SELECT count(*) FROM submission_key") == 296


def test_with_very_many_in_the_way_the_rest_is_not_looked_at_one_by_one(
    queue: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "_LONGEST", 0.0)
    items = [letter("a@a.example"), *(keyed(f"k{n}") for n in range(20))]
    with queue.engine.connect() as application:
        enqueue(application, key="k7")
        answers = queue.run(submissions.add, *items)
        application.rollback()
    assert answers == [Accepted(items[0].queue_id), *[KeyBusy()] * 20]


def test_a_short_transaction_of_another_agent_is_waited_for(
    queue: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "PATIENCE", 20_000)
    first, second = keyed("k"), keyed("k")
    answers: list[Answer] = []
    thread = threading.Thread(
        target=lambda: answers.append(queue.do(submissions.add, second)), daemon=True
    )
    with queue.engine.begin() as other:
        submissions.add(other, [first])
        thread.start()
        until = time.monotonic() + 20
        waits = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        while not queue.value(waits) and time.monotonic() < until:
            time.sleep(0.02)
    thread.join(30)
    assert answers == [Duplicate(first.queue_id)]


def test_what_was_staged_for_a_message_whose_key_is_in_use_is_forgotten(queue: Store) -> None:
    one = letter("kim@example.net", key="k", content=b"abcdef")
    bare = Submission(
        queue_id=one.queue_id,
        envelope=one.envelope,
        facts=one.facts,
        parts=(),
        arrival=one.arrival,
        origin=one.origin,
    )
    queue.do(submissions.stage, StagedPart(one.queue_id, 0, b"abcdef", NOW))
    with queue.engine.connect() as application:
        enqueue(application, key="k")
        assert queue.do(submissions.add, bare) == KeyBusy()
        assert queue.value("SELECT count(*) FROM arriving") == 0
        application.rollback()


def test_the_rest_of_the_transaction_waits_for_locks_as_before(queue: Store) -> None:
    with queue.engine.connect() as application, queue.engine.begin() as connection:
        enqueue(application, key="k1")
        submissions.add(connection, [keyed("k1"), keyed("k2")])
        assert connection.scalar(text("SHOW lock_timeout")) == "5s"
        application.rollback()
