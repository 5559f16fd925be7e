"""A real worker process on a real socket pair: frames in, frames out, and every way it can end."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from deliveryagent.agent import frames
from deliveryagent.agent.journal import State, read, writer
from deliveryagent.agent.manager_link import ManagerLink
from deliveryagent.agent.visit import Visit
from deliveryagent.agent.worker import Worker
from deliveryagent.agent.worker_settings import ClientSettings, LmtpSettings, WorkerSettings
from deliveryagent.lab.nameserver import NameServer
from deliveryagent.mail.delivery import DeliveryRequest, DeliveryResult, Verdict
from deliveryagent.policy.targets import LoopSettings
from deliveryagent.resolver.settings import ResolverSettings
from deliveryagent.setting import parse_duration
from tests.doubles.courier import FIRST, IDENTITY, LIMITS, TWO_HOSTS, free_port, request, until
from tests.doubles.manager_double import ROOT, Ears, WorkerInside, WorkerProcess
from tests.doubles.scripted_peer import Close, Pause, Script, ScriptedPeer, Stall

KIM = "kim@example.net"


def settings_for(names: NameServer, port: int) -> WorkerSettings:
    """Settings with which mail goes to hosts of the zone at this port."""
    return WorkerSettings(
        hostname="mail.example.org",
        identity=IDENTITY,
        dns=ResolverSettings(nameservers=(names.address,), timeout=parse_duration(1)),
        loop=LoopSettings(loopback_mx=True, inet_interfaces=("127.0.0.250",)),
        smtp=ClientSettings(**{**LIMITS, "port": port}),
        lmtp=LmtpSettings(),
    )


def with_process(
    story: Callable[[WorkerProcess, int], Awaitable[None]], journal: Path, **how: Any
) -> None:
    """Run a story with a worker process."""

    async def run() -> None:
        port = free_port()
        async with (
            NameServer(TWO_HOSTS) as names,
            WorkerProcess(settings_for(names, port), journal, **how) as worker,
        ):
            await story(worker, port)

    asyncio.run(run())


def with_worker(
    story: Callable[[WorkerInside, int], Awaitable[None]], journal: Path, **how: Any
) -> None:
    """Run a story with a worker in this event loop."""

    async def run() -> None:
        port = free_port()
        async with (
            NameServer(TWO_HOSTS) as names,
            WorkerInside(settings_for(names, port), journal, **how) as worker,
        ):
            await story(worker, port)

    asyncio.run(run())


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """Where the worker keeps its journal."""
    return tmp_path / "worker.journal"


def numbered(serial: int, **changes: Any) -> DeliveryRequest:
    return request(KIM, serial=serial, queue_id=1000 + serial, **changes)


def verdicts(worker: Ears) -> dict[int, Verdict]:
    return {
        serial: Verdict(result.recipients[0].verdict) for serial, result in worker.results.items()
    }


def test_requests_are_delivered_and_their_slots_used_again(journal: Path) -> None:
    async def story(worker: WorkerProcess, port: int) -> None:
        async with ScriptedPeer(host=FIRST, port=port) as peer:
            worker.say(*(frames.Deliver(numbered(n)) for n in range(1, 201)))
            await worker.until(lambda: len(worker.results) == 200)
            assert set(verdicts(worker).values()) == {Verdict.DELIVERED}
            assert len(peer.messages) == 200
            sequences = [result.sequence for result in worker.results.values()]
            assert sequences == list(range(1, 201))
            await until(lambda: read(journal, IDENTITY) == [])
            assert (await worker.frame(frames.Ready)).pid == worker.pid

    with_process(story, journal)


def most_memory(pid: int) -> int:
    """The largest memory a process has used so far, in KiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


def test_a_worker_stays_small(journal: Path) -> None:
    part = (b"x" * 62 + b"\r\n") * 4096

    async def story(worker: WorkerProcess, port: int) -> None:
        async with ScriptedPeer(host=FIRST, port=port):
            large = request(KIM, serial=1, queue_id=1001, content=None, size=len(part) * 32)
            worker.say(frames.Deliver(large))
            worker.say(*(frames.Deliver(numbered(n)) for n in range(2, 60)))
            await worker.until(lambda: len(worker.results) == 59)
            assert most_memory(worker.pid) < 100 * 1024

    with_process(story, journal, contents={1001: [part] * 32})


