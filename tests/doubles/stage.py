"""A queue manager on its stage: a real queue, a clock that tests set, one worker that acts.

The queue is an SQLite file unless the option ``url`` says otherwise.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy import text

from deliveryagent.agent.active import Destination
from deliveryagent.agent.bounce import Composer
from deliveryagent.agent.manager import Manager
from deliveryagent.agent.reporting import Reporting
from deliveryagent.agent.rules import Rules
from deliveryagent.agent.schedule import Schedule
from deliveryagent.log import EventLog, LogSettings
from deliveryagent.mail.envelope import ContentFacts, Envelope, NewRecipient, new_queue_id
from deliveryagent.mail.submission import CONTENT_PART, Submission
from deliveryagent.policy.concurrency import ConcurrencySettings
from deliveryagent.policy.notices import NoticeSettings
from deliveryagent.policy.retry import RetrySettings
from deliveryagent.policy.routing import RelaySettings, Router, RouteSettings
from deliveryagent.queue import leases, submissions
from deliveryagent.queue.engine import open_writer
from deliveryagent.queue.ids import QueueIds
from deliveryagent.queue.thread import Database
from deliveryagent.queue.upgrade import ensure
from tests.doubles.worker_double import (
    Answer,
    CrewDouble,
    WorkerDouble,
)

START = 1_800_000_000.0


class Stage:
    """A manager on its stage: the store, a clock that tests set, one worker."""

    def __init__(self, tmp_path: Path, answers: Answer, **options: Any) -> None:
        self.now = START
        self.rng = random.Random(7)
        self.path = tmp_path
        self.engine = open_writer(options.get("url", f"sqlite:///{tmp_path}/queue.sqlite3"))
        self.identity = ensure(self.engine)
        self.database = Database(self.engine)
        self.ids = QueueIds(last=0, clock=self.clock, rng=self.rng)
        self.agent = new_queue_id(self.now, 1)
        self.rules = Rules(
            router=Router((), RelaySettings(host=options.get("relay", ""))),
            retry=options.get("retry", RetrySettings()),
            concurrency=ConcurrencySettings(),
            recipient_limit=lambda _: options.get("recipient_limit", 50),
            site_limit=lambda _: options.get("site_limit", 20),
            shutdown_grace=1.0,
        )
        composer = Composer(
            hostname="agent.test",
            postmaster="postmaster@agent.test",
            notices=NoticeSettings(),
            retry=self.rules.retry,
            new_id=self.ids,
            clock=self.clock,
            part_size=CONTENT_PART,
        )
        log = EventLog(LogSettings(file=str(tmp_path / "log")), hostname="agent.test")
        self.manager = Manager(
            database=self.database,
            agent=self.agent,
            identity=self.identity,
            schedule=Schedule(rules=self.rules, rng=self.rng),
            rules=self.rules,
            reporting=Reporting(
                database=self.database, composer=composer, log=log, clock=self.clock
            ),
            log=log,
            clock=self.clock,
            rng=self.rng,
        )
        self.worker = WorkerDouble(self.manager, answers, delay=options.get("delay", 0.0))
        self.manager.crew = CrewDouble(self.worker)  # type: ignore[assignment] # stands in

    def relay(self, host: str, **routes: str) -> None:
        """Send everything there from now on, but for the domains that have routes of their own."""
        ways = [RouteSettings(match=(name,), nexthop=hop) for name, hop in routes.items()]
        rules = replace(self.rules, router=Router(ways, RelaySettings(host=host)))
        self.manager.reconfigure(rules, self.manager.recorder.reporting.composer)

    def destination(self, name: str) -> Destination:
        """A destination in custody."""
        return self.manager.schedule.destinations[name]

    def clock(self) -> float:
        return self.now

    async def enqueue(self, *recipients: str, sender: str = "s@sender.test", **asks: Any) -> int:
        content = b"Subject: x\r\n\r\nhello\r\n"
        submission = Submission(
            queue_id=self.ids(),
            envelope=Envelope(
                sender=sender,
                recipients=tuple(NewRecipient(address=r) for r in recipients),
                **asks,
            ),
            facts=ContentFacts(size=len(content)),
            parts=(content,),
            arrival=self.now,
            origin="uid=0",
            bulk_after=50,
        )
        await self.database.submit(submissions.add, submission)
        self.manager.nudge()
        return submission.queue_id

    def letters(self, *addresses: str, not_before: float = 0.0, **asks: Any) -> list[Submission]:
        """A new message to each address."""
        content = b"Subject: x\r\n\r\nhello\r\n"
        return [
            Submission(
                queue_id=self.ids(),
                envelope=Envelope(
                    sender="s@sender.test",
                    recipients=(NewRecipient(address=address),),
                    not_before=not_before,
                    **asks,
                ),
                facts=ContentFacts(size=len(content)),
                parts=(content,),
                arrival=self.now,
                origin="uid=0",
                bulk_after=50,
            )
            for address in addresses
        ]

    async def take_over(self, wanted: Sequence[Submission]) -> None:
        """As the intake does it: the manager hears of new mail when it is known to be committed."""
        done = asyncio.get_running_loop().create_future()

        def taken(answers: Sequence[object]) -> None:
            self.manager.arrived(wanted)
            done.set_result(answers)

        self.database.submit_many(submissions.add, wanted, taken)
        self.manager.coming(wanted)
        await done

    async def idle(self) -> None:
        """Until nothing is due, in flight or unrecorded."""
        self.manager.idled.clear()
        self.manager.nudge()
        async with asyncio.timeout(20):
            await self.manager.idled.wait()

    def rows(self, query: str) -> list[Any]:
        with self.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(query))]

    def statuses(self) -> dict[str, int]:
        return dict(self.rows("SELECT status, count(*) FROM recipient GROUP BY status"))


def play(
    tmp_path: Path, answers: Answer, story: Callable[[Stage], Awaitable[None]], **options: Any
) -> None:
    """Run a story with the manager's wheel turning."""

    async def run() -> None:
        stage = Stage(tmp_path, answers, **options)
        lease = leases.Registration(
            agent=stage.agent, host="h", pid=1, started=stage.now, length=leases.FOREVER
        )
        await stage.database.submit(leases.register, lease)
        wheel = asyncio.create_task(stage.manager.run())
        try:
            await story(stage)
            assert not wheel.done()
        finally:
            wheel.cancel()
            await asyncio.gather(wheel, return_exceptions=True)
            await stage.database.close()
            stage.engine.dispose()

    asyncio.run(run())
