"""The agent under measurement, small: what is counted is what was delivered."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import agent
from benchmarks.agent import Bench
from benchmarks.figures import UNITS
from benchmarks.multiply import multiply
from benchmarks.programs import Failure
from benchmarks.sink import Sink


@pytest.fixture
def sink(tmp_path: Path) -> Iterator[Sink]:
    with Sink(tmp_path, own=True) as running:
        yield running


def test_a_drain_is_measured_from_the_first_message_to_the_last(tmp_path: Path, sink: Sink) -> None:
    bench = Bench(tmp_path / "agent", sink)
    assert bench.fill(40, 600, domains=4) > 0
    found = agent.drain(bench, 40, startup_cpu=0.0)
    assert set(found) <= set(UNITS)
    assert found["rate"] > 0
    assert found["startup"] > 0
    assert found["cpu_all"] > 0
    assert sink.count == 40


def test_what_was_delivered_twice_or_not_at_all_is_a_complaint(tmp_path: Path, sink: Sink) -> None:
    bench = Bench(tmp_path / "agent", sink)
    event = {"event": "delivered", "id": "A", "recipient": "a@x.test"}
    other = event | {"recipient": "b@x.test"}
    log = tmp_path / "agent" / "log"
    sink.count = 2

    def complaints(*events: dict[str, str]) -> list[str]:
        log.write_text("".join(json.dumps(one) + "\n" for one in events))
        return bench.complaints(2)

    assert complaints(event, other) == []
    assert complaints(event, event) == ["2 deliveries of 1 recipients logged"]
    assert complaints(event) == ["1 deliveries of 1 recipients logged"]
    assert complaints(event, other, event | {"event": "deferred"}) == ["1 events deferred"]
    sink.count = 3
    assert complaints(event, other) == ["3 messages at the sink"]


def test_an_agent_that_does_not_start_says_why(tmp_path: Path, sink: Sink) -> None:
    bench = Bench(tmp_path / "agent", sink, {"smtp.connect_timeout": "soon"})
    with pytest.raises(Failure, match="connect_timeout"), bench.service():
        pass


def test_a_multiplied_queue_is_sound_and_is_delivered(tmp_path: Path, sink: Sink) -> None:
    small, large = tmp_path / "small.sqlite3", tmp_path / "large.sqlite3"
    filling = Bench(tmp_path / "filling", sink, {"queue.url": f"sqlite:///{small}"})
    filling.fill(10, 600, domains=3)
    multiply(small, large, 4)
    bench = Bench(tmp_path / "agent", sink, {"queue.url": f"sqlite:///{large}"})
    bench.run("db", "check")
    listed = [json.loads(line) for line in bench.run("--json", "queue", "list").splitlines()]
    assert len({message["id"] for message in listed}) == 40
    assert [message["id"] for message in listed] == sorted(message["id"] for message in listed)
    agent.drain(bench, 40, startup_cpu=0.0)
    with pytest.raises(Failure, match="empty table attempt"):
        multiply(large, tmp_path / "larger.sqlite3", 2)
