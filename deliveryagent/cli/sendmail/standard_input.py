"""``sendmail -bs``: SMTP on standard input and output, for programs that speak it to a command.

The conversation is that of the listeners (``protocol.smtpd``); each message goes to the service as any other
of this user. Guarantees: 250 after the content means that the message is on stable storage; a caller that goes
away in the middle leaves nothing behind. Not offered: TLS and logins, since the caller is known, and what the
service cannot be told over its socket (different reports for different recipients, traces).
"""

import os
import time
from typing import Any

from deliveryagent.client import Client
from deliveryagent.config.location import own_name
from deliveryagent.intake.spool import Spool
from deliveryagent.intake.wishes import Wishes
from deliveryagent.mail.envelope import Notify
from deliveryagent.mail.verdict import Refusal, Reject, Tempfail
from deliveryagent.protocol import session as words
from deliveryagent.protocol.local import ExitCode, ServiceError
from deliveryagent.protocol.session import Session, Transaction
from deliveryagent.protocol.smtpd import Conversation, serve
from deliveryagent.protocol.smtpd_input import MISSING, Input
from deliveryagent.protocol.smtpd_steps import (
    Chunk,
    Forget,
    HeloChecks,
    Keep,
    Kept,
    Line,
    Outcome,
    Peek,
    Read,
    Terms,
)

_AT_ONCE = 1 << 16
_RECIPIENTS = 50_000  # a request line has room for them; the service has its own limit
_REPORTS = {Notify.SUCCESS: "success", Notify.FAILURE: "failure", Notify.DELAY: "delay"}
_FULL = Tempfail(code=452, enhanced="4.3.1", text="Insufficient system storage")


class _Gone(Exception):  # noqa: N818 - the caller just ended
    """Nothing more will come."""


class _Everything:
    """The guard of a door only its own user stands at."""

    def trusts(self, client: words.Client) -> bool:
        """Whoever started this command may send."""
        del client
        return True

    def may_send_as(self, user: str, sender: str) -> bool:
        """Nobody logs in here."""
        del user, sender
        return True


def serve_smtp(source: int = 0, target: int = 1) -> None:
    """Speak SMTP over two file descriptors until the caller has had enough. Raises ``ConfigError``."""
    with Client() as service:
        _Player(service, source, target).play()


class _Player:
    """Plays the server's side of one session."""

    def __init__(self, service: Client, source: int, target: int) -> None:
        self._service = service
        self._source = source
        self._target = target
        self._input = Input()
        self._spool = Spool()
        self._disk_full = False
        hostname = own_name()
        client = words.Client(uid=os.getuid())
        self._session = Session(
            kind="submission", client=client, hostname=hostname, listener="-bs", trusted=True
        )
        terms = Terms(
            kind="submission",
            hostname=hostname,
            recipient_limit=_RECIPIENTS,
            error_sleep=0.0,
            check_sender_domain=False,
            helo_checks=HeloChecks(own=False, reserved=False, bare=False),
        )
        self._talk = Conversation(
            terms, self._session, guard=_Everything(), clock=time.time, nonce=str
        )

    def play(self) -> None:
        """From the greeting to the end."""
        steps = serve(self._talk)
        value: Any = None
        try:
            while True:
                value = self._result(steps.send(value))
        except (StopIteration, _Gone):
            self._flush()
        finally:
            steps.close()
            self._spool.close()

    def _result(self, step: Any) -> Any:
        """What the conversation gets for a step; None for what has no meaning here."""
        match step:
            case Line() | Read() | Chunk():
                while (value := self._read(step)) is MISSING:
                    self._flush()
                    self._more()
                return value
            case Keep():
                return Outcome(self._keep())
            case Forget():
                self._forget()
            case Peek():
                return bool(self._input.buffer)
        return None

    def _read(self, step: Line | Read | Chunk) -> Any:
        match step:
            case Line():
                return self._input.line(step)
            case Read():
                return self._input.read(step, self._store)
            case Chunk():
                return self._input.chunk(step, self._store)

    def _more(self) -> None:
        try:
            data = os.read(self._source, _AT_ONCE)
        except OSError:
            data = b""
        if not data:
            raise _Gone
        self._input.buffer += data

    def _flush(self) -> None:
        """Let the replies out; a caller that does not read them is gone."""
        out = bytes(self._talk.out)
        self._talk.out.clear()
        while out:
            try:
                out = out[os.write(self._target, out) :]
            except OSError:
                raise _Gone from None

    # -- messages ---

    def _store(self, piece: bytes) -> None:
        try:
            self._spool.write(piece)
        except OSError:
            self._disk_full = True

    def _forget(self) -> None:
        self._spool.close()
        self._spool, self._disk_full = Spool(), False

    def _keep(self) -> Kept | Refusal:
        transaction = self._session.transaction
        assert transaction is not None  # there is a content
        try:
            self._spool.flush()
        except OSError:
            self._disk_full = True
        try:
            if self._disk_full:
                return _FULL
            refusal = _not_to_be_told(transaction)
            if refusal is not None:
                return refusal
            queue_id = self._service.enqueue(
                transaction.sender,
                [recipient.address for recipient in transaction.recipients],
                self._spool.whole(),
                **_wishes(transaction),
            )
        except ServiceError as error:
            return _refusal(error)
        finally:
            self._forget()
        return Kept(f"Ok: queued as {queue_id}")


def _not_to_be_told(transaction: Transaction) -> Refusal | None:
    """Why the service cannot be told of this message, if it has wishes of a rare kind."""
    if len({recipient.notify for recipient in transaction.recipients}) > 1:
        text = "Here all recipients of a message get the same reports"
    elif transaction.by_mode.endswith("T"):
        text = "No traces can be asked for here"
    else:
        return None
    return Reject(code=554, enhanced="5.5.4", text=text)


def _wishes(transaction: Transaction) -> Wishes:
    wishes: Wishes = {}
    notify = transaction.recipients[0].notify
    if notify & Notify.NEVER:
        wishes["dsn"] = "never"
    elif notify:
        wishes["dsn"] = ",".join(word for kind, word in _REPORTS.items() if notify & kind)
    if transaction.ret:
        wishes["ret"] = transaction.ret.value.lower()
    if transaction.envid:
        wishes["envid"] = transaction.envid
    if transaction.not_before:
        wishes["at"] = transaction.not_before
    if transaction.priority:
        wishes["priority"] = transaction.priority
    if transaction.by_mode:
        wishes["deliver_by"] = transaction.deliver_by
        wishes["by_mode"] = "return" if transaction.by_mode == "R" else "notify"
    return wishes


def _refusal(error: ServiceError) -> Refusal:
    match error.code:
        case ExitCode.BAD_DATA | ExitCode.USAGE:
            return Reject(code=554, enhanced="5.6.0", text=error.text)
        case ExitCode.NOT_PERMITTED:
            return Reject(code=550, enhanced="5.7.1", text=error.text)
        case _:
            return Tempfail(code=451, enhanced="4.3.0", text=error.text)
