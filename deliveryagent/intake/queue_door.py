"""The intake's way into the queue of a running agent.

Guarantees: ids grow; success is reported after the commit only; while outcomes cannot be recorded nothing is
taken either. Never waits for a delivery.
"""

from collections.abc import Callable

from deliveryagent.mail.envelope import QueueId
from deliveryagent.queue import submissions
from deliveryagent.queue.submissions import Accepted, Answer, StagedPart, Submission
from deliveryagent.queue.thread import Database, StoreUnavailable


class QueueDoor:
    """A :class:`~deliveryagent.intake.submit.Submitter` over the agent's own database thread.

    ``trouble`` says why the store cannot be written, or nothing; ``accepted`` hears of every new message.
    """

    def __init__(
        self,
        *,
        database: Database,
        trouble: Callable[[], str],
        accepted: Callable[[Submission], None],
        new_id: Callable[[], QueueId],
    ) -> None:
        self._database = database
        self._trouble = trouble
        self._accepted = accepted
        self._new_id = new_id

    def new_id(self) -> QueueId:
        """A fresh queue id, larger than all before."""
        return self._new_id()

    async def stage(self, part: StagedPart) -> None:
        """Keep one part of a content that is still arriving."""
        await self._open().submit(submissions.stage, part)

    async def abandon(self, queue_id: int) -> None:
        """Forget the staged parts of a message that will not come."""
        await self._database.submit(submissions.abandon, queue_id)

    async def submit(self, submission: Submission) -> Answer:
        """Take over a message; the answer comes after the commit."""
        answer = await self._open().submit(submissions.add, submission)
        if isinstance(answer, Accepted):
            self._accepted(submission)
        return answer

    def _open(self) -> Database:
        trouble = self._trouble()
        if trouble:
            raise StoreUnavailable(trouble)
        return self._database
