"""One connection to a peer, and the player of conversations on it.

``Connection.play`` plays the generators of ``protocol.dialogue`` on the wire: one write per flight, one wait
for all its replies, content that fits in one write together with its dot.

Guarantees: nothing that the peer does raises out of ``play`` or ``secure``, it comes back as an ``Outcome``;
a peer that is silent, drips, floods, closes, resets or talks out of turn ends the wait within the limit of
its stage and in bounded memory; ``on_dot`` is called before the first octet of a message's final dot can
leave; no octet read before a TLS handshake counts after it. Never decides what an outcome means, never
dials again, never closes by itself but after trouble.

References: RFC 5321 4.5.3.2 (time limits), RFC 3207 (STARTTLS), RFC 2920 (PIPELINING), RFC 2033 (LMTP).
"""

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Generator
from typing import TypeVar, assert_never, cast

from aiosmtplib import (
    SMTPReadTimeoutError,
    SMTPResponse,
    SMTPResponseException,
    SMTPServerDisconnected,
)

from deliveryagent.mail.delivery import Failure, Outcome, Stage, Trouble
from deliveryagent.mail.security import TlsFacts
from deliveryagent.protocol import dialogue
from deliveryagent.protocol.dialogue import Content, Dot, Flight, Outcomes, Step
from deliveryagent.wire.stream import ReplyStream, reason

HELD_LIMIT = 131072
"""Content up to this many octets goes out in one write together with its dot."""

COPIED = 16384
"""Content up to this many octets is copied to stand before its dot; to copy more costs more than a buffer."""

CHUNK = 65536
"""Octets of a larger content written between two looks at the peer."""

TLS_CLOSE_TIMEOUT = 5.0
"""Seconds a peer may take to answer the end of TLS before the connection is dropped."""

T = TypeVar("T")


