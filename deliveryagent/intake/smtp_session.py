"""One connection of a listener: plays the conversation of ``protocol.smtpd`` over a transport.

Guarantees: replies of commands that came together leave in one write; while an answer is worked out no more
is read than fits in the buffer; a client that is slow, silent or does not read its replies is sent away after
its time, and so is everybody when the listener ends (421 4.3.2), but never between the end of a content and
its reply. Whatever a client sends, only its own session suffers. Never decides anything about mail.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, ClassVar, cast

from deliveryagent.intake.arrivals import Arrivals
from deliveryagent.intake.door import Door, Logins
from deliveryagent.intake.smtp_wire import SmtpWire
from deliveryagent.intake.spool import Spool
from deliveryagent.mail.verdict import Decision, Tempfail
from deliveryagent.protocol.session import Client, Session, TlsFacts
from deliveryagent.protocol.smtpd import Conversation, serve
from deliveryagent.protocol.smtpd_input import MISSING, Missing
from deliveryagent.protocol.smtpd_steps import (
    Ask,
    Attempt,
    Chunk,
    Failed,
    Forget,
    Keep,
    Kept,
    Line,
    Outcome,
    Over,
    Peek,
    Read,
    Secure,
    Sender,
    Succeeded,
    Wait,
)

_GLANCE = 5.0  # seconds between two looks whether a client is too slow
_BUSY = Tempfail(code=451, enhanced="4.3.0", text="Internal trouble, try again later")
_FULL = Outcome(Tempfail(code=452, enhanced="4.3.1", text="Insufficient system storage"))


class _Suspended:
    """An answer has to be waited for."""


_SUSPENDED = _Suspended()


class SmtpSession(SmtpWire):
    """A session; ``arrivals`` counts them and ends them."""

    def __init__(self, door: Door, arrivals: Arrivals) -> None:
        super().__init__(door)
        self._arrivals = arrivals
        self._over = False
        self._wanted: Line | Read | Chunk | None = None  # input that is waited for
        self._since = 0.0
        self._last = 0.0  # when octets came
        self._begun = 0.0  # the session, or the last message
        self._spool: Spool | None = None
        self._disk_full = False  # while the content came
        self._task: asyncio.Future[Any] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._watched = "debug" in door.asked
        self.session: Session | None = None

    def _connected(self, transport: asyncio.Transport) -> None:
        self._arrivals.admit(self, transport)

    def begin(self, client: Client, *, local: str, tls: TlsFacts | None) -> None:
        """The client is known, and TLS, where it comes first, is there: speak."""
        door = self._door
        self.session = Session(
            kind=door.terms.kind,
            client=client,
            hostname=door.terms.hostname,
            listener=door.listener,
            local=local,
            tls=tls,
            trusted=door.guard.trusts(client),
        )
        self._talk = Conversation(
            door.terms,
            self.session,
            guard=door.guard,
            clock=door.clock,
            nonce=door.nonce,
            asked=door.asked,
            admits=door.admits,
            xclient=door.speakers.hold(client.address),
        )
        self._steps = serve(self._talk)
        self._begun = self._since = self._loop.time()
        self._look_again()
        self._drive(None)

    # -- the conversation ---------------------------------------------------------------------------

    def _drive(self, value: Any) -> None:
        """Let the conversation go on, as far as it comes without waiting."""
        try:
            while True:
                step = self._steps.send(value)
                if self._talk.complaint:
                    self._complain()
                kind = type(step)
                if (kind is Line or kind is Read) and not self._input.buffer:
                    value = MISSING
                else:
                    act: Callable[[Any, Any], Any]
                    act = self._PLAYERS.get(kind, SmtpSession._question)
                    value = act(self, step)
                if value is MISSING:
                    self._wanted = cast("Line | Read | Chunk", step)
                    self._since = self._last = self._loop.time()
                    if self._talk.out:
                        self._write(self._talk.out)
                    if self._ended or self._held:
                        self._want_more()
                    return
                if value is _SUSPENDED:
                    return
        except StopIteration:
            self._finish()
        except Exception as error:  # noqa: BLE001 - a fault here must end one session only
            self._door.trouble(error)
            self._arrivals.observe("error", self._session, error)
            self._talk.out += b"421 4.3.0 Internal trouble, try again later\r\n"
            self._finish()

    def _heard(self) -> bool:
        step = self._wanted
        if step is None or self._full:
            return False
        self._last = self._loop.time()
        value = self._PLAYERS[type(step)](self, step)
        if value is MISSING:
            self._want_more()
        else:
            self._wanted = None
            self._drive(value)
        return True

    def _throw(self, enhanced: str, text: str) -> None:
        """End the conversation with a 421."""
        self._wanted = None
        with suppress(StopIteration):
            self._steps.throw(Over(enhanced, text))
        self._finish()

    def _finish(self) -> None:
        """The last word is said."""
        if self._talk.complaint:
            self._complain()
        self._write(self._talk.out)
        self._close()

    def _gone(self) -> None:
        if self._over:
            return
        self._over, self._wanted = True, None
        if self.session is not None:
            self._steps.close()
        if self._task is not None:
            self._task.cancel()
        if self._timer is not None:
            self._timer.cancel()
        self._forget(None)
        self._input.buffer.clear()
        self._arrivals.leave(self)

    # -- input --------------------------------------------------------------------------------------

    def _line(self, step: Line) -> bytes | Missing | None:
        line = self._input.line(step)
        if self._watched and not isinstance(line, Missing):
            self._arrivals.observe("debug", self._session, "<", self._told(line))
        return line

    def _told(self, line: bytes | None) -> str:
        """A line of the client as observers are shown it: without what a login is made of."""
        if line is None:
            return "a line that is too long"
        text = line.decode("utf-8", "replace")
        if text[:5].upper() == "AUTH ":
            return " ".join([*text.split()[:2], "***"])
        amid = self._session.mechanism and not self._session.user
        return "***" if amid else text

    def _write(self, out: bytearray) -> None:
        if self._watched:
            for line in out.decode("ascii").splitlines():
                self._arrivals.observe("debug", self._session, ">", line)
        super()._write(out)

    def _complain(self) -> None:
        """Note a reply that said no, for the log and for hooks."""
        talk, session = self._talk, self._session
        complaint, talk.complaint = talk.complaint, ""
        fields = {"client": self.shown, "helo": session.helo, "reply": complaint}
        if session.user:
            fields["user"] = session.user
        if session.transaction is not None:
            fields["sender"] = session.transaction.sender
        self._door.tell("refused", fields)
        self._arrivals.observe("error", session, complaint)

    def _read(self, step: Read) -> Missing | None:
        return self._input.read(step, self._store)

    def _chunk(self, step: Chunk) -> Missing | None:
        return self._input.chunk(step, self._store)

    def _store(self, piece: bytes) -> None:
        if self._disk_full:
            return
        if self._spool is None:
            self._spool = Spool()
        try:
            self._spool.write(piece)
        except OSError as error:
            self._door.trouble(error)
            self._disk_full = True

    def _peek(self, step: Peek) -> bool:
        del step
        return bool(self._input.buffer)

    # -- what takes its time ------------------------------------------------------------------------

    def _later(self, work: Awaitable[Any], failure: Any = _BUSY) -> _Suspended:
        """Go on with the result when it is there; a fault counts as ``failure``."""
        self._write(self._talk.out)
        task = self._task = asyncio.ensure_future(work)

        def done(task: asyncio.Future[Any]) -> None:
            self._task = None
            if self._over or task.cancelled():
                return
            error = task.exception()
            if isinstance(error, Exception):
                self._door.trouble(error)
            self._drive(failure if error is not None else task.result())

        task.add_done_callback(done)
        return _SUSPENDED

    def _ask(self, step: Ask) -> Any:
        answer = self._door.ask(step.stage, self._session, *step.about)
        return self._later(answer) if isinstance(answer, Awaitable) else answer

    def _sender(self, step: Sender) -> Any:
        answer = self._door.sender(step.address)
        return self._later(answer) if isinstance(answer, Awaitable) else answer

    def _question(self, step: Any) -> Any:
        answer = self._logins.answer(self._session, step)
        return self._later(answer) if isinstance(answer, Awaitable) else answer

    def _attempt(self, step: Attempt) -> Decision | None:
        del step
        return self._logins.attempt(self._session)

    def _failed(self, step: Failed) -> float:
        return self._logins.failed(self._session, step.user)

    def _succeeded(self, step: Succeeded) -> None:
        self._logins.succeeded(self._session, step.user)

    @property
    def _logins(self) -> Logins:
        assert self._door.logins is not None
        return self._door.logins

    @property
    def _session(self) -> Session:
        assert self.session is not None
        return self.session

    def _wait(self, step: Wait) -> _Suspended:
        """Go on after so many seconds; what is in ``out`` stays there."""
        task = self._task = asyncio.ensure_future(asyncio.sleep(step.seconds))

        def done(task: asyncio.Future[Any]) -> None:
            self._task = None
            if not self._over and not task.cancelled():
                self._drive(None)

        task.add_done_callback(done)
        return _SUSPENDED

    def _keep(self, step: Keep) -> Any:
        del step
        if self._talk.out:
            self._write(self._talk.out)
        if self._spool is None:
            self._spool = Spool()
        try:
            self._spool.flush()
        except OSError as error:
            self._door.trouble(error)
            self._disk_full = True
        if self._disk_full:
            self._forget(None)
            return _FULL
        spool, self._spool = self._spool, None
        answers: list[Outcome] = []
        waiting = False

        def done(outcome: Outcome) -> None:
            spool.close()
            self._begun = self._loop.time()
            if not waiting:
                answers.append(outcome)
            elif not self._over:
                self._drive(outcome)
            elif isinstance(outcome.whole, Kept):
                self._door.tell("reply_lost", {"client": self.shown, "text": outcome.whole.text})

        self._door.keep(self._session, spool, done)
        waiting = True
        return answers[0] if answers else _SUSPENDED

    def _forget(self, step: Forget | None) -> None:
        del step
        spool, self._spool, self._disk_full = self._spool, None, False
        if spool is not None:
            spool.close()

    # -- TLS ----------------------------------------------------------------------------------------

    def _secure(self, step: Secure) -> _Suspended:
        del step
        assert self._transport is not None
        self._transport.pause_reading()  # what comes next is the handshake's
        self._input.buffer.clear()  # and what came before it is nobody's
        return self._later(self.handshake())

    # -- time ---------------------------------------------------------------------------------------

    def _look_again(self) -> None:
        soon = min(_GLANCE, self._door.limits.timeout or _GLANCE)
        self._timer = self._loop.call_later(soon, self._look)

    def _look(self) -> None:
        """Is this client too slow?"""
        limits, now = self._door.limits, self._loop.time()
        self._look_again()
        if self._wanted is None:
            return
        waited = now - self._since
        slow = 0 < limits.timeout < waited
        if self._full and slow:
            self.abort()
            return
        if not isinstance(self._wanted, Line):
            slow = 0 < limits.timeout < now - self._last
            if limits.data_rate:
                come = self._wanted.stream.size
                slow = slow or waited > limits.timeout + come / limits.data_rate
        if slow:
            self._throw("4.4.2", "Timeout, closing the connection")
        elif 0 < limits.session_timeout < now - self._begun:
            self._throw("4.4.2", "This session has lasted too long")

    def dismiss(self, *, anyway: bool = False) -> None:
        """The listener ends: say goodbye if the client waits for nothing, or ``anyway`` for no reply."""
        if self.session is None:
            self._gone()
        elif self._wanted is None:
            return
        elif anyway or (isinstance(self._wanted, Line) and self.session.transaction is None):
            self._throw("4.3.2", "Shutting down, try again later")

    @property
    def shown(self) -> str:
        """How the log names the client."""
        return self.session.client.shown if self.session is not None else "unknown"

    _PLAYERS: ClassVar[dict[type, Callable[[Any, Any], Any]]] = {
        Line: _line,
        Read: _read,
        Chunk: _chunk,
        Keep: _keep,
        Forget: _forget,
        Ask: _ask,
        Sender: _sender,
        Wait: _wait,
        Attempt: _attempt,
        Failed: _failed,
        Succeeded: _succeeded,
        Peek: _peek,
        Secure: _secure,
    }
