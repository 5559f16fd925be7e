"""Recording outcomes."""

import sqlite3

import psycopg
import pytest
from sqlalchemy.exc import DBAPIError

from deliveryagent.queue import claims, outcomes, overdue
from deliveryagent.queue.claims import GiveBack
from deliveryagent.queue.outcomes import HoldOrder
from deliveryagent.queue.overdue import Aged, AgedRecipient, Warning_
from tests.doubles.stores import AGENT, NOW, Store, expiry, letter, outcome, statuses


def contents(store: Store) -> int:
    found: int = store.value("SELECT count(*) FROM content")
    return found


def test_a_delivery_ends_its_recipient_and_drops_the_content(store: Store) -> None:
    one = letter("x@a.example")
    store.add(one)
    (claimed,) = store.claim()
    assert store.settle(outcome(claimed, trail="[]", tls="TLSv1.3", port=25)) == [True]
    assert store.rows("SELECT status, due, attempts, updated, finished, owed FROM recipient") == [
        ("delivered", None, 1, NOW, NOW, "")
    ]
    assert store.rows(
        "SELECT attempt, decision, stage, code, enhanced, text, host, port, tls, trail FROM attempt"
    ) == [
        (
            1,
            "delivered",
            "dot",
            250,
            "2.0.0",
            "delivered, it said",
            "mx.example",
            25,
            "TLSv1.3",
            "[]",
        )
    ]
    assert contents(store) == 0
    assert store.problems() == []


def test_a_deferral_waits_for_its_next_attempt(store: Store) -> None:
    one = letter("x@a.example")
    store.add(one)
    (claimed,) = store.claim()
    assert store.settle(outcome(claimed, "deferred", due=NOW + 300)) == [True]
    assert store.rows("SELECT status, due, attempts, finished FROM recipient") == [
        ("deferred", NOW + 300, 1, None)
    ]
    assert contents(store) == 1
    store.do(claims.give_back, GiveBack("a.example", AGENT))
    (again,) = store.claim(now=NOW + 300)
    assert again.attempts == 1
    assert store.settle(outcome(again)) == [True]
    assert store.rows("SELECT attempt, decision FROM attempt ORDER BY 1") == [
        (1, "deferred"),
        (2, "delivered"),
    ]


def test_an_outcome_recorded_twice_counts_once(store: Store) -> None:
    store.add(letter("x@a.example"), letter("y@a.example"))
    first, second = store.claim()
    facts = [outcome(first), outcome(second, "deferred")]
    assert store.settle(*facts) == [True, True]
    before = store.rows("SELECT * FROM recipient ORDER BY message_id")
    assert store.settle(*facts) == [True, True], "it is recorded, whenever that was"
    assert store.rows("SELECT * FROM recipient ORDER BY message_id") == before
    assert store.value("SELECT count(*) FROM attempt") == 2
    assert store.problems() == []


def test_an_outcome_of_an_attempt_that_is_not_next_does_not_count(store: Store) -> None:
    store.add(letter("x@a.example"), letter("y@a.example"))
    first, second = store.claim()
    store.settle(outcome(first, "deferred"))
    stale = outcome(first, "bounced", owed="failure")
    early = outcome(second, attempt=5)
    good = outcome(second)
    assert store.settle(stale, early, good) == [False, False, True]
    assert [row[0] for row in store.rows("SELECT status FROM recipient ORDER BY message_id")] == [
        *("deferred", "delivered")
    ]
    assert store.value("SELECT count(*) FROM attempt") == 2


def test_a_final_state_never_changes(store: Store) -> None:
    one = letter("x@a.example")
    store.add(one)
    (claimed,) = store.claim()
    store.settle(outcome(claimed))
    late = outcome(claimed, "deferred", attempt=2)
    assert store.settle(late) == [False]
    assert store.run(
        overdue.expire,
        expiry(one),
    ) == [False]
    assert store.do(outcomes.hold, HoldOrder(message_id=one.queue_id, now=NOW, text="t")) == 0
    assert store.do(overdue.warn, Warning_(one.queue_id, 1)) is False
    assert statuses(store, one) == ["delivered"]


