"""The replies of one connection: collected as they arrive, awaited under the limit of their stage.

``ReplyStream`` is an ``aiosmtplib.SMTPProtocol`` whose reading half is replaced, because the original pairs
one reply with one command and drops the rest: no reply is lost or paired with the wrong command here. Only
asyncio's callbacks, ``write`` and ``read_response`` are overridden, so an ``aiosmtplib.SMTP`` object can still
use it (AUTH); ``tests/doors/test_wire_aiosmtplib.py`` has one test for each fact relied upon.

Guarantees: a wait ends within the limit of its stage whatever the peer does (a limit is for one complete
reply; dripping does not extend it); unread octets are bounded; the first trouble is final and is never
replaced by a later one. Never interprets a reply, but for 421, which ends every wait.
"""

import asyncio
import contextlib
import os
import socket
from collections import deque
from collections.abc import Mapping
from typing import cast

from aiosmtplib import (
    SMTPReadTimeoutError,
    SMTPResponse,
    SMTPResponseException,
    SMTPServerDisconnected,
)
from aiosmtplib.protocol import SMTPProtocol

from deliveryagent.mail.delivery import Failure, Stage, Trouble
from deliveryagent.mail.status import SmtpReply
from deliveryagent.protocol.dialogue import Outcomes
from deliveryagent.protocol.replies import ProtocolError, ReplyParser
from deliveryagent.setting import format_duration
from deliveryagent.wire.limits import StageLimits
from deliveryagent.wire.transcript import Transcript

UNASKED_LIMIT = 16
"""Replies nobody asked for that are borne before the connection is dropped."""

SALVAGE_LIMIT = 4096
"""Octets looked through for a last reply when writing has failed."""

CLOCK_GRAIN = 0.002
"""Event loops count in milliseconds; a timer may ring this many seconds early."""

_DOING = {
    Stage.GREETING: "waiting for the greeting",
    Stage.EHLO: "waiting for the answer to EHLO",
    Stage.STARTTLS: "waiting for the answer to STARTTLS",
    Stage.AUTH: "waiting for the answer to AUTH",
    Stage.MAIL: "waiting for the answer to MAIL FROM",
    Stage.RCPT: "waiting for the answer to RCPT TO",
    Stage.DATA: "waiting for the answer to DATA",
    Stage.CONTENT: "sending the content",
    Stage.DOT: "waiting for the answer to the end of the message",
    Stage.RSET: "waiting for the answer to RSET",
    Stage.QUIT: "waiting for the answer to QUIT",
}