def test_a_lookup_tells_the_site(journal: Path) -> None:
    async def story(worker: WorkerInside, _: int) -> None:
        hops = [
            "example.net",
            "nowhere.test",
            "[127.0.0.1]:25",
            "lmtp:unix:/run/x",
            "hold:x",
            "[bad",
        ]
        worker.say(*(frames.Lookup(n, hop, -1) for n, hop in enumerate(hops)))
        sites: dict[int, frames.Site] = {}

        def all_known() -> bool:
            sites.update({f.serial: f for f in worker.heard if isinstance(f, frames.Site)})
            return len(sites) == len(hops)

        await worker.until(all_known)
        assert [sites[n].name for n in range(6)] == [
            "mx1.example.net,mx2.example.net",
            "",
            "127.0.0.1:25",
            "lmtp:unix:/run/x",
            "hold:x",
            "",
        ]
        assert 0 < sites[0].ttl <= 300
        assert all(site.ttl > 0 for site in sites.values())

    with_worker(story, journal)


def test_a_sign_of_life_comes_each_second(journal: Path) -> None:
    async def story(worker: WorkerProcess, _: int) -> None:
        def two() -> bool:
            return sum(isinstance(f, frames.Beat) for f in worker.heard) >= 2

        await worker.until(two)

    with_process(story, journal)


def test_large_contents_are_fetched(journal: Path) -> None:
    parts = [b"x" * 62 + b"\r\n", b"y" * 62 + b"\r\n", b"end\r\n"]

    async def story(worker: WorkerInside, port: int) -> None:
        async with ScriptedPeer(host=FIRST, port=port) as peer:
            size = sum(map(len, parts))
            worker.say(frames.Deliver(numbered(1, content=None, size=size)))
            worker.say(frames.Deliver(numbered(2, content=None, size=size)))
            await worker.until(lambda: len(worker.results) == 2)
            assert verdicts(worker) == {1: Verdict.DELIVERED, 2: Verdict.HELD}
            assert [m.raw for m in peer.messages] == [b"".join(parts)]

    with_worker(story, journal, contents={1001: parts, 1002: parts[:2]})


def test_released_sessions_say_quit(journal: Path) -> None:
    async def story(worker: WorkerInside, port: int) -> None:
        async with ScriptedPeer(host=FIRST, port=port) as peer:
            worker.say(frames.Deliver(numbered(1, site="here")))
            await worker.result(1)
            worker.say(frames.Release(1, ["there"]))
            worker.say(frames.Deliver(numbered(2, site="here")))
            await worker.result(2)
            assert len(peer.clients) == 1
            worker.say(frames.Release(2, ["here"]))
            await until(lambda: "QUIT" in peer.verbs())
            assert frames.Released(2) in worker.heard
            worker.say(frames.Deliver(numbered(3, site="here")))
            await worker.result(3)
            assert len(peer.clients) == 2

    with_worker(story, journal)


# -- how many at once ---


def test_a_site_has_no_more_requests_running_than_there_is_room(journal: Path) -> None:
    async def story(worker: WorkerProcess, port: int) -> None:
        script: Script = {"DOT": Pause(0.01, "250 2.0.0 taken")}
        async with ScriptedPeer(script, host=FIRST, port=port) as peer:
            worker.say(frames.Room("here", 2))
            worker.say(*(frames.Deliver(numbered(n, site="here")) for n in range(1, 41)))
            await worker.until(lambda: len(worker.results) == 40)
            assert set(verdicts(worker).values()) == {Verdict.DELIVERED}
            assert len(peer.clients) == 2
            assert len(peer.messages) == 40

    with_process(story, journal)


