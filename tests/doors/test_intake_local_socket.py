"""The socket itself: who gets in, how many, for how long, and how it ends."""

import asyncio
import os
import socket
import stat
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop

from deliveryagent.config.location import SOCKET_NAME
from deliveryagent.intake.admission import Peer
from deliveryagent.intake.requests import SessionLimits
from deliveryagent.protocol.local import chunk, encode_line
from tests.doors.office import ME, leftovers, open_office, request, stored, until

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Callable[[Callable[[], Awaitable[None]]], None]:
    """Runs a coroutine on the standard event loop, and on the one the service uses."""

    def run(main: Callable[[], Awaitable[None]]) -> None:
        async def limited() -> None:
            async with asyncio.timeout(20):
                await main()

        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            runner.run(limited())

    return run


Run = Callable[[Callable[[], Awaitable[None]]], None]


def some_user(monkeypatch: pytest.MonkeyPatch, uid: int = 12345) -> None:
    peer = Peer(uid=uid, gid=uid, pid=1, groups=frozenset({uid}), user="anna")
    monkeypatch.setattr("deliveryagent.intake.local_socket.peer_of", lambda _: peer)


def test_the_socket_is_there_for_everybody_while_the_service_runs(tmp_path: Path, run: Run) -> None:
    async def main() -> None:
        async with open_office(tmp_path) as office, await office.call() as caller:
            assert stat.S_IMODE(office.socket.stat().st_mode) == 0o666
            assert (await caller.send())["ok"]
        assert not office.socket.exists()

    run(main)


def test_a_socket_left_by_a_dead_service_is_replaced(tmp_path: Path, run: Run) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / SOCKET_NAME))

    async def main() -> None:
        async with open_office(tmp_path) as office, await office.call() as caller:
            assert (await caller.order("ping"))["ok"]

    run(main)


def test_a_socket_of_a_successor_stays(tmp_path: Path, run: Run) -> None:
    async def main() -> None:
        async with open_office(tmp_path) as office:
            office.socket.unlink()
            with socket.socket(socket.AF_UNIX) as successor:
                successor.bind(str(office.socket))
        assert office.socket.exists()

    run(main)


def test_an_inherited_socket_is_used_and_its_file_left_alone(tmp_path: Path, run: Run) -> None:
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / SOCKET_NAME))
    listening.listen()

    async def main() -> None:
        async with (
            open_office(tmp_path, inherited=listening) as office,
            await office.call() as caller,
        ):
            assert (await caller.send())["ok"]
        assert office.socket.exists()

    run(main)


def test_the_caller_is_known_from_the_kernel(tmp_path: Path, run: Run) -> None:
    async def who(_: dict[str, Any], peer: Peer) -> dict[str, Any]:
        return {"uid": peer.uid, "pid": peer.pid, "user": peer.user, "admin": peer.admin}

    async def main() -> None:
        async with (
            open_office(tmp_path, open_orders={"who": who}) as office,
            await office.call() as caller,
        ):
            answer = await caller.order("who", uid=1, admin=False)
            assert answer == {
                "ok": True,
                "uid": ME.uid,
                "pid": os.getpid(),
                "user": ME.user,
                "admin": True,
            }

    run(main)


@pytest.mark.parametrize(
    "limits", [SessionLimits(connections=2), SessionLimits(connections_per_user=2)]
)
def test_connections_are_limited_but_not_those_of_root(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, limits: SessionLimits
) -> None:
    async def main() -> None:
        async with open_office(tmp_path, limits=limits) as office:
            some_user(monkeypatch)
            async with await office.call() as one, await office.call() as two:
                assert (await one.order("ping"))["ok"]
                assert (await two.order("ping"))["ok"]
                async with await office.call() as three:
                    assert (await three.answer())["code"] == 75
                    assert await three.closed()
                monkeypatch.undo()
                async with await office.call() as root:
                    assert (await root.order("ping"))["ok"]
                some_user(monkeypatch)
            await until(lambda: not office.local.connections)
            async with await office.call() as four:
                assert (await four.order("ping"))["ok"]

    run(main)


SHORT_REQUEST = SessionLimits(request_time=0.1)
SHORT_IDLE = SessionLimits(idle_time=0.6)
SHORT_CONTENT = SessionLimits(content_time=0.1, slowest_content=1e6)
SHORT_ANSWER = SessionLimits(answer_time=0.2)


@pytest.mark.parametrize("sent", [b"", b'{"op":"se'])
def test_a_caller_without_a_request_is_cut_off_in_silence(
    tmp_path: Path, run: Run, sent: bytes
) -> None:
    """An answer that nobody asked for would be taken for the answer to the next request."""

    async def main() -> None:
        async with (
            open_office(tmp_path, limits=SHORT_REQUEST) as office,
            await office.call() as caller,
        ):
            caller.put(sent)
            assert await caller.closed()

    run(main)


def test_a_caller_may_be_idle_between_requests(tmp_path: Path, run: Run) -> None:
    async def main() -> None:
        async with (
            open_office(tmp_path, limits=SHORT_IDLE) as office,
            await office.call() as caller,
        ):
            assert (await caller.send())["ok"]
            await asyncio.sleep(0.1)
            assert (await caller.send())["ok"]
            assert await caller.closed()

    run(main)


@pytest.mark.parametrize("cut", [-1, -4, -10])
def test_a_content_that_stops_is_given_up(tmp_path: Path, run: Run, cut: int) -> None:
    async def main() -> None:
        async with (
            open_office(tmp_path, limits=SHORT_CONTENT) as office,
            await office.call() as caller,
        ):
            caller.put(request(b"\n" + b"x\n" * 3000)[:cut])
            answer = await caller.answer()
            assert answer["code"] == 75
            assert "too slowly" in answer["error"]
            assert await caller.closed()
            assert not stored(office.queue)
            assert not leftovers(office.queue)

    run(main)