class ContentError(Exception):
    """Raised by a source of content that cannot go on; ``failure`` becomes the outcome of the attempt."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.text)
        self.failure = failure


class Connection(ReplyStream):
    """A connection as ``dial`` returns it, before the greeting is read; ``tls`` is set by a handshake."""

    tls: TlsFacts | None = None
    _held = b""

    async def greeting(self) -> Outcome:
        """Read the greeting: a reply of any class, or the failure to get one."""
        return await self.play(dialogue.greeting())

    async def play(
        self,
        talk: Generator[Step, Outcomes, T],
        *,
        at: Step | None = None,
        content: bytes | AsyncIterable[bytes] = b"",
        on_dot: Callable[[], Failure | None] | None = None,
    ) -> T:
        """Hold a conversation and return what it came to.

        ``at`` is the step it stands at, if it is under way. ``content`` is in wire form: dots stuffed,
        ending in CRLF (``protocol.content``). A source that is iterated asynchronously may raise
        ``ContentError``. ``on_dot`` is called before the final dot of a message is written; if it returns a
        failure the dot is not written, the connection is cut, and the failure stands for the content.
        Anything that is raised (by them, by cancelling) ends the connection first.
        """
        try:
            step: Step = next(talk) if at is None else at
            while True:
                match step:
                    case Flight():
                        outcomes = self.speak(step.data) or await self.replies(step.stages)
                    case Content():
                        if isinstance(content, bytes) and len(content) <= HELD_LIMIT:
                            outcomes = self._hold(content)
                        else:
                            outcomes = await self._send(content)
                        if not outcomes and on_dot is not None and (veto := on_dot()) is not None:
                            outcomes = (self.fail(veto),)
                    case Dot():
                        self.end(self._held)
                        self._held = b""
                        outcomes = await self.replies((Stage.DOT,) * step.replies, final=True)
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

        A refusal comes back as the peer's reply, and the connection is as it was. Anything the peer sent
        behind its 2xx in clear is an attempt to slip something in: PROTOCOL. A broken or unfinished
        handshake is TLS_FAILED, an unacceptable certificate TLS_UNTRUSTED; the connection is gone then.
        ``server_hostname`` is the name for SNI and, if the context checks it, for the certificate.
        """
        outcome = await self.play(dialogue.starttls())
        if isinstance(outcome, Failure) or not outcome.positive:
            return outcome
        if self._inbox or not self._parser.idle:
            text = f"{self.label} sent something in clear behind its answer to STARTTLS"
            return self.fail(Failure(Trouble.PROTOCOL, text))
        try:
            return await self._shake(context, server_hostname) or outcome
        except BaseException:
            self.abort()
            raise

    async def start_tls(
        self,
        tls_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002, ASYNC109 - aiosmtplib's signature
    ) -> SMTPResponse:
        """``secure`` in aiosmtplib's form, under the limit of the stage STARTTLS."""
        outcome = await self.secure(tls_context, server_hostname)
        if isinstance(outcome, Failure):
            if outcome.trouble is Trouble.TIMEOUT:
                raise SMTPReadTimeoutError(outcome.text)
            raise SMTPServerDisconnected(outcome.text)
        if not outcome.positive:
            raise SMTPResponseException(outcome.code, outcome.text)
        return SMTPResponse(outcome.code, outcome.text)

    async def _shake(self, context: ssl.SSLContext, server_hostname: str | None) -> Failure | None:
        if self.transport is None or self._trouble is not None:
            text = f"TLS handshake with {self.label} failed: the connection was closed"
            return self._broken_handshake(Trouble.TLS_FAILED, text)
        if server_hostname is not None and not _fit_for_tls(server_hostname):
            # Inside the event loop this would be an exception that nobody is told of.
            text = f"TLS handshake with {self.label} failed: the name cannot be used for TLS"
            return self._broken_handshake(Trouble.TLS_FAILED, text)
        try:
            transport = await self._clock.start_tls(
                self._out,
                self,
                context,
                server_hostname=server_hostname,
                ssl_handshake_timeout=self._limits[Stage.STARTTLS] or None,
                ssl_shutdown_timeout=TLS_CLOSE_TIMEOUT,
            )
        except ssl.SSLCertVerificationError as error:
            text = f"the certificate of {self.label} is not acceptable: {error.verify_message}"
            return self._broken_handshake(Trouble.TLS_UNTRUSTED, text)
        except OSError as error:  # TLS errors, time-outs and resets are among them
            text = f"TLS handshake with {self.label} failed: {_tls_reason(error)}"
            return self._broken_handshake(Trouble.TLS_FAILED, text)
        if transport is None:
            text = f"TLS handshake with {self.label} failed: the connection was closed"
            return self._broken_handshake(Trouble.TLS_FAILED, text)
        self.transport = self._out = transport
        self._over_tls = True
        self.tls = _facts(transport, context)
        self.transcript.happened(self.tls.summary())
        return None

    def _broken_handshake(self, trouble: Trouble, text: str) -> Failure:
        # The transport may have noticed first and called it a lost connection; TLS is the better word.
        self._trouble = None
        return self.fail(Failure(trouble, text))

    def speak(self, commands: bytes) -> Outcomes:
        """Write commands; or, if they could not be answered any more, say why."""
        if commands:
            if not self.in_step:
                return self._last_words()
            self.transcript.sent(commands)
            self._out.write(commands)
        return ()

    def end(self, content: bytes, ahead: bytes = b"") -> None:
        """Write small content with its dot in one go, and commands of the next message behind it."""
        if ahead:
            self.transcript.sent(ahead)
        if len(content) > COPIED:
            self._out.writelines((content, b".\r\n" + ahead))
        else:
            self._out.write(b"".join((content, b".\r\n", ahead)))

    def _hold(self, content: bytes) -> Outcomes:
        """Keep small content for one write together with its dot."""
        if not self.in_step:
            return self._cut_off()
        self._held = content
        return ()

    async def _send(self, content: bytes | AsyncIterable[bytes]) -> Outcomes:
        """Write content part by part, no faster than the peer reads."""
        if isinstance(content, bytes):
            for start in range(0, len(content), CHUNK):
                if outcomes := await self._write_chunk(content[start : start + CHUNK]):
                    return outcomes
            return ()
        try:
            async for chunk in content:
                if outcomes := await self._write_chunk(chunk):
                    return outcomes
        except ContentError as broken:
            return (self.fail(broken.failure),)
        finally:
            if isinstance(content, AsyncGenerator):
                await content.aclose()
        return self._cut_off() if self.closed_by_peer() else ()

    async def _write_chunk(self, chunk: bytes) -> Outcomes:
        """Write under the eye of the peer: it may refuse, leave, or stop reading for too long."""
        if self.closed_by_peer():
            return self._cut_off()
        self._out.write(chunk)
        if not self._writable:
            await self.wait((), self._limits[Stage.CONTENT])
        return self._cut_off() if self.closed_by_peer() else ()

    def _last_words(self) -> Outcomes:
        """What to make of a connection on which no command can be sent any more.

        A refusal the peer gave before it left says why it did (a 421 after idling, a 4xx for its time
        limit) and is worth more than its leaving. Any other reply nobody asked for is an error.
        """
        gone = self._trouble is not None or self.transport is None or self.transport.is_closing()
        if self._inbox and (self._inbox[0].code == 421 or (gone and self._inbox[0].code >= 400)):
            return (self._inbox.popleft(), self._leave())
        if self._inbox or not self._parser.idle:
            text = f"{self.label} sent a reply nobody asked for"
            return (self.fail(Failure(Trouble.PROTOCOL, text)),)
        return (self._leave(),)

    def _cut_off(self) -> Outcomes:
        """What to make of a peer that spoke or left while the content was under way.

        A refusal ends it, for the peer wants no more and the dot will never be sent; a yes before the dot
        cannot be one to the message.
        """
        if self.transport is not None and self.transport.is_closing():
            self.salvage()
        if self._inbox and self._inbox[0].code >= 400:
            reply = self._inbox.popleft()
            return (reply, self._leave())
        return self._last_words()

    def _leave(self) -> Failure:
        return self.fail(Failure(Trouble.LOST, f"{self.label} is closing the connection"))


def _facts(transport: asyncio.BaseTransport, context: ssl.SSLContext) -> TlsFacts:
    cipher, protocol, bits = transport.get_extra_info("cipher")
    verified = context.verify_mode is ssl.CERT_REQUIRED
    names: list[str] = []
    for kind, name in (transport.get_extra_info("peercert") or {}).get("subjectAltName", ()):
        if kind == "DNS":
            names.append(name)
    version = transport.get_extra_info("ssl_object").version() or protocol
    return TlsFacts(version, cipher, bits, verified and context.check_hostname, tuple(names))


def _fit_for_tls(name: str) -> bool:
    """Whether the ssl module takes this name for SNI."""
    try:
        return bool(name.encode("idna")) and not name.startswith(".") and "\0" not in name
    except UnicodeError:
        return False


def _tls_reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.replace("_", " ").lower()
    return reason(error)
