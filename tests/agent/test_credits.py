"""Requests ahead of need, with real worker processes: what runs at a site never exceeds its window."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

from deliveryagent.agent.active import FIRST_QUOTA
from deliveryagent.agent.allotment import SWIFT
from deliveryagent.agent.crew import Crew
from deliveryagent.agent.worker_settings import WorkerSettings
from deliveryagent.policy.targets import LoopSettings
from tests.doubles.stage import START, Stage, play
from tests.doubles.worker_double import delivered

LIMIT = 3


class Receiver:
    """A host that takes everything after a moment, and counts how many it is asked to take at once."""

    def __init__(self, pause: float) -> None:
        self.pause = pause
        self.busy = 0
        self.most = 0
        self.taken: list[str] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._speak(reader, writer)
        finally:
            writer.close()

    async def _speak(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mx.test\r\n")
        address = ""
        while line := await reader.readline():
            verb = line.split(None, 1)[0].upper() if line.strip() else b""
            if verb in (b"EHLO", b"HELO"):
                writer.write(b"250-mx.test\r\n250 PIPELINING\r\n")
            elif verb == b"DATA":
                writer.write(b"354 go on\r\n")
                await self._take(reader, address)
                writer.write(b"250 2.0.0 taken\r\n")
            elif verb == b"QUIT":
                writer.write(b"221 bye\r\n")
                return
            else:
                if verb == b"RCPT":
                    address = line.decode().partition("<")[2].partition(">")[0]
                writer.write(b"250 ok\r\n")

    async def _take(self, reader: asyncio.StreamReader, address: str) -> None:
        self.busy += 1
        self.most = max(self.most, self.busy)
        try:
            while await reader.readline() not in (b".\r\n", b""):
                pass
            await asyncio.sleep(self.pause)
            self.taken.append(address)
        finally:
            self.busy -= 1


def delivering(
    tmp_path: Path,
    story: Callable[[Stage, Receiver, Crew], Awaitable[None]],
    *,
    pause: float = 0.01,
    workers: int = 2,
) -> None:
    """A manager with real workers that bring everything to one receiver."""

    async def told(stage: Stage) -> None:
        receiver = Receiver(pause)
        server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0)
        receiver.port = server.sockets[0].getsockname()[1]
        stage.relay(f"[127.0.0.1]:{receiver.port}")
        settings = WorkerSettings(
            hostname="agent.test",
            identity=stage.identity,
            loop=LoopSettings(loopback_mx=True, inet_interfaces=("127.0.0.250",)),
        )
        journals = tmp_path / "journal"
        journals.mkdir()
        crew = Crew(stage.manager, count=workers, settings=settings.encode, journals=journals)
        stage.manager.crew = crew
        crew.start()
        try:
            await story(stage, receiver, crew)
        finally:
            crew.kill()
            await crew.drain(0.0)
            server.close()

    play(tmp_path, delivered, told, site_limit=LIMIT)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - processes tell nobody
            await asyncio.sleep(0.01)


def test_a_window_holds_while_workers_have_more_at_hand(tmp_path: Path) -> None:
    async def story(stage: Stage, receiver: Receiver, _: Crew) -> None:
        for n in range(150):
            await stage.enqueue(f"u{n}@a.test")
        ahead = 0
        while len(receiver.taken) < 150:
            ahead = max(
                ahead, max((s.busy for s in stage.manager.schedule.sites.values()), default=0)
            )
            await asyncio.sleep(0.005)
        await stage.idle()
        assert sorted(receiver.taken) == sorted(f"u{n}@a.test" for n in range(150))
        assert receiver.most == LIMIT
        assert LIMIT < ahead <= SWIFT * LIMIT, (
            "workers had the next requests before the last had ended"
        )
        assert stage.statuses() == {"delivered": 150}

    delivering(tmp_path, story)


def test_a_tarpit_and_a_dead_host_hold_nobody_up(tmp_path: Path) -> None:
    async def story(stage: Stage, receiver: Receiver, _: Crew) -> None:
        tarpit = Receiver(pause=600.0)
        server = await asyncio.start_server(tarpit.serve, "127.0.0.1", 0)
        sticky = server.sockets[0].getsockname()[1]
        with socket.create_server(("127.0.0.1", 0)) as shut:
            dead = shut.getsockname()[1]
        stage.relay(
            f"[127.0.0.1]:{receiver.port}",
            **{"slow.test": f"[127.0.0.1]:{sticky}", "dead.test": f"[127.0.0.1]:{dead}"},
        )
        for n in range(0, 3000, 500):
            names = [f"u{k}@{name}.test" for k in range(n, n + 500) for name in ("slow", "dead")]
            await stage.take_over(stage.letters(*names))
        await until(lambda: tarpit.busy == LIMIT)
        await stage.take_over(stage.letters(*(f"u{n}@good.test" for n in range(100))))
        await until(lambda: len(receiver.taken) == 100)
        assert stage.destination("slow.test").pending <= FIRST_QUOTA
        assert stage.manager.schedule.size <= 3 * FIRST_QUOTA
        assert tarpit.taken == []
        server.close()

    delivering(tmp_path, story)


def test_a_slow_site_gets_nothing_ahead(tmp_path: Path) -> None:
    async def story(stage: Stage, receiver: Receiver, _: Crew) -> None:
        for n in range(6):
            await stage.enqueue(f"u{n}@a.test")
        loop = asyncio.get_running_loop()
        begin = loop.time()
        while len(receiver.taken) < 6:
            stage.now = START + loop.time() - begin
            assert all(site.busy <= LIMIT for site in stage.manager.schedule.sites.values())
            await asyncio.sleep(0.01)
        assert receiver.most == LIMIT

    delivering(tmp_path, story, pause=0.7)


def test_a_window_holds_and_nothing_is_lost_when_workers_change(tmp_path: Path) -> None:
    async def story(stage: Stage, receiver: Receiver, crew: Crew) -> None:
        for n in range(200):
            await stage.enqueue(f"u{n}@a.test")
        await until(lambda: len(receiver.taken) > 40)
        crew.replace(5.0)
        await until(lambda: len(receiver.taken) >= 200)
        await stage.idle()
        assert sorted(receiver.taken) == sorted(f"u{n}@a.test" for n in range(200))
        assert receiver.most <= LIMIT
        assert stage.statuses() == {"delivered": 200}

    delivering(tmp_path, story)


def test_what_has_not_begun_comes_back_when_outcomes_cannot_be_recorded(tmp_path: Path) -> None:
    async def story(stage: Stage, receiver: Receiver, _: Crew) -> None:
        for n in range(100):
            await stage.enqueue(f"u{n}@a.test")
        await until(lambda: len(receiver.taken) > 20)
        stage.manager.store_trouble = "the disk is full"
        stage.manager.look_at_sites()
        await until(lambda: not stage.manager.schedule.in_flight)
        seen = len(receiver.taken)
        await asyncio.sleep(0.1)
        assert len(receiver.taken) == seen < 100
        stage.manager.store_trouble = ""
        await stage.idle()
        assert sorted(receiver.taken) == sorted(f"u{n}@a.test" for n in range(100))
        assert stage.rows("SELECT max(attempts) FROM recipient") == [(1,)]

    delivering(tmp_path, story, pause=0.03)