def test_without_room_the_unbegun_come_back_untried(journal: Path) -> None:
    async def story(worker: WorkerInside, port: int) -> None:
        async with ScriptedPeer({"MAIL": Stall()}, host=FIRST, port=port) as peer:
            worker.say(frames.Room("here", 1), frames.Room("there", 1))
            worker.say(*(frames.Deliver(numbered(n, site="here")) for n in (1, 2, 3)))
            worker.say(*(frames.Deliver(numbered(n, site="there")) for n in (4, 5)))
            await until(lambda: peer.verbs().count("MAIL") == 2)
            worker.say(frames.Room("here", 0))
            await worker.until(lambda: len(worker.results) == 2)
            assert verdicts(worker) == {2: Verdict.RETURNED, 3: Verdict.RETURNED}
            assert all(result.sequence == 0 for result in worker.results.values())
            worker.say(frames.Drain(0.0))
            await worker.until(lambda: len(worker.results) == 5)
            assert set(verdicts(worker).values()) == {Verdict.RETURNED}

    with_worker(story, journal)


def test_a_raised_limit_begins_more_at_once(journal: Path) -> None:
    async def story(worker: WorkerInside, port: int) -> None:
        async with ScriptedPeer({"MAIL": Stall()}, host=FIRST, port=port) as peer:
            worker.say(frames.Room("here", 1))
            worker.say(*(frames.Deliver(numbered(n, site="here")) for n in range(1, 6)))
            await until(lambda: peer.verbs().count("MAIL") == 1)
            worker.say(frames.Room("here", 4))
            await until(lambda: peer.verbs().count("MAIL") == 4)
            assert not worker.results

    with_worker(story, journal)


# -- the end ---


def test_a_drained_worker_finishes_what_runs_and_exits(journal: Path) -> None:
    async def story(worker: WorkerProcess, port: int) -> None:
        script: Script = {"DOT": Pause(0.2, "250 2.0.0 taken")}
        async with ScriptedPeer(script, host=FIRST, port=port) as peer:
            worker.say(frames.Deliver(numbered(1)))
            await until(lambda: len(peer.messages) == 1)
            worker.say(frames.Drain(5.0), frames.Deliver(numbered(2)))
            assert await worker.exit_status() == 0
            assert verdicts(worker) == {1: Verdict.DELIVERED, 2: Verdict.RETURNED}
            assert peer.verbs()[-1] == "QUIT"

    with_process(story, journal)


def test_grace_ends_before_the_dot_but_not_after_it(journal: Path) -> None:
    async def story(worker: WorkerProcess, port: int) -> None:
        script: Script = {
            "MAIL before@example.org": Stall(),
            "DOT": Pause(0.6, "250 2.0.0 taken"),
        }
        async with ScriptedPeer(script, host=FIRST, port=port) as peer:
            worker.say(frames.Deliver(numbered(1)))
            worker.say(frames.Deliver(numbered(2, sender="before@example.org")))
            await until(lambda: len(peer.messages) == 1 and len(peer.clients) == 2)
            worker.say(frames.Drain(0.2))
            assert await worker.exit_status() == 0
            assert verdicts(worker) == {1: Verdict.DELIVERED, 2: Verdict.RETURNED}
            assert worker.results[2].sequence == 0
            assert {entry.queue_id for entry in read(journal, IDENTITY)} <= {1001}

    with_process(story, journal)


def test_an_idle_worker_exits_at_once(journal: Path) -> None:
    async def story(worker: WorkerProcess, _: int) -> None:
        worker.say(frames.Drain(60.0))
        assert await worker.exit_status(2.0) == 0

    with_process(story, journal)


def test_a_worker_whose_manager_died_notes_its_outcomes_and_exits(journal: Path) -> None:
    async def story(worker: WorkerProcess, port: int) -> None:
        script: Script = {
            "MAIL before@example.org": Stall(),
            "DOT": Pause(1.3, "250 2.0.0 taken"),
        }
        async with ScriptedPeer(script, host=FIRST, port=port) as peer:
            worker.say(frames.Deliver(numbered(1)))
            worker.say(frames.Deliver(numbered(2, sender="before@example.org")))
            await until(lambda: len(peer.messages) == 1 and len(peer.clients) == 2)
            assert writer(journal) == worker.pid
            worker.hang_up()
            assert await worker.exit_status() == 0
            (entry,) = read(journal, IDENTITY)
            assert (entry.queue_id, entry.state) == (1001, State.REPLIED)
            assert entry.result is not None
            assert entry.result.recipients[0].verdict == Verdict.DELIVERED
            assert writer(journal) is None

    with_process(story, journal)


