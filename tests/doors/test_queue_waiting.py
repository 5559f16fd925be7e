"""Everything that waits, as ``mailq`` asks for it."""

from deliveryagent.queue.waiting import Waiting, waiting
from tests.doubles.stores import NOW, Store, letter, outcome


def test_what_waits_comes_in_the_order_of_arrival_with_its_last_answer(store: Store) -> None:
    first, second = letter("x@a.example", "y@b.example"), letter("z@a.example", hold=True)
    done = letter("v@a.example")
    store.add(second, done, first)
    store.settle(outcome(first, "deferred", due=NOW + 60), outcome(done))
    x, y, z = store.read(waiting, 100)
    assert (x.queue_id, x.number, x.sender, x.size) == (first.queue_id, 1, "joe@example.org", 21)
    assert (x.address, x.status, x.stage, x.code) == ("x@a.example", "deferred", "dot", 450)
    assert (x.enhanced, x.text, x.host) == ("4.7.1", "deferred, it said", "mx.example")
    assert (y.status, y.ip, y.stage, y.code, y.text) == ("queued", "", "", 0, "")
    assert (z.queue_id, z.status) == (second.queue_id, "held")


def test_it_goes_on_page_by_page(store: Store) -> None:
    store.add(*(letter(f"x{n}@a.example", f"y{n}@a.example") for n in range(7)))
    whole: list[Waiting] = store.read(waiting, 100)
    assert len(whole) == 14
    after, seen = (0, 0), []
    while page := store.read(waiting, 3, after):
        assert len(page) <= 3
        seen += page
        after = (page[-1].queue_id, page[-1].number)
    assert seen == whole
