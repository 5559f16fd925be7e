"""A delivery as a value: what the manager asks of a worker and what the worker answers.

Guarantees: a ``DeliveryResult`` names every recipient of its request exactly once (``policy`` and
``agent`` build it so, tests state it). Values travel between processes as MessagePack arrays; fields are
only ever added at the end.
"""

from enum import IntEnum, StrEnum

import msgspec

from deliveryagent.mail.status import SmtpReply


class Stage(StrEnum):
    """The step of a delivery that an outcome belongs to; each has a time limit of its own."""

    ROUTE = "route"  # decided here, nobody was asked
    RESOLVE = "resolve"
    CONNECT = "connect"
    GREETING = "greeting"
    EHLO = "ehlo"
    STARTTLS = "starttls"
    AUTH = "auth"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    CONTENT = "content"
    DOT = "dot"
    RSET = "rset"
    QUIT = "quit"


class Trouble(StrEnum):
    """How an attempt broke when no reply says it."""

    # names
    DNS_TEMPORARY = "dns_temporary"  # SERVFAIL, time-out, malformed answer: 4.4.3
    DNS_FAILED = (
        "dns_failed"  # the server will never answer this query (FORMERR, REFUSED class): 5.4.3
    )
    DNS_INVALID = "dns_invalid"  # a record with an impossible name: 5.4.4
    HOST_NOT_FOUND = "host_not_found"  # neither MX nor address, or no MX host resolves: 5.4.4
    NULL_MX = "null_mx"  # RFC 7505: 5.1.10
    LOOP = "loop"  # we are the best MX, or the peer has our name: 5.4.6
    PRIMARY_UNREACHABLE = "primary_unreachable"  # only worse hosts than ourselves are left: 4.4.4
    NO_ADDRESS_FAMILY = "no_address_family"  # every protocol is switched off: 4.4.4
    # network
    CONNECT_FAILED = "connect_failed"  # refused, unreachable, timed out: 4.4.1
    BIND_FAILED = "bind_failed"  # the configured source address cannot be used: 4.4.0
    TIMEOUT = "timeout"  # the peer was silent beyond the stage's limit: 4.4.2
    LOST = "lost"  # the peer closed or reset the connection: 4.4.2
    PROTOCOL = "protocol"  # the peer sent what no reply can be: 4.5.0
    # security
    TLS_UNAVAILABLE = "tls_unavailable"  # demanded but not offered: 4.7.4
    TLS_FAILED = "tls_failed"  # the handshake broke: 4.7.5
    TLS_UNTRUSTED = "tls_untrusted"  # the certificate does not satisfy the demand: 4.7.5
    AUTH_UNAVAILABLE = "auth_unavailable"  # no usable mechanism, or not safe to use: 4.7.0
    # content
    TOO_LARGE = "too_large"  # beyond the peer's SIZE: 5.3.4
    NEEDS_UTF8 = "needs_utf8"  # the peer lacks SMTPUTF8: 5.6.7
    NEEDS_8BIT = "needs_8bit"  # the peer lacks 8BITMIME and the content cannot be converted: 5.6.3
    # what the sender asks of the way
    NEEDS_DELIVERBY = "needs_deliverby"  # the peer keeps no deadlines: 5.3.3
    NEEDS_REQUIRETLS = "needs_requiretls"  # the peer does not promise protected transport: 5.7.30
    NEEDS_PROTECTION = (
        "needs_protection"  # the session is not encrypted to a host that proved its name: 5.7.10
    )
    LATE = "late"  # the time the sender allowed ended before the peer was asked: 4.4.7
    # ourselves
    LOCAL = "local"  # a fault of this program or machine: 4.3.0
    CORRUPT = "corrupt"  # the stored content is unreadable or has the wrong size: held
    CRASHED = "crashed"  # the process died before an outcome was known: retried
    SHUTDOWN = "shutdown"  # stopped before the final dot: retried at once, no attempt counted


