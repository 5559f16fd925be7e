"""Parts of contents on their way to a worker: in order, and no more than it reads."""

import asyncio
from collections import deque
from pathlib import Path
from typing import cast

from deliveryagent.agent import frames
from deliveryagent.agent.crew import Worker
from deliveryagent.agent.servings import READ_AT_ONCE, UNREAD, serve
from tests.doubles.stage import Stage, play
from tests.doubles.worker_double import delivered


class Reader:
    """Stands in for a worker that reads when it is told to."""

    def __init__(self) -> None:
        self.wanted: deque[frames.Fetch] = deque()
        self.reading = 0
        self.unsent = 0
        self.said: list[frames.Part] = []

    def say(self, frame: frames.ToWorker) -> None:
        assert isinstance(frame, frames.Part)
        self.said.append(frame)
        self.unsent += UNREAD // 2


async def settled(stage: Stage, reader: Reader) -> None:
    async with asyncio.timeout(30):
        while True:
            serve(stage.database, cast("Worker", reader))
            if not reader.reading:
                return
            await asyncio.sleep(0.001)


def test_a_worker_that_does_not_read_gets_no_more(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        queue_id = await stage.enqueue("u@a.test")
        reader = Reader()
        asked = [frames.Fetch(queue_id, part) for part in range(3 * READ_AT_ONCE)]
        reader.wanted.extend(asked)
        await settled(stage, reader)
        had = len(reader.said)
        assert had <= READ_AT_ONCE + 2
        await settled(stage, reader)
        assert len(reader.said) == had
        while reader.wanted:
            reader.unsent = 0
            await settled(stage, reader)
        assert [(part.queue_id, part.part) for part in reader.said] == [
            (one.queue_id, one.part) for one in asked
        ]

    play(tmp_path, delivered, story)


def test_every_question_is_answered(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        queue_id = await stage.enqueue("u@a.test")
        reader = Reader()
        reader.wanted.extend([frames.Fetch(queue_id, 0), frames.Fetch(queue_id, 1)])
        await settled(stage, reader)
        assert [part.data for part in reader.said] == [b"Subject: x\r\n\r\nhello\r\n", None]

    play(tmp_path, delivered, story)
