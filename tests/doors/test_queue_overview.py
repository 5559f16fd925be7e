"""What views ask of the queue besides lists."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from deliveryagent.queue import overview
from deliveryagent.queue.orders import FOREVER
from deliveryagent.queue.overview import Paused, Waiting
from deliveryagent.queue.reader import open_queue
from tests.doubles.filled_queue import FilledQueue


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[FilledQueue]:
    filled = FilledQueue(tmp_path)
    yield filled
    filled.close()


@pytest.fixture
def url(queue: FilledQueue, tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'queue.sqlite3'}"


def test_the_next_destination_is_the_earliest_that_is_not_paused(
    queue: FilledQueue, url: str
) -> None:
    with open_queue(url) as reader:
        assert overview.next_ready(reader, queue.now) is None
    queue.add("a@example.net", age=100)
    queue.add("b@example.com", age=900)
    queue.pause("example.com")
    with open_queue(url) as reader:
        ready = overview.next_ready(reader, queue.now)
        assert ready == pytest.approx(queue.now - 100, abs=1)
        late = overview.next_ready(reader, FOREVER + 1)
        assert late == pytest.approx(queue.now - 900, abs=1)


def test_others_are_counted_with_and_without_the_same_answer(queue: FilledQueue, url: str) -> None:
    for number, code in enumerate((450, 450, 451)):
        queue_id = queue.add(f"u{number}@example.net")
        queue.settle(queue_id, "u@example.net", code=code)
    queue.add("new@example.net")
    done = queue.add("done@example.net")
    queue.settle(done, "done@example.net", status="bounced", code=450)
    queue.settle(queue.add("x@example.com"), "x@example.com")
    with open_queue(url) as reader:
        found = overview.others(reader, "example.net", code=450, enhanced="4.7.1")
    assert found == Waiting(4, 2)


def test_counting_stops_at_the_cap(
    queue: FilledQueue, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overview, "CAP", 3)
    queue.add(*(f"u{n}@example.net" for n in range(9)))
    with open_queue(url) as reader:
        assert overview.others(reader, "example.net", code=0, enhanced="").all == 3


def test_pauses_in_force_are_listed(queue: FilledQueue, url: str) -> None:
    queue.pause("b.example", note="why")
    queue.pause("a.example", until=queue.now - 1)
    with open_queue(url) as reader:
        assert list(overview.pauses(reader, queue.now)) == [
            Paused(name="b.example", until=FOREVER, note="why", by="anna"),
        ]


def test_one_site_is_found_by_name(queue: FilledQueue, url: str) -> None:
    queue.add("a@example.net")
    queue.site("mx", "example.net", closed_until=7.0, reason="refused")
    with open_queue(url) as reader:
        found = overview.one_site(reader, "mx")
        assert found is not None
        assert (found.closed_until, found.reason) == (7.0, "refused")
        assert overview.one_site(reader, "other") is None
