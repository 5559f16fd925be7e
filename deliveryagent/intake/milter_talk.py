"""One connection to a milter: what it has been told so far, and what it said.

A filter expects the commands of a session in order and without gaps, whoever else was asked in between:
before a command, everything that it has missed is said. Guarantees: no answer is waited for longer than
``timeout``, no message longer than ten times that, however often the filter says that it is at work; a filter
that accepted or refused a message hears no more of it; changes are handed out only when the message is taken.
Raises ``MilterError``, ``OSError``, ``EOFError`` and ``TimeoutError``; then the connection is of no more use.
"""

import asyncio
from collections.abc import Iterable, Iterator

from deliveryagent.intake.message import Message
from deliveryagent.mail.verdict import Discard, Refusal
from deliveryagent.protocol import milter_macros
from deliveryagent.protocol.milter import (
    CHUNK,
    VERSION,
    Action,
    Command,
    Step,
    Terms,
    connect,
    header,
    macros,
    negotiation,
    packet,
    strings,
)
from deliveryagent.protocol.milter_answers import (
    Change,
    MilterError,
    Plain,
    ReplyCode,
    packet_size,
    read_answer,
    read_terms,
    refusal,
)
from deliveryagent.protocol.session import Client, Recipient, Session, Transaction

PATIENCE = 10.0
"""How many times the time limit of an answer a whole message may take."""

_CHANGES_LEAST = 1 << 24
"""Octets that all changes of a message may have, whatever its size."""

Said = Refusal | Discard | None
"""What a filter says of a client, a command or a message."""


