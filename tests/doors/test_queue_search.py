"""Looking into the queue."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import event

from deliveryagent.mail.envelope import format_queue_id
from deliveryagent.mail.submission import Submission
from deliveryagent.queue import search
from deliveryagent.queue import shape as shapes
from deliveryagent.queue.filters import Filter, FilterError, conditions
from deliveryagent.queue.reader import Reader
from deliveryagent.queue.search import Counts
from deliveryagent.queue.shape import ShapeRow
from tests.doubles.stores import NOW, Store, letter, outcome


def found(store: Store, **wanted: object) -> list[tuple[int, int]]:
    messages = store.read(search.find, Filter(**wanted), 100)  # type: ignore[arg-type]
    return [(one.queue_id, r.number) for one in messages for r in one.recipients]


def places(*letters: Submission) -> list[tuple[int, int]]:
    return [
        (one.queue_id, n) for one in letters for n in range(1, len(one.envelope.recipients) + 1)
    ]


def test_a_list_is_what_lives_in_the_order_of_arrival(store: Store) -> None:
    first, second = letter("x@a.example", "y@b.example"), letter("z@a.example", tags={"k": "v"})
    done = letter("v@a.example")
    store.add(second, done, first)
    store.settle(outcome(first, "deferred", due=NOW + 60), outcome(done))
    one, two = store.read(search.find, Filter(), 100)
    assert (one.queue_id, two.queue_id) == (first.queue_id, second.queue_id)
    assert (one.sender, one.size, one.recipient_count, one.origin) == (
        "joe@example.org",
        21,
        2,
        "uid=0",
    )
    assert (one.status, two.tags) == ("queued", '{"k":"v"}')
    assert abs(one.arrival - (NOW - 10)) < 0.001
    x, y = one.recipients
    assert (x.status, x.due, x.attempts) == ("deferred", NOW + 60, 1)
    assert (x.stage, x.code, x.enhanced, x.text, x.host) == (
        "dot",
        450,
        "4.7.1",
        "deferred, it said",
        "mx.example",
    )
    assert (y.status, y.stage, y.code, y.text) == ("queued", "", 0, "")


def test_a_list_goes_on_page_by_page(store: Store) -> None:
    letters = [letter(f"x{n}@a.example", f"y{n}@a.example") for n in range(7)]
    store.add(*letters)
    after, seen = (0, 0), []
    while page := store.read(search.find, Filter(), 3, after):
        rows = [(one.queue_id, r.number) for one in page for r in one.recipients]
        assert len(rows) <= 3
        seen += rows
        after = rows[-1]
    assert seen == places(*letters)


def test_a_message_is_as_alive_as_the_most_alive_of_all_its_recipients(store: Store) -> None:
    one = letter("x@a.example", "y@a.example")
    store.add(one)
    store.settle(outcome(one, "bounced"))
    (listed,) = store.read(search.find, Filter(status=("bounced",)), 10)
    assert (listed.status, len(listed.recipients)) == ("queued", 1)


def test_filters_mean_what_they_say(store: Store) -> None:
    ann = letter("Ann@A.example", sender="Joe@Example.org", arrival=NOW - 5000)
    bob = letter("bob@b.example", sender="", arrival=NOW - 3000)
    eve = letter("eve@sub.a.example", sender="x%_@other.org", arrival=NOW - 1000)
    held = letter("ann@a.example", hold=True, arrival=NOW - 500)
    done = letter("ann@a.example", arrival=NOW - 400)
    store.add(ann, bob, eve, held, done)
    store.settle(
        outcome(bob, "deferred"),
        outcome(eve, "deferred", code=0, enhanced="4.4.1"),
        outcome(done),
    )
    store.settle(outcome(eve, "deferred", attempt=2, code=0, enhanced="4.4.1"))
    cases: list[tuple[dict[str, object], list[Submission]]] = [
        ({}, [ann, bob, eve, held]),
        ({"all": True}, [ann, bob, eve, held]),
        ({"ids": (format_queue_id(done.queue_id),)}, [done]),
        ({"ids": (format_queue_id(ann.queue_id)[:10], format_queue_id(bob.queue_id))}, [ann, bob]),
        ({"to": "ANN@a.example"}, [ann, held]),
        ({"to": "@A.example"}, [ann, held]),
        ({"domain": "a.example."}, [ann, held]),
        ({"from_": "joe@example.org"}, [ann, held]),
        ({"from_": "@EXAMPLE.org"}, [ann, held]),
        ({"from_": "<>"}, [bob]),
        ({"from_": "@er.org"}, []),
        ({"status": ("held",)}, [held]),
        ({"status": ("delivered", "held")}, [held, done]),
        ({"older": NOW - 2000}, [ann, bob]),
        ({"newer": NOW - 3000}, [bob, eve, held]),
        ({"older": NOW - 700, "newer": NOW - 3100}, [bob, eve]),
        ({"tries": ">0"}, [bob, eve]),
        ({"tries": "1"}, [bob]),
        ({"tries": "=2"}, [eve]),
        ({"tries": ">= 1"}, [bob, eve]),
        ({"tries": "<1"}, [ann, held]),
        ({"tries": "<=1"}, [ann, bob, held]),
        ({"code": "450"}, [bob]),
        ({"code": "4XX"}, [bob, eve]),
        ({"code": "5xx"}, []),
        ({"code": "4.7.1"}, [bob]),
        ({"code": "4.4.x"}, [eve]),
        ({"code": "4.x.x"}, [bob, eve]),
        ({"domain": "a.example", "status": ("held",)}, [held]),
    ]
    for wanted, letters in cases:
        assert found(store, **wanted) == places(*letters), wanted


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        (Filter(ids=("not an id",)), "not a queue id"),
        (Filter(ids=("Z",)), "begin with 0 to 7"),
        (Filter(to="ann"), "neither an address nor @domain"),
        (Filter(from_="ann"), "nor <>"),
        (Filter(status=("waiting",)), 'no recipient is ever "waiting"'),
        (Filter(tries="many"), "no number of tries"),
        (Filter(code="600"), "no code"),
        (Filter(code="4"), "no code"),
    ],
)
def test_what_cannot_be_understood_is_explained(wanted: Filter, says: str) -> None:
    with pytest.raises(FilterError, match=says):
        conditions(wanted)


@given(
    st.builds(
        Filter, to=st.text(), from_=st.text(), domain=st.text(), tries=st.text(), code=st.text()
    )
)
def test_nothing_anybody_writes_becomes_sql(wanted: Filter) -> None:
    try:
        found_conditions = conditions(wanted)
    except FilterError:
        return
    for written in (wanted.to, wanted.from_, wanted.domain):
        if len(written) > 8:
            assert written.lower() not in found_conditions.text.lower()


def test_a_filter_that_says_nothing_is_not_the_word_all() -> None:
    assert Filter().says_nothing
    assert not Filter(all=True).says_nothing
    assert Filter(all=True).live_only
    assert not Filter(ids=("0",)).live_only


def test_a_message_is_shown_with_all_attempts(store: Store) -> None:
    one = letter("x@a.example", "y@a.example")
    store.add(one)
    store.settle(outcome(one, "deferred", trail='[{"host":"a"}]'))
    store.settle(outcome(one, attempt=2))
    shown = store.read(search.show, one.queue_id)
    assert shown is not None
    assert shown.message.status == "queued"
    assert [r.status for r in shown.message.recipients] == ["delivered", "queued"]
    assert [(t.attempt, t.decision, t.trail) for t in shown.attempts[1]] == [
        (1, "deferred", '[{"host":"a"}]'),
        (2, "delivered", ""),
    ]
    assert 2 not in shown.attempts
    rest = store.read(search.show, one.queue_id, limit=1, after=1)
    assert rest is not None
    assert [r.number for r in rest.message.recipients] == [2]
    assert store.read(search.show, 5) is None


def test_a_decision_without_an_attempt_is_the_last_answer(store: Store) -> None:
    one = letter("x@a.example")
    store.add(one)
    store.settle(outcome(one, "deferred"))
    store.force(
        "UPDATE recipient SET status = 'held', due = NULL, note = 'by ann', enhanced = '4.3.0'"
    )
    ((listed,),) = (m.recipients for m in store.read(search.find, Filter(), 10))
    assert (listed.stage, listed.code, listed.enhanced, listed.text, listed.host) == (
        "route",
        0,
        "4.3.0",
        "by ann",
        "",
    )


def test_prefixes_are_resolved_to_the_ids_they_begin(store: Store) -> None:
    one, two = letter("x@a.example"), letter("x@a.example")
    store.add(one, two)
    full = format_queue_id(one.queue_id)
    assert store.read(search.resolve_prefix, full.lower()) == [one.queue_id]
    assert store.read(search.resolve_prefix, full[:6]) == [one.queue_id, two.queue_id]
    assert store.read(search.resolve_prefix, full[:6], 1) == [one.queue_id]
    assert store.read(search.resolve_prefix, "7ZZZ") == []
    with pytest.raises(ValueError, match="not a queue id"):
        store.read(search.resolve_prefix, "!")


def test_the_history_of_an_address_begins_with_the_latest(store: Store) -> None:
    old, other = letter("Ann@a.example", arrival=NOW - 900), letter("bob@a.example")
    new, waiting = letter("ann@a.example", "eve@a.example"), letter("ann@a.example")
    store.add(old, other, new, waiting)
    store.settle(outcome(old), outcome(new, "bounced"))
    history = store.read(search.history, "ann@A.example", 10)
    assert [one.queue_id for one in history] == [waiting.queue_id, new.queue_id, old.queue_id]
    assert [len(one.recipients) for one in history] == [1, 1, 1]
    assert len(store.read(search.history, "ann@a.example", 2)) == 2


def test_the_beginning_of_a_content(store: Store) -> None:
    one = letter("x@a.example", content=b"Subject: \0\xff")
    store.add(one)
    assert store.read(search.beginning, one.queue_id) == b"Subject: \0\xff"
    assert store.read(search.beginning, 5) is None


def test_counts(store: Store) -> None:
    assert store.read(search.counts, NOW) == Counts(waiting=0, due=0, held=0, owed=0, oldest=None)
    oldest = letter("x@a.example", arrival=NOW - 900)
    store.add(oldest, letter("x@a.example", not_before=NOW + 9), letter("x@b.example", hold=True))
    failed = letter("x@a.example")
    store.add(failed)
    store.settle(outcome(failed, "bounced", owed="failure"))
    counts = store.read(search.counts, NOW)
    assert (counts.waiting, counts.due, counts.held, counts.owed) == (2, 1, 1, 1)
    assert counts.oldest is not None
    assert abs(counts.oldest - (NOW - 900)) < 0.001


def test_the_shape_of_the_queue(store: Store) -> None:
    ages = (60, 400, 700, 100_000)
    store.add(
        *(letter(f"x@{d}.example", arrival=NOW - age) for age in ages for d in "aab"[: age % 7])
    )
    store.add(letter("x@c.example", arrival=NOW - 60, sender="eve@x.org", hold=True))
    shape = store.read(shapes.shape, NOW)
    assert [row.name for row in shape] == ["a.example", "b.example"]
    assert shape[0].total == sum(shape[0].buckets)
    assert len(shape[0].buckets) == len(shapes.SHAPE_MINUTES) + 1
    store.force("UPDATE destination SET site = 's'")
    (by_site,) = store.read(shapes.shape, NOW, "site")
    (by_sender,) = store.read(shapes.shape, NOW, "sender")
    assert by_site == ShapeRow("s", by_sender.total, by_sender.buckets)
    assert by_sender.name == "joe@example.org"
    assert len(store.read(shapes.shape, NOW, limit=1)) == 1


def test_buckets_hold_what_their_ages_say(store: Store) -> None:
    store.add(*(letter("x@a.example", arrival=NOW - age) for age in (1, 299, 301, 601, 80_000)))
    (row,) = store.read(shapes.shape, NOW)
    assert row.buckets == (2, 1, 1, 0, 0, 0, 0, 0, 0, 1)


def test_the_first_page_costs_nothing_of_the_history(sqlite_store: Store) -> None:
    """100,000 finished messages, ten live ones behind them."""
    sqlite_store.force(
        """INSERT INTO message (id, sender, size, dotted, eightbit, utf8, long_lines, recipient_count, origin)
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000)
        SELECT i, 's@example.org', 1, 0, 0, 0, 0, 1, '' FROM n"""
    )
    sqlite_store.force(
        """INSERT INTO recipient
        (message_id, number, address, destination, bulk, status, due, updated, finished)
        SELECT id, 1, 'x@y', 'd', 0, 'delivered', NULL, 0, 0 FROM message"""
    )
    letters = [letter("x@a.example") for _ in range(10)]
    sqlite_store.add(*letters)
    ticks = 0

    def tick() -> int:
        nonlocal ticks
        ticks += 1
        return 0

    @event.listens_for(sqlite_store.engine, "connect")
    def watch(connection: object, _: object) -> None:
        connection.set_progress_handler(tick, 100)  # type: ignore[attr-defined]

    with sqlite_store.engine.connect() as connection:
        assert len(search.find(Reader.over(connection), Filter(), 100)) == 10
    assert ticks < 30
