"""How mail is found of which nobody told the manager, and destinations that it owns without knowing."""

import asyncio
from pathlib import Path

from sqlalchemy import text

from deliveryagent.queue import submissions
from tests.doubles.stage import Stage, play
from tests.doubles.worker_double import delivered


def test_what_is_owned_without_anybody_knowing_is_let_go(tmp_path: Path) -> None:
    """The answer to a claim was lost with the connection, after its commit."""

    async def story(stage: Stage) -> None:
        stage.manager.draining = True
        await stage.enqueue("kim@a.test")
        with stage.engine.begin() as connection:
            lost = {"agent": stage.agent}
            connection.execute(text("UPDATE destination SET owner = :agent, ready = NULL"), lost)
        stage.manager.draining = False
        stage.manager.nudge()
        await stage.idle()
        assert stage.statuses() == {"queued": 1}
        stage.manager.custody.doubt()
        stage.manager.nudge()
        await stage.idle()
        assert stage.statuses() == {"delivered": 1}

    play(tmp_path, delivered, story)


def test_where_no_news_arrive_the_queue_is_looked_at_every_second(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        stage.manager.custody.deaf = True
        stage.manager.nudge()
        await stage.idle()
        (letter,) = stage.letters("kim@a.test")
        await stage.database.submit(submissions.add, letter)  # as another program would
        stage.now += 1.5
        while stage.statuses() != {"delivered": 1}:  # noqa: ASYNC110 - nobody tells of it
            await asyncio.sleep(0.02)

    play(tmp_path, delivered, story)
