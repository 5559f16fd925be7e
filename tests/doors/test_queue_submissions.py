"""Taking messages over."""

import pytest

from deliveryagent.mail.submission import (
    Accepted,
    Duplicate,
    KeyConflict,
    StagedPart,
    Submission,
)
from deliveryagent.queue import submissions
from tests.doubles.stores import NOW, Store, letter, statuses

TABLES = ("message", "content", "recipient", "submission_key", "arriving")


def sizes(store: Store) -> dict[str, int]:
    """How many rows there are."""
    return {name: store.value(f"SELECT count(*) FROM {name}") for name in TABLES}


def test_a_message_is_stored_with_everything_it_came_with(store: Store) -> None:
    one = letter(
        "Ann@A.example",
        "bob@b.example",
        content=b"\0\xff body",
        notify=2,
        ret="HDRS",
        envid="e1",
        tags={"k": "v"},
    )
    store.add(one)
    assert store.rows(
        "SELECT sender, size, ret, envid, recipient_count, origin, tags FROM message"
    ) == [("joe@example.org", 7, "HDRS", "e1", 2, "uid=0", '{"k":"v"}')]
    assert store.rows(
        "SELECT number, address, destination, status, due, attempts, notify FROM recipient ORDER BY number"
    ) == [
        (1, "Ann@A.example", "a.example", "queued", NOW - 10, 0, 2),
        (2, "bob@b.example", "b.example", "queued", NOW - 10, 0, 2),
    ]
    ((data,),) = store.rows("SELECT data FROM content")
    assert bytes(data) == b"\0\xff body"
    assert store.rows("SELECT name, ready FROM destination ORDER BY name") == [
        ("a.example", NOW - 10),
        ("b.example", NOW - 10),
    ]
    assert store.problems() == []


def test_what_a_message_asks_of_its_way_is_stored_with_plain_ones_beside_it(store: Store) -> None:
    asking = letter(
        "ann@a.example", priority=2, deliver_by=NOW + 60, by_mode="NT", require_tls=True
    )
    low = letter("bob@a.example", "lee@b.example", priority=-1)
    plain = letter("kim@a.example")
    store.add(plain, asking, low)
    stored = store.rows(
        "SELECT id, priority, deliver_by, by_mode, require_tls FROM message ORDER BY id"
    )
    assert stored == [
        (asking.queue_id, 2, NOW + 60, "NT", True),
        (low.queue_id, -1, 0.0, "", False),
        (plain.queue_id, 0, 0.0, "", False),
    ]
    assert store.rows("SELECT at, message_id FROM deadline") == [(NOW + 60, asking.queue_id)]
    # A high one stands earlier in the line, a low one in the line of those who let others pass.
    assert store.rows("SELECT due, bulk FROM recipient ORDER BY message_id, number") == [
        (NOW - 10 - 2 * 3600, False),
        (NOW - 10, True),
        (NOW - 10, True),
        (NOW - 10, False),
    ]
    assert store.value("SELECT ready FROM destination WHERE name = 'a.example'") == NOW - 7210
    first, *_ = store.claim()
    asks = (first.priority, first.deliver_by, first.by_mode, first.require_tls)
    assert asks == (2, NOW + 60, "NT", True)
    assert store.problems() == []


def test_a_message_that_asks_for_much_is_the_same_message_when_it_comes_again(
    store: Store,
) -> None:
    one = letter("ann@a.example", priority=2, deliver_by=NOW + 60, by_mode="R")
    store.add(one)
    store.add(one, letter("bob@a.example"))
    assert sizes(store)["message"] == 2
    assert store.value("SELECT count(*) FROM deadline") == 1
    assert store.problems() == []


def test_many_messages_in_one_transaction(store: Store) -> None:
    letters = [letter(f"u{n}@d{n % 7}.example") for n in range(300)]
    store.add(*letters)
    assert sizes(store) | {"message": 300} == sizes(store)
    assert store.value("SELECT count(*) FROM destination") == 7
    assert store.problems() == []


def test_recipients_beyond_the_first_batch_wait_in_the_bulk_line(store: Store) -> None:
    one = letter(*(f"u{n}@a.example" for n in range(5)), bulk_after=3)
    store.add(one)
    assert store.rows("SELECT number FROM recipient WHERE bulk ORDER BY number") == [(4,), (5,)]


def test_a_held_message_waits_for_nobody_but_its_destination_is_known(store: Store) -> None:
    one = letter("ann@a.example", hold=True)
    store.add(one)
    assert statuses(store, one) == ["held"]
    assert store.rows("SELECT name, ready FROM destination") == [("a.example", None)]
    assert store.problems() == []


def test_a_message_for_later_is_due_later(store: Store) -> None:
    store.add(letter("ann@a.example", not_before=NOW + 1000))
    assert store.rows("SELECT name, ready FROM destination") == [("a.example", NOW + 1000)]