class Failure(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Trouble with its explanation: one line of text for people, no control characters.

    ``enhanced`` is a status code more exact than the trouble's usual one (``5.1.2`` for a recipient domain
    that does not exist, ``4.4.6`` for a loop that is not at the best host), empty if there is none. One that
    begins with 4 makes a failure temporary that otherwise is permanent.
    """

    trouble: Trouble
    text: str
    enhanced: str = ""


Outcome = SmtpReply | Failure


class Verdict(IntEnum):
    """What becomes of a recipient after an attempt, or of the attempt after one host."""

    DELIVERED = 1
    DEFERRED = 2
    BOUNCED = 3
    NEXT_HOST = 4  # only inside an attempt: try the next address
    IN_DOUBT = (
        5  # the final dot went out, no answer came: deferred 4.4.2, may be sent more than once
    )
    RETURNED = 6  # not attempted (shutdown, recalled): due again at once, no attempt counted
    HELD = 7  # put aside for a person: hold: routes, corrupt content, poison


class Pressure(IntEnum):
    """What an outcome says about the site's capacity (``policy.concurrency``)."""

    UP = 1  # a session ran to completion
    NONE = 2  # says nothing about the site
    SLOW = 3  # the site answers but asks us to slow down (421, rate-limit style 4xx)
    DOWN = 4  # the site could not be used at all


class RequestRecipient(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One recipient inside a request; ``number`` is its place in the message, ``attempt`` counts from 1."""

    number: int
    address: str
    attempt: int
    notify: int = 0
    orcpt: str = ""


class Handling(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a message asks of its way; the meaning is that of ``mail.envelope.Envelope``."""

    priority: int = 0
    deliver_by: float = 0.0
    by_mode: str = ""
    require_tls: bool = False

    @property
    def returns(self) -> bool:
        """Whether the message is given up when its time is over."""
        return self.deliver_by > 0 and self.by_mode[:1] == "R"


class DeliveryRequest(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One message and the recipients that share a next hop, at most ``destination_recipient_limit``.

    ``serial`` is unique per manager. ``next_hop`` is in Postfix's syntax, alternatives separated by commas,
    fallback relays included by the worker from its settings. ``route`` is the index of the ``[[route]]``
    whose settings apply, -1 for none. ``domain`` is the destination the TLS policy belongs to. ``content``
    travels inside when it is small; ``None`` means: fetch it part by part. ``arrival`` and ``due`` are
    seconds since the epoch. ``site`` is the site whose window the request counts in, empty for none.
    ``handling`` is None for a message that asks for nothing of this.
    """

    serial: int
    queue_id: int
    sender: str
    recipients: tuple[RequestRecipient, ...]
    domain: str
    next_hop: str
    route: int
    size: int
    dotted: bool
    eightbit: bool
    utf8: bool
    long_lines: bool
    ret: str
    envid: str
    arrival: float
    due: float
    content: bytes | None
    site: str = ""
    handling: Handling | None = None


class HostTry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One host contacted during an attempt, in the order they were tried.

    ``tls`` is a one-line summary such as ``TLSv1.3 TLS_AES_256_GCM_SHA384 untrusted``, empty in clear.
    ``uses`` counts the transactions of the session, this one included; 0 when it never got that far.
    Times are seconds: ``connect`` from dialling to the greeting, ``setup`` EHLO and TLS, ``transfer`` from
    MAIL to the final reply. ``stage`` and ``outcome`` say what ended the work with this host; ``outcome`` is
    None when a transaction ran to its end.
    """

    host: str
    ip: str
    port: int
    tls: str
    uses: int
    connect: float
    setup: float
    transfer: float
    stage: str
    code: int
    enhanced: str
    text: str


class RecipientResult(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The outcome of an attempt for one recipient.

    ``code`` is 0 when no reply but trouble decided; ``enhanced`` is always set; ``text`` is one line or more,
    cleaned of control characters except ``"\\n"``. ``host`` is an index into the result's ``tries``, -1 when
    no host was involved. ``relayed`` is set when the peer took the message but does not speak DSN.
    ``retry_after`` is the delay in seconds the peer stated, 0 if none.
    """

    number: int
    verdict: int
    stage: str
    code: int
    enhanced: str
    text: str
    host: int = -1
    relayed: bool = False
    retry_after: float = 0.0


class DeliveryResult(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a worker reports as soon as a request is over.

    ``pressure`` with ``reason`` feeds the site's window. ``started`` is when the worker took the request up
    (seconds since the epoch). ``sequence`` grows by one per result of a worker, for journal receipts.
    """

    serial: int
    queue_id: int
    recipients: tuple[RecipientResult, ...]
    tries: tuple[HostTry, ...]
    pressure: int
    reason: str
    started: float
    sequence: int = 0