def test_octet_by_octet_is_too_slow(tmp_path: Path, run: Run) -> None:
    async def main() -> None:
        async with (
            open_office(tmp_path, limits=SHORT_CONTENT) as office,
            await office.call() as caller,
        ):
            caller.put(request()[:-4])
            answer = asyncio.ensure_future(caller.answer())
            while not answer.done():
                caller.put(chunk(b"x"))
                await asyncio.sleep(0.02)
            assert answer.result()["code"] == 75

    run(main)


def test_a_refused_message_that_stops_tells_the_refusal(tmp_path: Path, run: Run) -> None:
    async def main() -> None:
        async with (
            open_office(tmp_path, limits=SHORT_CONTENT) as office,
            await office.call() as caller,
        ):
            caller.put(request(recipients=["no one"])[:-4])
            assert "space" in (await caller.answer())["error"]
            assert await caller.closed()

    run(main)


def test_a_caller_that_reads_no_answers_is_cut_off(tmp_path: Path, run: Run) -> None:
    async def main() -> None:
        async with (
            open_office(tmp_path, limits=SHORT_ANSWER) as office,
            await office.call() as caller,
        ):
            assert (await caller.order("ping"))["ok"]
            caller.writer.transport.pause_reading()  # type: ignore[attr-defined]
            caller.put(encode_line({"op": "x" * 30}) * 50_000)
            await until(lambda: not office.local.connections)

    run(main)


def test_a_long_request_line_is_read_and_an_endless_one_is_not(tmp_path: Path, run: Run) -> None:
    async def main() -> None:
        async with open_office(tmp_path) as office, await office.call() as caller:
            many = [f"user{n}@{'x' * 50}.example.net" for n in range(10_000)]
            assert (await caller.send(recipients=many))["ok"]
            caller.put(b'{"op":"send","sender":"' + b"x" * 5_000_000)
            assert "4194304" in (await caller.answer())["error"]
            assert await caller.closed()

    run(main)


def test_few_long_request_lines_are_read_at_a_time(tmp_path: Path, run: Run) -> None:
    limits = SessionLimits(long_lines=1)
    line = b'{"op":"send","sender":"' + b"x" * 300_000

    async def main() -> None:
        async with (
            open_office(tmp_path, limits=limits) as office,
            await office.call() as first,
            await office.call() as second,
        ):
            first.put(line)
            await asyncio.sleep(0.05)
            second.put(line + b'"}\n' + b"\0\0\0\0")
            await asyncio.sleep(0.1)
            assert office.local.connections == 2
            first.writer.close()
            assert (await second.answer())["code"] == 65

    run(main)


def test_a_broken_connection_does_not_disturb_the_others(tmp_path: Path, run: Run) -> None:
    async def main() -> None:
        async with open_office(tmp_path) as office, await office.call() as caller:
            for _ in range(5):
                other = await office.call()
                raw = other.writer.get_extra_info("socket")
                raw = socket.socket(fileno=os.dup(raw.fileno()))
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                other.put(request() * 3 + request()[:50])
                other.writer.transport.abort()
                raw.close()
            assert (await caller.send())["ok"]
            await until(lambda: office.local.connections == 1)
            assert not office.troubles
            assert not leftovers(office.queue)

    run(main)


# -- the end ---


def test_the_end_waits_for_commits_and_contents_but_not_for_the_idle(
    tmp_path: Path, run: Run
) -> None:
    async def main() -> None:
        async with (
            open_office(tmp_path) as office,
            await office.call() as idle,
            await office.call() as busy,
            await office.call() as committing,
        ):
            assert (await idle.order("ping"))["ok"]
            office.desk.gate.clear()
            whole = request()
            busy.put(whole[:90])
            await asyncio.sleep(0.1)
            committing.put(request())
            await until(lambda: len(office.desk.submitted) == 1)
            end = asyncio.ensure_future(office.local.stop(grace=5))
            assert await idle.closed()
            with pytest.raises(OSError):
                await office.call()
            busy.put(whole[90:])
            await until(lambda: len(office.desk.submitted) == 2)
            office.desk.gate.set()
            assert (await busy.answer())["ok"]
            assert (await committing.answer())["ok"]
            assert await busy.closed()
            assert await committing.closed()
            await asyncio.wait_for(end, 2)
            assert stored(office.queue) == 2

    run(main)


def test_the_end_does_not_wait_for_ever(tmp_path: Path, run: Run) -> None:
    async def main() -> None:
        async with open_office(tmp_path) as office, await office.call() as stuck:
            stuck.put(request(b"\n" + b"x\n" * 3000)[:-4])
            await asyncio.sleep(0.1)
            await asyncio.wait_for(office.local.stop(grace=0.1), 2)
            assert await stuck.closed()
            assert not leftovers(office.queue)

    run(main)


def test_requests_behind_the_end_are_not_served(tmp_path: Path, run: Run) -> None:
    async def main() -> None:
        async with open_office(tmp_path) as office, await office.call() as caller:
            office.desk.gate.clear()
            caller.put(request())
            await until(lambda: len(office.desk.submitted) == 1)
            end = asyncio.ensure_future(office.local.stop(grace=5))
            await asyncio.sleep(0)
            caller.put(request())
            await asyncio.sleep(0.05)
            office.desk.gate.set()
            await end
            told = (await caller.reader.read()).count(b'"ok":true')
            assert told == stored(office.queue)

    run(main)
