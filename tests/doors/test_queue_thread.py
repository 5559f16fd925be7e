"""The database thread: group commit, one culprit, a store in trouble, an end."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest
from sqlalchemy import Connection, Engine, event, text

from deliveryagent.mail.submission import Accepted, Answer, Submission
from deliveryagent.queue import claims, outcomes, submissions
from deliveryagent.queue.claims import Take
from deliveryagent.queue.engine import open_writer, store_file
from deliveryagent.queue.operation import Operation, operation
from deliveryagent.queue.outcomes import Settlement
from deliveryagent.queue.single import execute
from deliveryagent.queue.thread import Database, StoreUnavailable
from tests.doubles.stores import NOW, Store, letter, outcome

T = TypeVar("T")


def played(
    engine: Engine,
    scene: Callable[[Database], Coroutine[Any, Any, T]],
    states: list[tuple[bool, str]] | None = None,
) -> T:
    """Play a scene with a database thread on an event loop of its own."""

    async def play() -> T:
        database = Database(
            engine, on_state=lambda writable, reason: (states or []).append((writable, reason))
        )
        if states is not None:
            database._on_state = lambda writable, reason: states.append((writable, reason))
        try:
            return await asyncio.wait_for(scene(database), 30)
        finally:
            await database.close(0.2)

    return asyncio.run(play())


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread brings about."""
    while not condition():  # noqa: ASYNC110 - there is nothing to be woken by
        await asyncio.sleep(0.01)


def commits(engine: Engine) -> list[int]:
    """Counts the commits from now on."""
    seen: list[int] = []
    event.listen(engine, "commit", lambda _: seen.append(1))
    return seen


@operation()
def note(connection: Connection, items: Sequence[int]) -> list[int]:
    """Write numbers down; zero is a mistake."""
    for number in items:
        connection.execute(
            text("INSERT INTO arriving (message_id, started) VALUES (:n, 1.0 / :n)"),
            {"n": number or None},
        )
    return [number * 10 for number in items]


must_note: Operation[int, int] = Operation(note.run, must=True)


@operation(writes=False)
def look(connection: Connection, items: Sequence[None]) -> list[list[int]]:
    """What was written down."""
    found = connection.scalars(text("SELECT message_id FROM arriving ORDER BY 1")).all()
    return [list(found) for _ in items]


def test_an_answer_comes_after_the_commit(store: Store) -> None:
    async def scene(database: Database) -> int:
        answer = await database.submit(note, 4)
        assert store.rows("SELECT message_id FROM arriving") == [(4,)]
        return answer

    assert played(store.engine, scene) == 40


def test_whatever_waits_shares_one_transaction(store: Store) -> None:
    async def scene(database: Database) -> list[int]:
        await database.submit(look, None)
        counted = commits(store.engine)
        answers = await asyncio.gather(*(database.submit(note, n) for n in range(1, 400)))
        assert len(counted) < 20
        return list(answers)

    assert played(store.engine, scene) == [n * 10 for n in range(1, 400)]


def test_many_items_are_answered_with_one_call(store: Store) -> None:
    async def scene(database: Database) -> list[Any]:
        calls: list[list[Any]] = []
        done = asyncio.Event()

        def answered(answers: list[Any]) -> None:
            calls.append(answers)
            done.set()

        database.submit_many(note, range(1, 1501), answered)
        await done.wait()
        none: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        database.submit_many(note, [], none.set_result)
        assert await none == []
        return calls

    assert played(store.engine, scene) == [[n * 10 for n in range(1, 1501)]]


def test_a_mistake_fails_its_item_and_no_other(store: Store) -> None:
    async def scene(database: Database) -> list[Any]:
        jobs = [database.submit(note, n) for n in (1, 0, 2, 2, 3)]
        jobs.append(database.submit(look, None))  # type: ignore[arg-type]
        return list(await asyncio.gather(*jobs, return_exceptions=True))

    one, zero, two, again, three, seen = played(store.engine, scene)
    assert (one, two, three) == (10, 20, 30)
    assert isinstance(zero, Exception)
    assert not isinstance(zero, StoreUnavailable)
    assert "UNIQUE" in str(again) or "unique" in str(again)
    assert seen == [1, 2, 3]


