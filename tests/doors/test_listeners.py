"""Listener processes: sockets, what they hand over, their deaths, a reload, the end."""

import asyncio
import contextlib
import os
import random
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deliveryagent import children
from deliveryagent.intake import listeners as module
from deliveryagent.intake.listener_settings import ListenerSettings
from deliveryagent.intake.listener_terms import ListenerTerms
from deliveryagent.intake.listeners import ListenerError, Listeners, Office
from deliveryagent.intake.queue_door import QueueDoor
from deliveryagent.protocol.local import ExitCode
from deliveryagent.queue import inflow, submissions
from deliveryagent.queue.engine import open_writer
from deliveryagent.queue.ids import QueueIds
from deliveryagent.queue.thread import Database
from tests.doubles.stores import Store

DOUBLE = "tests.doubles.listener_double"
ROOT = Path(__file__).parents[2]
PATIENCE = 60


@pytest.fixture(autouse=True)
def root_in_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes find the double wherever the tests are started."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not true():  # noqa: ASYNC110 - processes tell nobody
            await asyncio.sleep(0.02)


class House:
    """A queue, and listeners in front of it."""

    def __init__(self, store: Store, database: Database, inherited: list[tuple[str, int]]) -> None:
        self.store = store
        self.trouble = ""
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.faults: list[Exception] = []
        self.handed: list[int] = []
        self.passphrase: Callable[[ListenerSettings], str] = lambda _: ""
        door = QueueDoor(
            database=database,
            trouble=lambda: self.trouble,
            coming=lambda some: self.handed.append(len(some)),
            accepted=lambda _: None,
            new_id=QueueIds(last=0, clock=time.time, rng=random.Random()),
        )
        office = Office(
            submitter=door,
            terms=lambda settings: ListenerTerms(
                listener=settings, hostname="mail.example", passphrase=self.passphrase(settings)
            ).encode(),
            mark=lambda: database.submit(inflow.listener_mark, None),
            newest=lambda: database.submit(submissions.newest, None),
            tell=lambda kind, fields: self.events.append((kind, fields)),
            trouble=self.faults.append,
            inherited=inherited,
            process=DOUBLE,
        )
        self.listeners = Listeners(office)

    def told(self, kind: str) -> list[dict[str, Any]]:
        return [fields for name, fields in self.events if name == kind]

    def stored(self) -> int:
        return int(self.store.value("SELECT count(*) FROM message"))

    def staged(self) -> int:
        return int(self.store.value("SELECT count(*) FROM arriving"))


@asynccontextmanager
async def opened(store: Store, *inherited: tuple[str, int]) -> AsyncIterator[House]:
    engine = open_writer(store.url)
    database = Database(engine)
    house = House(store, database, list(inherited))
    try:
        yield house
    finally:
        await house.listeners.stop(0.2)
        await database.close()
        engine.dispose()
    assert not house.faults


