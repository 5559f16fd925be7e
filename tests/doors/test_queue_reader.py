"""A connection that only reads, without SQLAlchemy."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from deliveryagent.mail.address import destination_of
from deliveryagent.queue import overview, search, shape
from deliveryagent.queue.leases import present
from deliveryagent.queue.reader import Reader, open_queue
from deliveryagent.queue.search import Filter
from deliveryagent.queue.single import Kept, execute
from deliveryagent.queue.store import StoreError
from deliveryagent.queue.submissions import add
from tests.doubles.stores import NOW, Store, letter


def test_values_are_never_part_of_the_text(store: Store) -> None:
    odd = "a'b%s:x\\\"; --"
    with open_queue(store.url) as reader:
        assert reader.rows("SELECT CAST(:odd AS TEXT), 'a%'", odd=odd) == [(odd, "a%")]
        assert reader.value("SELECT id FROM message WHERE sender = :odd", odd=odd) is None


def test_nothing_can_be_changed(store: Store) -> None:
    with open_queue(store.url) as reader, pytest.raises(Exception, match=r"read-?only"):
        reader.rows("DELETE FROM message RETURNING id")


def test_all_questions_see_one_state(store: Store) -> None:
    with open_queue(store.url) as reader:
        assert search.find(reader, Filter(), 10) == []
        store.add(letter("ann@a.example"))
        assert search.find(reader, Filter(), 10) == []
    assert len(store.read(search.find, Filter(), 10)) == 1


def test_agents_look_the_same_with_and_without_sqlalchemy(store: Store) -> None:
    store.register()
    (found,) = store.read(overview.members)
    ((same,),) = store.run(present, None)
    assert abs(found.left - same.left) < 5
    assert (found.agent, found.host, found.pid) == (same.agent, same.host, same.pid)


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "mysql://host/db"])
def test_what_is_no_store_is_refused(url: str) -> None:
    with pytest.raises(StoreError):
        open_queue(url)


def test_what_is_no_queue_is_told_from_one(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no queue") as caught:
        open_queue(f"sqlite:///{tmp_path}/q")
    assert caught.value.hint
    file = tmp_path / "a %20queue"
    file.write_bytes(b"something else altogether")
    with pytest.raises(StoreError, match="not an SQLite"):
        open_queue(f"sqlite:///{file}")
    file.unlink()
    sqlite3.connect(file).close()
    open_queue(f"sqlite:///{file}").close()


def test_counting_stops_in_a_long_queue(store: Store) -> None:
    store.add(*(letter(f"u{n}@a.example") for n in range(6)), letter("x@b.example", hold=True))
    counts = store.read(search.counts, NOW)
    assert (counts.waiting, counts.due, counts.held, counts.whole) == (6, 6, 1, True)
    few = store.read(search.counts, NOW, most=4)
    assert (few.waiting, few.due, few.held, few.whole) == (4, 4, 1, False)


def test_an_address_far_behind_in_a_line_is_found(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "_LINE_DEPTH", 2)
    monkeypatch.setattr(search, "HISTORY_DEPTH", 1)
    store.add(*(letter(f"u{n}@a.example") for n in range(9)))
    for address in ("u0@a.example", "U4@A.example"):
        (found,) = store.read(search.history, address, 3)
        assert destination_of(found.recipients[0].address) == "a.example"
    assert store.read(search.history, "nobody@a.example", 3) == []


def test_the_fullest_destinations_come_first(store: Store) -> None:
    store.add(letter("x@b.example"), letter("x@a.example", "y@a.example"))
    assert store.read(shape.fullest, 5) == [("a.example", 2), ("b.example", 1)]
    with open_queue(store.url) as reader:
        state = overview.one_destination(reader, "a.example")
        assert state is not None
        assert state.waiting == 2
        assert overview.one_destination(reader, "a.example", 7) != state
        assert overview.one_destination(reader, "c.example") is None
        assert overview.sites(reader) == []


def test_a_kept_connection_serves_many_transactions_and_survives_a_mistake(store: Store) -> None:
    kept = Kept(store.engine)
    execute(kept, add, [letter("a@a.example")])
    wrong = letter("b@a.example", "c@a.example")
    execute(kept, add, [wrong])
    with pytest.raises(ValueError, match="another message"):
        execute(kept, add, [letter("d@a.example", queue_id=wrong.queue_id)])
    execute(kept, add, [letter("e@a.example")])
    kept.close()
    kept.close()
    assert store.value("SELECT count(*) FROM message") == 3


def test_looking_takes_no_sqlalchemy(sqlite_store: Store, tmp_path: Path) -> None:
    sqlite_store.add(letter("ann@a.example"))
    (tmp_path / "agent.toml").write_text(f'[queue]\nurl = "{sqlite_store.url}"\n')
    for words in ("queue list", "status", "why ann@a.example", "dest list", "queue shape"):
        code = (
            "import sys\nfrom deliveryagent.cli import run\n"
            f"status = run(['-c', {str(tmp_path / 'agent.toml')!r}, *{words.split()!r}])\n"
            "assert status == 0, status\n"
            "print({'sqlalchemy', 'alembic', 'asyncio', 'dns', 'aiosmtplib'} & set(sys.modules))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False
        )
        assert done.stdout.endswith("\nset()\n"), (words, done.stderr, done.stdout)


def test_a_reader_may_stand_inside_somebody_elses_transaction(store: Store) -> None:
    store.add(letter("ann@a.example"))
    with store.engine.begin() as connection:
        found = search.find(Reader.over(connection), Filter(to="@a.example"), 10)
    assert [one.recipients[0].address for one in found] == ["ann@a.example"]


def test_a_long_question_is_ended_by_ctrl_c(sqlite_store: Store) -> None:
    endless = (
        "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n) SELECT max(n) FROM n"
    )
    threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    with open_queue(sqlite_store.url) as reader:
        with pytest.raises(KeyboardInterrupt):
            reader.rows(endless)
        assert reader.value("SELECT 1") == 1
