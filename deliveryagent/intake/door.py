"""What the sessions of one listener share: its terms and limits, whom it asks, where messages go.

The door is put together by a listener process (``intake.listener``) or by a program that receives mail itself
(``intake.server``). Never speaks to a client: that is ``intake.smtp_session``.
"""

import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from deliveryagent.intake.networks import Networks
from deliveryagent.intake.spool import Spool
from deliveryagent.mail.verdict import Decision, Refusal
from deliveryagent.protocol.session import Session
from deliveryagent.protocol.smtpd_steps import Guard, Outcome, Terms

Done = Callable[[Outcome], None]
Asking = Callable[..., Decision | Awaitable[Decision | None] | None]
"""``(stage, session, *about)``: what hooks say; at once when none of them has to wait."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What sessions may cost. Times are seconds, ``data_rate`` octets a second; 0 is no limit."""

    connections: int = 2000
    per_address: int = 50
    timeout: float = 300.0
    session_timeout: float = 3600.0
    data_rate: int = 500
    handshake_timeout: float = 30.0


class Logins(Protocol):
    """Who answers for logins."""

    def attempt(self, session: Session) -> Refusal | None:
        """Whether this client may try now."""

    def failed(self, session: Session, user: str) -> float:
        """Note a failed login; seconds to keep the answer back."""

    def succeeded(self, session: Session, user: str) -> None:
        """Note a login."""

    def answer(self, session: Session, question: Any) -> Any:
        """The answer to a question of ``protocol.sasl``, or an awaitable of it; a ``Tempfail`` when busy."""


def _ignore(*_: Any) -> None:
    return None


def _no_opinion(stage: str, session: Session, *about: Any) -> None:
    del stage, session, about


def no_check(address: str) -> None:
    """Any sender will do."""
    del address


@dataclass(frozen=True, kw_only=True)
class Door:
    """Everything a session needs.

    ``keep`` has the message judged and stored, then calls its last argument, which may be at once.
    ``sender`` looks the domain of an address up. ``tls`` is there where TLS is; ``tls_only`` begins with it.
    ``asked`` are the stages at which hooks want to be asked, those of observers among them, ``admits`` whether
    one of them may let a stranger in. ``tell`` writes an event to the log, ``trouble`` hears of faults of this
    program.
    """

    terms: Terms
    limits: Limits
    guard: Guard
    keep: Callable[[Session, Spool, Done], None]
    clock: Callable[[], float]
    nonce: Callable[[], str]
    listener: str = ""
    logins: Logins | None = None
    sender: Callable[[str], Refusal | Awaitable[Refusal | None] | None] = no_check
    ask: Asking = _no_opinion
    asked: frozenset[str] = frozenset()
    admits: bool = False
    tls: ssl.SSLContext | None = None
    tls_only: bool = False
    proxies: Networks = field(default_factory=lambda: Networks(()))
    speakers: Networks = field(default_factory=lambda: Networks(()))
    tell: Callable[[str, Mapping[str, Any]], None] = _ignore
    trouble: Callable[[Exception], None] = _ignore
