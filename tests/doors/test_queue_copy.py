"""A queue moves to another database: everything arrives, once, whatever interrupts it."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, select

from deliveryagent.mail.submission import StagedPart
from deliveryagent.queue import copy as copying
from deliveryagent.queue import leases, moves, orders, submissions
from deliveryagent.queue.copy import Report, abandon, copy
from deliveryagent.queue.engine import StoreError, open_writer
from deliveryagent.queue.filters import Filter
from deliveryagent.queue.orders import Order, Pause
from deliveryagent.queue.upgrade import ensure, migrate
from queue_schema.tables import content, destination, message, recipient
from tests.doubles.stores import NOW, PostgresServer, Store, letter, outcome

Rows = dict[str, list[tuple[Any, ...]]]


@pytest.fixture
def source(sqlite_store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A queue with a bit of everything that can be in one, copied in small portions."""
    monkeypatch.setattr(copying, "_PORTION", 7)
    monkeypatch.setattr(copying, "_CONTENT_PORTION", 5)
    store = sqlite_store
    store.add(
        *(letter(f"r{n}@d{n % 5}.example", key=f"order-{n}") for n in range(40)),
        letter("big@one.example", content=random.Random(1).randbytes(600_000)),
        letter("void@one.example", content=b""),
        letter("later@one.example", not_before=NOW + 3600, tags={"shop": 'the "best"'}),
        letter("wait@two.example", hold=True),
        letter("soon@two.example", priority=9, deliver_by=NOW + 0.123456789, by_mode="RT"),
        letter("some@two.example", priority=-9, deliver_by=NOW + 60, by_mode="N"),
        letter("safe@two.example", require_tls=True),
    )
    found = store.claim()
    store.settle(
        *(outcome(one) for one in found[:9]),
        *(outcome(one, "deferred", text="not\0yet", trail='[{"a": 1}]') for one in found[9:20]),
        *(outcome(one, "bounced", owed="failure", text='no "such" user') for one in found[20:25]),
    )
    store.do(orders.pause, Pause(name="paused.example", until=NOW + 9, note="quiet", by="root"))
    store.do(orders.order, Order(kind="hold", filter=Filter(to="r30@d0.example"), now=NOW))
    store.do(submissions.stage, StagedPart(5, 0, b"never completed", NOW))
    store.do(leases.recover, leases.Recovery(alone=True))
    return store


@pytest.fixture(params=["postgresql", "sqlite"])
def target(
    request: pytest.FixtureRequest, postgres_server: PostgresServer, tmp_path: Path
) -> Iterator[Store]:
    """An empty queue."""
    url = f"sqlite:///{tmp_path}/other.sqlite3"
    if request.param == "postgresql":
        url = postgres_server.fresh()
    store = Store(url, open_writer(url))
    migrate(store.engine)
    yield store
    for engine in (store.engine, *store.readers):
        engine.dispose()


def everything(engine: Engine) -> Rows:
    """What is in the tables, except what belongs to one place."""
    with engine.connect() as connection:
        return {
            table.name: sorted(
                tuple(copying._storable(value) for value in row)
                for row in connection.execute(copying._kept(table))
            )
            for table in copying._ORDER
        }


def silent(*_: object) -> None:
    """Nobody wants to know."""


def test_everything_arrives_and_the_new_queue_takes_over(source: Store, target: Store) -> None:
    before = everything(source.engine)
    seen: dict[str, tuple[int, int]] = {}
    report = copy(
        source.engine,
        target.engine,
        now=NOW,
        told=lambda name, done, total: seen.update({name: (done, total)}),
    )
    assert everything(target.engine) == before
    assert report.rows["message"] == 47
    assert report.rows["attempt"] == 25
    assert report.statuses["bounced"] == 5
    assert seen["recipient"] == (47, 47)
    assert not target.problems()
    assert len(ensure(target.engine)) == 16
    with pytest.raises(StoreError, match="was moved to"):
        ensure(source.engine)
    assert target.value("SELECT count(*) FROM recipient WHERE owed = 'failure'") == 5
    due = source.value("SELECT count(*) FROM recipient WHERE due <= :now", now=NOW)
    assert len(target.claim()) == due > 10
    again = copy(source.engine, target.engine, now=NOW, told=silent)
    assert again.done_before
    with pytest.raises(StoreError, match="has taken this queue's place"):
        abandon(source.engine)


@pytest.mark.parametrize("seed", range(2))
def test_an_interrupted_copy_goes_on_where_it_was(source: Store, target: Store, seed: int) -> None:
    before = everything(source.engine)
    rng = random.Random(seed)
    left = 0

    def interrupt(*_: object) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt

    for _ in range(100):
        left = rng.randrange(18)
        try:
            copy(source.engine, target.engine, now=NOW, told=interrupt)
        except KeyboardInterrupt:
            for engine in (source.engine, target.engine):
                with pytest.raises(StoreError, match=r"being copied|incomplete copy"):
                    ensure(engine)
        else:
            break
    assert everything(target.engine) == before
    ensure(target.engine)


