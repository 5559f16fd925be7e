"""One session with one host, from dialling to QUIT.

Opening goes: connect, greeting, EHLO (HELO, LHLO), STARTTLS if it is wanted and offered, EHLO
again. Then any number of transactions, each under the limits of its stages, then QUIT. Every step
that fails ends the opening with its stage and outcome; judging them is ``policy.classify``.

Guarantees: nothing a peer does raises; where TLS is demanded no MAIL is sent without it; a refused
session is left with QUIT, a broken one is cut; leaving never makes a delivery wait. Never chooses a
host, never decides about a recipient. RFC 5321 3.1, 4.1.4, 4.3.2; RFC 3207; RFC 2033.
"""

import asyncio
from collections.abc import AsyncIterable, Callable, Collection, Hashable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import NamedTuple

import msgspec

from deliveryagent.agent.settings import ReuseSettings, SessionSettings
from deliveryagent.mail.delivery import (
    DeliveryRequest,
    Failure,
    Outcome,
    RequestRecipient,
    Stage,
    Trouble,
)
from deliveryagent.mail.nexthop import Endpoint
from deliveryagent.mail.security import TlsDemand
from deliveryagent.policy import tls
from deliveryagent.protocol import commands, dialogue
from deliveryagent.protocol.capabilities import Capabilities
from deliveryagent.protocol.dialogue import Exchange, Outcomes
from deliveryagent.wire.connection import Connection
from deliveryagent.wire.contexts import client_context
from deliveryagent.wire.dial import dial
from deliveryagent.wire.limits import StageLimits

GOODBYES = 100  # sessions that wait for the answer to QUIT at a time; further ones do not wait


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """What all sessions under the same settings have in common.

    ``policy`` is equal for profiles whose sessions are interchangeable. ``goodbyes`` are the
    farewells that go on.
    """

    settings: SessionSettings
    reuse: ReuseSettings
    limits: StageLimits
    name: str
    lmtp: bool
    discard: frozenset[str]
    policy: Hashable
    goodbyes: set[asyncio.Task[None]]


class Refused(NamedTuple):
    """A session that did not come about: where, why, and what it cost in seconds.

    ``tls`` says that STARTTLS was begun; ``transcript`` is the end of the dialogue.
    """

    stage: Stage
    outcome: Outcome
    connect: float = 0.0
    setup: float = 0.0
    tls: bool = False
    transcript: Callable[[], list[str]] = list


class Session:
    """A session that got past its opening.

    ``uses`` counts its transactions, of which there may be ``most``. ``connect`` and ``setup`` are
    what opening it took, in seconds; ``took`` is how long the last transaction did, infinite before
    the first.
    """

    __slots__ = (
        "_profile", "_sound", "capabilities", "connect", "connection", "endpoint", "key", "label", "most",
        "needs_reset", "opened", "reuse", "setup", "site", "tls", "took", "uses",
    )  # fmt: skip

    def __init__(
        self, connection: Connection, endpoint: Endpoint, profile: Profile, site: str
    ) -> None:
        self.connection = connection
        self._profile = profile
        self._sound = True
        self.needs_reset = False
        self.capabilities = Capabilities()
        self.endpoint = endpoint
        self.site = site
        self.reuse = profile.reuse
        self.key: Hashable = session_key(endpoint, profile)
        self.opened = 0.0
        self.connect = 0.0
        self.setup = 0.0
        self.label = connection.label  # the peer's name for people: host[ip]:port
        self.most = float("inf")
        self.tls = ""  # one line about its encryption; empty in clear
        self.took = float("inf")
        self.uses = 0

    @property
    def usable(self) -> bool:
        """Whether it can carry another message, as far as is known."""
        return self._sound and self.uses < self.most and not self.connection.closed_by_peer()

    @property
    def secured(self) -> bool:
        """Whether it is encrypted."""
        return self.connection.tls is not None

    @property
    def sound(self) -> bool:
        """Whether the dialogue is in good order, as far as its replies tell."""
        return self._sound

    def transcript(self) -> list[str]:
        """The end of the dialogue, as far as nobody listened to it."""
        return self.connection.transcript.lines()

    async def transact(
        self,
        request: DeliveryRequest,
        recipients: Sequence[RequestRecipient],
        content: bytes | AsyncIterable[bytes],
        *,
        on_dot: Callable[[], Failure | None],
        now: float = 0.0,
    ) -> Exchange:
        """Offer the message for some of its recipients; ``content`` is in wire form."""
        self.uses += 1
        talk = dialogue.transaction(
            request, recipients, self.capabilities, reset=self.needs_reset, now=now
        )
        return self._noted(await self.connection.play(talk, content=content, on_dot=on_dot))

    async def carry_on(
        self,
        request: DeliveryRequest,
        heard: Sequence[Outcomes],
        content: bytes,
        *,
        on_dot: Callable[[], Failure | None],
    ) -> Exchange:
        """The rest of a transaction whose first steps were taken by somebody else.

        ``heard`` is what came of each; with all of them, nothing is left but to say what it comes to.
        """
        talk = dialogue.transaction(request, request.recipients, self.capabilities)
        try:
            step = next(talk)
            for outcomes in heard:
                step = talk.send(outcomes)
        except StopIteration as done:
            return self._noted(done.value)
        return self._noted(
            await self.connection.play(talk, at=step, content=content, on_dot=on_dot)
        )

    def _noted(self, exchange: Exchange) -> Exchange:
        self._sound = self._sound and exchange.reusable
        self.needs_reset = exchange.needs_reset
        return exchange

    async def rehearse(
        self, request: DeliveryRequest, recipients: Sequence[RequestRecipient]
    ) -> Exchange:
        """Ask what the peer would say to these recipients; nothing is sent to them."""
        exchange = await self.connection.play(
            dialogue.rehearsal(request, recipients, self.capabilities)
        )
        self._sound = self._sound and exchange.reusable
        self.needs_reset = exchange.needs_reset
        return exchange

    def spoil(self) -> None:
        """It must not carry another message."""
        self._sound = False

    def leave(self, *, heard: bool = False) -> None:
        """Say QUIT, if there is anybody to say it to, and go; returns at once.

        ``heard``: not before the peer has answered, whatever the settings say.
        """
        self._sound = False
        part(self.connection, self._profile, heard=heard)

    def cut(self) -> None:
        """End it without a word, in the middle of whatever is said."""
        self._sound = False
        self.connection.abort()