def test_the_earliest_work_counts_for_a_destination(store: Store) -> None:
    store.add(letter("ann@a.example", arrival=NOW - 5))
    store.add(letter("ann@a.example", arrival=NOW - 3), letter("bob@a.example", arrival=NOW - 8))
    assert store.value("SELECT ready FROM destination") == NOW - 8
    store.add(letter("ann@a.example", arrival=NOW))
    assert store.value("SELECT ready FROM destination") == NOW - 8


def test_an_empty_content_is_a_content(store: Store) -> None:
    store.add(letter("ann@a.example", content=b""))
    assert sizes(store)["content"] == 1
    assert store.problems() == []


def test_the_same_submission_twice_is_one_message(store: Store) -> None:
    one = letter("ann@a.example", "bob@a.example", key="k")
    store.add(one)
    before = sizes(store)
    store.add(letter("eve@a.example"))
    assert store.run(submissions.add, one) == [Accepted(one.queue_id)]
    assert sizes(store)["recipient"] == before["recipient"] + 1


def test_an_id_that_belongs_to_another_message_is_refused_whole(store: Store) -> None:
    one = letter("ann@a.example")
    store.add(one)
    other = letter("ann@a.example", "bob@b.example", queue_id=one.queue_id)
    with pytest.raises(ValueError, match="another message"):
        store.add(letter("eve@c.example"), other)
    assert sizes(store)["message"] == 1
    assert sizes(store)["recipient"] == 1


def test_the_same_key_and_content_is_the_message_of_the_first_time(store: Store) -> None:
    first = letter("ann@a.example", key="k")
    store.add(first)
    again = letter("ann@a.example", key="k")
    other = letter("ann@a.example", key="k", content=b"different")
    free = letter("ann@a.example", key="k2")
    none = letter("ann@a.example")
    assert store.run(submissions.add, again, other, free, none) == [
        Duplicate(first.queue_id),
        KeyConflict(first.queue_id),
        Accepted(free.queue_id),
        Accepted(none.queue_id),
    ]
    assert sizes(store)["message"] == 3
    assert sizes(store)["content"] == 3


def test_of_two_with_one_key_in_one_transaction_the_first_wins(store: Store) -> None:
    first, second = letter("ann@a.example", key="k"), letter("ann@a.example", key="k")
    assert store.run(submissions.add, first, second) == [
        Accepted(first.queue_id),
        Duplicate(first.queue_id),
    ]


def test_content_may_arrive_part_by_part(store: Store) -> None:
    one = letter("ann@a.example", content=b"abcdef")
    parts = [StagedPart(one.queue_id, n, data, NOW) for n, data in enumerate((b"ab", b"cd", b"ef"))]
    store.run(submissions.stage, *parts[:2])
    assert sizes(store)["arriving"] == 1
    store.run(submissions.stage, *parts)
    store.add(letter_without_parts(one))
    assert store.rows("SELECT part FROM content ORDER BY part") == [(0,), (1,), (2,)]
    assert sizes(store)["arriving"] == 0
    assert store.problems() == []


def letter_without_parts(one: Submission) -> Submission:
    return Submission(
        queue_id=one.queue_id,
        envelope=one.envelope,
        facts=one.facts,
        parts=(),
        arrival=one.arrival,
        origin=one.origin,
    )


def test_what_was_staged_for_a_duplicate_is_forgotten(store: Store) -> None:
    store.add(letter("ann@a.example", key="k"))
    again = letter_without_parts(letter("ann@a.example", key="k"))
    store.run(submissions.stage, StagedPart(again.queue_id, 0, b"x", NOW))
    assert isinstance(store.do(submissions.add, again), Duplicate)
    assert sizes(store)["content"] == 1
    assert sizes(store)["arriving"] == 0


def test_an_abandoned_arrival_leaves_nothing(store: Store) -> None:
    kept = letter("ann@a.example")
    store.add(kept)
    store.run(submissions.stage, StagedPart(99, 0, b"x", NOW), StagedPart(99, 1, b"y", NOW))
    store.run(submissions.abandon, 99, kept.queue_id)
    assert sizes(store)["content"] == 1
    assert sizes(store)["arriving"] == 0


def test_half_arrived_messages_are_swept_at_the_start(store: Store) -> None:
    store.run(submissions.stage, *(StagedPart(n, 0, b"x", NOW) for n in range(1, 101)))
    assert store.run(submissions.sweep_arriving, None) == [100]
    assert sizes(store) == dict.fromkeys(TABLES, 0)


def test_what_another_agent_may_be_taking_in_is_not_swept(store: Store) -> None:
    store.register(1)
    store.register(2)
    store.run(submissions.stage, StagedPart(5, 0, b"x", NOW))
    assert store.run(submissions.sweep_arriving, None) == [0]
    assert sizes(store)["content"] == 1


def test_the_newest_id_counts_what_is_arriving(store: Store) -> None:
    assert store.do(submissions.newest, None) == 0
    one = letter("ann@a.example")
    store.add(one)
    assert store.do(submissions.newest, None) == one.queue_id
    store.run(submissions.stage, StagedPart(2**62, 0, b"x", NOW))
    assert store.do(submissions.newest, None) == 2**62
