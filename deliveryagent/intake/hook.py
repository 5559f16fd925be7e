"""What a hook is: the stages at which it may be asked, and what it may answer.

Everything here may be left out of a hook, and a hook need not know of this module: it is for those who read,
and for type checkers. Never asks anybody.
"""

# ruff: noqa: ARG002 - the arguments are what is described here

from collections.abc import Awaitable, Mapping
from typing import Protocol

from deliveryagent.intake.message import Message
from deliveryagent.mail.verdict import Decision
from deliveryagent.protocol.sasl import CheckPassword, CheckToken
from deliveryagent.protocol.session import Recipient, Session, Transaction

Opinion = Decision | None
"""What a stage may answer; None: no opinion."""

Answer = Opinion | Awaitable[Opinion]
"""The same, from a function or from a coroutine function."""

MessageOpinion = Opinion | Mapping[str, Decision]
"""At the end of a message, also a verdict for each of some recipients."""


Credentials = CheckPassword | CheckToken
"""What a client logs in with: ``user`` and ``password``, or ``user`` and ``token`` (XOAUTH2)."""


class Hook(Protocol):
    """The stages, all of which may be left out, and each of which may be a coroutine function.

    A class may inherit from this one, to have its methods checked; it need not.
    """

    def connect(self, session: Session) -> Answer:
        """Somebody connected; the text of ``Accept`` is the greeting."""
        return None

    def helo(self, session: Session, name: str) -> Answer:
        """HELO, EHLO or LHLO with this name."""
        return None

    def starttls(self, session: Session) -> Answer:
        """STARTTLS, before the handshake."""
        return None

    def auth(self, session: Session, mechanism: str, credentials: Credentials) -> Answer:
        """AUTH: ``Accept`` logs in (as its ``user``, if it has one); None: not mine."""
        return None

    def mail(self, session: Session, transaction: Transaction) -> Answer:
        """MAIL; the recipients of ``transaction`` are still to come."""
        return None

    def rcpt(self, session: Session, recipient: Recipient) -> Answer:
        """RCPT; ``recipient`` is not part of the transaction before it is accepted."""
        return None

    def data(self, session: Session) -> Answer:
        """DATA or the first BDAT, before any content."""
        return None

    def headers(self, session: Session, message: Message) -> Answer:
        """The content has come, and its header section was read."""
        return None

    def message(
        self, session: Session, message: Message
    ) -> MessageOpinion | Awaitable[MessageOpinion]:
        """End of data: the last word. May decide on each recipient (LMTP tells them apart)."""
        return None

    def command(self, session: Session, verb: str, argument: str) -> Answer:
        """A command nobody else knows; the text of ``Accept`` is the reply, with 250."""
        return None

    def disconnect(self, session: Session) -> Awaitable[None] | None:
        """The session is over."""
        return None

    def debug(self, session: Session, direction: str, line: str) -> Awaitable[None] | None:
        """A line that was said, ``direction`` is ``"<"`` by the client or ``">"``; secrets are masked."""
        return None

    def error(self, session: Session, error: BaseException | str) -> Awaitable[None] | None:
        """An error of the client, or in a session."""
        return None


STAGES = frozenset(name for name in vars(Hook) if not name.startswith("_"))
"""The names of all stages."""

OBSERVERS = frozenset({"disconnect", "debug", "error"})
"""Stages at which all are told, and nobody decides."""
