"""One listener process as the service sees it: what it hands over goes to the queue, the answers go back.

Guarantees: messages that came in one read of the socket pair are handed over together; an answer follows the
commit; parts that a dead process had staged for messages it never handed over are forgotten. Never looks into
a message.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from deliveryagent.children import Child
from deliveryagent.intake.frames import (
    Abandon,
    Beat,
    FromListener,
    Ready,
    Refused,
    Stage,
    Take,
    Taken,
    from_listener_decoder,
)
from deliveryagent.intake.listener_settings import ListenerSettings
from deliveryagent.intake.submit import Submitter, answer_of, told
from deliveryagent.mail.submission import Answer
from deliveryagent.protocol.local import ExitCode, ServiceError
from deliveryagent.queue.thread import StoreUnavailable


class Listener(Child[FromListener]):
    """A process and its successors for one ``[[listener]]`` with these settings.

    ``settled`` is done as soon as the first of them accepts connections, with an empty text, or cannot, with
    the reason. ``trouble`` hears of faults of this program, ``started`` that connections are accepted, and
    ``refused`` why they are not.
    """

    def __init__(
        self,
        settings: ListenerSettings,
        submitter: Submitter,
        *,
        started: Callable[["Listener"], None],
        refused: Callable[["Listener", str], None],
        trouble: Callable[[Exception], None],
    ) -> None:
        super().__init__(from_listener_decoder)
        self.settings = settings
        self.sessions = 0
        self.lasting = False  # what is wrong with it is in its settings: trying again mends nothing
        self.settled: asyncio.Future[str] = self._loop.create_future()
        self._submitter = submitter
        self._started = started
        self._refused = refused
        self._trouble = trouble
        self._life = 0
        self._taken = 0
        self._taken_before = 0  # by those before this process
        self._staged: set[int] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def taken(self) -> int:
        """How many messages were handed over, by all processes in this place."""
        return self._taken_before + self._taken

    def begin(self, pid: int) -> None:
        """A new process takes this place."""
        super().begin(pid)
        self._life += 1

    def end(self) -> None:
        """The process is gone; what it had begun to hand over is forgotten."""
        super().end()
        self.sessions = 0
        self._taken_before, self._taken = self.taken, 0
        staged, self._staged = self._staged, set()
        for queue_id in staged:
            self._do(self._abandon(queue_id))

    def settle(self, problem: str) -> None:
        """The first process accepts connections, or cannot."""
        if not self.settled.done():
            self.settled.set_result(problem)

    def hear(self, said: list[FromListener]) -> None:
        """Carry out what it asks for."""
        letters: list[Take] = []
        for frame in said:
            match frame:
                case Take():
                    letters.append(frame)
                case Beat(sessions, taken):
                    self.alive()
                    self.sessions, self._taken = sessions, taken
                case Stage():
                    self._staged.add(frame.part.queue_id)
                    self._do(self._stage(frame))
                case Abandon(queue_id):
                    self._staged.discard(queue_id)
                    self._do(self._abandon(queue_id))
                case Ready(problem):
                    self._told_ready(problem)
        if letters:
            self._take(letters)

    def _told_ready(self, problem: str) -> None:
        self.alive()
        if problem:
            self.lasting = True
            self._refused(self, problem)
        else:
            self.ready = True
            self._started(self)
        self.settle(problem)

    def _take(self, letters: list[Take]) -> None:
        life = self._life
        for letter in letters:
            self._staged.discard(letter.submission.queue_id)

        def answered(answers: list[Answer | Exception]) -> None:
            for letter, answer in zip(letters, answers, strict=True):
                reply = self._reply(letter, answer)
                if self._life == life:  # else who asked is dead, and another must not hear it
                    self.say(reply)

        self._submitter.submit([letter.submission for letter in letters], answered)

    def _reply(self, letter: Take, answer: Answer | Exception) -> Taken | Refused:
        submission = letter.submission
        if not isinstance(answer, Exception):
            try:
                return Taken(letter.serial, *answer_of(answer, submission.envelope.key))
            except ServiceError as error:
                answer = error
        if not submission.parts:  # they were staged, and still are
            self._staged.add(submission.queue_id)
        return self._refusal(letter.serial, answer)

    async def _stage(self, frame: Stage) -> None:
        life = self._life
        reply: Taken | Refused = Taken(frame.serial, "")
        try:
            await self._submitter.stage(frame.part)
        except Exception as error:  # noqa: BLE001 - the answer
            reply = self._refusal(frame.serial, error)
        if self._life == life:
            self.say(reply)

    async def _abandon(self, queue_id: int) -> None:
        with suppress(StoreUnavailable):  # the next service sweeps up
            await self._submitter.abandon(queue_id)

    def _refusal(self, serial: int, error: Exception) -> Refused:
        reason = told(error)
        if reason.code == ExitCode.FAILED:
            self._trouble(error)
        lasting = reason.code == ExitCode.BAD_DATA
        return Refused(serial, ExitCode.BAD_DATA if lasting else ExitCode.TRY_LATER, reason.text)

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
