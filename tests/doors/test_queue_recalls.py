"""Orders among several agents: what others own is asked back first."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from deliveryagent.queue import claims, course, orders, recalls
from deliveryagent.queue.claims import GiveBack
from deliveryagent.queue.course import Tally
from deliveryagent.queue.filters import Filter
from deliveryagent.queue.operation import Operation
from deliveryagent.queue.orders import FOREVER, Kind, Order, Pause, Resume
from tests.doubles.stores import NOW, Store, letter

ALL = Filter(all=True)


@pytest.fixture
def shared(postgres_store: Store) -> Store:
    """Agent 1 owns a.example, agent 2 b.example; nobody c.example."""
    store = postgres_store
    store.add(letter("x@a.example", arrival=NOW - 30))
    store.take(agent=1)
    store.add(letter("x@b.example", arrival=NOW - 20))
    store.take(agent=2)
    store.add(letter("x@c.example", arrival=NOW - 10))
    return store


def states(store: Store) -> dict[str, str]:
    return dict(store.rows("SELECT destination, status FROM recipient"))


@pytest.mark.parametrize("kind", ["hold", "bounce", "delete"])
def test_what_another_agent_owns_is_left_alone_and_named(shared: Store, kind: Kind) -> None:
    order = Order(kind=kind, filter=ALL, now=NOW, agent=1)
    done = shared.do(orders.order, order)
    assert (done.recipients, done.skipped_active, done.foreign) == (2, 0, {"b.example": 1})
    assert states(shared)["b.example"] == "queued"
    assert states(shared)["a.example"] == states(shared)["c.example"] != "queued"


def test_nobody_takes_up_what_is_being_changed(shared: Store) -> None:
    with shared.engine.begin() as connection:
        assert recalls.foreign(connection, {"a.example", "c.example"}, 1) == set()
        assert shared.take(agent=2) == []
    assert [taken.name for taken in shared.take(agent=2)] == ["c.example"]


def test_a_dry_run_counts_everything(shared: Store) -> None:
    done = shared.do(orders.order, Order(kind="delete", filter=ALL, now=NOW, dry_run=True))
    assert (done.recipients, done.foreign) == (3, {})


def test_an_owner_hears_what_it_is_to_let_go(shared: Store) -> None:
    shared.do(recalls.ask, ["b.example", "c.example"])
    mine, others = shared.run(recalls.asked, 2, 1)
    assert [one.name for one in mine] == ["b.example"]
    assert others == []
    shared.do(recalls.end, ["b.example", "c.example"])
    assert shared.do(recalls.asked, 2) == []


def test_a_recall_that_nobody_answered_is_forgotten(shared: Store) -> None:
    shared.do(recalls.ask, ["b.example"])
    shared.force("UPDATE recall SET asked = asked - 3600")
    assert shared.do(recalls.asked, 2) == []
    shared.do(recalls.end, ["a.example"])
    assert shared.rows("SELECT name FROM recall") == []


def test_what_was_recalled_is_taken_up_again_when_the_order_is_done(shared: Store) -> None:
    shared.do(recalls.ask, ["b.example"])
    shared.do(claims.give_back, GiveBack("b.example", 2, NOW + recalls.REST))
    assert [taken.name for taken in shared.take(agent=1)] == ["c.example"]
    shared.do(recalls.end, ["b.example"])
    assert [taken.name for taken in shared.take(agent=1)] == ["b.example"]


def test_a_pause_recalls_the_destination_until_its_end(shared: Store) -> None:
    shared.do(orders.pause, Pause(name="b.example", until=FOREVER, note="n", by="b"))
    (asked,) = shared.do(recalls.asked, 2)
    assert (asked.name, asked.not_before) == ("b.example", FOREVER)
    shared.do(orders.resume, Resume(name="b.example", now=NOW))
    assert shared.do(recalls.asked, 2) == []


def play(
    store: Store, order: Order, tally: Tally, *, recalled: Callable[[], None] = lambda: None
) -> tuple[dict[str, int], dict[str, int]]:
    """Carry an order out: what others own at first, and at last; ``recalled``: they have been asked."""

    async def do(operation: Operation[Any, Any], item: Any) -> Any:
        answer = store.do(operation, item)
        if operation is recalls.ask:
            recalled()
        return answer

    async def carry_out() -> tuple[dict[str, int], dict[str, int]]:
        foreign = await course.first(order, tally, tuple, do)
        return foreign, await course.rest(order, tally, tuple, do, foreign=foreign)

    return asyncio.run(carry_out())


def test_an_order_waits_for_other_agents_and_then_goes_on(shared: Store) -> None:
    def give_back() -> None:
        (asked,) = shared.do(recalls.asked, 2)
        shared.do(claims.give_back, GiveBack(asked.name, 2, asked.not_before))

    order, tally = Order(kind="delete", filter=ALL, now=NOW, agent=1), Tally()
    assert play(shared, order, tally, recalled=give_back) == ({"b.example": 1}, {})
    assert (tally.recipients, tally.skipped_active) == (3, 0)
    assert set(states(shared).values()) == {"deleted"}
    assert shared.rows("SELECT name FROM recall") == []


def test_what_stays_in_flight_elsewhere_is_counted_and_left_alone(
    shared: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(course, "PATIENCE", 0.3)
    order, tally = Order(kind="delete", filter=ALL, now=NOW, agent=1), Tally()
    assert play(shared, order, tally) == ({"b.example": 1}, {"b.example": 1})
    assert (tally.recipients, tally.skipped_active) == (2, 1)
    assert states(shared)["b.example"] == "queued"
