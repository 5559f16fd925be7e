"""Large contents, fetched from the manager part by part while they are sent.

Guarantees: at most ``AHEAD`` parts of a delivery are here at a time, however slowly the peer reads;
a part that is missing, late or more than the message has ends the delivery as ``ContentError``
before its final dot. What several deliveries of a message ask for at the same moment is fetched
once. Never touches the store.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable

from deliveryagent.agent.frames import Fetch, Part
from deliveryagent.mail.delivery import DeliveryRequest, Failure, Trouble
from deliveryagent.protocol.content import LINE_LENGTH_LIMIT, Stuffer
from deliveryagent.wire.connection import ContentError

AHEAD = 2
PATIENCE = 120.0  # seconds the manager may take for a part

_MISSING = "corrupt: a part of the stored content cannot be read"
_WRONG = "corrupt: the stored content has not the size it should have"
_LATE = "the stored content was not handed over in time"


class Parts:
    """The parts asked for and not arrived yet, of all deliveries of a worker."""

    def __init__(self, ask: Callable[[Fetch], None]) -> None:
        self._ask = ask
        self._awaited: dict[tuple[int, int], asyncio.Future[bytes | None]] = {}

    def arrived(self, part: Part) -> None:
        """The manager answered."""
        waiting = self._awaited.pop((part.queue_id, part.part), None)
        if waiting is not None and not waiting.done():
            waiting.set_result(part.data)

    def fetch(self, queue_id: int, part: int) -> "asyncio.Future[bytes | None]":
        """Ask for a part; the result is None when it cannot be read."""
        waiting = self._awaited.get((queue_id, part))
        if waiting is None:
            waiting = asyncio.get_running_loop().create_future()
            self._awaited[queue_id, part] = waiting
            self._ask(Fetch(queue_id, part))
        return waiting

    async def stream(self, request: DeliveryRequest, *, line_limit: int) -> AsyncIterator[bytes]:
        """The whole content in wire form, without the final dot; raises ``ContentError``."""
        folds = request.long_lines or 0 < line_limit < LINE_LENGTH_LIMIT
        stuffer = Stuffer(line_limit if folds else 0)
        ahead: deque[asyncio.Future[bytes | None]] = deque()
        octets = number = count = 0
        while octets < request.size:
            # The first part tells how many there should be, so that none beyond the last is asked for.
            while len(ahead) < AHEAD and (number < count or not ahead):
                ahead.append(self.fetch(request.queue_id, number))
                number += 1
            data = await self._next(ahead.popleft())
            count = count or -(-request.size // len(data))
            octets += len(data)
            if octets > request.size:
                raise _broken(Trouble.CORRUPT, _WRONG)
            yield stuffer.feed(data)
        yield stuffer.end()

    async def _next(self, waiting: "asyncio.Future[bytes | None]") -> bytes:
        try:
            async with asyncio.timeout(PATIENCE):
                data = await asyncio.shield(waiting)
        except TimeoutError:
            raise _broken(Trouble.LOCAL, _LATE) from None
        if not data:
            raise _broken(Trouble.CORRUPT, _MISSING)
        return data


def _broken(trouble: Trouble, text: str) -> ContentError:
    return ContentError(Failure(trouble, text))