def test_content_stays_until_the_last_recipient_needs_it_no_more(store: Store) -> None:
    one = letter("x@a.example", "y@a.example", "z@b.example")
    store.add(one)
    x, y, z = sorted(store.claim(), key=lambda c: c.number)
    store.settle(outcome(x))
    assert contents(store) == 1
    store.settle(outcome(y, "held"), outcome(z, "bounced"))
    assert contents(store) == 1
    store.do(outcomes.hold, HoldOrder(message_id=one.queue_id, now=NOW, text="t"))
    store.force("UPDATE recipient SET status = 'queued', due = 1.0 WHERE status = 'held'")
    store.settle(outcome(y, attempt=2))
    assert contents(store) == 0


def test_content_stays_while_a_report_is_owed(store: Store) -> None:
    store.add(letter("x@a.example"))
    (claimed,) = store.claim()
    store.settle(outcome(claimed, "bounced", owed="failure"))
    assert contents(store) == 1
    assert store.problems() == []


def test_all_recipients_of_a_big_message_at_once(store: Store) -> None:
    one = letter(*(f"u{n}@a.example" for n in range(300)))
    store.add(one)
    store.register()
    store.take()
    claimed = store.fetch("a.example", limit=1000).recipients
    facts = [outcome(c, "delivered" if c.number % 3 else "deferred") for c in claimed]
    assert store.settle(*facts) == [True] * 300
    assert statuses(store, one).count("deferred") == 100
    assert contents(store) == 1
    assert store.problems() == []


def test_a_deferral_that_comes_after_the_destination_was_given_back_is_seen(store: Store) -> None:
    store.add(letter("x@a.example"), letter("y@a.example"))
    x, y = store.claim()
    store.force("UPDATE destination SET owner = NULL")
    store.settle(outcome(x, "deferred", due=NOW + 90), outcome(y, "deferred", due=NOW + 80))
    assert store.value("SELECT ready FROM destination") == NOW + 80
    assert store.problems() == []


def test_an_owner_looks_after_deferrals_itself(store: Store) -> None:
    store.add(letter("x@a.example"))
    (claimed,) = store.claim()
    store.settle(outcome(claimed, "deferred"))
    assert store.value("SELECT ready FROM destination") is None


def test_a_delay_report_stays_owed_through_a_deferral_and_ends_with_the_delivery(
    store: Store,
) -> None:
    one = letter("x@a.example")
    store.add(one)
    (claimed,) = store.claim()
    assert store.run(overdue.warn, Warning_(one.queue_id, 1), Warning_(one.queue_id, 1)) == [
        True,
        False,
    ]
    store.settle(outcome(claimed, "deferred"))
    assert store.value("SELECT owed FROM recipient") == "delay"
    store.settle(outcome(claimed, "deferred", attempt=2, owed="delay"))
    assert store.value("SELECT owed FROM recipient") == "delay"
    store.settle(outcome(claimed, attempt=3))
    assert store.value("SELECT owed FROM recipient") == ""


def test_a_recipient_expires_where_it_waits(store: Store) -> None:
    tried, untried = letter("x@a.example"), letter("y@b.example")
    store.add(tried, untried)
    x = next(c for c in store.claim() if c.destination == "a.example")
    store.settle(outcome(x, "deferred"))
    expiries = [
        expiry(one, owed=owed, text="the site is closed")
        for one, owed in ((tried, "failure"), (untried, ""))
    ]
    assert store.run(overdue.expire, *expiries, expiries[0]) == [True, True, False]
    assert store.rows(
        "SELECT status, due, finished, owed, enhanced, note FROM recipient ORDER BY message_id"
    ) == [
        ("expired", None, NOW, "failure", "", ""),
        ("expired", None, NOW, "", "4.4.7", "the site is closed"),
    ]
    assert contents(store) == 1, "only the one that owes a report keeps its content"


def test_a_held_recipient_does_not_expire(store: Store) -> None:
    one = letter("x@a.example", hold=True)
    store.add(one)
    assert (
        store.do(
            overdue.expire,
            expiry(one),
        )
        is False
    )


