"""What the server's side of a conversation asks of its player, and what it goes by.

==========  ======================================================  =========================================
yielded     the player                                              sends back
==========  ======================================================  =========================================
Line        reads one line of at most ``limit`` octets              its octets without CRLF, None: too long
Read        reads a content up to its final dot through ``stream``  nothing
Chunk       reads ``size`` octets through ``stream``                nothing
Keep        asks hooks about the message and stores it              an ``Outcome``
FORGET      drops the content that has come                         nothing
Ask         asks the hooks of a stage                               a ``Decision``, or None
Sender      looks the domain of a sender up                         a ``Refusal``, or None
PEEK        looks whether more has come already                     True or False
SECURE      lets the replies out, does the TLS handshake            ``TlsFacts``
Wait        lets time pass, with the replies kept back              nothing
Attempt     says whether somebody may try to log in                 a ``Refusal``, or None
Failed      notes a failed login                                    seconds to keep the answer back
Succeeded   notes a login                                           nothing
==========  ======================================================  =========================================

Questions of ``protocol.sasl`` are passed on as they are. Never does anything itself.
"""

from collections.abc import Generator, Mapping
from typing import Any, Protocol

import msgspec

from deliveryagent.mail.verdict import Refusal
from deliveryagent.protocol.datastream import DataStream
from deliveryagent.protocol.session import Client, Kind

LINE_LIMIT = 2048
"""Octets of a command line (Postfix ``line_length_limit``); RFC 5321 and the extensions here need 1,100."""

RESPONSE_LIMIT = 12288
"""Octets of a line within AUTH (RFC 4954 4)."""


class Line(msgspec.Struct, frozen=True):
    """Read a line."""

    limit: int = LINE_LIMIT


class Read(msgspec.Struct, frozen=True):
    """Read a content behind DATA."""

    stream: DataStream


class Chunk(msgspec.Struct, frozen=True):
    """Read a chunk behind BDAT."""

    size: int
    stream: DataStream
    last: bool = False


class Keep(msgspec.Struct, frozen=True):
    """The content has come: have the message judged and stored."""


class Forget(msgspec.Struct, frozen=True):
    """The content that has come will not be needed."""


class Ask(msgspec.Struct, frozen=True):
    """Ask the hooks of a stage; ``about`` is what they get besides the session."""

    stage: str
    about: tuple[Any, ...] = ()


class Sender(msgspec.Struct, frozen=True):
    """Does the domain of this address exist?"""

    address: str


class Peek(msgspec.Struct, frozen=True):
    """Has the client said more than it may yet?"""


class Secure(msgspec.Struct, frozen=True):
    """Begin TLS."""


class Wait(msgspec.Struct, frozen=True):
    """Keep the replies back for so many seconds."""

    seconds: float


class Attempt(msgspec.Struct, frozen=True):
    """Somebody wants to log in; the name is not known yet."""


class Failed(msgspec.Struct, frozen=True):
    """A login failed; ``user`` is the name that was given, or empty."""

    user: str


class Succeeded(msgspec.Struct, frozen=True):
    """``user`` has logged in."""

    user: str


FORGET = Forget()
PEEK = Peek()
SECURE = Secure()

Step = object
"""Any of these, or a question of ``protocol.sasl``."""

Steps = Generator[Step, Any, None]


class Over(Exception):  # noqa: N818 - not an error: the session is over
    """Thrown into a conversation that has to end: the code 421, and why."""

    def __init__(self, enhanced: str, text: str) -> None:
        super().__init__(text)
        self.enhanced = enhanced
        self.text = text


class QuitSession(Exception):  # noqa: N818 - not an error either
    """Raised within a conversation that has said its last word."""


class Kept(msgspec.Struct, frozen=True):
    """The message was taken; ``text`` of the reply tells its id."""

    text: str


class Outcome(msgspec.Struct, frozen=True):
    """What became of a message; ``refused`` has, by address, who is answered otherwise (LMTP)."""

    whole: Kept | Refusal
    refused: Mapping[str, Refusal] = {}


class HeloChecks(msgspec.Struct, frozen=True, kw_only=True):
    """Which names a client may not call itself by (``protocol.helo``)."""

    own: bool = True
    reserved: bool = True
    bare: bool = True


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What a listener offers and asks. Times are seconds, sizes octets; 0 is no limit, or not offered.

    ``own_names`` are in lower case. ``mechanisms`` are SASL's. ``hold_limit`` is FUTURERELEASE's,
    ``priority_limit`` the highest MT-PRIORITY that is granted.
    """

    kind: Kind
    hostname: str
    banner: str = "ESMTP"
    own_names: frozenset[str] = frozenset()
    tls: bool = False
    require_tls: bool = False
    require_auth: bool = False
    mechanisms: tuple[str, ...] = ()
    auth_without_tls: bool = False
    size_limit: int = 0
    line_limit: int = 0
    normalise: bool = False
    recipient_limit: int = 1000
    soft_error_limit: int = 10
    hard_error_limit: int = 20
    error_sleep: float = 1.0
    command_limit: int = 100
    auth_error_limit: int = 3
    check_sender_domain: bool = True
    helo_checks: HeloChecks = HeloChecks()
    hold_limit: float = 0.0
    priority_limit: int = 9


class Guard(Protocol):
    """Who may do what, as far as it can be known at once."""

    def trusts(self, client: Client) -> bool:
        """Whether this client may relay without a login."""

    def may_send_as(self, user: str, sender: str) -> bool:
        """Whether this user may use this sender address; raises ``CommandError`` when nobody can tell."""