def test_signals_are_the_managers_business(journal: Path) -> None:
    async def story(worker: WorkerProcess, port: int) -> None:
        async with ScriptedPeer(host=FIRST, port=port):
            for number in (signal.SIGTERM, signal.SIGINT):
                os.kill(worker.pid, number)
            worker.say(frames.Deliver(numbered(1)))
            assert (await worker.result(1)).recipients[0].verdict == Verdict.DELIVERED

    with_process(story, journal)


KILLED: list[tuple[str, Script, State]] = [
    ("127.0.0.51", {"CONNECT": Stall()}, State.STARTED),
    ("127.0.0.52", {"MAIL": Stall()}, State.STARTED),
    ("127.0.0.53", {"RCPT": Stall()}, State.STARTED),
    ("127.0.0.54", {"DATA": Stall()}, State.STARTED),
    ("127.0.0.55", {"DOT": Stall()}, State.DOT),
    ("127.0.0.56", {}, State.REPLIED),
]


def test_a_killed_worker_leaves_word_how_far_each_request_was(journal: Path) -> None:
    async def story(worker: WorkerProcess, port: int) -> None:
        async with AsyncExitStack() as stack:
            peers = [ScriptedPeer(script, host=ip, port=port) for ip, script, _ in KILLED]
            for number, peer in enumerate(peers):
                await stack.enter_async_context(peer)
                worker.say(frames.Deliver(numbered(number, next_hop=f"[{peer.host}]")))
            await until(lambda: all(peer.clients for peer in peers))
            await until(lambda: bool(peers[4].messages))
            await worker.result(5)
            worker.kill()
            await worker.exit_status()
        entries = {entry.queue_id: entry for entry in read(journal, IDENTITY)}
        assert [entries[1000 + n].state for n in range(6)] == [state for *_, state in KILLED]
        assert all(entry.recipients == ((1, 1),) for entry in entries.values())
        assert [entries[1000 + n].host.partition("[")[0] for n in range(6)] == [
            "", "", "", "", "127.0.0.55", "127.0.0.56",
        ]  # fmt: skip

    with_process(story, journal, settles=False)


def test_a_worker_killed_after_the_reply_leaves_the_outcome(journal: Path) -> None:
    async def story(worker: WorkerProcess, port: int) -> None:
        async with ScriptedPeer(host=FIRST, port=port):
            worker.say(frames.Deliver(numbered(1)), frames.Deliver(numbered(2)))
            await worker.until(lambda: len(worker.results) == 2)
            worker.kill()
            await worker.exit_status()
            entries = read(journal, IDENTITY)
            assert {e.queue_id: e.result for e in entries} == {
                result.queue_id: result for result in worker.results.values()
            }

    with_process(story, journal, settles=False)


def test_requests_wait_while_the_journal_is_full(journal: Path) -> None:
    async def story(worker: WorkerInside, port: int) -> None:
        many = 2048 + 10
        async with ScriptedPeer(host=FIRST, port=port):
            worker.say(
                *(
                    frames.Deliver(numbered(n, next_hop="discard:", content=b"", size=0))
                    for n in range(1, many + 1)
                )
            )
            await worker.until(lambda: len(worker.results) == 2048)
            beats = sum(isinstance(f, frames.Beat) for f in worker.heard)
            await worker.until(
                lambda: sum(isinstance(f, frames.Beat) for f in worker.heard) > beats
            )
            assert len(worker.results) == 2048
            worker.say(frames.Settled(5))
            await worker.until(lambda: len(worker.results) == 2053)
            worker.say(frames.Settled(2048))
            await worker.until(lambda: len(worker.results) == many)

    with_worker(story, journal, settles=False)


