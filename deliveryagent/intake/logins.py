"""Who answers for logins at a listener: hooks first, then the users file; and who guesses is slowed down.

Guarantees: a stranger and a wrong password cost the same time and read the same words; a client that guessed
too often is refused before anything is looked up, and a user whom many guess is slower to log in from where
nobody of that name ever was. When nobody can tell, the answer is "not now" (454 4.7.0). Never logs a secret.
"""

import asyncio
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from deliveryagent.intake.accounts import Accounts, LoginUnavailable
from deliveryagent.intake.hooks import Hooks
from deliveryagent.mail.verdict import Accept, Refusal, Reject, Tempfail
from deliveryagent.policy.guessing import Guesses
from deliveryagent.protocol import scram
from deliveryagent.protocol.sasl import CheckPassword, CheckToken, CramSecret, Question, ScramKeys
from deliveryagent.protocol.session import Session

_LATER = Tempfail(code=454, enhanced="4.7.0", text="Temporary authentication failure")
_BARRED = Tempfail(code=454, enhanced="4.7.0", text="Too many failed logins, try again later")

Tell = Callable[[str, Mapping[str, Any]], None]


class ListenerLogins:
    """The :class:`~deliveryagent.intake.door.Logins` of a listener.

    ``clock`` counts seconds and never goes back. ``secret`` makes up what strangers are shown.
    """

    def __init__(
        self,
        accounts: Accounts | None,
        hooks: Hooks,
        guesses: Guesses,
        *,
        clock: Callable[[], float],
        secret: bytes,
        tell: Tell,
    ) -> None:
        self._accounts = accounts
        self._hooks = hooks
        self._guesses = guesses
        self._clock = clock
        self._secret = secret
        self._tell = tell

    def attempt(self, session: Session) -> Refusal | None:
        """Whether this client may try at all."""
        barred = self._guesses.refused(session.client.shown, "", self._clock())
        return _BARRED if barred else None

    def failed(self, session: Session, user: str) -> float:
        """Note a failed login; seconds to keep the answer back."""
        client = session.client.shown
        self._tell("login_failed", {"client": client, "user": user, "helo": session.helo})
        return self._guesses.failed(client, user, self._clock())

    def succeeded(self, session: Session, user: str) -> None:
        """Note a login."""
        self._guesses.succeeded(session.client.shown, user, self._clock())

    async def answer(self, session: Session, question: Question) -> Any:
        """The answer to a question of ``protocol.sasl``."""
        client, now = session.client.shown, self._clock()
        if self._guesses.refused(client, question.user, now):
            return _BARRED
        if (wait := self._guesses.wait(client, question.user, now)) > 0:
            await asyncio.sleep(wait)
            if self._guesses.refused(client, question.user, self._clock()):  # others guessed too
                return _BARRED
        try:
            match question:
                case CheckPassword() | CheckToken():
                    return await self._check(session, question)
                case CramSecret(user):
                    return None if self._accounts is None else self._accounts.cram_secret(user)
                case ScramKeys(user):
                    if self._accounts is None:
                        return scram.made_up(user, self._secret)
                    return self._accounts.scram(user)
        except LoginUnavailable as error:
            self._tell("login_unavailable", {"reason": str(error)})
            return _LATER

    async def _check(self, session: Session, asked: CheckPassword | CheckToken) -> Any:
        session.vouched = False
        if "auth" in self._hooks.asked:
            decision = self._hooks.ask("auth", session, session.mechanism, asked)
            if inspect.isawaitable(decision):
                decision = await decision
            match decision:
                case Accept(user=user):
                    session.vouched = True
                    return user or asked.user or None
                case Reject():
                    return None
                case Tempfail():
                    return decision
        if self._accounts is None or isinstance(asked, CheckToken):
            return None
        return await self._accounts.check_password(asked.user, asked.password)