def test_old_recipients_are_listed_in_the_order_of_arrival(store: Store) -> None:
    first = letter("x@a.example", "y@a.example", notify=4)
    null = letter("z@b.example", sender="")
    done, young = letter("v@b.example"), letter("w@b.example", arrival=NOW)
    store.add(first, null, done, young)
    store.settle(outcome(done))
    store.do(overdue.warn, Warning_(first.queue_id, 2))
    every = store.do(overdue.aged, Aged(before=young.queue_id))
    assert [(r.message_id, r.number) for r in every] == [
        (first.queue_id, 1),
        (first.queue_id, 2),
        (null.queue_id, 1),
    ]
    assert every[0] == AgedRecipient(
        first.queue_id, 1, "queued", "a.example", 4, 0, "joe@example.org", "x@a.example"
    )
    unwarned = store.do(overdue.aged, Aged(before=young.queue_id, unwarned=True))
    assert unwarned == every[:1]
    assert (
        store.do(overdue.aged, Aged(before=young.queue_id, after=(first.queue_id, 1), limit=1))
        == every[1:2]
    )


def test_crashes_are_counted_per_message(store: Store) -> None:
    one, two = letter("x@a.example"), letter("y@a.example")
    store.add(one, two)
    assert store.run(outcomes.crashed, one.queue_id, two.queue_id, one.queue_id, 5) == [1, 1, 2, 0]


def test_a_message_or_one_recipient_is_put_aside_with_the_reason(store: Store) -> None:
    one, two = letter("x@a.example", "y@a.example"), letter("z@a.example", "v@a.example")
    store.add(one, two)
    all_of_it = HoldOrder(message_id=one.queue_id, now=NOW, text="poison", enhanced="4.3.0")
    just_one = HoldOrder(message_id=two.queue_id, number=2, now=NOW, text="corrupt")
    assert store.run(outcomes.hold, all_of_it, just_one) == [2, 1]
    assert statuses(store, one) == ["held", "held"]
    assert statuses(store, two) == ["queued", "held"]
    assert store.rows("SELECT DISTINCT note FROM recipient ORDER BY 1") == [
        ("",),
        ("corrupt",),
        ("poison",),
    ]
    assert store.problems() == []


def test_a_held_outcome_keeps_the_message(store: Store) -> None:
    store.add(letter("x@a.example"))
    (claimed,) = store.claim()
    assert store.settle(outcome(claimed, "held", text="corrupt: part 0 is missing")) == [True]
    assert store.rows("SELECT status, due, attempts FROM recipient") == [("held", None, 1)]
    assert contents(store) == 1


@pytest.mark.parametrize(
    "change",
    [
        "status = 'held'",
        "status = 'delivered'",
        "due = NULL",
        "finished = 1.0",
        "status = 'delivered', due = NULL",
        "status = 'sent', due = NULL, finished = 1.0",
        "owed = 'money'",
        "message_id = 1",
    ],
)
def test_the_schema_refuses_states_that_nobody_would_look_after(store: Store, change: str) -> None:
    store.add(letter("x@a.example"))
    with pytest.raises(DBAPIError, match=r"(?i)constraint"):
        store.force(f"UPDATE recipient SET {change}")


def test_a_message_needs_recipients(store: Store) -> None:
    with pytest.raises((sqlite3.IntegrityError, psycopg.IntegrityError), match=r"(?i)constraint"):
        store.add(letter())


def test_settling_and_dropping_content_read_by_index_only(sqlite_store: Store) -> None:
    """However many recipients a message has, and however long the history is."""
    store = sqlite_store
    for statement, rows in (
        (outcomes._deliver, 4),
        (outcomes._finish, 7),
        (outcomes._keep, 7),
        (outcomes._drop_content, 1),
        (outcomes._advance, 2),
        (overdue._expire, 6),
    ):
        with store.engine.connect() as connection:
            sql = statement._listed(connection.dialect, 4)
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", (None,) * rows * 4)
            lines = [str(row[3]) for row in plan]
        whole = ("SCAN recipient", "SCAN content", "SCAN destination")
        assert not [line for line in lines if line.startswith(whole)], lines
        if statement is outcomes._drop_content:
            assert any("ix_recipient_live (message_id=?)" in line for line in lines)
            assert any("ix_recipient_owed (message_id=?)" in line for line in lines)
