"""The agent in the shape of ``smtplib.SMTP``, for code that expects that.

::

    from deliveryagent.smtp import SMTP

    with SMTP() as smtp:
        refused = smtp.send_message(message)

No SMTP is spoken: messages go to the agent of this host as :class:`deliveryagent.Client` brings them there, so
what ``sendmail`` took is on stable storage. It is a ``smtplib.SMTP`` also for ``isinstance``; ``sendmail`` and
``send_message`` are the standard library's own. Guarantees: trouble arrives as the exceptions of ``smtplib``,
with a code of class 4 for what may work later and of class 5 for what never will; a message is either taken for
all recipients that were not refused, or for none. Never connects to another host. Not for several threads at
once.
"""

import os
import re
import smtplib
import sys
import time
from collections.abc import Sequence
from copy import copy
from email.message import Message
from typing import Any, NoReturn, Self, Unpack

from deliveryagent.client import PATIENCE, Client, EnqueueError
from deliveryagent.intake.boundaries import settle_boundaries
from deliveryagent.intake.instructions import take_off
from deliveryagent.intake.wishes import Wishes
from deliveryagent.mail.envelope import DsnReturn, Notify
from deliveryagent.protocol.esmtp import CommandError, Offers, read_mail, read_rcpt
from deliveryagent.protocol.headers import HeaderError, parse_address_list
from deliveryagent.protocol.local import ExitCode, ServiceError
from deliveryagent.protocol.session import Transaction

__all__ = ["SMTP", "bare_address", "refusal"]

Reply = tuple[int, bytes]

_HERE = {"", "localhost", "localhost.localdomain", "ip6-localhost", "127.0.0.1", "::1"}
_OFFERS = Offers(default_domain="localhost.localdomain", hold_limit=366 * 86400.0)
_EXTENSIONS = (
    "8BITMIME", "SIZE", "SMTPUTF8", "DSN", "ENHANCEDSTATUSCODES",
    "FUTURERELEASE", "DELIVERYBY", "MT-PRIORITY",
)  # fmt: skip
_CODES = {
    ExitCode.USAGE: (501, "5.5.4"),
    ExitCode.NOT_PERMITTED: (550, "5.7.1"),
    ExitCode.BAD_DATA: (554, "5.6.0"),
    ExitCode.BAD_CONFIGURATION: (451, "4.3.5"),
}
_LATER = (451, "4.3.0")
_DONE = (250, b"2.0.0 Ok")
_NOT_HERE = (502, b"5.5.1 Command not implemented")
_LINE_END = re.compile(r"\r\n|\r|\n")


def refusal(error: ServiceError) -> smtplib.SMTPDataError:
    """A message that was not taken, in the words of ``smtplib``."""
    return smtplib.SMTPDataError(*_reply(error))


def bare_address(address: str) -> str:
    """The address in ``Kim <kim@example.net>``; empty for the null sender. Raises ``HeaderError``."""
    if address in ("", "<>"):
        return ""
    found = parse_address_list(address)
    if len(found) != 1:
        raise HeaderError(f"{len(found)} addresses in place of one")
    return found[0]


