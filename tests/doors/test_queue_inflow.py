"""Mail that applications enqueue inside their own transactions, seen from the database."""

import random
import threading
import time
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from deliveryagent.intake.direct import DirectQueue
from deliveryagent.intake.submit import Terms
from deliveryagent.mail.envelope import arrival_of, format_queue_id
from deliveryagent.mail.submission import CONTENT_PART
from deliveryagent.protocol.arrival import LimitSettings
from deliveryagent.protocol.local import ServiceError
from deliveryagent.queue import inflow
from deliveryagent.queue.ids import QueueIds
from tests.doubles.sql_door import HOSTNAME, LETTER, enqueue, note_terms, refusal, usual_terms
from tests.doubles.stores import Store


@pytest.fixture
def queue(postgres_store: Store) -> Store:
    note_terms(postgres_store, usual_terms())
    return postgres_store


def count(queue: Store, table: str = "message") -> int:
    return int(queue.value(f"SELECT count(*) FROM {table}"))


# -- the transaction ---


def test_a_rollback_means_no_mail_and_a_commit_one_message(queue: Store) -> None:
    with queue.engine.connect() as connection:
        enqueue(connection)
        connection.rollback()
        assert count(queue) == count(queue, "deliveryagent.arrival") == 0
        queue_id = enqueue(connection)
        assert count(queue) == 0, "nobody sees it before the commit"
        connection.commit()
    assert queue.rows("SELECT id, origin FROM message") == [(queue_id, "sql=postgres")]
    assert queue.problems(time.time()) == []
    (claimed,) = queue.claim(now=time.time())
    assert (claimed.message_id, claimed.address) == (queue_id, "kim@example.net")
    assert count(queue, "deliveryagent.arrival") == 0
    assert queue.problems(time.time()) == []


def test_what_is_undone_by_a_savepoint_is_not_sent(queue: Store) -> None:
    with queue.engine.begin() as connection:
        kept = enqueue(connection, ["a@a.example"])
        savepoint = connection.begin_nested()
        enqueue(connection, ["b@b.example"])
        with pytest.raises(DBAPIError):
            enqueue(connection, ["b@@b.example"])
        savepoint.rollback()
        also = enqueue(connection, ["c@c.example"])
    assert {one.message_id for one in queue.claim(now=time.time())} == {kept, also}


def test_agents_hear_of_mail_at_the_commit(queue: Store) -> None:
    with psycopg.connect(**open_writer_arguments(queue), autocommit=True) as listener:
        listener.execute("LISTEN deliveryagent")
        with queue.engine.connect() as connection:
            for _ in range(3):
                enqueue(connection)
            assert list(listener.notifies(timeout=0.1)) == []
            connection.commit()
            enqueue(connection, hold=True)
            connection.commit()
        heard = list(listener.notifies(timeout=10, stop_after=1))
        assert [notice.payload for notice in heard] == ["inflow"]
        assert list(listener.notifies(timeout=0.1)) == [], "held mail is no news"


def open_writer_arguments(queue: Store) -> dict[str, Any]:
    return dict(queue.engine.dialect.create_connect_args(queue.engine.url)[1])


def test_a_commit_waits_for_stable_storage_whatever_the_session_says(queue: Store) -> None:
    with queue.engine.begin() as connection:
        connection.execute(text("SET LOCAL synchronous_commit = off"))
        enqueue(connection)
        assert connection.scalar(text("SHOW synchronous_commit")) == "on"


def test_open_transactions_neither_wait_for_each_other_nor_make_agents_wait(queue: Store) -> None:
    queue.force("SET lock_timeout = '1s'")
    with queue.engine.connect() as one, queue.engine.connect() as other:
        for connection, order in ((one, "ab"), (other, "ba")):
            for name in order:
                enqueue(connection, [f"x@{name}.example", "x@c.example"])
        assert queue.claim(now=time.time()) == []
        other.commit()
        claimed = queue.claim(now=time.time())
        assert len(claimed) == 4
        one.commit()
    late = {one.message_id for one in queue.claim(now=time.time())}
    assert len(late - {one.message_id for one in claimed}) == 2, "earlier mail that came later"
    assert queue.problems(time.time()) == []


