"""The intake's way into the queue of a running agent.

Guarantees: ids grow; success is reported after the commit only; while outcomes cannot be recorded nothing is
taken either. Never waits for a delivery.
"""

from collections.abc import Callable, Sequence

from deliveryagent.intake.submit import Taker
from deliveryagent.mail.envelope import QueueId
from deliveryagent.mail.submission import (
    Accepted,
    Answer,
    StagedPart,
    Submission,
)
from deliveryagent.queue.submissions import abandon, add, stage
from deliveryagent.queue.thread import Database, StoreUnavailable


class QueueDoor:
    """A :class:`~deliveryagent.intake.submit.Submitter` over the agent's own database thread.

    ``trouble`` says why the store cannot be written, or nothing; ``coming`` hears of messages
    that were handed to the store this moment, ``accepted`` of every new one after its commit.
    """

    def __init__(
        self,
        *,
        database: Database,
        trouble: Callable[[], str],
        coming: Callable[[Sequence[Submission]], None],
        accepted: Callable[[Sequence[Submission]], None],
        new_id: Callable[[], QueueId],
    ) -> None:
        self._database = database
        self._trouble = trouble
        self._coming = coming
        self._accepted = accepted
        self._new_id = new_id

    def new_id(self) -> QueueId:
        """A fresh queue id, larger than all before."""
        return self._new_id()

    async def stage(self, part: StagedPart) -> None:
        """Keep one part of a content that is still arriving."""
        await self._open().submit(stage, part)

    async def abandon(self, queue_id: int) -> None:
        """Forget the staged parts of a message that will not come."""
        await self._database.submit(abandon, queue_id)

    def submit(self, submissions: Sequence[Submission], taker: Taker) -> None:
        """Take over messages; ``taker`` gets the answers in order after the commit, or why not."""
        trouble = self._trouble()
        if trouble:
            taker([StoreUnavailable(trouble) for _ in submissions])
            return

        def taken(answers: list[Answer | Exception]) -> None:
            fresh = [
                submission
                for submission, answer in zip(submissions, answers, strict=True)
                if type(answer) is Accepted
            ]
            if fresh:
                self._accepted(fresh)
            taker(answers)

        self._database.submit_many(add, submissions, taken)
        self._coming(submissions)

    def _open(self) -> Database:
        trouble = self._trouble()
        if trouble:
            raise StoreUnavailable(trouble)
        return self._database