def test_bad_settings_end_the_worker_with_a_word(
    journal: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async def run() -> None:
        settings = WorkerSettings(
            hostname="x", dns=ResolverSettings(nameservers=("ns.example.org",))
        )
        worker = WorkerProcess(settings, journal)
        entering = asyncio.create_task(worker.__aenter__())
        await until(lambda: worker.pid > 0)
        assert await worker.exit_status() == 78
        entering.cancel()

    asyncio.run(run())
    assert "is no name server" in capfd.readouterr().err


def test_a_lost_connection_is_told_apart_from_a_fault(journal: Path) -> None:
    async def story(worker: WorkerInside, port: int) -> None:
        async with ScriptedPeer({"RCPT": Close()}, host=FIRST, port=port):
            worker.say(frames.Deliver(numbered(1)))
            result = await worker.result(1)
            assert result.recipients[0].verdict == Verdict.DEFERRED
            kinds = {f.kind for f in worker.heard if isinstance(f, frames.Event)}
            assert "fault" not in kinds

    with_worker(story, journal)


def test_a_fault_in_one_delivery_ends_that_delivery_only(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(visit: Visit, _: object) -> None:
        raise KeyError(str(visit))

    async def run() -> None:
        link = FakeLink()
        settings = WorkerSettings(hostname="mail.example.org", identity=IDENTITY)
        worker = Worker(settings, journal, cast("ManagerLink", link))
        worker.hear(frames.Deliver(numbered(1, next_hop="[127.0.0.1]:1")))
        worker.hear(frames.Deliver(numbered(2, next_hop="discard:")))
        worker.hear(frames.Deliver(numbered(3, next_hop="[127.0.0.1]:1")))
        await until(lambda: len(link.reported) == 3)
        found = {result.serial: result for result in link.reported}
        first = found[1].recipients[0]
        assert (first.verdict, first.enhanced) == (Verdict.DEFERRED, "4.3.0")
        assert found[2].recipients[0].verdict == Verdict.DELIVERED
        told = [f.fields for f in link.said if isinstance(f, frames.Event) and f.kind == "fault"]
        assert len(told) == 2
        assert told[0]["error"] == "KeyError"
        assert "Traceback" in told[0]["trace"]
        worker.hear(frames.Drain(0.0))
        await worker.over

    monkeypatch.setattr(Visit, "run", broken)
    asyncio.run(run())


def test_work_that_was_not_begun_when_grace_ended_goes_back(journal: Path) -> None:
    async def run() -> None:
        link = FakeLink()
        settings = WorkerSettings(hostname="mail.example.org", identity=IDENTITY)
        worker = Worker(settings, journal, cast("ManagerLink", link))
        worker.hear(frames.Deliver(numbered(1, next_hop="[127.0.0.1]:1")))
        worker._cut()
        worker.hear(frames.Drain(60.0))
        await worker.over
        (told,) = link.reported
        assert told.recipients[0].verdict == Verdict.RETURNED
        assert read(journal, IDENTITY) == []

    asyncio.run(run())


class FakeLink:
    """A link to nobody."""

    def __init__(self) -> None:
        self.said: list[frames.FromWorker] = []
        self.say = self.said.append
        self.reported: list[DeliveryResult] = []

    def report(self, result: bytes, *, soon: bool = True) -> None:
        self.reported.append(msgspec.msgpack.decode(result, type=DeliveryResult))


def test_a_request_beyond_the_journals_slots_is_deferred(journal: Path) -> None:
    async def run() -> None:
        link = FakeLink()
        settings = WorkerSettings(hostname="mail.example.org", identity=IDENTITY)
        worker = Worker(settings, journal, cast("ManagerLink", link))
        crowd = request(*(f"r{n}@example.net" for n in range(2000)), next_hop="discard:")
        worker.hear(frames.Deliver(crowd))
        (told,) = link.reported
        assert {r.verdict for r in told.recipients} == {Verdict.DEFERRED}

    asyncio.run(run())


def test_a_worker_knows_no_sql() -> None:
    code = """
import json, sys
import deliveryagent.agent.worker
rooms = {name.partition(".")[0] for name in sys.modules}
print(json.dumps(sorted(rooms & {"sqlalchemy", "alembic", "click", "queue_schema"})))
"""
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True
    ).stdout
    assert json.loads(said) == []