def test_a_mistake_undoes_all_that_its_item_did(store: Store) -> None:
    @operation()
    def half(connection: Connection, items: Sequence[int]) -> list[None]:
        for number in items:
            connection.execute(text("INSERT INTO arriving VALUES (:n, 1)"), {"n": number})
            if number > 2:
                raise RuntimeError("a mistake")
        return [None] * len(items)

    async def scene(database: Database) -> list[Any]:
        jobs = [database.submit(half, n) for n in (1, 2, 3, 4)]
        return list(await asyncio.gather(*jobs, return_exceptions=True))

    assert [str(answer) for answer in played(store.engine, scene)] == [
        *("None", "None", "a mistake", "a mistake")
    ]
    assert store.rows("SELECT message_id FROM arriving ORDER BY 1") == [(1,), (2,)]


def test_an_operation_that_forgets_an_answer_is_a_mistake(store: Store) -> None:
    @operation()
    def forgetful(connection: Connection, items: Sequence[int]) -> list[int]:
        return [1] if len(items) == 1 else []

    async def scene(database: Database) -> list[int]:
        return list(await asyncio.gather(*(database.submit(forgetful, n) for n in range(3))))

    assert played(store.engine, scene) == [1, 1, 1]


def test_facts_come_before_changes_and_questions_last(store: Store) -> None:
    order: list[str] = []

    def recording(name: str, **kind: bool) -> Operation[None, None]:
        def run(_: Connection, items: Sequence[None]) -> list[None]:
            order.append(name)
            return [None] * len(items)

        return Operation(run, **kind)

    names = ("question", "report", "change", "fact")
    kinds: tuple[dict[str, bool], ...] = ({"writes": False}, {"reports": True}, {}, {"must": True})
    ops = [recording(name, **kind) for name, kind in zip(names, kinds, strict=True)]

    async def scene(database: Database) -> None:
        gate = threading.Event()
        hold: Operation[None, bool] = Operation(lambda _, items: [gate.wait() for _ in items])
        first = database.submit(hold, None)
        rest = [database.submit(op, None) for op in ops]
        gate.set()
        await asyncio.gather(first, *rest)

    played(store.engine, scene)
    assert order == ["fact", "change", "report", "question"]


def test_an_operation_gets_no_more_items_at_once_than_it_takes(store: Store) -> None:
    sizes: list[int] = []

    @operation(cap=3)
    def small(_: Connection, items: Sequence[int]) -> list[int]:
        sizes.append(len(items))
        return list(items)

    async def scene(database: Database) -> list[int]:
        found: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        database.submit_many(small, list(range(8)), found.set_result)
        return await found

    assert played(store.engine, scene) == list(range(8))
    assert sizes == [3, 3, 2]


def test_a_taker_that_fails_costs_the_others_nothing(store: Store) -> None:
    async def scene(database: Database) -> int:
        problems: list[str] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: problems.append(context["message"]))
        database.submit_many(note, [1], lambda _: 1 / 0)  # type: ignore[arg-type]
        answer = await database.submit(note, 2)
        assert problems == ["an answer of <operation note> was not taken"]
        return answer

    assert played(store.engine, scene) == 20


def test_a_cancelled_wait_does_not_stop_the_work(store: Store) -> None:
    async def scene(database: Database) -> list[int]:
        database.submit(note, 1).cancel()
        return await database.submit(look, None)

    assert played(store.engine, scene) == [1]


def test_closing_runs_what_waits_and_takes_nothing_more(store: Store) -> None:
    async def scene(database: Database) -> list[Any]:
        waiting = [database.submit(note, n) for n in range(1, 50)]
        await database.close()
        with pytest.raises(StoreUnavailable, match="being closed"):
            await database.submit(note, 99)
        await database.close()
        return list(await asyncio.gather(*waiting))

    assert played(store.engine, scene) == [n * 10 for n in range(1, 50)]
    assert not [one for one in threading.enumerate() if one.name == "database"]


def test_without_a_thread_an_operation_runs_at_once(store: Store) -> None:
    assert execute(store.engine, note, [1, 2]) == [10, 20]
    assert store.value("SELECT count(*) FROM arriving") == 2


# -- a store in trouble ---