@pytest.mark.parametrize("step", range(1, 5))
def test_no_moment_opens_both_queues(
    source: Store, target: Store, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The marks are set in four steps around the rows; a kill before any of them is made good."""
    done: list[moves.Mark | None] = []
    really = moves.set_mark

    def set_mark(connection: Any, mark: moves.Mark | None) -> None:
        if mark is None or not mark.table:
            if len(done) + 1 == step:
                done.append(mark)
                raise KeyboardInterrupt
            done.append(mark)
        really(connection, mark)

    def is_open(engine: Engine) -> bool:
        try:
            ensure(engine)
        except StoreError:
            return False
        return True

    monkeypatch.setattr(copying, "set_mark", set_mark)
    before = everything(source.engine)
    with pytest.raises(KeyboardInterrupt):
        copy(source.engine, target.engine, now=NOW, told=silent)
    if step > 1:
        assert not is_open(source.engine)
        assert not is_open(target.engine)
    copy(source.engine, target.engine, now=NOW, told=silent)
    assert everything(target.engine) == before
    assert [is_open(one.engine) for one in (source, target)] == [False, True]


def test_a_copy_that_is_given_up_leaves_the_old_queue_as_it_was(
    source: Store, target: Store
) -> None:
    def interrupt(name: str, *_: object) -> None:
        if name == "recipient":
            raise KeyboardInterrupt

    assert not abandon(source.engine)
    with pytest.raises(KeyboardInterrupt):
        copy(source.engine, target.engine, now=NOW, told=interrupt)
    assert abandon(source.engine)
    ensure(source.engine)
    source.add(letter("new@one.example"))
    source.settle(outcome(source.claim()[0]))
    source.do(leases.recover, leases.Recovery(alone=True))
    with pytest.raises(StoreError, match="incomplete copy"):
        ensure(target.engine)
    before = everything(source.engine)
    copy(source.engine, target.engine, now=NOW, told=silent)
    assert everything(target.engine) == before, "begun anew, with what has changed since"


def test_a_queue_with_mail_of_its_own_is_left_alone(source: Store, target: Store) -> None:
    target.add(letter("own@one.example"))
    with pytest.raises(StoreError, match="has mail of its own"):
        copy(source.engine, target.engine, now=NOW, told=silent)
    assert target.value("SELECT count(*) FROM message") == 1
    assert abandon(source.engine)
    ensure(target.engine)


def test_an_agent_at_work_on_the_other_queue_is_not_surprised(
    source: Store, postgres_store: Store
) -> None:
    postgres_store.register()
    with pytest.raises(StoreError, match=r"an agent .* works on the queue"):
        copy(source.engine, postgres_store.engine, now=NOW, told=silent)
    assert postgres_store.value("SELECT count(*) FROM message") == 0


def test_another_address_than_that_of_the_first_try_is_refused(
    source: Store, postgres_server: PostgresServer
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    first, second = (open_writer(postgres_server.fresh()) for _ in range(2))
    with pytest.raises(KeyboardInterrupt):
        copy(source.engine, first, now=NOW, told=interrupt)
    with pytest.raises(StoreError, match="is being copied to"):
        copy(source.engine, second, now=NOW, told=silent)
    for engine in (first, second):
        engine.dispose()


def test_a_copy_that_differs_is_not_opened(
    source: Store, target: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = copying._counted

    def counted(engine: Engine) -> Report:
        if engine is target.engine:
            with engine.begin() as connection:
                some = select(recipient.c.message_id).limit(1)
                connection.execute(recipient.delete().where(recipient.c.message_id.in_(some)))
        return really(engine)

    monkeypatch.setattr(copying, "_counted", counted)
    with pytest.raises(StoreError, match="the copy differs from its source"):
        copy(source.engine, target.engine, now=NOW, told=silent)
    with pytest.raises(StoreError, match="incomplete copy"):
        ensure(target.engine)
    assert abandon(source.engine)


def test_what_was_still_arriving_stays_behind(source: Store, target: Store) -> None:
    copy(source.engine, target.engine, now=NOW, told=silent)
    assert target.value("SELECT count(*) FROM arriving") == 0
    with target.engine.connect() as connection:
        assert connection.scalar(select(content.c.part).where(content.c.message_id == 5)) is None
        assert connection.scalar(select(message.c.id).where(message.c.id == 5)) is None
        owners = connection.scalars(select(destination.c.owner)).all()
    assert set(owners) == {None}
