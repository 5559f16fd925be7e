"""The state of a conversation on the server's side, and what all commands do with it.

Guarantees: a reply that says no is counted as an error of the client; a decision of a hook to hold, defer or
discard, taken before there is a message, is applied to every message that follows. Never reads a command:
that is ``protocol.smtpd``, with ``smtpd_hello``, ``smtpd_auth`` and ``smtpd_mail``.
"""

import re
from collections.abc import Callable, Generator
from typing import Any

from deliveryagent.mail.verdict import Accept, Decision, Defer, Discard, Hold, Refusal, Reject
from deliveryagent.protocol.datastream import ContentRules, DataStream
from deliveryagent.protocol.esmtp import CommandError, Offers
from deliveryagent.protocol.session import Recipient, Session, Transaction
from deliveryagent.protocol.smtpd_replies import reply
from deliveryagent.protocol.smtpd_steps import (
    FORGET,
    Ask,
    Guard,
    QuitSession,
    Step,
    Steps,
    Terms,
    Wait,
)

_ENHANCED = re.compile(r"[45]\.[0-9]{1,3}\.[0-9]{1,3}")


class Conversation:
    """One session. ``asked`` names the stages at which hooks want to be asked; ``clock`` is seconds since the
    epoch, ``nonce`` draws what nobody can guess (``sasl.begin``); ``xclient``: the client may say whom it
    speaks for; ``admits``: some hook may let a stranger in. Replies gather in ``out``.
    """

    def __init__(
        self,
        terms: Terms,
        session: Session,
        *,
        guard: Guard,
        clock: Callable[[], float],
        nonce: Callable[[], str],
        asked: frozenset[str] = frozenset(),
        admits: bool = False,
        xclient: bool = False,
    ) -> None:
        self.terms = terms
        self.session = session
        self.guard = guard
        self.clock = clock
        self.nonce = nonce
        self.asked = asked
        self.admits = admits
        self.xclient = xclient
        self.out = bytearray()
        self.errors = 0
        self.complaint = ""  # the last reply that said no, until somebody has noted it
        self.idle_commands = 0  # that brought no message nearer, since the last one
        self.login_failures = 0
        self.accepted: list[Recipient] = []  # those that were answered with yes
        self.surplus = 0  # recipients beyond the limit
        self.chunks: DataStream | None = None  # a content that comes with BDAT
        self.rules = ContentRules(
            size_limit=terms.size_limit, line_limit=terms.line_limit, normalise=terms.normalise
        )
        self.offers = self._offers()
        self._standing: list[Decision] = []

    def say(self, code: int, enhanced: str, text: str) -> None:
        """A reply."""
        self.out += reply(code, enhanced, text)
        if code >= 400:
            self.errors += 1
            self.complaint = f"{code} {enhanced} {text}"

    def refuse(self, decision: Refusal) -> None:
        """Say no in the words of a decision, and end the session if it says so."""
        if self.decline(decision):
            raise QuitSession

    def decline(self, decision: Refusal) -> bool:
        """Say no in the words of a decision; returns whether the session ends with it."""
        code, enhanced = status_of(decision)
        self.say(code, enhanced, decision.text or "Not accepted")
        return decision.close or code == 421

    def idle(self) -> None:
        """A command has come that brings no message nearer; too many of them raise ``CommandError``."""
        self.idle_commands += 1
        if 0 < self.terms.command_limit < self.idle_commands:
            raise CommandError(452, "4.7.0", "Too many commands without a message")

    def consult(self, stage: str, *about: Any) -> Generator[Step, Any, Decision | None]:
        """What hooks say at this stage; the delay they ask for has passed."""
        if stage not in self.asked:
            return None
        decision: Decision | None = yield Ask(stage, about)
        if decision is not None and decision.delay:
            yield Wait(decision.delay)
        return decision

    def remember(self, decision: Decision | None) -> None:
        """Apply it to all messages of this session."""
        if isinstance(decision, Defer | Discard | Hold):
            self._standing.append(decision)

    def begin(self, transaction: Transaction) -> None:
        """A message begins."""
        self.session.transaction = transaction
        self.accepted = []
        self.surplus = 0
        for decision in self._standing:
            self.apply(decision)

    def apply(self, decision: Decision | None) -> None:
        """What a decision that is no refusal changes about the message at hand."""
        transaction = self.session.transaction
        if transaction is None or decision is None:
            return
        if isinstance(decision, Accept) and decision.address is not None:
            transaction.sender = decision.address
        transaction.heed(decision, self.clock())

    def reset(self) -> Steps:
        """No message is at hand any more."""
        self.session.transaction = None
        if self.chunks is not None:
            self.chunks = None
            yield FORGET

    def renew(self) -> None:
        """Forget what was said of the session before TLS or a proxy's word."""
        self.session.helo = self.session.verb = ""
        self.offers = self._offers()

    def _offers(self) -> Offers:
        terms = self.terms
        return Offers(
            default_domain=terms.hostname,
            size_limit=terms.size_limit,
            hold_limit=terms.hold_limit,
            require_tls=self.session.tls is not None,
        )


def status_of(decision: Refusal) -> tuple[int, str]:
    """The code and the enhanced code of a refusal, both of its class whatever a hook has written there.

    >>> from deliveryagent.mail.verdict import Tempfail
    >>> status_of(Reject(code=250, enhanced="5.1.1")), status_of(Tempfail(enhanced="5.7.1"))
    ((550, '5.1.1'), (451, '4.7.1'))
    """
    first, code, enhanced = (5, 550, "5.7.1") if isinstance(decision, Reject) else (4, 451, "4.7.1")
    if decision.code // 100 == first:
        code = decision.code
    if _ENHANCED.fullmatch(decision.enhanced) and decision.enhanced.startswith(str(first)):
        enhanced = decision.enhanced
    return code, enhanced
