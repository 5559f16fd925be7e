"""Worker processes are started, watched, replaced, and let go."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from deliveryagent import children
from deliveryagent.agent import frames
from deliveryagent.agent.crew import Crew, Worker
from deliveryagent.agent.worker_settings import WorkerSettings

IDENTITY = bytes(range(16))


class Owner:
    """Stands where the manager stands."""

    def __init__(self) -> None:
        self.ready: list[int] = []
        self.died: list[Path] = []
        self.not_started: list[OSError] = []

    def worker_said(self, worker: Worker, frame: frames.FromWorker) -> None:
        if isinstance(frame, frames.Ready):
            worker.ready = True
            self.ready.append(frame.pid)

    def worker_died(self, worker: Worker, journal: Path) -> None:
        self.died.append(journal)

    def worker_not_started(self, worker: Worker, error: OSError) -> None:
        self.not_started.append(error)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - processes tell nobody
            await asyncio.sleep(0.02)


def play(tmp_path: Path, story: Callable[[Crew, Owner], Awaitable[None]], count: int = 1) -> Owner:
    owner = Owner()

    async def run() -> None:
        crew = Crew(
            owner,
            count=count,
            settings=lambda: WorkerSettings(hostname="agent.test", identity=IDENTITY).encode(),
            journals=tmp_path,
        )
        crew.start()
        try:
            await story(crew, owner)
        finally:
            crew.kill()
            await crew.drain(0.0)

    asyncio.run(run())
    return owner


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_killed_worker_has_a_successor_with_a_journal_of_its_own(tmp_path: Path) -> None:
    async def story(crew: Crew, owner: Owner) -> None:
        await until(lambda: owner.ready)
        os.kill(owner.ready[0], signal.SIGKILL)
        await until(lambda: len(owner.ready) == 2)
        assert owner.ready[0] != owner.ready[1]
        assert crew.workers[0].restarts == 1
        assert owner.died[0].exists(), "the journal stays until it is dealt with"
        assert len(os.listdir(tmp_path)) == 2  # noqa: PTH208 - a glance, between two events

    play(tmp_path, story)


def test_replaced_workers_end_and_new_ones_take_over_without_waiting(tmp_path: Path) -> None:
    async def story(crew: Crew, owner: Owner) -> None:
        await until(lambda: len(owner.ready) == 2)
        old = list(owner.ready)
        before = list(crew.workers)
        crew.replace(5.0)
        assert all(worker.draining for worker in before)
        assert not set(before) & set(crew.workers)
        await until(lambda: len(owner.ready) == 4)
        await until(lambda: all(gone(pid) for pid in old))
        assert not any(worker.draining for worker in crew.workers)

    play(tmp_path, story, count=2)


def test_draining_ends_all_of_them(tmp_path: Path) -> None:
    async def story(crew: Crew, owner: Owner) -> None:
        await until(lambda: len(owner.ready) == 2)
        await crew.drain(1.0)
        assert all(gone(pid) for pid in owner.ready)
        assert len(owner.died) == 2

    play(tmp_path, story, count=2)


def test_a_worker_that_shows_no_sign_of_life_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "SILENCE", 2.5)

    async def story(crew: Crew, owner: Owner) -> None:
        await until(lambda: owner.ready)
        os.kill(owner.ready[0], signal.SIGSTOP)
        await until(lambda: owner.died)
        await until(lambda: len(owner.ready) == 2)

    play(tmp_path, story)


def test_a_system_without_room_for_a_process_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spawn = Crew._spawn
    refused: list[int] = []

    async def sometimes(self: Crew, worker: Worker, path: Path) -> asyncio.subprocess.Process:
        if not refused:
            refused.append(1)
            raise OSError(11, "Resource temporarily unavailable")
        return await spawn(self, worker, path)

    monkeypatch.setattr(Crew, "_spawn", sometimes)

    async def story(_: Crew, owner: Owner) -> None:
        await until(lambda: owner.ready)
        assert len(owner.not_started) == 1

    play(tmp_path, story)