def test_many_calls_of_a_transaction_are_one_sign_for_agents(queue: Store) -> None:
    with queue.engine.begin() as connection:
        connection.execute(
            text(
                "SELECT deliveryagent.enqueue('', ARRAY['u' || n || '@d' || n % 3 || '.example'], 'x: y') "
                "FROM generate_series(1, 300) AS n"
            )
        )
        found = connection.execute(text("SELECT destination FROM deliveryagent.arrival")).all()
    assert sorted(found) == [("d0.example",), ("d1.example",), ("d2.example",)]
    assert len(queue.claim(now=time.time())) == 300


def test_held_mail_and_mail_for_later_wait(queue: Store) -> None:
    later = time.time() + 1000
    with queue.engine.begin() as connection:
        held = enqueue(connection, ["a@held.example"], hold=True)
        enqueue(connection, ["a@later.example"], at=text_time(connection, later))
    assert queue.claim(now=time.time()) == []
    rows = queue.rows("SELECT name, ready FROM destination ORDER BY name")
    assert rows == [("held.example", None), ("later.example", pytest.approx(later, abs=1e-5))]
    assert queue.rows("SELECT status FROM recipient WHERE message_id = :id", id=held) == [("held",)]
    assert queue.problems(time.time()) == []
    assert len(queue.claim(now=later + 1)) == 1


def text_time(connection: Connection, moment: float) -> Any:
    return connection.scalar(text("SELECT to_timestamp(:moment)"), {"moment": moment})


def test_an_earlier_time_in_the_same_transaction_counts(queue: Store) -> None:
    later = time.time() + 1000
    with queue.engine.begin() as connection:
        enqueue(connection, at=text_time(connection, later))
        enqueue(connection)
        enqueue(connection, hold=True)
    assert len(queue.claim(now=time.time())) == 1


def test_many_recipients_beyond_the_first_batch_wait_in_the_bulk_line(queue: Store) -> None:
    terms = Terms(hostname=HOSTNAME, limits=LimitSettings(), bulk_after=3)
    note_terms(queue, terms)
    with queue.engine.begin() as connection:
        enqueue(connection, [*(f"u{n}@a.example" for n in range(5)), "u1@a.example"])
    rows = queue.rows("SELECT number, address, bulk FROM recipient ORDER BY number")
    assert [row[2] for row in rows] == [False, False, False, True, True]
    assert [row[1] for row in rows] == [f"u{n}@a.example" for n in range(5)]


# -- ids ---


def test_ids_are_those_that_people_know_and_grow_with_time(queue: Store) -> None:
    with queue.engine.begin() as connection:
        ids = [enqueue(connection) for _ in range(50)]
        shown = connection.scalar(text("SELECT deliveryagent.shown_id(:id)"), {"id": ids[0]})
    assert shown == format_queue_id(ids[0])
    assert ids == sorted(set(ids))
    assert arrival_of(ids[0]) == pytest.approx(time.time(), abs=60)


def test_ids_of_the_functions_and_of_agents_are_of_two_kinds(queue: Store) -> None:
    with queue.engine.begin() as connection:
        ids = [enqueue(connection) for _ in range(20)]
        marks = [inflow.direct_mark(connection) for _ in range(3)]
        marks += inflow.agent_mark(connection, [None] * 3)
    assert all(one & 2048 for one in ids)
    assert len(set(marks)) == 6, "and no two writers have the same mark"
    for mark in filter(None, marks):
        source = QueueIds(last=ids[-1], clock=lambda: 1.8e9, rng=random.Random(1), mark=mark)
        drawn = [source() for _ in range(5000)]
        assert drawn == sorted(set(drawn))
        assert {one & 4095 for one in drawn} == {mark}
        assert not mark & 2048


def test_sessions_at_the_same_time_draw_different_ids(queue: Store) -> None:
    found: list[int] = []

    def work() -> None:
        with queue.engine.begin() as connection:
            found.extend(enqueue(connection) for _ in range(60))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 240 == count(queue)


# -- idempotency keys ---


