"""Forgetting, and remembering sites."""

from deliveryagent.queue import orders, purge, sites
from deliveryagent.queue.filters import Filter
from deliveryagent.queue.purge import Purge, Purged
from deliveryagent.queue.sites import SiteState
from tests.doubles.stores import NOW, Store, letter, outcome

DAY = 86_400.0
KEPT = 30 * DAY


def step(store: Store, *, cursor: int = 0, limit: int = 200, now: float = NOW) -> Purged:
    return store.do(purge.purge, Purge(now=now, before=now - KEPT, cursor=cursor, limit=limit))


def ids(store: Store) -> list[int]:
    return [row[0] for row in store.rows("SELECT id FROM message ORDER BY id")]


def test_finished_messages_are_forgotten_after_their_retention(store: Store) -> None:
    old = letter("x@a.example", "y@a.example", arrival=NOW - 31 * DAY)
    late = letter("x@a.example", arrival=NOW - 31 * DAY)
    young = letter("x@a.example", arrival=NOW - 29 * DAY)
    store.add(old, late, young)
    store.settle(
        outcome(old, updated=NOW - 30.5 * DAY),
        outcome(old, "bounced", number=2, updated=NOW - 30.5 * DAY),
        outcome(late, updated=NOW - 29 * DAY),
        outcome(young, updated=NOW - 29 * DAY),
    )
    assert step(store) == Purged(messages=1, recipients=2, cursor=0)
    assert ids(store) == [late.queue_id, young.queue_id]
    assert store.value("SELECT count(*) FROM attempt") == 2
    assert store.problems() == []


def test_what_lives_or_owes_stays_however_old(store: Store) -> None:
    waiting, held = (
        letter("x@a.example", arrival=1.6e9),
        letter("x@a.example", arrival=1.6e9, hold=True),
    )
    owing, partly = (
        letter("x@a.example", arrival=1.6e9),
        letter("x@a.example", "y@a.example", arrival=1.6e9),
    )
    store.add(waiting, held, owing, partly)
    store.settle(
        outcome(owing, "bounced", owed="failure", updated=1.6e9), outcome(partly, updated=1.6e9)
    )
    assert step(store) == Purged(0, 0, 0)
    assert len(ids(store)) == 4


def test_a_cursor_goes_round_over_what_is_old(store: Store) -> None:
    letters = [letter("x@a.example", arrival=1.7e9) for _ in range(10)]
    store.add(*letters)
    store.settle(*(outcome(one, updated=1.7e9) for one in letters[3:]))
    first = step(store, limit=4)
    assert first == Purged(1, 1, letters[3].queue_id)
    second = step(store, limit=4, cursor=first.cursor)
    assert second == Purged(4, 4, letters[7].queue_id)
    assert step(store, limit=4, cursor=second.cursor) == Purged(2, 2, 0)
    assert ids(store) == [one.queue_id for one in letters[:3]]


def test_a_big_message_is_a_step_of_its_own(store: Store) -> None:
    big = letter(*(f"u{n}@a.example" for n in range(purge._RECIPIENTS + 1)), arrival=1.7e9)
    small = letter("x@a.example", arrival=1.7e9)
    store.add(big, small)
    store.force("UPDATE recipient SET status = 'deleted', due = NULL, finished = 1.0")
    assert step(store) == Purged(1, purge._RECIPIENTS + 1, big.queue_id)
    assert step(store, cursor=big.queue_id) == Purged(1, 1, 0)


def test_keys_idle_destinations_and_sites_go_with_a_complete_round(store: Store) -> None:
    store.add(letter("x@old.example", key="old", arrival=NOW - 31 * DAY))
    store.add(letter("x@new.example", key="new", hold=True))
    store.add(letter("x@held.example", key="held", hold=True, arrival=NOW - 1))
    store.do(orders.pause, orders.Pause(name="paused.example", until=9e9, note="", by="b"))
    store.run(
        sites.save,
        SiteState(name="idle", concurrency=5, closed_until=None, reason="", updated=NOW - 2 * DAY),
        SiteState(name="open", concurrency=5, closed_until=None, reason="", updated=NOW - 60),
        SiteState(
            name="shut", concurrency=0, closed_until=NOW + 60, reason="r", updated=NOW - 2 * DAY
        ),
    )
    step(store)
    assert store.rows("SELECT key FROM submission_key ORDER BY 1") == [("held",), ("new",)]
    assert store.rows("SELECT name FROM destination ORDER BY 1") == [
        *(("old.example",), ("paused.example",))
    ]
    assert [state.name for state in store.do(sites.load, None)] == ["open", "shut"]
    store.run(orders.order, orders.Order(kind="release", filter=Filter(all=True), now=NOW))
    assert store.problems() == [], "a destination that was forgotten is made again"


# -- sites ---


def test_a_window_is_remembered(store: Store) -> None:
    closed = SiteState(name="s", concurrency=0.0, closed_until=NOW + 300, reason="421", updated=NOW)
    opened = SiteState(name="s", concurrency=5.0, closed_until=None, reason="", updated=NOW + 1)
    other = SiteState(name="t", concurrency=2.5, closed_until=None, reason="", updated=NOW)
    store.run(sites.save, closed, other)
    assert store.do(sites.load, None) == [closed, other]
    store.run(sites.save, closed, opened)
    assert [state.closed_until for state in store.do(sites.load, None)] == [None, None]


def test_destinations_know_their_site_and_what_waits(store: Store) -> None:
    store.add(letter("x@a.example", "y@a.example"), letter("z@b.example", hold=True))
    store.run(
        sites.destination_site, ("a.example", "one"), ("a.example", "two"), ("no.example", "x")
    )
    store.take()
    a, b = store.see(sites.destinations)
    assert (a.name, a.site, a.owner, a.waiting, a.ready) == ("a.example", "two", 7, 2, None)
    assert (b.name, b.site, b.owner, b.waiting) == ("b.example", "", None, 0)
    assert store.see(sites.destinations, after="a.example") == [b]
    assert store.see(sites.one_destination, "b.example") == b
    assert store.see(sites.one_destination, "c.example") is None


def test_what_changed_of_sites_is_told_apart_by_time(store: Store) -> None:
    old = SiteState(name="old", concurrency=5, closed_until=None, reason="", updated=NOW - 60)
    new = SiteState(name="new", concurrency=2, closed_until=None, reason="421", updated=NOW)
    store.run(sites.save, old, new)
    assert store.run(sites.changed, NOW - 10, 0.0, NOW + 60) == [[new], [new, old], []]


def test_a_site_that_another_agent_knows_is_reset_by_its_destination(store: Store) -> None:
    store.add(letter("x@a.example"))
    store.do(sites.destination_site, ("a.example", "mx"))
    closed = SiteState(
        name="mx", concurrency=0, closed_until=NOW + 300, reason="refused", updated=NOW
    )
    store.do(sites.save, closed)
    assert store.run(
        sites.reset, sites.SiteReset("a.example", NOW + 1), sites.SiteReset("b.example", NOW + 1)
    ) == ["mx", ""]
    (opened,) = store.do(sites.load, None)
    assert (opened.closed_until, opened.reason, opened.updated) == (None, "", NOW + 1)
