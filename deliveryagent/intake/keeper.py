"""What happens between the end of a content and its reply: hooks judge the message, the service stores it.

Guarantees: yes is said after the commit only; what a hook does to the message is done before it is stamped; a
message that cannot be taken leaves nothing behind; whatever breaks here is a 4xx. A client that goes away in
the meantime changes nothing: its message is taken, or not, as if it had waited.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from deliveryagent.intake.door import Done
from deliveryagent.intake.frames import Refused, Taken
from deliveryagent.intake.hooks import Hooks
from deliveryagent.intake.judging import judge
from deliveryagent.intake.message import Message
from deliveryagent.intake.service_link import ServiceLink
from deliveryagent.intake.spool import Spool
from deliveryagent.intake.taking import RefusedError, Taking, TakingTerms
from deliveryagent.mail.envelope import QueueId, format_queue_id
from deliveryagent.mail.submission import StagedPart
from deliveryagent.mail.verdict import Refusal, Reject, Tempfail
from deliveryagent.protocol.local import ExitCode
from deliveryagent.protocol.session import Session
from deliveryagent.protocol.smtpd_steps import Kept, Outcome

_TROUBLE = Outcome(Tempfail(code=451, enhanced="4.3.0", text="Internal trouble, try again later"))
_FULL = Outcome(
    Tempfail(code=452, enhanced="4.3.1", text="The queue cannot take mail now, try again later")
)


class Keeper:
    """Where the messages of a listener go. ``trouble`` hears of faults of this program."""

    def __init__(
        self,
        link: ServiceLink,
        terms: TakingTerms,
        hooks: Hooks,
        *,
        new_id: Callable[[], QueueId],
        clock: Callable[[], float],
        trouble: Callable[[Exception], None],
    ) -> None:
        self._link = link
        self._terms = terms
        self._hooks = hooks
        self._new_id = new_id
        self._clock = clock
        self._trouble = trouble
        self._tasks: set[asyncio.Task[None]] = set()

    def __call__(self, session: Session, spool: Spool, done: Done) -> None:
        """Have the message of ``session`` judged and stored."""
        transaction = session.transaction
        assert transaction is not None
        asked = self._hooks.asked
        try:
            message = Message(session, transaction, spool.whole())
            if (
                "headers" in asked
                or "message" in asked
                or message.size >= self._terms.part_size // 2
            ):
                self._begin(self._long_way(message, done), done)
            else:
                self._store(self._taking(message, self._new_id()), {}, done)
        except RefusedError as error:
            done(Outcome(error.reply))
        except Exception as error:  # noqa: BLE001 - a fault must cost one message only
            self._trouble(error)
            done(_TROUBLE)

    def _begin(self, work: Awaitable[None], done: Done) -> None:
        async def guarded() -> None:
            try:
                await work
            except RefusedError as error:
                done(Outcome(error.reply))
            except Exception as error:  # noqa: BLE001 - as above
                self._trouble(error)
                done(_TROUBLE)

        task = asyncio.ensure_future(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _taking(self, message: Message, queue_id: QueueId) -> Taking:
        return Taking(message, self._terms, queue_id=queue_id, now=self._clock())

    async def _long_way(self, message: Message, done: Done) -> None:
        """For messages that hooks are asked about, and for large ones."""
        queue_id = self._new_id()
        message.transaction.queue_id = format_queue_id(queue_id)  # filters log it
        judgement = await judge(self._hooks, message, self._clock())
        if judgement.outcome is not None:
            done(judgement.outcome)
            return
        taking = self._taking(message, queue_id)
        if taking.large:
            answer = await self._stage(taking)
            if isinstance(answer, Refused):
                done(_outcome(answer, {}))
                return
        self._store(taking, judgement.refused, done)

    async def _stage(self, taking: Taking) -> Refused | None:
        """Hand the parts of a large content over; when that fails, none of them remains."""
        answer: Taken | Refused | None = None
        try:
            for number, data in enumerate(taking.parts()):
                part = StagedPart(
                    queue_id=taking.queue_id, part=number, data=data, started=self._clock()
                )
                answer = await self._link.stage(part)
                if isinstance(answer, Refused):
                    break
        except BaseException:
            self._link.abandon(taking.queue_id)
            raise
        if isinstance(answer, Refused):
            self._link.abandon(taking.queue_id)
            return answer
        return None

    def _store(self, taking: Taking, refused: Mapping[str, Refusal], done: Done) -> None:
        try:
            submission = taking.submission()
        except BaseException:
            if taking.large:
                self._link.abandon(taking.queue_id)
            raise
        self._link.take(submission, lambda answer: done(_outcome(answer, refused)))


def _outcome(answer: Taken | Refused, refused: Mapping[str, Refusal]) -> Outcome:
    if isinstance(answer, Taken):
        before = " before" if answer.duplicate else ""
        return Outcome(Kept(f"Ok: queued as {answer.queue_id}{before}"), refused)
    if answer.code == ExitCode.BAD_DATA:
        return Outcome(Reject(code=554, enhanced="5.5.4", text=answer.text))
    return _FULL
