"""Milters, asked as hooks are: rspamd, opendkim and whatever else speaks the protocol of libmilter.

One connection for each session, opened when it begins. Guarantees: whatever a filter does, nothing is raised
and nobody waits longer than the time limits; a filter that cannot be asked is asked again at the next
occasion, and until then the default action stands in for it (Postfix ``milter_default_action``); a filter
that agrees never keeps the next one from being asked. What is on its way when a session ends is broken off.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Literal

from deliveryagent import __version__
from deliveryagent.intake.hooks import Trouble
from deliveryagent.intake.message import Message
from deliveryagent.intake.milter_changes import carry_out
from deliveryagent.intake.milter_talk import MilterTalk, Said
from deliveryagent.mail.verdict import Reject, Tempfail
from deliveryagent.protocol.milter_answers import MilterError
from deliveryagent.protocol.session import Recipient, Session, Transaction

REST = 5.0
"""Seconds for which a filter that could not be reached is not tried again."""

DefaultAction = Literal["tempfail", "accept", "reject"]
"""What stands in for the answer of a filter that cannot be asked."""

_INSTEAD: dict[DefaultAction, Said] = {
    "tempfail": Tempfail(text="Service unavailable - try again later"),
    "reject": Reject(enhanced="5.5.0", text="Service unavailable"),
    "accept": None,
}
_MISSED = "missed"


class Milter:
    """``address`` is as in Postfix: "inet:host:port", "inet6:host:port", "unix:/path" or "local:/path".

    ``timeout`` is in seconds for each answer, 0 for no limit. ``trouble`` is told of what goes wrong. Raises
    ``ValueError`` for an address that is none.
    """

    def __init__(
        self, address: str, *, timeout: float, default_action: DefaultAction, trouble: Trouble
    ) -> None:
        self.name = f"milter {address}"
        self._open = _opener(address)
        self._timeout = timeout
        self._instead = _INSTEAD[default_action]
        self._trouble = trouble
        self._note = f"milter {id(self):x}"
        self._resting_until = 0.0

    # -- the stages of a hook; before MAIL nothing is lost when the filter cannot be asked ---

    async def connect(self, session: Session) -> Said:
        """Who connected."""
        return await self._ask(session, "connect", lambda talk: talk.connect(session), None)

    async def helo(self, session: Session, name: str) -> Said:
        """HELO, EHLO, LHLO."""
        return await self._ask(session, "helo", lambda talk: talk.helo(session, name), None)

    async def mail(self, session: Session, transaction: Transaction) -> Said:
        """MAIL."""
        return await self._ask(
            session, "mail", lambda talk: talk.mail(session, transaction), self._instead
        )

    async def rcpt(self, session: Session, recipient: Recipient) -> Said:
        """RCPT; a refusal is about this recipient."""
        return await self._ask(
            session, "rcpt", lambda talk: talk.rcpt(session, recipient), self._instead
        )

    async def data(self, session: Session) -> Said:
        """DATA."""
        return await self._ask(session, "data", lambda talk: talk.data(session), self._instead)

    async def message(self, session: Session, message: Message) -> Said:
        """The whole content, as the hooks left it, and the changes the filter asks for."""

        async def judged(talk: MilterTalk) -> Said:
            said, changes = await talk.message(session, message)
            if said is None:
                carry_out(changes, message, talk.terms)
            return said

        return await self._ask(session, "message", judged, self._instead)

    async def command(self, session: Session, verb: str, argument: str) -> Said:
        """A command that nobody knows."""
        line = f"{verb} {argument}".rstrip()
        return await self._ask(session, "command", lambda talk: talk.command(session, line), None)

    def disconnect(self, session: Session) -> None:
        """The session is over."""
        talk = session.notes.pop(self._note, None)
        if isinstance(talk, MilterTalk):
            talk.quit()

    # -- inside ---

    async def _ask(
        self,
        session: Session,
        stage: str,
        question: Callable[[MilterTalk], Awaitable[Said]],
        instead: Said,
    ) -> Said:
        talk = session.notes.get(self._note)
        if isinstance(talk, MilterTalk):
            if talk.gone:  # the filter was started anew, or had waited for too long
                talk.close()
                talk = _MISSED
            elif talk.client not in {None, session.client}:  # a proxy has said who it is (XCLIENT)
                talk.quit()
                talk = None
        try:
            if not isinstance(talk, MilterTalk):
                now = asyncio.get_running_loop().time()
                if now < self._resting_until:
                    session.notes[self._note] = _MISSED
                    return instead
                self._resting_until = now + REST
                talk = await self._begin(missed=talk == _MISSED)
                self._resting_until = 0.0
            said = await question(talk)
            session.notes[self._note] = talk
        except (MilterError, OSError, EOFError, ValueError) as error:
            self._give_up(session, talk)
            self._trouble(self.name, stage, error)
            return instead
        except BaseException:
            self._give_up(session, talk)
            raise
        return said

    async def _begin(self, *, missed: bool) -> MilterTalk:
        async with asyncio.timeout(self._timeout or None):
            reader, writer = await self._open()
        software = f"deliveryagent {__version__}"
        talk = MilterTalk(reader, writer, timeout=self._timeout, software=software, missed=missed)
        try:
            await talk.negotiate()
        except BaseException:
            talk.close()
            raise
        return talk

    def _give_up(self, session: Session, talk: object) -> None:
        session.notes[self._note] = _MISSED
        if isinstance(talk, MilterTalk):
            talk.close()


_Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def _opener(address: str) -> Callable[[], Awaitable[_Streams]]:
    """How to reach it; raises ``ValueError``."""
    kind, _, place = address.partition(":")
    if kind in {"unix", "local"} and place:
        return lambda: asyncio.open_unix_connection(place)
    host, _, port = place.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if kind in {"inet", "inet6"} and host and port.isdecimal() and 0 < int(port) < 65536:
        family = socket.AF_INET6 if kind == "inet6" else socket.AF_UNSPEC
        return lambda: asyncio.open_connection(host, int(port), family=family)
    raise ValueError('expected "inet:host:port", "inet6:host:port" or "unix:/path"')
