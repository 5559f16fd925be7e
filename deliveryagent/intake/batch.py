"""Many messages on their way, sent without waiting for each answer.

Keeps book of what is sent, what has no answer yet, and the answers. Guarantees: answers are told
apart by their order alone; what lost its answer is sent again. Never connects to anything.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from deliveryagent.intake.link import Link, LostError
from deliveryagent.intake.outgoing import ANSWER_TIME, Outgoing, outgoing
from deliveryagent.protocol.local import ServiceError, error_of

if TYPE_CHECKING:
    from deliveryagent.intake.direct import DirectQueue

WINDOW = 256
"""Messages on the way without an answer; their answers fit in the socket's buffer."""


def doubted(error: ServiceError) -> ServiceError:
    """The reason for giving up, for a message that was sent before and lost its answer."""
    text = f"{error.text}; it may have taken what was sent to it before"
    return ServiceError(error.code, text, "With a key of your own, repeating is safe.")


class Batch:
    """Messages on their way: what is not sent yet, what has no answer yet, and the answers.

    ``ids`` has an entry for each answer: the id, or None when the message was not taken. After the
    first of those no more are sent. ``failure`` says why. ``begun`` is a message that goes first; with
    ``in_doubt`` it was sent before and lost its answer.
    """

    def __init__(
        self,
        items: Iterable[Sequence[Any]],
        *,
        begun: Outgoing | None = None,
        in_doubt: bool = False,
    ) -> None:
        self.ids: list[str | None] = []
        self.failure: ServiceError | None = None
        self._items = iter(items)
        self._again: deque[Outgoing] = deque([begun] if begun else ())
        self._in_doubt = in_doubt  # something was sent and lost its answer
        self._unfit: ServiceError | None = None  # why the last message did not become a request
        self._unanswered: deque[Outgoing] = deque()
        self._exhausted = False

    def complete(self) -> bool:
        """Whether everything has its answer. Otherwise there is a message that can be sent."""
        if not self._again and not self._unanswered and (message := self._next()):
            self._again.append(message)
        if self._again or self._unanswered:
            return False
        if self._unfit is not None:
            self._note(self._unfit)
            self._unfit = None
        return True

    def send_over(self, link: Link) -> None:
        """Send what there is and take the answers; raises ``LostError``."""
        broken = False
        while True:
            while not broken and len(self._unanswered) < WINDOW and (message := self._next()):
                self._unanswered.append(message)
                try:
                    link.put(message.line, message.pieces())
                except LostError:
                    broken = True  # but what was answered before can still be read
            if not self._unanswered:
                return
            answer = link.answer(ANSWER_TIME)
            self._unanswered.popleft()
            self._note(error_of(answer) or str(answer.get("id")))

    def put_into(self, queue: "DirectQueue") -> None:
        """Write everything to the queue itself."""
        for answer in queue.enqueue(
            (m.request, m.whole() or m.pieces()) for m in self._remaining()
        ):
            self._note(answer)

    def lost(self) -> None:
        """The connection broke: what has no answer has to be sent again."""
        self._in_doubt = self._in_doubt or bool(self._unanswered)
        self._again.extendleft(reversed(self._unanswered))
        self._unanswered.clear()

    def give_up(self, error: ServiceError) -> None:
        """Nothing more can be sent, for this reason."""
        if self._in_doubt:
            error = doubted(error)
        self._exhausted = True
        self.failure = self.failure or error
        self.ids += [None] * len(self._again)
        self._again.clear()

    def _remaining(self) -> Iterator[Outgoing]:
        while (message := self._next()) is not None:
            yield message

    def _next(self) -> Outgoing | None:
        if self._again:
            return self._again.popleft()
        item = None if self._exhausted else next(self._items, None)
        if item is None:
            self._exhausted = True
            return None
        try:
            return outgoing(item[0], item[1], item[2], item[3] if len(item) > 3 else {})
        except ServiceError as error:
            self._exhausted = True
            self._unfit = error
            return None

    def _note(self, outcome: str | ServiceError) -> None:
        self._in_doubt = False
        if isinstance(outcome, ServiceError):
            self._exhausted = True
            self.failure = self.failure or outcome
            self.ids.append(None)
        else:
            self.ids.append(outcome)