class Disk:
    """A disk that can be full: SQLite gets no more pages than there are."""

    def __init__(self, engine: Engine) -> None:
        self.full = False
        event.listen(engine, "begin", self._limit)

    def _limit(self, connection: Connection) -> None:
        # SQLite never sets it below what is used already.
        connection.exec_driver_sql(f"PRAGMA max_page_count = {1 if self.full else 1 << 30}")


def test_a_full_disk_refuses_new_mail_and_keeps_outcomes_until_there_is_room(
    sqlite_store: Store,
) -> None:
    disk = Disk(sqlite_store.engine)
    known = letter("x@a.example", content=b"x" * 5000)
    sqlite_store.add(known)
    big = letter("y@a.example", content=bytes(100_000))
    text_of_300_kb = "long " * 60_000
    states: list[tuple[bool, str]] = []

    async def scene(database: Database) -> None:
        disk.full = True
        fact = database.submit(outcomes.settle, outcome(known, text=text_of_300_kb))
        refused = database.submit(submissions.add, big)
        with pytest.raises(StoreUnavailable, match="disk is full"):
            await refused
        with pytest.raises(StoreUnavailable, match="disk is full"):
            await database.submit(submissions.add, big)
        assert not fact.done()
        assert states == [(False, "the disk is full")]
        disk.full = False
        assert await fact is True
        assert await database.submit(submissions.add, big) == Accepted(big.queue_id)
        assert states == [(False, "the disk is full"), (True, "")]

    played(sqlite_store.engine, scene, states)
    assert sqlite_store.problems() == []
    assert sqlite_store.value("SELECT count(*) FROM attempt") == 1


def test_an_outcome_that_fits_is_recorded_beside_mail_that_does_not(sqlite_store: Store) -> None:
    disk = Disk(sqlite_store.engine)
    known = letter("x@a.example", content=b"x" * 50_000)
    sqlite_store.add(known)
    states: list[tuple[bool, str]] = []

    async def scene(database: Database) -> None:
        disk.full = True
        gate = threading.Event()
        first = database.submit(
            Operation(lambda _, items: [gate.wait() for _ in items], must=True), None
        )
        fact = database.submit(outcomes.settle, outcome(known))
        mail = database.submit(submissions.add, letter("y@a.example", content=bytes(1_000_000)))
        gate.set()
        await first
        assert await fact is True
        with pytest.raises(StoreUnavailable):
            await mail

    played(sqlite_store.engine, scene, states)
    assert states == []


def test_the_store_is_found_writable_again_without_anybody_asking(sqlite_store: Store) -> None:
    disk = Disk(sqlite_store.engine)
    states: list[tuple[bool, str]] = []

    async def scene(database: Database) -> None:
        disk.full = True
        with pytest.raises(StoreUnavailable):
            await database.submit(submissions.add, letter("y@a.example", content=bytes(100_000)))
        await asyncio.sleep(0.2)
        assert len(states) == 1
        disk.full = False
        await until(lambda: len(states) == 2)

    played(sqlite_store.engine, scene, states)
    assert states[1] == (True, "")
    assert sqlite_store.value("SELECT count(*) FROM meta WHERE name = 'probe'") == 0


def test_a_full_file_system_loses_nothing(tmp_path: Path) -> None:
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(place)],
        check=False,
        capture_output=True,
    )
    if mounted.returncode:
        pytest.skip("no file system of our own can be mounted here")
    try:
        _fill_and_free(place)
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def _fill_and_free(place: Path) -> None:
    from deliveryagent.queue.upgrade import ensure  # noqa: PLC0415

    engine = open_writer(f"sqlite:///{place}/queue.sqlite3")
    ensure(engine)
    ballast = place / "ballast"
    ballast.write_bytes(bytes(1_000_000))
    accepted: list[int] = []
    states: list[tuple[bool, str]] = []

    async def scene(database: Database) -> None:
        async def fill() -> None:
            while True:
                one = letter("x@a.example", content=bytes(50_000))
                answer = await database.submit(submissions.add, one)
                assert isinstance(answer, Accepted)
                accepted.append(answer.queue_id)

        with pytest.raises(StoreUnavailable, match="disk is full"):
            await fill()
        ballast.unlink()
        await until(lambda: len(states) == 2)
        await database.submit(submissions.add, letter("x@a.example", content=bytes(50_000)))

    played(engine, scene, states)
    store = Store(f"sqlite:///{place}/queue.sqlite3", engine)
    assert accepted
    stored = {row[0] for row in store.rows("SELECT id FROM message")}
    assert set(accepted) < stored
    assert store.problems() == []
    engine.dispose()


