"""What is known of a client that hands over mail, and of the message it is at.

The conversation (``protocol.smtpd``) fills these in; hooks, milters and the local checks read them, and may
keep ``tags`` and ``notes``. Guarantees: every address is in wire form and was read by ``mail.address``; what
a client says of itself (``helo``) is marked as such. Never touches a socket.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from deliveryagent.mail.envelope import DsnReturn, Notify
from deliveryagent.mail.verdict import Decision, Defer, Discard, Hold

Kind = Literal["submission", "smtp", "lmtp"]


@dataclass(frozen=True, kw_only=True)
class Client:
    """Who connected. ``address`` is an IP address, empty on a Unix socket, where ``uid`` is known instead.

    ``name`` is what a trusted proxy says of the host (XCLIENT), never looked up here. ``proxied``: the
    facts come from a proxy.
    """

    address: str = ""
    port: int = 0
    name: str = ""
    uid: int = -1
    proxied: bool = False

    @property
    def shown(self) -> str:
        """How logs and replies name it."""
        if self.uid >= 0 and not self.address:
            return f"uid={self.uid}"
        return self.address or "unknown"


@dataclass(frozen=True, kw_only=True)
class TlsFacts:
    """The protection of a session. ``server_name`` is the name the client asked for (SNI), or empty."""

    version: str
    cipher: str
    bits: int = 0
    server_name: str = ""
    client_subject: str = ""


@dataclass(slots=True, kw_only=True)
class Recipient:
    """One accepted recipient. ``given`` is the address of RCPT; ``address`` where it goes now.

    ``notify`` and ``orcpt`` are the wishes of RFC 3461, as in ``mail.envelope.NewRecipient``.
    """

    address: str
    given: str = ""
    notify: Notify = Notify.DEFAULT
    orcpt: str = ""


@dataclass(slots=True, kw_only=True)
class Transaction:
    """A message from MAIL on. ``sender`` is empty for the null sender; ``given`` is the address of MAIL.

    ``size`` is what the client announced, 0 when nothing. ``not_before`` is seconds since the epoch
    (FUTURERELEASE, ``Defer``). ``deliver_by`` is seconds since the epoch with ``by_mode`` ``"R"`` or ``"N"``,
    with ``"T"`` appended when asked for traces (RFC 2852); 0 and empty without. ``priority`` is -9 to 9 (RFC
    6710). ``discard``: forget it at the end. ``queue_id`` is empty until the message has one.
    """

    sender: str
    given: str = ""
    size: int = 0
    body: str = ""
    smtputf8: bool = False
    ret: DsnReturn = DsnReturn.UNSTATED
    envid: str = ""
    not_before: float = 0.0
    deliver_by: float = 0.0
    by_mode: str = ""
    priority: int = 0
    require_tls: bool = False
    recipients: list[Recipient] = field(default_factory=list)
    hold: bool = False
    discard: bool = False
    queue_id: str = ""
    tags: dict[str, str] = field(default_factory=dict)

    def heed(self, verdict: Decision | None, now: float) -> None:
        """What a verdict that does not refuse changes about the message."""
        match verdict:
            case Defer(seconds=seconds):
                self.not_before = max(self.not_before, now + seconds)
            case Hold():
                self.hold = True
            case Discard():
                self.discard = True


@dataclass(slots=True, kw_only=True)
class Session:
    """One connection, as far as it has come.

    ``kind`` and ``listener`` (its address as configured) say by which door it came; ``local`` is our own end.
    ``helo`` is what the client calls itself, ``verb`` how it said so (EHLO, HELO, LHLO). ``user`` is empty
    until somebody logged in, ``mechanism`` is how; ``vouched`` when a hook let them in, which then also answers
    for the senders they use. ``trusted``: it may relay without that. ``transaction`` is the message at hand.
    ``notes`` belongs to hooks: whatever they want to remember until the end.
    """

    kind: Kind
    client: Client
    hostname: str
    listener: str = ""
    local: str = ""
    helo: str = ""
    verb: str = ""
    tls: TlsFacts | None = None
    user: str = ""
    mechanism: str = ""
    vouched: bool = False
    trusted: bool = False
    transaction: Transaction | None = None
    tags: dict[str, str] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def protocol(self) -> str:
        """The word for the Received field (RFC 3848): SMTP, ESMTPSA, LMTPS, UTF8SMTP and so on.

        >>> Session(kind="submission", client=Client(), hostname="", verb="EHLO", user="kim").protocol
        'ESMTPA'
        """
        if self.verb == "HELO":
            return "SMTP"
        word = "LMTP" if self.verb == "LHLO" else "ESMTP"
        if self.transaction is not None and self.transaction.smtputf8:
            word = "UTF8LMTP" if self.verb == "LHLO" else "UTF8SMTP"
        return word + ("S" if self.tls else "") + ("A" if self.user else "")
