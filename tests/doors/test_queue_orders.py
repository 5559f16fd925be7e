"""What people order."""

import pytest

from deliveryagent.mail.envelope import format_queue_id
from deliveryagent.queue import orders
from deliveryagent.queue.filters import Filter, FilterError
from deliveryagent.queue.orders import FOREVER, Order, OrderResult, Pause, Resume
from tests.doubles.stores import NOW, Store, letter, outcome, statuses

ALL = Filter(all=True)


def carried_out(
    store: Store, kind: orders.Kind, wanted: Filter = ALL, **options: object
) -> OrderResult:
    return store.do(orders.order, Order(kind=kind, filter=wanted, now=NOW, **options))  # type: ignore[arg-type]


def test_retry_makes_what_waits_due_now(store: Store) -> None:
    one, held = letter("x@a.example", not_before=NOW + 500), letter("y@b.example", hold=True)
    store.add(one, held)
    result = carried_out(store, "retry")
    assert result == OrderResult(
        messages=1,
        recipients=1,
        skipped_active=0,
        bytes=one.facts.size,
        sample=(one.queue_id,),
        destinations=("a.example",),
        owing=(),
        next=None,
    )
    assert store.value("SELECT due FROM recipient WHERE due IS NOT NULL") == NOW
    assert store.rows("SELECT name, ready FROM destination ORDER BY 1") == [
        ("a.example", NOW),
        ("b.example", None),
    ]


def test_hold_and_release(store: Store) -> None:
    fresh, tried = letter("x@a.example"), letter("y@a.example")
    store.add(fresh, tried)
    store.settle(outcome(tried, "deferred"))
    assert carried_out(store, "hold", note="by ann").recipients == 2
    assert store.rows("SELECT status, due, note FROM recipient") == [("held", None, "by ann")] * 2
    assert carried_out(store, "hold").recipients == 0
    store.force("UPDATE destination SET ready = NULL")
    assert carried_out(store, "release").recipients == 2
    assert statuses(store, fresh) + statuses(store, tried) == ["queued", "deferred"]  # type: ignore[operator]
    assert store.rows("SELECT DISTINCT due, note FROM recipient") == [(NOW, "")]
    assert store.value("SELECT ready FROM destination") == NOW
    assert store.problems() == []


def test_bounce_tells_the_senders_that_want_to_know(store: Store) -> None:
    told, null = letter("x@a.example"), letter("y@a.example", sender="")
    never, held = letter("z@a.example", notify=1), letter("v@a.example", hold=True)
    store.add(told, null, never, held)
    result = carried_out(store, "bounce", note="wrong list")
    assert result.recipients == 4
    assert result.owing == (told.queue_id, held.queue_id)
    assert store.rows("SELECT DISTINCT status, finished, enhanced, note FROM recipient") == [
        ("bounced", NOW, "5.0.0", "wrong list")
    ]
    assert store.rows("SELECT owed FROM recipient ORDER BY message_id") == [
        *(("failure",), ("",), ("",), ("failure",))
    ]
    assert store.value("SELECT count(*) FROM content") == 2
    assert store.problems() == []


def test_delete_tells_nobody_and_drops_the_content(store: Store) -> None:
    store.add(letter("x@a.example"), letter("y@a.example", hold=True))
    assert carried_out(store, "delete").recipients == 2
    assert store.rows("SELECT DISTINCT status, owed FROM recipient") == [("deleted", "")]
    assert store.value("SELECT count(*) FROM content") == 0
    assert store.problems() == []


def test_what_is_in_flight_is_left_alone_and_counted(store: Store) -> None:
    one = letter("x@a.example", "y@a.example")
    store.add(one)
    result = carried_out(store, "delete", skip=frozenset({(one.queue_id, 1)}))
    assert (result.recipients, result.skipped_active, result.messages) == (1, 1, 1)
    assert statuses(store, one) == ["queued", "deleted"]


def test_what_is_finished_never_changes(store: Store) -> None:
    one = letter("x@a.example")
    store.add(one)
    store.settle(outcome(one))
    by_id = Filter(ids=(format_queue_id(one.queue_id),))
    for kind in ("retry", "hold", "release", "bounce", "delete"):
        assert carried_out(store, kind, by_id).recipients == 0
    assert statuses(store, one) == ["delivered"]


def test_a_dry_run_counts_the_same_and_changes_nothing(store: Store) -> None:
    store.add(letter("x@a.example", "y@b.example"), letter("z@a.example"))
    before = store.rows("SELECT * FROM recipient ORDER BY message_id, number")
    dry = carried_out(store, "delete", Filter(domain="a.example"), dry_run=True)
    assert store.rows("SELECT * FROM recipient ORDER BY message_id, number") == before
    wet = carried_out(store, "delete", Filter(domain="a.example"))
    assert dry == wet
    assert (wet.messages, wet.recipients) == (2, 2)


def test_a_big_order_is_carried_out_in_steps(store: Store) -> None:
    letters = [letter(f"x{n}@a.example", f"y{n}@a.example") for n in range(10)]
    store.add(*letters)
    after: tuple[int, int] | None = (0, 0)
    results = []
    while after is not None:
        results.append(carried_out(store, "hold", after=after, limit=3))
        after = results[-1].next
    assert sum(result.recipients for result in results) == 20
    assert sum(result.messages for result in results) == 10
    assert sum(result.bytes for result in results) == sum(one.facts.size for one in letters)
    assert {len(result.sample) for result in results} <= {0, 1, 2}
    assert store.value("SELECT count(*) FROM recipient WHERE status <> 'held'") == 0


def test_an_order_for_nothing_in_particular_is_refused(store: Store) -> None:
    with pytest.raises(FilterError, match="or say all"):
        carried_out(store, "delete", Filter())


# -- pauses ---


def test_a_paused_destination_is_remembered_with_who_and_why(store: Store) -> None:
    store.add(letter("x@a.example"))
    assert store.run(
        orders.pause,
        Pause(name="a.example", until=FOREVER, note="they asked", by="ann"),
        Pause(name="new.example", until=NOW + 9, note="", by="bob"),
    ) == [True, False]
    (taken,) = store.take()
    assert (taken.paused_until, taken.pause_note, taken.paused_by) == (FOREVER, "they asked", "ann")


def test_a_resumed_destination_is_ready_when_something_is_due(store: Store) -> None:
    store.add(letter("x@a.example"))
    store.do(orders.pause, Pause(name="a.example", until=FOREVER, note="n", by="b"))
    store.force("UPDATE destination SET ready = :r", r=FOREVER)
    assert store.problems() == []
    assert store.run(
        orders.resume, Resume(name="a.example", now=NOW), Resume(name="b.example", now=NOW)
    ) == [True, False]
    assert store.rows("SELECT ready, paused_until, pause_note, paused_by FROM destination") == [
        (NOW - 10, None, "", "")
    ]
    assert store.do(orders.resume, Resume(name="a.example", now=NOW)) is False


def test_an_owner_is_told_of_a_resumption(store: Store) -> None:
    store.add(letter("x@a.example"))
    store.take()
    store.do(orders.pause, Pause(name="a.example", until=FOREVER, note="n", by="b"))
    store.do(orders.resume, Resume(name="a.example", now=NOW))
    assert [taken.name for taken in store.take()] == ["a.example"]