def test_somebody_elses_lock_pauses_and_loses_nothing(sqlite_store: Store) -> None:
    event.listen(
        sqlite_store.engine,
        "connect",
        lambda connection, _: connection.execute("PRAGMA busy_timeout = 50"),
    )
    states: list[tuple[bool, str]] = []
    one = letter("x@a.example")
    sqlite_store.add(one)

    async def scene(database: Database) -> None:
        shell = sqlite3.connect(str(store_file(sqlite_store.url)), isolation_level=None)
        shell.execute("BEGIN IMMEDIATE")
        fact = database.submit(outcomes.settle, outcome(one))
        await until(lambda: bool(states))
        with pytest.raises(StoreUnavailable, match="locked by another"):
            await database.submit(submissions.add, letter("x@a.example"))
        shell.execute("ROLLBACK")
        shell.close()
        assert await fact is True

    played(sqlite_store.engine, scene, states)
    assert [writable for writable, _ in states] == [False, True]


def test_facts_that_cannot_be_recorded_are_given_up_only_at_the_end(sqlite_store: Store) -> None:
    disk = Disk(sqlite_store.engine)

    async def scene(database: Database) -> None:
        disk.full = True
        one = letter("x@a.example")
        fact = database.submit(outcomes.settle, outcome(one, text="long " * 60_000))
        known = database.submit(submissions.add, letter("y@a.example", content=bytes(100_000)))
        await asyncio.wait([known])
        await database.close(0.1)
        # The recipient does not exist, so there was nothing to write after all; or the disk was full.
        assert fact.done()
        assert isinstance(known.exception(), StoreUnavailable)

    played(sqlite_store.engine, scene)