def session_key(endpoint: Endpoint, profile: Profile) -> Hashable:
    """What makes sessions to an address interchangeable."""
    return (endpoint.ip, endpoint.port, endpoint.path, profile.policy)


async def open_session(
    endpoint: Endpoint,
    profile: Profile,
    demand: TlsDemand,
    *,
    site: str = "",
    own_names: Collection[str] = frozenset(),
    listener: Callable[[str], None] | None = None,
) -> Session | Refused:
    """Dial an address and get ready for the first transaction.

    ``own_names`` are the names by which the peer would be ourselves, empty to not look. ``site`` is the
    one it is opened for.
    """
    began = monotonic()
    connection = await dial(
        endpoint,
        limits=profile.limits,
        bind_address=profile.settings.bind_address,
        bind_address6=profile.settings.bind_address6,
        listener=listener,
    )
    if isinstance(connection, Failure):
        return Refused(Stage.CONNECT, connection, connect=monotonic() - began)
    session = Session(connection, endpoint, profile, site)
    try:
        stage, outcome = Stage.GREETING, await connection.greeting()
        greeted = monotonic()
        session.opened = asyncio.get_running_loop().time()
        session.connect = greeted - began
        tried = False
        if not _refuses(outcome):
            stage, outcome, tried = await _introduce(
                session, connection, profile, demand, own_names
            )
        session.setup = monotonic() - greeted
        session.tls = connection.tls.summary() if connection.tls is not None else ""
        limits = profile.reuse.connection_reuse_count_limit, session.capabilities.mailmax
        session.most = min([limit for limit in limits if limit], default=float("inf"))
    except BaseException:
        connection.abort()
        raise
    if _refuses(outcome):
        part(connection, profile)
        lines = connection.transcript.lines
        return Refused(stage, outcome, session.connect, session.setup, tried, lines)
    return session


async def _introduce(
    session: Session,
    connection: Connection,
    profile: Profile,
    demand: TlsDemand,
    own_names: Collection[str],
) -> tuple[Stage, Outcome, bool]:
    """EHLO and, where it is wanted, STARTTLS; the last stage, its outcome, and whether TLS was
    begun.
    """
    outcome = await _hello(session, connection, profile, own_names)
    if _refuses(outcome) or not demand.wanted:
        return Stage.EHLO, outcome, False
    if not session.capabilities.starttls:
        if tls.goes_on_in_clear(demand):
            return Stage.EHLO, outcome, False
        text = f"{connection.label} does not offer STARTTLS, which is demanded"
        return Stage.STARTTLS, Failure(Trouble.TLS_UNAVAILABLE, text), False
    answer = await connection.secure(client_context(demand.level), None)
    if isinstance(answer, Failure):
        return Stage.STARTTLS, answer, True
    if not answer.positive:
        if answer.code != 421 and tls.goes_on_in_clear(demand):
            return Stage.EHLO, outcome, False
        return Stage.STARTTLS, answer, False
    return Stage.EHLO, await _hello(session, connection, profile, own_names), True


async def _hello(
    session: Session, connection: Connection, profile: Profile, own_names: Collection[str]
) -> Outcome:
    hello = await connection.play(
        dialogue.hello(
            profile.name,
            lmtp=profile.lmtp,
            own_names=own_names,
            discard=profile.discard,
        )
    )
    if hello.capabilities is not None:
        facts = connection.tls
        session.capabilities = (
            msgspec.structs.replace(hello.capabilities, protected=True)
            if facts is not None and facts.verified
            else hello.capabilities
        )
    return hello.outcome


def _refuses(outcome: Outcome) -> bool:
    return isinstance(outcome, Failure) or not outcome.positive


def part(connection: Connection, profile: Profile, *, heard: bool = False) -> None:
    """Say goodbye now, and wait for the answer in the background if the settings have it; cut what
    cannot be spoken to any more. ``heard``: wait in any case.
    """
    if connection.closed_by_peer():
        connection.abort()
        return
    polite = not profile.settings.skip_quit_response and len(profile.goodbyes) < GOODBYES
    connection.speak(
        commands.QUIT
    )  # at once: its place may be taken by another that is dialled next
    if not (heard or polite):
        connection.close()
        return
    task = asyncio.get_running_loop().create_task(_hear_goodbye(connection))
    profile.goodbyes.add(task)
    task.add_done_callback(profile.goodbyes.discard)


async def _hear_goodbye(connection: Connection) -> None:
    try:
        await connection.replies((Stage.QUIT,))
    except asyncio.CancelledError:
        connection.abort()
        raise
    connection.close()
