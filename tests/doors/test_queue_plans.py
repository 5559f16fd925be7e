"""What people look with follows an index: on a large queue it costs what it shows."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from deliveryagent.queue import overview, places, search, shape, waiting
from deliveryagent.queue.filters import Filter
from deliveryagent.queue.reader import Reader, open_queue
from tests.doubles.stores import NOW, Store, letter, outcome

DUE, LIVE, HELD = "ix_recipient_due", "ix_recipient_live", "ix_recipient_held"

# A question, the indexes its answer comes from, and whether it is the whole of one of them.
QUESTIONS: dict[str, tuple[Callable[..., Any], tuple[Any, ...], set[str], bool]] = {
    "list": (search.find, (Filter(), 100), {LIVE}, False),
    "mailq": (waiting.waiting, (100,), {LIVE}, False),
    "list deferred": (search.find, (Filter(status=("deferred",)), 100), {LIVE}, False),
    "list held": (search.find, (Filter(status=("held",)), 100), {HELD}, False),
    "list of a domain": (search.find, (Filter(domain="d1.example"), 100), {DUE, HELD}, False),
    "list to a domain": (search.find, (Filter(to="@d1.example"), 100), {DUE, HELD}, False),
    "list to an address": (search.find, (Filter(to="r1@d1.example"), 100), {DUE, HELD}, False),
    "counts": (search.counts, (NOW,), {DUE, HELD, LIVE, "ix_recipient_owed"}, True),
    "others": (overview.others, ("d1.example",), {DUE}, False),
    "one destination": (overview.one_destination, ("d1.example",), {DUE}, False),
    "fullest": (shape.fullest, (10,), {DUE}, True),
    "shape": (shape.shape, (NOW,), {DUE}, True),
    "shape by site": (shape.shape, (NOW, "site"), {DUE}, True),
    "shape by sender": (shape.shape, (NOW, "sender"), {LIVE, HELD}, True),
}


@pytest.fixture
def filled(store: Store) -> Store:
    waiting = [letter(f"r{n}@d{n % 40}.example") for n in range(1000)]
    held = [letter(f"h{n}@d1.example", hold=True) for n in range(5)]
    done = [letter(f"x{n}@gone.example") for n in range(300)]
    store.add(*waiting, *held, *done)
    store.settle(*(outcome(one) for one in done))
    store.settle(*(outcome(one, "deferred") for one in waiting[::10]))
    if not store.is_sqlite:
        with store.engine.connect() as connection:
            driver: Any = connection.connection.driver_connection
            driver.execute("VACUUM ANALYZE")
    return store


def plans(store: Store, question: Callable[..., Any], *arguments: Any, **options: Any) -> list[str]:
    """How the store goes about each statement of a question.

    A server that knows how small this queue is would rather read whole tables; here it may not.
    """
    asked: list[tuple[str, dict[str, Any]]] = []

    class Noting(Reader):
        def rows(self, text: str, /, **values: Any) -> Any:
            asked.append((text, values))
            return super().rows(text, **values)

    with open_queue(store.url) as reader:
        question(
            Noting(reader._driver, postgresql=not store.is_sqlite),
            *arguments,
            **options,
        )
        if store.is_sqlite:
            found = [reader.rows(f"EXPLAIN QUERY PLAN {text}", **values) for text, values in asked]
            return ["\n".join(row[3] for row in rows) for rows in found]
        for kind in ("seqscan", "bitmapscan", "hashjoin", "mergejoin", "sort"):
            reader.rows(f"SELECT set_config('enable_{kind}', 'off', true)")
        found = [reader.rows(f"EXPLAIN {text}", **values) for text, values in asked]
        return ["\n".join(row[0] for row in rows) for rows in found]


TABLES = ("message", "recipient", "content", "attempt")


def read_whole(plan: str) -> Iterator[str]:
    """Tables that are read from their beginning to their end."""
    for line in plan.splitlines():
        for table in TABLES:
            if line.strip() == f"SCAN {table}" or f"Seq Scan on {table}" in line:
                yield table


@pytest.mark.parametrize("name", QUESTIONS)
def test_the_index_that_is_meant_serves(filled: Store, name: str) -> None:
    question, arguments, indexes, _ = QUESTIONS[name]
    found = plans(filled, question, *arguments)
    used = {index for index in (DUE, LIVE, HELD, "ix_recipient_owed") if index in "\n".join(found)}
    assert used == indexes, "\n--\n".join(found)
    assert [table for plan in found for table in read_whole(plan)] == [], found


@pytest.mark.parametrize("name", [name for name, one in QUESTIONS.items() if one[3]])
def test_what_counts_everything_looks_at_nothing_but_an_index(filled: Store, name: str) -> None:
    question, arguments, indexes, _ = QUESTIONS[name]
    for plan in plans(filled, question, *arguments):
        for line in plan.splitlines():
            if any(index in line for index in indexes - {HELD}):
                assert "COVERING INDEX" in line or "Index Only Scan" in line, plan


def test_others_with_the_same_answer_are_looked_for_in_the_waiting_line(filled: Store) -> None:
    _, same = plans(filled, overview.others, "d1.example", code=450, enhanced="4.7.1")
    assert DUE in same
    assert list(read_whole(same)) == []


def test_a_destination_is_listed_alike_by_either_way(
    filled: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = [
        Filter(domain="D0.example."),
        Filter(to="@d1.example"),
        Filter(to="R41@d1.example"),
        Filter(domain="d1.example", status=("held", "deferred")),
        Filter(domain="d1.example", to="@d2.example"),
        Filter(domain="d0.example", tries=">0", older=NOW),
        Filter(domain="nowhere.example"),
    ]

    def all_pages(size: int) -> list[list[tuple[int, int]]]:
        found = []
        for one in wanted:
            rows: list[tuple[int, int]] = []
            while page := filled.read(search.find, one, size, rows[-1] if rows else (0, 0)):
                rows += [(m.queue_id, r.number) for m in page for r in m.recipients]
            found.append(rows)
        return found

    near = all_pages(4)
    monkeypatch.setattr(search, "_PART", 3)
    assert all_pages(7) == near
    monkeypatch.setattr(places, "FEW", 0)
    assert all_pages(100) == near
    assert [len(rows) for rows in near] == [25, 30, 1, 5, 0, 25, 0]
