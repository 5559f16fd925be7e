"""What dead processes were at: settled, in doubt, tried again, or held."""

import asyncio
import fcntl
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deliveryagent.agent import recovery
from deliveryagent.agent.journal import Journal, State
from deliveryagent.mail.delivery import DeliveryRequest, RequestRecipient, Verdict
from tests.doubles.stage import Stage, play
from tests.doubles.worker_double import answer, bounced, delivered


def request_for(queue_id: int, *, attempt: int = 1) -> DeliveryRequest:
    return DeliveryRequest(
        serial=1,
        queue_id=queue_id,
        sender="s@sender.test",
        recipients=(RequestRecipient(1, "kim@a.test", attempt),),
        domain="a.test",
        next_hop="a.test",
        route=-1,
        size=10,
        dotted=False,
        eightbit=False,
        utf8=False,
        long_lines=False,
        ret="",
        envid="",
        arrival=0.0,
        due=0.0,
        content=b"",
    )


def left_behind(stage: Stage, queue_id: int, state: State, *, name: str = "w") -> Path:
    """The journal of a worker that was killed in this state."""
    path = stage.path / f"{name}.journal"
    journal = Journal.create(path, stage.identity, slots=4)
    request = request_for(queue_id)
    slot = journal.start(request)
    assert slot is not None
    if state >= State.DOT:
        journal.dot(slot, "mx.a.test")
    if state is State.REPLIED:
        journal.replied(slot, delivered(request))
    journal.close()
    return path


async def replay(stage: Stage, path: Path) -> list[int]:
    return await recovery.replay(
        path,
        identity=stage.identity,
        database=stage.database,
        now=stage.now,
        retry=stage.rules.retry,
        rng=stage.rng,
    )


@pytest.mark.parametrize(
    ("state", "status", "decision", "tried_again"),
    [
        (State.STARTED, "queued", [], True),
        (State.DOT, "deferred", [("in_doubt", "4.4.2")], False),
        (State.REPLIED, "delivered", [("delivered", "2.0.0")], False),
    ],
)
def test_each_state_of_a_killed_worker(
    tmp_path: Path, state: State, status: str, decision: list[Any], tried_again: bool
) -> None:
    async def story(stage: Stage) -> None:
        stage.manager.draining = True
        queue_id = await stage.enqueue("kim@a.test")
        path = left_behind(stage, queue_id, state)
        await replay(stage, path)
        assert stage.rows("SELECT status FROM recipient") == [(status,)]
        assert stage.rows("SELECT decision, enhanced FROM attempt") == decision
        assert not path.exists()
        stage.manager.draining = False
        await stage.idle()
        assert bool(stage.worker.seen) == tried_again

    play(tmp_path, delivered, story)


def test_a_journal_read_twice_changes_nothing(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        queue_id = await stage.enqueue("kim@a.test")
        await stage.idle()
        before = stage.rows("SELECT * FROM attempt")
        await replay(stage, left_behind(stage, queue_id, State.REPLIED))
        await replay(stage, left_behind(stage, queue_id, State.DOT, name="again"))
        assert stage.rows("SELECT * FROM attempt") == before
        assert stage.statuses() == {"delivered": 1}

    play(tmp_path, delivered, story)


def test_a_bounce_that_was_seen_is_reported_after_the_crash(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        stage.manager.draining = True
        queue_id = await stage.enqueue("gone@a.test")
        path = stage.path / "w.journal"
        journal = Journal.create(path, stage.identity, slots=4)
        request = request_for(queue_id)
        slot = journal.start(request)
        assert slot is not None
        journal.replied(slot, bounced(request))
        journal.close()
        (owing,) = await replay(stage, path)
        stage.manager.recorder.reporting.report(owing)
        await stage.manager.recorder.done()
        assert stage.rows("SELECT count(*) FROM message WHERE sender = ''") == [(1,)]

    play(tmp_path, delivered, story)


def test_the_third_crash_puts_a_message_on_hold(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        stage.manager.draining = True
        queue_id = await stage.enqueue("kim@a.test")
        for turn in range(3):
            assert stage.rows("SELECT status FROM recipient") == [("queued",)]
            await replay(stage, left_behind(stage, queue_id, State.STARTED, name=f"w{turn}"))
        assert stage.rows("SELECT status FROM recipient") == [("held",)]

    play(tmp_path, delivered, story)


def test_an_answer_clears_a_suspect(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        stage.manager.draining = True
        queue_id = await stage.enqueue("kim@a.test")
        await replay(stage, left_behind(stage, queue_id, State.STARTED))
        assert stage.rows("SELECT crashes FROM message") == [(1,)]
        stage.worker.answers = lambda r: answer(r, Verdict.DEFERRED, code=451, text="later")
        stage.manager.draining = False
        await stage.idle()
        assert stage.rows("SELECT crashes FROM message") == [(0,)]

    play(tmp_path, delivered, story)


def test_a_worker_of_a_dead_manager_is_waited_for_and_then_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deliveryagent.agent.recovery._ORPHAN_PATIENCE", 0.2)
    script = (
        "import sys, time; from pathlib import Path;"
        "from deliveryagent.agent.journal import Journal;"
        "journal = Journal.create(Path(sys.argv[1]), bytes(16), slots=4);"
        "print('ready', flush=True); time.sleep(60)"
    )
    path = tmp_path / "orphan.journal"
    with subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE
    ) as orphan:
        assert orphan.stdout is not None
        assert orphan.stdout.readline() == b"ready\n"
        asyncio.run(recovery.outlive(path))
        assert orphan.wait(5) == -9
    descriptor = os.open(path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(descriptor)
