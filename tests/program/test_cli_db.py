"""``dagent db``: schema steps and the check of the invariants."""

import json
import sqlite3
from pathlib import Path

import pytest

from deliveryagent.cli import run
from deliveryagent.queue.lock import QueueLock
from deliveryagent.queue.upgrade import head

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def queue(tmp_path: Path) -> Path:
    return tmp_path / "queue.sqlite3"


def db(queue: Path, *words: str) -> int:
    return run(["--set", f"queue.url=sqlite:///{queue}", "db", *words])


def test_a_new_queue_gets_its_schema_and_keeps_its_promises(queue: Path, capsys: Captured) -> None:
    assert db(queue, "migrate") == 0
    out, err = capsys.readouterr()
    assert out.startswith("0001")
    assert f"{int(head())} steps taken" in err
    assert db(queue, "migrate", "--plan") == 0
    assert capsys.readouterr().out == f"The queue is up to date (schema {head()}).\n"
    assert db(queue, "check") == 0
    assert capsys.readouterr().out == "ok: the queue keeps every promise\n"


def test_the_plan_takes_no_step(queue: Path, capsys: Captured) -> None:
    sqlite3.connect(queue).close()
    queue.touch()
    with sqlite3.connect(queue) as connection:
        connection.execute("CREATE TABLE foreign_table (x)")
    connection.close()
    assert db(queue, "migrate", "--plan", "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["done"] is False
    assert [step["revision"] for step in plan["steps"]][-1] == head()
    assert db(queue, "check") == 1
    assert "has schema none" in capsys.readouterr().err


def test_where_there_is_no_queue_nothing_is_made(queue: Path, capsys: Captured) -> None:
    assert db(queue, "check") == 1
    assert db(queue, "migrate", "--plan") == 1
    assert f"there is no queue at {queue}" in capsys.readouterr().err
    assert not queue.exists()


def test_a_queue_in_use_is_left_alone(queue: Path, capsys: Captured) -> None:
    with QueueLock(queue):
        assert db(queue, "migrate") == 75
    assert "Stop the service first" in capsys.readouterr().err


def test_a_broken_promise_is_found(queue: Path, capsys: Captured) -> None:
    assert db(queue, "migrate") == 0
    connection = sqlite3.connect(queue)
    with connection:
        connection.execute("INSERT INTO content (message_id, part, data) VALUES (5, 0, 'x')")
    connection.close()
    capsys.readouterr()
    assert db(queue, "check") == 1
    assert "content_orphaned: content belongs to no message" in capsys.readouterr().out
    assert db(queue, "check", "--json") == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["ok"] is False
    assert answer["problems"][0]["rows"] == 1