class SMTP(smtplib.SMTP):
    """The way to the agent, as ``smtplib.SMTP`` is the way to a server.

    ``host`` is empty, a name of this host, or the path of the service's socket; anything else is refused with
    ``ValueError``, since nothing goes to other hosts. ``port``, ``local_hostname`` and ``source_address`` mean
    nothing here. ``timeout`` is how many seconds a service that is restarting is waited for.

    By name only: ``config`` and ``overrides`` as for ``Client``; with ``read_headers``, messages may ask for
    things in header fields (:mod:`deliveryagent.intake.instructions`); everything else is wished for every
    message, as in ``Client.enqueue``. ``queue_id`` is the id of the message that was taken last.
    """

    queue_id: str = ""

    def __init__(
        self,
        host: str = "",
        port: int = 0,
        local_hostname: str | None = None,
        timeout: float | None = None,
        source_address: tuple[bytearray | bytes | str, int] | None = None,
        *,
        config: str | os.PathLike[str] | None = None,
        overrides: Sequence[str] = (),
        read_headers: bool = False,
        **wishes: Unpack[Wishes],
    ) -> None:
        self._patience = timeout if isinstance(timeout, int | float) else PATIENCE
        super().__init__("", 0, local_hostname or "localhost", self._patience, source_address)
        self._config = config
        self._overrides = overrides
        self._read_headers = read_headers
        self._wishes = wishes
        self._of_message: Wishes = {}
        self._transaction: Transaction | None = None
        self._client: Client | None = None
        self.connect(host, port)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- the session ---

    def connect(self, host: str = "localhost", port: int = 0, source_address: Any = None) -> Reply:  # noqa: ARG002
        """Be ready to hand over. Whether the agent is there shows with the first message."""
        socket = None
        if host.startswith("/"):
            socket = host
        elif host.lower() not in _HERE:
            raise ValueError(f'"{host}" is another host; mail is handed to the agent of this one')
        self.close()
        self._client = Client(
            self._config, socket, overrides=self._overrides, patience=self._patience
        )
        return self._said("connect", (220, b"deliveryagent"))

    def close(self) -> None:
        """End the connection."""
        self._transaction = None
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def quit(self) -> Reply:
        """End the connection; raises ``SMTPServerDisconnected`` when there is none."""
        self._connected()
        self.close()
        self.ehlo_resp = self.helo_resp = None
        return self._said("quit", (221, b"2.0.0 Bye"))

    def ehlo(self, name: str = "") -> Reply:
        """What is offered: the extensions whose parameters ``sendmail`` takes."""
        self._connected()
        self.does_esmtp = True
        self.esmtp_features = {word.lower(): "" for word in _EXTENSIONS}
        self.ehlo_resp = "\n".join(("deliveryagent", *_EXTENSIONS)).encode()
        return self._said(f"ehlo {name or self.local_hostname}", (250, self.ehlo_resp))

    def helo(self, name: str = "") -> Reply:
        """Does no more than be polite."""
        self._connected()
        self.helo_resp = b"deliveryagent"
        return self._said(f"helo {name or self.local_hostname}", (250, self.helo_resp))

    def login(self, user: str, password: str, *, initial_response_ok: bool = True) -> Reply:  # noqa: ARG002
        """Accepted and not needed: the socket tells the agent which user calls."""
        self._connected()
        return self._said("auth", (235, b"2.7.0 Ok"))

    def starttls(self, *_: Any, **__: Any) -> Reply:
        """Accepted and not needed: nothing leaves this host."""
        self._connected()
        return self._said("starttls", (220, b"2.0.0 Ok"))

    def docmd(self, cmd: str, args: str = "") -> Reply:
        """A command by its name: NOOP, RSET, QUIT and VRFY are known; use methods for the others."""
        self._connected()
        match cmd.upper():
            case "QUIT":
                return self.quit()
            case "RSET":
                self._transaction = None
                reply = _DONE
            case "NOOP":
                reply = _DONE
            case "VRFY":
                reply = (252, b"2.1.5 Try and see")
            case _:
                reply = _NOT_HERE
        return self._said(f"{cmd} {args}".strip(), reply)

    def verify(self, address: str) -> Reply:
        """Nobody knows before it is delivered."""
        return self.docmd("vrfy", address)

    vrfy = verify

    def expn(self, address: str) -> Reply:
        """There are no lists here."""
        return self.docmd("expn", address)

    def help(self, args: str = "") -> bytes:
        """No help either."""
        return self.docmd("help", args)[1]

    def send(self, s: Any) -> NoReturn:  # noqa: ARG002
        """Octets of a conversation: there is none."""
        raise smtplib.SMTPNotSupportedError("no SMTP is spoken with the agent")

    def getreply(self) -> NoReturn:
        """As :meth:`send`."""
        raise smtplib.SMTPNotSupportedError("no SMTP is spoken with the agent")

    # -- the message ---

    def mail(self, sender: str, options: Sequence[str] = ()) -> Reply:
        """Begin a message. The options are those of RFC 5321 and the extensions offered: ``RET=HDRS``."""
        self._connected()
        try:
            path, options = bare_address(sender), _with_utf8(sender, options)
            transaction = read_mail(
                f"FROM:<{_whole(path)}> {' '.join(options)}", _OFFERS, time.time()
            )
        except (CommandError, HeaderError) as error:
            return self._said(f"mail {sender}", _refused(error, "5.1.7"))
        if transaction.by_mode.endswith("T"):
            return self._said(f"mail {sender}", (555, b"5.5.4 BY without traces, please"))
        transaction.sender = path
        self._transaction = transaction
        return self._said(f"mail {sender}", (250, b"2.1.0 Ok"))

    def rcpt(self, recip: str, options: Sequence[str] = ()) -> Reply:
        """Add a recipient. ``NOTIFY=…`` counts for the whole message."""
        self._connected()
        transaction = self._transaction
        if transaction is None:
            return self._said(f"rcpt {recip}", (503, b"5.5.1 MAIL comes first"))
        try:
            path = bare_address(recip)
            found = read_rcpt(f"TO:<{_whole(path)}> {' '.join(options)}", _OFFERS, utf8=True)
        except (CommandError, HeaderError) as error:
            return self._said(f"rcpt {recip}", _refused(error, "5.1.3"))
        if found.orcpt or any(found.notify != one.notify for one in transaction.recipients):
            text = b"5.5.4 ORCPT, and another NOTIFY than before, cannot be kept"
            return self._said(f"rcpt {recip}", (501, text))
        found.address = path
        transaction.recipients.append(found)
        return self._said(f"rcpt {recip}", (250, b"2.1.5 Ok"))

    def data(self, msg: str | bytes | bytearray | memoryview) -> Reply:  # type: ignore[override] # buffers
        """Hand over the message; 250 means that it is on stable storage."""
        client, transaction = self._connected(), self._transaction
        self._transaction = None
        if transaction is None or not transaction.recipients:
            raise smtplib.SMTPDataError(503, b"5.5.1 MAIL and RCPT come first")
        content = _LINE_END.sub("\r\n", msg).encode("ascii") if isinstance(msg, str) else msg
        wishes: Wishes = {**self._wishes, **_wishes(transaction), **self._of_message}
        to = [one.address for one in transaction.recipients]
        try:
            self.queue_id = client.enqueue(transaction.sender, to, content, **wishes)
        except EnqueueError as error:
            return self._said("data", _reply(error))
        return self._said("data", (250, f"2.0.0 Ok: queued as {self.queue_id}".encode()))

    def send_message(
        self,
        msg: "Message[Any, Any]",
        from_addr: str | None = None,
        to_addrs: str | Sequence[str] | None = None,
        mail_options: Sequence[str] = (),
        rcpt_options: Sequence[str] = (),
    ) -> dict[str, Reply]:
        """As in ``smtplib``; with ``read_headers``, what the header asks for counts and is not sent."""
        if self._read_headers:
            msg = copy(msg)  # only its header becomes another
            try:
                self._of_message = take_off(msg)
            except ValueError as error:
                raise smtplib.SMTPDataError(554, f"5.6.0 {error}".encode()) from None
        if key := self._of_message.get("key", self._wishes.get("key")):
            settle_boundaries(msg, key)
        try:
            return super().send_message(msg, from_addr, to_addrs, mail_options, rcpt_options)
        finally:
            self._of_message = {}

    def _connected(self) -> Client:
        if self._client is None:
            raise smtplib.SMTPServerDisconnected("please run connect() first")
        return self._client

    def _said(self, request: str, reply: Reply) -> Reply:
        if self.debuglevel > 0:
            print(f"{request!r}: {reply!r}", file=sys.stderr)  # noqa: T201 - what smtplib does
        return reply