def test_a_key_makes_the_same_message_the_same(queue: Store) -> None:
    with queue.engine.begin() as connection:
        first = enqueue(connection, ["a@a.example", "b@b.example"], key="k")
        assert enqueue(connection, ["b@b.example", "a@a.example"], key="k") == first
    with queue.engine.begin() as connection:
        assert enqueue(connection, ["a@a.example", "b@b.example"], key="k") == first
        assert enqueue(connection, ["a@a.example", "b@b.example"], key="k2") != first
        assert enqueue(connection, ["a@a.example", "b@b.example"]) != first
    state, said, hint = refusal(queue, ["c@c.example"], key="k")
    assert (state, said) == (
        "ML005",
        f'the key "k" belongs to another message: {format_queue_id(first)}',
    )
    assert "new key" in hint
    assert refusal(queue, ["a@a.example", "b@b.example"], content=b"x: z\n", key="k")[0] == "ML005"
    assert count(queue) == 3


def test_a_key_of_a_transaction_that_was_rolled_back_is_free(queue: Store) -> None:
    with queue.engine.connect() as connection:
        first = enqueue(connection, key="k")
        connection.rollback()
        assert enqueue(connection, content=b"other: x\n", key="k") != first
        connection.commit()
    assert count(queue) == 1


def test_who_comes_second_with_a_key_waits_for_the_first(queue: Store) -> None:
    answers: list[int] = []

    def second() -> None:
        with queue.engine.begin() as connection:
            answers.append(enqueue(connection, key="k"))

    thread = threading.Thread(target=second)
    with queue.engine.begin() as connection:
        first = enqueue(connection, key="k")
        thread.start()
        wait_for_lock(queue)
        assert answers == []
    thread.join()
    assert answers == [first]
    assert count(queue) == 1


def wait_for_lock(queue: Store) -> None:
    until = time.monotonic() + 20
    while not queue.value(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
        "AND datname = current_database()"
    ):
        assert time.monotonic() < until
        time.sleep(0.02)


def test_what_nobody_has_heard_of_yet_is_no_broken_promise(queue: Store) -> None:
    with queue.engine.begin() as connection:
        enqueue(connection)
    assert queue.problems(time.time()) == []
    queue.force("DELETE FROM deliveryagent.arrival")
    assert [problem.code for problem in queue.problems(time.time())] == ["destination_unknown"]


def test_two_agents_carry_the_same_sign_on_once(queue: Store) -> None:
    with queue.engine.begin() as connection:
        enqueue(connection)
    with queue.engine.begin() as one:
        inflow.absorb(one)
        with queue.engine.begin() as other:
            inflow.absorb(other)
        assert count(queue, "destination") == 0, "it was the first one's"
    assert queue.value("SELECT ready IS NOT NULL FROM destination") is True


def test_keys_are_shared_by_all_doors(queue: Store) -> None:
    request = {"sender": "shop@example.org", "recipients": ["kim@example.net"], "key": "order-1"}
    with DirectQueue(queue.url, terms=usual_terms()) as direct:
        (first,) = direct.enqueue([(request, [LETTER])])  # type: ignore[list-item]
        with queue.engine.begin() as connection:
            assert format_queue_id(enqueue(connection, key="order-1")) == first
            second = format_queue_id(enqueue(connection, key="order-2"))
        again = request | {"key": "order-2"}
        assert list(direct.enqueue([(again, [LETTER])])) == [second]  # type: ignore[list-item]
        (refused,) = direct.enqueue([(again, [b"other: x\n"])])  # type: ignore[list-item]
        assert isinstance(refused, ServiceError)
        assert second in refused.text
    assert count(queue) == 2


def test_a_large_message_takes_a_moment_and_not_minutes(queue: Store) -> None:
    content = b"Subject: big\r\n\r\n" + b"%078d\r\n" % 7 * (10 * 1024 * 1024 // 80)
    with queue.engine.begin() as connection:
        queue_id = enqueue(connection, content=content)
    size, parts = queue.rows(
        "SELECT size, (SELECT count(*) FROM content WHERE message_id = id) FROM message"
    )[0]
    assert size > len(content)
    assert parts == -(-size // CONTENT_PART)
    assert queue.problems(time.time()) == []
    assert list(statuses_of(queue, queue_id)) == ["queued"]


def statuses_of(queue: Store, queue_id: int) -> list[str]:
    return [
        row[0] for row in queue.rows("SELECT status FROM recipient WHERE message_id=:i", i=queue_id)
    ]