class Caller:
    """A connection to a double."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def ask(self, order: str) -> str:
        self.writer.write(order.encode() + b"\n")
        async with asyncio.timeout(PATIENCE):
            return (await self.reader.readline()).decode().strip()

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


@asynccontextmanager
async def calling(address: str) -> AsyncIterator[Caller]:
    if address.startswith("unix:"):
        caller = Caller(*await asyncio.open_unix_connection(address.removeprefix("unix:")))
    else:
        host, _, port = address.rpartition(":")
        caller = Caller(*await asyncio.open_connection(host.strip("[]"), int(port)))
    try:
        yield caller
    finally:
        await caller.close()


async def ask(address: str, order: str) -> str:
    async with calling(address) as caller:
        return await caller.ask(order)


def play(
    store: Store, story: Callable[[House], Awaitable[None]], *inherited: tuple[str, int]
) -> None:
    async def run() -> None:
        async with opened(store, *inherited) as house:
            await story(house)

    asyncio.run(run())


def at(address: str, **settings: Any) -> ListenerSettings:
    return ListenerSettings(address=address, **settings)


def local(**settings: Any) -> ListenerSettings:
    return at(f"127.0.0.1:{free_port()}", **settings)


def test_what_is_handed_over_is_in_the_queue_when_it_is_answered(store: Store) -> None:
    async def story(house: House) -> None:
        settings = local()
        await house.listeners.start([settings])
        replies = (await ask(settings.address, "send 20")).split()
        assert len(replies) == 20
        assert all(reply.startswith("taken:") for reply in replies)
        assert house.stored() == 20
        assert max(house.handed) > 1, "what comes in one read is handed over together"
        assert len(set(replies)) == 20
        await until(lambda: house.listeners.describe()[0]["taken"] == 20)
        (shown,) = house.listeners.describe()
        assert shown["address"] == settings.address
        assert shown["ready"]
        assert shown["restarts"] == 0

    play(store, story)


def test_large_contents_come_in_parts_and_leave_nothing_when_they_do_not_come(store: Store) -> None:
    async def story(house: House) -> None:
        settings = local()
        await house.listeners.start([settings])
        assert (await ask(settings.address, "stage whole")).startswith("taken:")
        assert await ask(settings.address, "stage part") == "taken:"
        assert await ask(settings.address, "stage abandon") == "taken:"
        await until(lambda: house.staged() == 1)
        assert house.stored() == 1
        await ask(settings.address, "die")
        await until(lambda: house.staged() == 0)
        assert house.stored() == 1

    play(store, story)


def test_refusals_say_what_is_lasting_and_what_is_not(store: Store) -> None:
    async def story(house: House) -> None:
        settings = local()
        await house.listeners.start([settings])
        assert (await ask(settings.address, "send 1 key")).startswith("taken:")
        refused = await ask(settings.address, "send 1 key")
        assert refused.startswith(f"refused:{ExitCode.BAD_DATA}:the_key_")
        house.trouble = "the disk is full"
        for order in ("send 1", "stage part"):
            refused = await ask(settings.address, order)
            assert refused.startswith(f"refused:{ExitCode.TRY_LATER}:"), order
            assert "the_disk_is_full" in refused

    play(store, story)


def test_every_living_process_has_a_mark_of_its_own(store: Store) -> None:
    async def story(house: House) -> None:
        wanted = [local(), local(), local()]
        await house.listeners.start(wanted)
        marks = [int((await ask(one.address, "who")).split()[1]) for one in wanted]
        assert len(set(marks)) == 3
        assert all(0 <= mark < 1024 for mark in marks)
        async with calling(wanted[0].address) as first:
            await first.ask("who")
            await house.listeners.replace(wanted)
            assert int((await first.ask("who")).split()[1]) == marks[0]
            marks += [int((await ask(one.address, "who")).split()[1]) for one in wanted]
            assert len(set(marks)) == 6

    play(store, story)


def test_marks_below_the_agents_own_come_from_the_sequence_of_direct_writers(
    postgres_store: Store, sqlite_store: Store
) -> None:
    drawn = postgres_store.run(inflow.listener_mark, None, None)
    assert drawn[0] is not None
    assert drawn[1] == (drawn[0] + 1) % 1024
    assert sqlite_store.do(inflow.listener_mark, None) is None


def test_clients_of_a_process_that_died_wait_for_the_next_one(sqlite_store: Store) -> None:
    async def story(house: House) -> None:
        settings = local()
        await house.listeners.start([settings])
        pid = int((await ask(settings.address, "who")).split()[0])
        os.kill(pid, signal.SIGKILL)
        assert int((await ask(settings.address, "who")).split()[0]) != pid
        await until(lambda: house.listeners.describe()[0]["restarts"] == 1)
        (died,) = house.told("listener_died")
        assert died == {"address": settings.address, "pid": pid, "status": -signal.SIGKILL}
        assert len(house.told("listener_started")) == 2

    play(sqlite_store, story)


def test_a_process_that_shows_no_sign_of_life_is_killed(
    sqlite_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "SILENCE", 2.5)
    monkeypatch.setattr(children, "_MERCY", 0.1)

    async def story(house: House) -> None:
        settings = local()
        await house.listeners.start([settings])
        async with calling(settings.address) as caller:
            caller.writer.write(b"freeze\n")
            await until(lambda: house.told("listener_died"))
        assert (await ask(settings.address, "who")).split()[0]

    play(sqlite_store, story)


def test_a_reload_drops_no_session_and_refuses_no_client(sqlite_store: Store) -> None:
    async def story(house: House) -> None:
        settings = local(banner="old")
        await house.listeners.start([settings])
        async with calling(settings.address) as caller:
            assert (await caller.ask("who")).endswith("old")
            await house.listeners.replace([replace(settings, banner="new")])
            async with asyncio.timeout(10):  # until the old one has heard that it is to finish
                while not (await ask(settings.address, "who")).endswith("new"):
                    pass
            assert (await caller.ask("who")).endswith("old")
            assert (await caller.ask("send 1")).startswith("taken:")
            assert house.listeners.describe()[0]["leaving"] == 1
        await until(lambda: house.listeners.describe()[0]["leaving"] == 0)
        assert [one["status"] for one in house.told("listener_ended")] == [0]
        assert not house.told("listener_died")

    play(sqlite_store, story)


def test_a_reload_opens_what_is_new_and_closes_what_is_gone(
    sqlite_store: Store, tmp_path: Path
) -> None:
    async def story(house: House) -> None:
        stays, goes, comes = local(), at(f"unix:{tmp_path}/gone.sock"), local()
        await house.listeners.start([stays, goes])
        assert await ask(goes.address, "who")
        await house.listeners.replace([stays, comes])
        assert await ask(stays.address, "who")
        assert await ask(comes.address, "who")
        assert not (tmp_path / "gone.sock").exists()
        shown = {one["address"] for one in house.listeners.describe()}
        assert shown == {stays.address, comes.address}

    play(sqlite_store, story)


def test_a_listener_that_cannot_follow_a_reload_stays_as_it_was(sqlite_store: Store) -> None:
    async def story(house: House) -> None:
        one, other = local(banner="old"), local(banner="old")
        await house.listeners.start([one, other])
        await house.listeners.replace([replace(one, banner="refuse"), replace(other, banner="new")])
        assert (await ask(one.address, "who")).endswith("old")
        assert (await ask(other.address, "who")).endswith("new")
        (failed,) = house.told("listener_failed")
        assert failed["address"] == one.address
        assert failed["reason"] == "the certificate is of no use"

    play(sqlite_store, story)


def test_a_new_listener_that_cannot_be_opened_does_not_stop_the_others(
    sqlite_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_VACATE_TIME", 0.2)

    async def story(house: House) -> None:
        stays = local()
        await house.listeners.start([stays])
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            await house.listeners.replace([stays, at(address)])
        (failed,) = house.told("listener_failed")
        assert failed["address"] == address
        assert failed["reason"] == "another program listens there"
        assert await ask(stays.address, "who")

    play(sqlite_store, story)


def test_at_the_start_every_address_that_cannot_be_had_is_named(
    sqlite_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_VACATE_TIME", 0.2)
    (tmp_path / "file").write_text("precious")

    async def story(house: House) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            wanted = [at(address), at(f"unix:{tmp_path}/file"), at("systemd:submission")]
            with pytest.raises(ListenerError) as caught:
                await house.listeners.start(wanted)
        assert caught.value.code == ExitCode.FAILED
        words = str(caught.value)
        assert f"listener {address}: another program listens there" in words
        assert "this is not a socket" in words
        assert 'systemd holds no socket of the name "submission"' in words
        assert (tmp_path / "file").read_text() == "precious"

    play(sqlite_store, story)


@pytest.mark.parametrize(
    ("banner", "code", "words"),
    [
        ("refuse", ExitCode.BAD_CONFIGURATION, "the certificate is of no use"),
        ("crash", ExitCode.FAILED, "it ended with status 9 before it accepted connections"),
    ],
)
def test_a_process_that_cannot_serve_ends_the_start(
    sqlite_store: Store, banner: str, code: int, words: str
) -> None:
    async def story(house: House) -> None:
        good, bad = local(), local(banner=banner)
        with pytest.raises(ListenerError) as caught:
            await house.listeners.start([good, bad])
        assert str(caught.value) == f"listener {bad.address}: {words}"
        assert caught.value.code == code

    play(sqlite_store, story)


def test_a_passphrase_that_cannot_be_read_is_bad_configuration(sqlite_store: Store) -> None:
    def unreadable(_: ListenerSettings) -> str:
        raise ValueError("the credential is not there")

    async def story(house: House) -> None:
        house.passphrase = unreadable
        with pytest.raises(ListenerError, match="the credential is not there") as caught:
            await house.listeners.start([local()])
        assert caught.value.code == ExitCode.BAD_CONFIGURATION
        house.events.clear()

    play(sqlite_store, story)


def test_the_end_waits_for_what_is_going_on_but_not_for_ever(
    sqlite_store: Store, tmp_path: Path
) -> None:
    async def story(house: House) -> None:
        settings, other = at(f"unix:{tmp_path}/door.sock"), local()
        await house.listeners.start([settings, other])
        pids = [one["pid"] for one in house.listeners.describe()]
        async with calling(other.address) as caller:
            await caller.ask("who")
            await house.listeners.stop(0.3)
        for pid in pids:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)
        assert not (tmp_path / "door.sock").exists()
        assert house.listeners.describe() == []

    play(sqlite_store, story)


def test_a_unix_socket_lets_in_whom_its_mode_lets_in(sqlite_store: Store, tmp_path: Path) -> None:
    path = tmp_path / "door.sock"

    async def story(house: House) -> None:
        await house.listeners.start([at(f"unix:{path}", socket_mode="0640")])
        assert path.stat().st_mode & 0o777 == 0o640
        assert (await ask(f"unix:{path}", "send 1")).startswith("taken:")

    play(sqlite_store, story)


def test_all_addresses_are_one_socket_for_both_kinds(sqlite_store: Store) -> None:
    async def story(house: House) -> None:
        port = free_port()
        await house.listeners.start([at(f"*:{port}")])
        assert await ask(f"127.0.0.1:{port}", "who")
        if socket.has_dualstack_ipv6():
            with contextlib.suppress(OSError):  # a system may have it, and no address of it
                assert await ask(f"[::1]:{port}", "who")

    play(sqlite_store, story)


def test_sockets_of_the_service_manager_are_found_by_name_and_by_address(
    sqlite_store: Store, tmp_path: Path
) -> None:
    path = tmp_path / "held.sock"
    with (
        socket.create_server(("127.0.0.1", 0)) as named,
        socket.create_server(("127.0.0.1", 0)) as bound,
        socket.create_server(("127.0.0.1", 0)) as spare,
        socket.socket(socket.AF_UNIX) as held,
    ):
        held.bind(str(path))
        held.listen()
        inherited = [("submission", named.fileno()), ("x", bound.fileno())]
        inherited += [("y", held.fileno()), ("z", spare.fileno())]
        by_name, by_address = (f"127.0.0.1:{one.getsockname()[1]}" for one in (named, bound))

        async def story(house: House) -> None:
            async with calling(by_name) as early:
                early.writer.write(b"who\n")
                await house.listeners.start(
                    [at("systemd:submission"), at(by_address), at(f"unix:{path}")]
                )
                assert await early.reader.readline(), "who came before the service is served by it"
            assert house.told("socket_unused") == [{"name": "z"}]
            for address in (by_name, by_address, f"unix:{path}"):
                assert (await ask(address, "send 1")).startswith("taken:")
            await house.listeners.stop(0.0)
            assert path.exists(), "what systemd made stays"
            caller = socket.create_connection(named.getsockname())
            caller.close()

        play(sqlite_store, story, *inherited)


def test_two_held_sockets_of_one_name_are_one_too_many(sqlite_store: Store) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("127.0.0.1", 0)) as two,
    ):

        async def story(house: House) -> None:
            with pytest.raises(ListenerError, match="give each its own"):
                await house.listeners.start([at("systemd:door")])

        play(sqlite_store, story, ("door", one.fileno()), ("door", two.fileno()))