class MilterTalk:
    """``terms`` is what was agreed on, ``client`` who was told. ``software`` is what we call ourselves.

    ``missed``: the filter could not be asked before. Its late answers count then; otherwise what it has not
    heard was decided without it.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        timeout: float,
        software: str,
        missed: bool,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._timeout = timeout or None
        self._software = software
        self._missed = missed
        self._out = bytearray()
        self.terms = Terms(VERSION, Action(0), Step(0), {})
        self.client: Client | None = None
        self._helo: tuple[str, bool] | None = None  # the name told, and whether it was under TLS
        self._over = False  # nothing of this session is of interest
        self._transaction: Transaction | None = None  # told by MAIL
        self._recipients: set[str] = set()
        self._data = False
        self._decided = False  # nothing more of this message is of interest
        self._begun = False  # a message that has to be broken off before the next

    async def negotiate(self) -> None:
        """The first exchange."""
        self._out += negotiation()
        self.terms = read_terms(await self._heard())

    @property
    def gone(self) -> bool:
        """Whether the filter has closed the connection."""
        return self._reader.at_eof() or self._writer.is_closing()

    def quit(self) -> None:
        """Say so and close, without waiting."""
        self._writer.write(bytes(self._out) + packet(Command.QUIT))
        self._writer.close()

    def close(self) -> None:
        """Close at once."""
        self._writer.transport.abort()

    # -- the stages ---

    async def connect(self, session: Session) -> Said:
        """CONNECT."""
        if self.client is not None:
            return None
        self.client = session.client
        answer = await self._say(Command.CONNECT, session, connect(*milter_macros.peer(session)))
        return self._of_session(answer)

    async def helo(self, session: Session, name: str) -> Said:
        """HELO, however it was said."""
        if (said := await self._introduced(session)) or self._over:
            return said
        self._break_off()
        self._helo = (name, session.tls is not None)
        answer = await self._say(Command.HELO, session, strings(Command.HELO, (name,)))
        return self._of_session(answer)

    async def mail(self, session: Session, transaction: Transaction) -> Said:
        """MAIL."""
        if (said := await self._greeted(session)) or self._over:
            return said
        self._break_off()
        self._transaction, self._begun = transaction, True
        words = [f"<{transaction.sender}>", *_parameters(transaction)]
        answer = await self._say(Command.MAIL, session, strings(Command.MAIL, words))
        return self._of_message(answer)

    async def rcpt(self, session: Session, recipient: Recipient) -> Said:
        """RCPT."""
        if (said := await self._mailed(session)) or self._done:
            return said
        address = recipient.address
        answer = await self._say(
            Command.RCPT, session, strings(Command.RCPT, (f"<{address}>",)), about=address
        )
        verdict = refusal(answer)
        self._decided = answer is Plain.ACCEPT or isinstance(verdict, Discard)
        if verdict is None:
            self._recipients.add(address)
        return verdict

    async def data(self, session: Session) -> Said:
        """DATA."""
        if (said := await self._addressed(session)) or self._done:
            return said
        self._data = True
        return self._of_message(await self._say(Command.DATA, session, packet(Command.DATA)))

    async def command(self, session: Session, line: str) -> Said:
        """A command that nobody knows."""
        if (said := await self._introduced(session)) or self._over or self._decided:
            return said
        return refusal(await self._say(Command.UNKNOWN, session, strings(Command.UNKNOWN, (line,))))

    async def message(self, session: Session, message: Message) -> tuple[Said, list[Change]]:
        """All of the content, and what the filter wants to have changed."""
        if not self._data or session.transaction is not self._transaction:
            if (said := await self.data(session)) is not None:
                return said, []
        elif (said := await self._addressed(session)) is not None:
            return said, []
        if self._done:
            return None, []
        async with asyncio.timeout(self._timeout and PATIENCE * self._timeout):
            said = await self._content(session, message)
            if said is not None or self._done:
                return said, []
            self._macros(Command.BODYEOB, session)
            self._out += packet(Command.BODYEOB)
            answer, changes = await self._final(max(_CHANGES_LEAST, 2 * message.size))
        self._begun = self._missed = False
        return self._of_message(answer), changes

    # -- what was missed ---

    async def _introduced(self, session: Session) -> Said:
        return self._late(await self.connect(session))

    async def _greeted(self, session: Session) -> Said:
        if (said := await self._introduced(session)) or self._over:
            return said
        if not session.helo or self._helo == (session.helo, session.tls is not None):
            return None
        return self._late(await self.helo(session, session.helo))

    async def _mailed(self, session: Session) -> Said:
        transaction = session.transaction
        if self._transaction is transaction or transaction is None:
            return None
        return self._late(await self.mail(session, transaction))

    async def _addressed(self, session: Session) -> Said:
        if (said := await self._mailed(session)) or self._done or session.transaction is None:
            return said
        for recipient in session.transaction.recipients:
            if recipient.address not in self._recipients:
                said = self._late(await self.rcpt(session, recipient))
                if said is not None or self._done:
                    return said
        return None

    def _late(self, said: Said) -> Said:
        if said is None or self._missed:
            return said
        if self._transaction is None:
            self._over = True
        return None

    def _break_off(self) -> None:
        """What comes next is no part of the message at hand."""
        if self._begun:
            self._out += packet(Command.ABORT)
        self._transaction, self._begun, self._decided = None, False, False
        self._recipients, self._data = set(), False

    @property
    def _done(self) -> bool:
        return self._over or self._decided

    # -- the content ---

    async def _content(self, session: Session, message: Message) -> Said:
        """Header fields and body, as far as the filter wants them."""
        terms = self.terms
        fields = (header(name, value, terms) for name, value in message.fields)
        if (said := await self._all(Command.HEADER, session, fields)) is not None or self._done:
            return said
        said = self._of_message(await self._say(Command.EOH, session, packet(Command.EOH)))
        if said is not None or self._done:
            return said
        body = (packet(Command.BODY, chunk) for chunk in _chunks(message.body()))
        return await self._all(Command.BODY, session, body)

    async def _all(self, command: Command, session: Session, packets: Iterable[bytes]) -> Said:
        if not self.terms.wants(command):
            return None
        for one in packets:
            answer = await self._say(command, session, one)
            if answer is Plain.SKIP:
                return None
            if answer is not Plain.CONTINUE:
                return self._of_message(answer)
            if len(self._out) > CHUNK:
                await self._flush()
        return None

    async def _final(self, limit: int) -> tuple[Plain | ReplyCode, list[Change]]:
        """The answer to the end of the message, and the changes that come before it."""
        changes: list[Change] = []
        while True:
            heard = await self._heard()
            if (limit := limit - len(heard)) < 0:
                raise MilterError("its changes are larger than anything it was sent")
            answer = read_answer(heard)
            if isinstance(answer, Plain | ReplyCode):
                if answer is not Plain.PROGRESS:
                    return answer, changes
            else:
                changes.append(answer)

    # -- packets ---

    async def _say(
        self, command: Command, session: Session, content: bytes, *, about: str = ""
    ) -> Plain | ReplyCode:
        """Say it, if it is wanted, and hear the answer, if there is one."""
        if command is not Command.HEADER and command is not Command.BODY:
            self._macros(command, session, about)
        if not self.terms.wants(command):
            return Plain.CONTINUE
        self._out += content
        if not self.terms.answers(command):
            return Plain.CONTINUE
        while (answer := read_answer(await self._heard())) is Plain.PROGRESS:
            pass
        if not isinstance(answer, Plain | ReplyCode):
            raise MilterError(f"{type(answer).__name__} before the end of a message")
        return answer

    def _macros(self, command: Command, session: Session, about: str = "") -> None:
        """Sent for commands as well that are not wanted: a filter may ask for them later."""
        if names := milter_macros.names_for(command, self.terms):
            self._out += macros(
                command, milter_macros.values(session, self._software, about), names
            )

    async def _flush(self) -> None:
        self._writer.write(bytes(self._out))
        self._out.clear()
        async with asyncio.timeout(self._timeout):
            await self._writer.drain()

    async def _heard(self) -> bytes:
        if self._out:
            await self._flush()
        async with asyncio.timeout(self._timeout):
            size = packet_size(await self._reader.readexactly(4))
            return await self._reader.readexactly(size)

    # -- answers ---

    def _of_session(self, answer: Plain | ReplyCode) -> Said:
        self._over = answer is Plain.ACCEPT
        return refusal(answer)

    def _of_message(self, answer: Plain | ReplyCode) -> Said:
        said = refusal(answer)
        self._decided = self._decided or answer is Plain.ACCEPT or said is not None
        return said


def _parameters(transaction: Transaction) -> Iterator[str]:
    """Those of MAIL that filters have a use for."""
    if transaction.size:
        yield f"SIZE={transaction.size}"
    if transaction.body:
        yield f"BODY={transaction.body}"
    if transaction.smtputf8:
        yield "SMTPUTF8"


def _chunks(pieces: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for piece in pieces:
        whole = rest + piece
        end = len(whole) - len(whole) % CHUNK
        for start in range(0, end, CHUNK):
            yield whole[start : start + CHUNK]
        rest = whole[end:]
    if rest:
        yield rest