def test_a_lost_connection_is_made_again(postgres_store: Store) -> None:
    one, two = letter("x@a.example"), letter("y@a.example")
    postgres_store.add(one)
    states: list[tuple[bool, str]] = []

    async def scene(database: Database) -> None:
        await database.submit(look, None)
        postgres_store.rows(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        assert await database.submit(outcomes.settle, outcome(one)) is True
        assert await database.submit(submissions.add, two) == Accepted(two.queue_id)

    played(postgres_store.engine, scene, states)
    assert [writable for writable, _ in states] == [False, True]
    assert postgres_store.problems() == []


def test_a_commit_of_unknown_effect_is_repeated_without_doubling(postgres_store: Store) -> None:
    """The connection breaks after the server committed and before we hear of it."""
    one, two = letter("x@a.example", key="k"), letter("y@a.example")
    postgres_store.add(two)
    broken: list[int] = []
    dialect: Any = postgres_store.engine.dialect
    real = dialect.do_commit

    def commit(connection: Any) -> None:
        real(connection)
        if not broken:
            broken.append(1)
            connection.dbapi_connection.close()
            connection.dbapi_connection.execute("SELECT 1")  # raises: the connection is closed

    dialect.do_commit = commit
    must_add: Operation[Submission, Answer] = Operation(submissions.add.run, must=True)

    async def scene(database: Database) -> None:
        gate = threading.Event()
        first = database.submit(
            Operation(lambda _, items: [gate.wait() for _ in items], must=True), None
        )
        answers = asyncio.gather(
            database.submit(must_add, one), database.submit(outcomes.settle, outcome(two))
        )
        gate.set()
        await first
        assert list(await answers) == [Accepted(one.queue_id), True]

    played(postgres_store.engine, scene)
    assert broken
    assert postgres_store.value("SELECT count(*) FROM message") == 2
    assert postgres_store.value("SELECT count(*) FROM attempt") == 1
    assert postgres_store.problems() == []


def test_facts_survive_a_database_that_breaks_in_an_unknown_way(
    sqlite_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = letter("x@a.example")
    sqlite_store.add(one)
    broken = iter(range(5))
    real = sqlite_store.engine.dialect.do_commit

    def commit(connection: Any) -> None:
        if next(broken, None) is not None:
            raise RuntimeError("a broken driver")
        real(connection)

    monkeypatch.setattr(sqlite_store.engine.dialect, "do_commit", commit)
    states: list[tuple[bool, str]] = []

    async def scene(database: Database) -> None:
        assert await database.submit(outcomes.settle, outcome(one)) is True

    played(sqlite_store.engine, scene, states)
    assert [writable for writable, _ in states] == [False, True]
    assert "a broken driver" in states[0][1]


def test_two_agents_that_wait_for_each_other_both_get_on(postgres_store: Store) -> None:
    """The database ends a deadlock by refusing one transaction; that one is simply run again."""
    postgres_store.force("INSERT INTO destination (name) VALUES ('a'), ('b')")
    entered = threading.Barrier(2, timeout=20)
    turns = {"a": 0, "b": 0}

    def touching(first: str, second: str) -> Operation[None, None]:
        def run(connection: Connection, items: Sequence[None]) -> list[None]:
            sql = text("UPDATE destination SET site = 's' WHERE name = :n")
            turns[first] += 1
            connection.execute(sql, {"n": first})
            if turns[first] == 1:
                entered.wait()
            connection.execute(sql, {"n": second})
            return [None] * len(items)

        return Operation(run, must=True)

    other = open_writer(postgres_store.url)

    async def scene(database: Database) -> None:
        second = Database(other)
        await asyncio.gather(
            database.submit(touching("a", "b"), None), second.submit(touching("b", "a"), None)
        )
        await second.close()

    states: list[tuple[bool, str]] = []
    played(postgres_store.engine, scene, states)
    other.dispose()
    assert sum(turns.values()) > 2
    assert states == []


# -- killed ---

_WRITER = """
import asyncio, sys
from deliveryagent.queue import claims, leases, outcomes, submissions
from deliveryagent.queue.engine import open_writer
from deliveryagent.queue.thread import Database
from tests.doubles.stores import NOW, letter, outcome

async def work():
    database = Database(open_writer(sys.argv[1]))
    registration = leases.Registration(agent=7, host="h", pid=1, started=NOW, length=60)
    await database.submit(leases.register, registration)
    async def one(n):
        for k in range(100000):
            to = (f"u{n}@d{n}.example", f"v{n}@a.example")
            sent = letter(*to, content=bytes(3000), queue_id=(n << 40) + k + 1)
            await database.submit(submissions.add, sent)
            print("accepted", sent.queue_id, flush=True)
            await database.submit(outcomes.settle, outcome(sent, destination=f"d{n}.example"))
            print("settled", sent.queue_id, flush=True)
            await database.submit(claims.take, claims.Take(7, NOW, 5))
    await asyncio.gather(*(one(n) for n in range(1, 30)))

asyncio.run(work())
"""


@pytest.mark.parametrize("after", [30, 171, 402])
def test_a_killed_writer_leaves_a_consistent_store_with_all_it_promised(
    store: Store, after: int
) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", _WRITER, store.url],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        text=True,
    )
    assert child.stdout is not None
    said = [child.stdout.readline().split() for _ in range(after)]
    os.kill(child.pid, signal.SIGKILL)
    rest, _ = child.communicate()
    said += [line.split() for line in rest.splitlines() if line.count(" ") == 1]
    promised = {int(words[1]) for words in said if len(words) == 2 and words[0] == "accepted"}
    recorded = {int(words[1]) for words in said if len(words) == 2 and words[0] == "settled"}
    assert store.problems() == []
    assert promised <= {row[0] for row in store.rows("SELECT id FROM message")}
    assert recorded <= {row[0] for row in store.rows("SELECT message_id FROM attempt")}
    store.run(claims.take, Take(7, NOW, 1000))
    assert store.problems() == []


def test_settlements_are_values_that_survive_waiting() -> None:
    """They may wait in memory for long: nothing can change them meanwhile."""
    kept = outcome(letter("x@a.example"))
    with pytest.raises(AttributeError):
        kept.status = "bounced"  # type: ignore[misc]
    assert isinstance(kept, Settlement)