def _whole(path: str) -> str:
    """An address that can be judged: who has no domain is of this host, and gets the agent's name there."""
    return path if not path or "@" in path else f"{path}@{_OFFERS.default_domain}"


def _with_utf8(sender: str, options: Sequence[str]) -> Sequence[str]:
    said = any(option.upper() == "SMTPUTF8" for option in options)
    return options if said or sender.isascii() else (*options, "SMTPUTF8")


def _wishes(transaction: Transaction) -> Wishes:
    wishes: Wishes = {}
    if transaction.not_before:
        wishes["at"] = transaction.not_before
    if transaction.envid:
        wishes["envid"] = transaction.envid
    if transaction.ret != DsnReturn.UNSTATED:
        wishes["ret"] = "full" if transaction.ret == DsnReturn.FULL else "hdrs"
    if transaction.priority:
        wishes["priority"] = transaction.priority
    if transaction.deliver_by:
        wishes["deliver_by"] = transaction.deliver_by
        wishes["by_mode"] = "return" if transaction.by_mode == "R" else "notify"
    notify = transaction.recipients[0].notify
    if notify:
        wishes["dsn"] = [wish.name.lower() for wish in Notify if wish in notify and wish.name]
    return wishes


def _refused(error: CommandError | HeaderError, enhanced: str) -> Reply:
    if isinstance(error, CommandError):
        return error.code, f"{error.enhanced} {error.text}".encode(errors="replace")
    return 501, f"{enhanced} Bad address: {error}".encode(errors="replace")


def _reply(error: ServiceError) -> Reply:
    code, enhanced = _CODES.get(error.code, _LATER)
    text = f"{error.text} ({error.hint})" if error.hint else error.text
    return code, f"{enhanced} {text}".encode(errors="replace")
