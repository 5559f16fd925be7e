"""A listener's line to its service: messages out, answers in.

Guarantees: what is handed over in one turn of the event loop leaves in one write; an answer goes to whoever
asked, once; without the service there is nothing to do here, and ``lost`` says so. Never looks into a message.
"""

import asyncio
from collections.abc import Callable
from typing import cast

from deliveryagent.intake.frames import (
    Abandon,
    Configure,
    Finish,
    FromListener,
    Refused,
    Stage,
    Take,
    Taken,
    to_listener_decoder,
)
from deliveryagent.mail.submission import StagedPart, Submission
from deliveryagent.protocol.framing import FrameError, Unframer, encode

Answered = Callable[[Taken | Refused], None]


class ServiceLink(asyncio.Protocol):
    """The end of the socket pair that is ours. ``finish`` hears that the service wants us to end."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._unframer = Unframer()
        self._outbox: list[FromListener] = []
        self._waiting: dict[int, Answered] = {}
        self._serial = 0
        self._transport: asyncio.Transport | None = None
        self._room = asyncio.Event()
        self._room.set()
        self.configured: asyncio.Future[Configure] = self._loop.create_future()
        self.lost: asyncio.Future[None] = self._loop.create_future()
        self.finish: asyncio.Future[Finish] = self._loop.create_future()
        self.taken = 0

    def take(self, submission: Submission, answered: Answered) -> None:
        """Hand a message over; ``answered`` gets the answer, unless the service goes away first."""
        self.taken += 1
        self._serial += 1
        self._waiting[self._serial] = answered
        self.say(Take(self._serial, submission))

    async def stage(self, part: StagedPart) -> Taken | Refused:
        """Hand a part over, and wait until it is stored."""
        answer: asyncio.Future[Taken | Refused] = self._loop.create_future()

        def answered(found: Taken | Refused) -> None:
            if not answer.done():
                answer.set_result(found)

        await self._room.wait()
        self._serial += 1
        self._waiting[self._serial] = answered
        self.say(Stage(self._serial, part))
        return await answer

    def abandon(self, queue_id: int) -> None:
        """Have the parts forgotten that were staged under this id."""
        self.say(Abandon(queue_id))

    def say(self, frame: FromListener) -> None:
        """Tell the service."""
        if not self._outbox:
            self._loop.call_soon(self._flush)
        self._outbox.append(frame)

    def _flush(self) -> None:
        outbox, self._outbox = self._outbox, []
        if self._transport is not None:
            self._transport.write(encode(outbox))

    # -- what the event loop calls ------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The line is there."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """The service says something."""
        try:
            for frame in self._unframer.feed(data, to_listener_decoder):
                match frame:
                    case Taken() | Refused():
                        answered = self._waiting.pop(frame.serial, None)
                        if answered is not None:
                            answered(frame)
                    case Configure():
                        self.configured.set_result(frame)
                    case Finish() if not self.finish.done():
                        self.finish.set_result(frame)
        except FrameError:
            assert self._transport is not None
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """The service is gone."""
        del exc
        self._transport = None
        if not self.lost.done():
            self.lost.set_result(None)

    def pause_writing(self) -> None:
        """The service is slower than we are: parts of large contents wait."""
        self._room.clear()

    def resume_writing(self) -> None:
        """It has caught up."""
        self._room.set()
