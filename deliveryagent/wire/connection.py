"""One connection to a peer, and the player of conversations on it.

``Connection`` is an ``aiosmtplib.SMTPProtocol`` whose reading half is replaced: every complete reply is kept
in order, none is paired with the wrong command, and each has the time limit of its stage. It plays the
generators of ``protocol.dialogue``; an ``aiosmtplib.SMTP`` object can use it as well (AUTH).

Guarantees: nothing that the peer does raises out of ``play`` or ``secure``, it comes back as an ``Outcome``;
a peer that is silent, drips, floods, closes, resets or talks out of turn ends the wait within the limit and
in bounded memory; ``on_dot`` is called before the first octet of a message's final dot can leave; no octet
read before a TLS handshake counts after it. Never decides what an outcome means, never dials again.

References: RFC 5321 4.5.3.2 (time limits), RFC 3207 (STARTTLS), RFC 2920 (PIPELINING).
"""

import asyncio
import ssl
from collections import deque
from collections.abc import AsyncIterable, Callable, Generator, Mapping
from typing import TypeVar, assert_never, cast

from aiosmtplib import SMTPReadTimeoutError, SMTPResponse, SMTPResponseException, SMTPServerDisconnected
from aiosmtplib.protocol import SMTPProtocol

from deliveryagent.mail.delivery import Failure, Outcome, Stage, Trouble
from deliveryagent.mail.security import TlsFacts
from deliveryagent.mail.status import SmtpReply
from deliveryagent.protocol import dialogue
from deliveryagent.protocol.dialogue import Content, Dot, Flight, Outcomes, Step
from deliveryagent.protocol.replies import ProtocolError, ReplyParser
from deliveryagent.setting import format_duration
from deliveryagent.wire.limits import StageLimits
from deliveryagent.wire.transcript import Transcript

HELD_LIMIT = 65536
"""Content up to this many octets goes out in one write together with its dot."""

CHUNK = 65536
"""Octets of a larger content written between two looks at the peer."""

UNASKED_LIMIT = 16
"""Replies nobody asked for that are borne before the connection is dropped."""

TLS_CLOSE_TIMEOUT = 5.0
"""Seconds a peer may take to answer the end of TLS before the connection is dropped."""

CLOCK_GRAIN = 0.002
"""Event loops count in milliseconds; a timer may ring this many seconds early."""

T = TypeVar("T")

_DOING = {
    Stage.GREETING: "waiting for the greeting",
    Stage.EHLO: "waiting for the answer to our introduction",
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


class ContentBroken(Exception):
    """Raised by a source of content that cannot go on; ``failure`` becomes the outcome of the attempt."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.text)
        self.failure = failure


class Connection(SMTPProtocol):
    """A connection as ``dial`` returns it, before the greeting is read.

    ``label`` names the peer to people: ``host[ip]:port``. ``tls`` is set after a handshake.
    ``transcript`` remembers the end of the dialogue.
    """

    def __init__(
        self,
        label: str,
        limits: StageLimits,
        *,
        transcript: Transcript | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(loop=loop)
        self.label = label
        self.tls: TlsFacts | None = None
        self.transcript = transcript or Transcript()
        self._clock = loop or asyncio.get_running_loop()
        self._limits: Mapping[Stage, float] = limits.table
        self._parser = ReplyParser()
        self._inbox: deque[SmtpReply] = deque()
        self._trouble: Failure | None = None
        self._wish: asyncio.Future[None] | None = None
        self._stages: tuple[Stage, ...] = ()
        self._writable = True
        self._held = b""
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    # What the crew uses

    async def greeting(self) -> Outcome:
        """Read the greeting: a reply of any class, or the failure to get one."""
        return await self.play(dialogue.greeting())

    async def play(
        self,
        talk: Generator[Step, Outcomes, T],
        *,
        content: bytes | AsyncIterable[bytes] = b"",
        on_dot: Callable[[], None] | None = None,
    ) -> T:
        """Hold a conversation and return what it came to.

        ``content`` is in wire form: dots stuffed, ending in CRLF (``protocol.content``). A source that is
        iterated asynchronously may raise ``ContentBroken``. ``on_dot`` is called before the final dot of a
        message is written. Anything else that is raised (by them, by cancelling) ends the connection first.
        """
        try:
            step = next(talk)
            while True:
                match step:
                    case Flight():
                        outcomes = await self._fly(step)
                    case Content():
                        outcomes = await self._send(content)
                    case Dot():
                        if on_dot is not None and not step.lone:
                            on_dot()
                        outcomes = await self._end(step)
                    case _:
                        assert_never(step)
                step = talk.send(outcomes)
        except StopIteration as done:
            return cast("T", done.value)
        except BaseException:
            self.abort()
            talk.close()
            raise

    async def secure(self, context: ssl.SSLContext, server_hostname: str | None) -> Outcome:
        """STARTTLS and the handshake; afterwards introduce yourself again (RFC 3207 4.2).

        A refusal comes back as the peer's reply and the connection is as it was. Anything the peer sent
        behind its 2xx in clear is an attempt to slip something in: PROTOCOL. A broken handshake is
        TLS_FAILED, an unacceptable certificate TLS_UNTRUSTED; the connection is gone then.
        ``server_hostname`` is the name for SNI and, if the context checks it, for the certificate.
        """
        outcome = await self.play(dialogue.starttls())
        if isinstance(outcome, Failure) or not outcome.positive:
            return outcome
        if self._inbox or not self._parser.idle or self._trouble is not None or self.transport is None:
            return self._fail(Failure(Trouble.PROTOCOL, f"{self.label} spoke before the TLS handshake"))
        raise NotImplementedError

    def closed_by_peer(self) -> bool:
        """Whether this connection is of no more use: closed, broken, or the peer spoke out of turn.

        Costs nothing; looks only at what the event loop has already seen.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Close, letting what was written go out first. Safe to call at any time, more than once."""

    def abort(self) -> None:
        """Close at once; octets not yet sent are dropped."""