class ReplyStream(SMTPProtocol):
    """The reading half of a connection.

    ``label`` names the peer to people: ``host[ip]:port``. ``transcript`` remembers the end of the dialogue.
    ``sock`` is the socket under the transport, if known; it is read only when writing has failed.
    """

    def __init__(
        self,
        label: str,
        limits: StageLimits,
        *,
        transcript: Transcript | None = None,
        sock: socket.socket | None = None,
    ) -> None:
        self._clock = asyncio.get_running_loop()
        super().__init__(loop=self._clock)
        self.label = label
        self.transcript = transcript or Transcript()
        self._limits: Mapping[Stage, float] = limits.table
        self._parser = ReplyParser()
        self._inbox: deque[SmtpReply] = deque()
        self._trouble: Failure | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._stages: tuple[Stage, ...] = ()
        self._sock = sock
        self._over_tls = False
        self._writable = True
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    def closed_by_peer(self) -> bool:
        """Whether this connection is of no more use: closed, broken, or the peer spoke out of turn.

        Costs nothing; looks only at what the event loop has already seen.
        """
        return (
            self._trouble is not None
            or bool(self._inbox)
            or not self._parser.idle
            or self.transport is None
            or self.transport.is_closing()
        )

    @property
    def in_step(self) -> bool:
        """Whether the peer has said what it was asked, and nothing else."""
        return self._trouble is None and not self._inbox and self._parser.idle

    def close(self) -> None:
        """Close, letting what was written go out first. Safe to call at any time, more than once."""
        self._give_up(Failure(Trouble.LOST, "the connection was closed on our side"))
        if self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        """Close at once; octets not yet sent are dropped. Safe to call at any time, more than once."""
        self._give_up(Failure(Trouble.LOST, "the connection was closed on our side"))
        if self.transport is not None:
            self._out.abort()

    # asyncio calls these

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is there."""
        super().connection_made(transport)
        self._out = cast("asyncio.WriteTransport", transport)

    def data_received(self, data: bytes) -> None:
        """Parse what arrived; wake whoever waits when his replies are complete."""
        if self._trouble is not None:
            return
        self.transcript.received(data)
        inbox = self._inbox
        known = len(inbox)
        try:
            inbox.extend(self._parser.feed(data))
        except ProtocolError as error:
            inbox.extend(error.replies)
            self.fail(Failure(Trouble.PROTOCOL, f"{self.label} sent {error}"))
            return
        waiter = self._waiter
        arrived = len(inbox)
        if arrived > len(self._stages) + UNASKED_LIMIT:
            self.fail(Failure(Trouble.PROTOCOL, f"{self.label} sent replies nobody asked for"))
        elif waiter is None or waiter.done() or arrived == known:
            return
        elif arrived >= len(self._stages) or any(reply.code == 421 for reply in inbox):
            waiter.set_result(None)
        else:
            self._arm(self._limits[self._stages[arrived]])

    def eof_received(self) -> bool:
        """The peer sends no more; nothing can be said to one that does not answer."""
        self._lose(None)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        super().connection_lost(exc)
        if exc is not None:
            self.salvage()
        self._lose(exc)

    def pause_writing(self) -> None:
        """The peer reads more slowly than we write."""
        super().pause_writing()
        self._writable = False

    def resume_writing(self) -> None:
        """The peer has caught up."""
        super().resume_writing()
        self._writable = True
        if self._waiter is not None and not self._stages and not self._waiter.done():
            self._waiter.set_result(None)

    # aiosmtplib calls these

    def write(self, data: bytes) -> None:
        """Write a command; raises ``SMTPServerDisconnected`` when the peer is gone or out of step."""
        if self.closed_by_peer():
            raise SMTPServerDisconnected(self._trouble.text if self._trouble else "out of step")
        self.transcript.sent(data)
        super().write(data)

    async def read_response(self, timeout: float | None = None) -> SMTPResponse:  # noqa: ASYNC109
        """One reply in aiosmtplib's form, or its exception; ``timeout`` None means the limit of AUTH."""
        limits = self._limits
        if timeout is not None:
            self._limits = {**limits, Stage.AUTH: timeout}
        try:
            outcome = (await self.replies((Stage.AUTH,)))[-1]
        finally:
            self._limits = limits
        if isinstance(outcome, SmtpReply):
            return SMTPResponse(outcome.code, f"{outcome.enhanced} {outcome.text}".lstrip())
        match outcome.trouble:
            case Trouble.TIMEOUT:
                raise SMTPReadTimeoutError(outcome.text)
            case Trouble.PROTOCOL:
                raise SMTPResponseException(-1, outcome.text)
            case _:
                raise SMTPServerDisconnected(outcome.text)

    # Connection calls these

    def heard(self, count: int) -> Outcomes | None:
        """What :meth:`replies` would give for so many stages, if they have all been answered already."""
        inbox = self._inbox
        if len(inbox) != count:
            return None
        outcomes = tuple(inbox)
        inbox.clear()
        return outcomes

    async def replies(self, stages: tuple[Stage, ...], *, final: bool = False) -> Outcomes:
        """Await one reply per stage; what came instead is told as ``protocol.dialogue`` has it.

        ``final``: these end a message, so what follows them takes nothing from their worth.
        """
        inbox = self._inbox
        count = len(stages)
        if len(inbox) < count and self._trouble is None:
            await self.wait(stages, self._limits[stages[len(inbox)]])
        if len(inbox) == count:
            outcomes = tuple(inbox)
            inbox.clear()
            return outcomes
        if len(inbox) > count:
            outcomes = tuple([inbox.popleft() for _ in stages])
            if final or inbox[0].code == 421:
                return outcomes
            text = f"{self.label} gave more replies than it was sent commands"
            return (*outcomes, self.fail(Failure(Trouble.PROTOCOL, text)))
        outcomes = tuple(inbox)
        inbox.clear()
        if self._trouble is None:
            self._give_up(Failure(Trouble.LOST, f"{self.label} said it would close the connection"))
        return (*outcomes, cast("Failure", self._trouble))

    def wait(self, stages: tuple[Stage, ...], limit: float) -> asyncio.Future[None]:
        """What becomes done with replies for all stages (none: when writing may go on), or in trouble."""
        self._stages = stages
        self._arm(limit)
        self._waiter = waiter = self._clock.create_future()
        return waiter

    def fail(self, failure: Failure) -> Failure:
        """The peer cannot be talked to any longer: drop the connection; returns the first trouble there was."""
        first = self._give_up(failure)
        self.abort()
        return first

    def salvage(self) -> None:
        """Look for last words after writing has failed.

        A peer that refuses a content and leaves makes our writing fail before its reply is read.
        """
        if self._trouble is None and self._sock is not None and not self._over_tls:
            with contextlib.suppress(OSError):
                if data := self._sock.recv(SALVAGE_LIMIT, socket.MSG_DONTWAIT):
                    self.data_received(data)

    def _give_up(self, failure: Failure) -> Failure:
        if self._trouble is None:
            self._trouble = failure
            self.transcript.happened(failure.text)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        return self._trouble

    def _lose(self, cause: Exception | None) -> None:
        if self._trouble is None:
            text = f"lost connection with {self.label} while {self._doing()}"
            if cause is not None:
                text += f": {reason(cause)}"
            if partial := self._parser.partial():
                text += f', after "{partial}"'
            self._give_up(Failure(Trouble.LOST, text))

    def _doing(self) -> str:
        if self._waiter is None or self._waiter.done():
            return "nothing was being said"
        return _DOING[self._stage()]

    def _stage(self) -> Stage:
        if not self._stages:
            return Stage.CONTENT
        return self._stages[min(len(self._inbox), len(self._stages) - 1)]

    # One timer per connection is moved only when it would ring too late; while it would ring too early it is
    # left alone and looks at the clock again when it does: a message costs no timer at all.

    def _arm(self, limit: float) -> None:
        if limit <= 0:
            self._deadline = float("inf")
            return
        self._deadline = when = self._clock.time() + limit
        if self._timer is None or when < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = when
            self._timer = self._clock.call_at(when, self._ring)

    def _ring(self) -> None:
        self._timer = None
        if self._waiter is None or self._waiter.done():
            return
        left = self._deadline - self._clock.time()
        if left <= CLOCK_GRAIN:
            limit = format_duration(self._limits[self._stage()])
            text = f"{self.label} timed out after {limit} while {self._doing()}"
            if partial := self._parser.partial():
                text += f', after "{partial}"'
            self.fail(Failure(Trouble.TIMEOUT, text))
        elif left != float("inf"):
            self._timer_at = self._deadline
            self._timer = self._clock.call_at(self._deadline, self._ring)


def reason(error: Exception) -> str:
    """What the operating system says about an error, without numbers and addresses."""
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return str(error) or type(error).__name__
