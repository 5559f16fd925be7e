"""Times by which messages were to be delivered: kept until they are over and nobody is concerned any more."""

from typing import Any

from deliveryagent.mail.envelope import Notify
from deliveryagent.mail.submission import Submission
from deliveryagent.queue import deadlines, orders, overdue, purge
from deliveryagent.queue.deadlines import Late
from deliveryagent.queue.filters import Filter
from deliveryagent.queue.overdue import Warning_
from tests.doubles.stores import NOW, Store, expiry, letter, outcome

PAST = NOW - 1


def timed(*to: str, mode: str = "R", by: float = PAST, **options: Any) -> Submission:
    return letter(*(to or ("ann@a.example",)), deliver_by=by, by_mode=mode, **options)


def late(store: Store, **options: Any) -> list[tuple[int, int]]:
    return [(row.message_id, row.number) for row in store.do(deadlines.late, Late(NOW, **options))]


def kept(store: Store) -> list[int]:
    store.do(deadlines.clear, NOW)
    return [row[0] for row in store.rows("SELECT message_id FROM deadline ORDER BY message_id")]


def test_mail_without_a_deadline_leaves_no_trace(store: Store) -> None:
    store.add(letter("ann@a.example"), letter("bob@a.example", priority=3))
    assert kept(store) == []
    assert late(store) == []


def test_what_waits_past_its_time_is_found_the_earliest_first(store: Store) -> None:
    last, first = timed(by=NOW - 5), timed("ann@a.example", "bob@b.example", mode="RT", by=NOW - 9)
    store.add(last, first, timed(by=NOW + 1))
    assert late(store) == [(first.queue_id, 1), (first.queue_id, 2), (last.queue_id, 1)]
    page = store.do(deadlines.late, Late(NOW, limit=2))
    assert late(store, after=page[-1].place) == [(last.queue_id, 1)]
    assert len(kept(store)) == 3, "a time stands until nothing is left to do"
    assert store.problems() == []


def test_what_ended_is_forgotten_when_its_time_comes(store: Store) -> None:
    returned, delivered, early = timed(), timed(), timed(by=NOW + 60)
    store.add(returned, delivered, early)
    store.claim()
    store.do(overdue.expire, expiry(returned, owed="failure"))
    store.settle(outcome(delivered), outcome(early))
    assert kept(store) == [early.queue_id]
    assert store.problems() == []


def test_a_sender_is_told_once_and_only_if_it_wants_to_know(store: Store) -> None:
    asks = timed(mode="N", notify=Notify.DELAY)
    usual, deaf, nobody = (
        timed(mode="NT"),
        timed(mode="N", notify=Notify.FAILURE),
        timed(mode="N", sender=""),
    )
    store.add(asks, usual, deaf, nobody)
    assert late(store) == [(asks.queue_id, 1), (usual.queue_id, 1)]
    assert kept(store) == [asks.queue_id, usual.queue_id]
    assert store.do(overdue.warn, Warning_(asks.queue_id, 1))
    assert not store.do(overdue.warn, Warning_(asks.queue_id, 1))
    assert late(store) == [(usual.queue_id, 1)]
    assert kept(store) == [usual.queue_id]
    assert store.problems() == []


def test_mail_on_hold_is_not_late_until_it_is_released(store: Store) -> None:
    one = timed(hold=True)
    store.add(one)
    assert late(store) == []
    assert kept(store) == [one.queue_id]
    store.do(orders.order, orders.Order(kind="release", filter=Filter(all=True), now=NOW))
    assert late(store) == [(one.queue_id, 1)]


def test_a_lost_time_is_a_broken_promise(store: Store) -> None:
    store.add(timed(by=NOW + 60))
    store.force("DELETE FROM deadline")
    assert [problem.code for problem in store.problems()] == ["deadline_missing"]


def test_forgotten_messages_take_their_times_along(store: Store) -> None:
    one = timed(by=NOW + 1e9, arrival=NOW - 86400)
    store.add(one)
    store.claim()
    store.settle(outcome(one, updated=NOW - 3600))
    store.do(purge.purge, purge.Purge(now=NOW, before=NOW - 60))
    assert store.value("SELECT count(*) FROM message") == 0
    assert kept(store) == []
