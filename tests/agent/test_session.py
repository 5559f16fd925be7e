"""One session: how it is opened, how it is left, and that every stage has its own time limit."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from deliveryagent.agent.clients import Client, Clients
from deliveryagent.agent.session import GOODBYES, Refused, Session, open_session
from deliveryagent.agent.worker_settings import ClientSettings, WorkerSettings
from deliveryagent.mail.delivery import Failure, Stage, Trouble
from deliveryagent.mail.nexthop import Endpoint
from deliveryagent.mail.security import TlsDemand, TlsLevel
from tests.doubles.courier import LIMITS, MESSAGE, request, until
from tests.doubles.scripted_peer import Drip, Pause, Script, ScriptedPeer, Stall

KIM = "kim@example.net"
NEVER, MAY, ALWAYS = (TlsDemand(level) for level in TlsLevel)


def client(transport: str = "smtp", **settings: Any) -> Client:
    chosen = ClientSettings(**{**LIMITS, **settings})
    return Clients(WorkerSettings(hostname="me.example", smtp=chosen)).of(-1, transport)


async def opened(
    peer: ScriptedPeer, /, demand: TlsDemand = NEVER, **settings: Any
) -> Session | Refused:
    """Open a session to a peer with these settings."""
    return await open_session(peer.endpoint, client(**settings).profile, demand)


def talk(
    script: Script, story: Callable[[ScriptedPeer], Awaitable[None]], **changes: Any
) -> ScriptedPeer:
    peer = ScriptedPeer(script, **changes)

    async def run() -> None:
        async with peer:
            await story(peer)

    asyncio.run(run())
    return peer


async def send(session: Session) -> None:
    wanted = request(KIM)
    exchange = await session.transact(wanted, wanted.recipients, MESSAGE, on_dot=lambda: None)
    assert exchange.answers[0].delivered


LIMIT = 0.3

STALLS: list[tuple[str, Script, str, Stage]] = [
    ("greeting", {"CONNECT": Stall()}, "greeting_timeout", Stage.GREETING),
    ("dripping greeting", {"CONNECT": Drip("220 x" * 9)}, "greeting_timeout", Stage.GREETING),
    ("EHLO", {"EHLO": Stall()}, "helo_timeout", Stage.EHLO),
    ("HELO", {"EHLO": "500 no", "HELO": Stall()}, "helo_timeout", Stage.EHLO),
    ("STARTTLS", {"STARTTLS": Stall()}, "starttls_timeout", Stage.STARTTLS),
    ("handshake", {"HANDSHAKE": Stall()}, "starttls_timeout", Stage.STARTTLS),
]


@pytest.mark.parametrize(
    ("script", "name", "stage"), [r[1:] for r in STALLS], ids=[r[0] for r in STALLS]
)
def test_each_stage_of_the_opening_ends_at_its_own_limit(
    script: Script, name: str, stage: Stage
) -> None:
    async def story(peer: ScriptedPeer) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        refused = await opened(peer, MAY, **{name: LIMIT})
        assert isinstance(refused, Refused)
        assert refused.stage is stage
        assert isinstance(refused.outcome, Failure)
        assert refused.outcome.trouble in (Trouble.TIMEOUT, Trouble.TLS_FAILED)
        assert refused.connect + refused.setup <= loop.time() - began
        assert loop.time() - began > LIMIT * 0.9

    talk(script, story, tls=True)


TRANSACTION: list[tuple[str, Script, str, Stage]] = [
    ("MAIL", {"MAIL": Stall()}, "mail_timeout", Stage.MAIL),
    ("RCPT", {"RCPT": Stall()}, "rcpt_timeout", Stage.RCPT),
    ("DATA", {"DATA": Stall()}, "data_init_timeout", Stage.DATA),
    ("content", {"CONTENT": Stall()}, "data_xfer_timeout", Stage.CONTENT),
    ("dot", {"DOT": Stall()}, "data_done_timeout", Stage.DOT),
]


@pytest.mark.parametrize(
    ("script", "name", "stage"), [r[1:] for r in TRANSACTION], ids=[r[0] for r in TRANSACTION]
)
@pytest.mark.parametrize("extensions", [("PIPELINING",), ()], ids=["pipelined", "in turn"])
def test_each_stage_of_a_transaction_ends_at_its_own_limit(
    script: Script, name: str, stage: Stage, extensions: tuple[str, ...]
) -> None:
    async def story(peer: ScriptedPeer) -> None:
        settings: dict[str, Any] = {name: LIMIT}
        session = await opened(peer, **settings)
        assert isinstance(session, Session)
        content = b"x" * 62 + b"\r\n"
        wanted = request(KIM, content=content * 300_000)
        exchange = await session.transact(
            wanted, wanted.recipients, wanted.content or b"", on_dot=lambda: None
        )
        assert exchange.answers[0].stage is stage
        outcome = exchange.answers[0].outcome
        assert isinstance(outcome, Failure)
        assert outcome.trouble is Trouble.TIMEOUT
        assert not session.usable

    if stage is Stage.DOT and not extensions:
        return  # the dot is the same with and without pipelining; it reads 19 MB
    talk(script, story, extensions=extensions)


def test_opening_tells_what_it_took_and_what_is_offered() -> None:
    async def story(peer: ScriptedPeer) -> None:
        session = await opened(peer)
        assert isinstance(session, Session)
        assert session.connect >= 0.1
        assert session.setup >= 0.1
        assert session.capabilities.pipelining
        assert (session.tls, session.secured, session.uses) == ("", False, 0)

    talk({"CONNECT": Pause(0.1, "220 hi"), "EHLO": Pause(0.1, "250-x\n250 PIPELINING")}, story)


def test_keywords_can_be_overlooked() -> None:
    async def story(peer: ScriptedPeer) -> None:
        session = await opened(peer, discard_ehlo_keywords=("pipelining", "dsn"))
        assert isinstance(session, Session)
        assert not session.capabilities.pipelining
        assert not session.capabilities.dsn
        assert session.capabilities.size

    talk({}, story)


def test_what_was_offered_in_clear_is_forgotten_after_the_handshake() -> None:
    async def story(peer: ScriptedPeer) -> None:
        peer.script["EHLO"] = ["250-x\n250-STARTTLS\n250 SIZE 5", "250-x\n250 PIPELINING"]
        session = await opened(peer, MAY)
        assert isinstance(session, Session)
        assert session.secured
        assert not session.capabilities.size
        assert session.capabilities.pipelining

    talk({}, story, tls=True)


def test_nobody_listens() -> None:
    async def story(peer: ScriptedPeer) -> None:
        nowhere = replace_port(peer.endpoint, 1)
        refused = await open_session(nowhere, client().profile, NEVER)
        assert isinstance(refused, Refused)
        assert refused.stage is Stage.CONNECT
        assert refused.transcript() == []

    talk({}, story)


def replace_port(endpoint: Endpoint, port: int) -> Endpoint:
    return Endpoint(endpoint.host, endpoint.ip, port)


@pytest.mark.parametrize(("skips", "waits"), [(True, False), (False, True)])
def test_a_session_says_quit_in_the_background(skips: bool, waits: bool) -> None:
    async def story(peer: ScriptedPeer) -> None:
        chosen = client(skip_quit_response=skips)
        session = await open_session(peer.endpoint, chosen.profile, NEVER)
        assert isinstance(session, Session)
        await send(session)
        session.leave()
        assert not session.usable
        await until(lambda: "QUIT" in peer.verbs())
        assert bool(chosen.profile.goodbyes) is waits
        await until(lambda: not chosen.profile.goodbyes)

    talk({"QUIT": Pause(0.2, "221 bye")}, story)


def test_a_farewell_that_is_not_answered_ends_at_its_limit() -> None:
    async def story(peer: ScriptedPeer) -> None:
        chosen = client(skip_quit_response=False, quit_timeout=0.1)
        session = await open_session(peer.endpoint, chosen.profile, NEVER)
        assert isinstance(session, Session)
        session.leave()
        await until(lambda: not chosen.profile.goodbyes)

    talk({"QUIT": Stall()}, story)


def test_only_so_many_farewells_wait_at_a_time() -> None:
    async def story(peer: ScriptedPeer) -> None:
        chosen = client(skip_quit_response=False)
        idle = [asyncio.ensure_future(asyncio.sleep(5)) for _ in range(GOODBYES)]
        chosen.profile.goodbyes.update(idle)
        session = await open_session(peer.endpoint, chosen.profile, NEVER)
        assert isinstance(session, Session)
        session.leave()
        await until(lambda: len(chosen.profile.goodbyes) == GOODBYES)
        for task in idle:
            task.cancel()

    talk({"QUIT": Stall()}, story)


def test_a_refused_session_is_left_with_quit() -> None:
    async def story(peer: ScriptedPeer) -> None:
        assert isinstance(await opened(peer), Refused)
        await until(lambda: peer.verbs() == ["QUIT"])

    talk({"CONNECT": "554 5.7.1 no"}, story)


def test_a_broken_connection_is_cut_without_a_word() -> None:
    async def story(peer: ScriptedPeer) -> None:
        chosen = client()
        session = await open_session(peer.endpoint, chosen.profile, NEVER)
        assert isinstance(session, Session)
        session.connection.abort()
        session.leave()
        assert not chosen.profile.goodbyes

    peer = talk({}, story)
    assert "QUIT" not in peer.verbs()


def test_a_session_is_used_up_at_its_limit() -> None:
    async def story(peer: ScriptedPeer) -> None:
        session = await opened(peer, connection_reuse_count_limit=2)
        assert isinstance(session, Session)
        await send(session)
        assert session.usable
        await send(session)
        assert not session.usable

    talk({}, story)


def test_a_rehearsal_sends_nothing() -> None:
    async def story(peer: ScriptedPeer) -> None:
        session = await opened(peer)
        assert isinstance(session, Session)
        wanted = request(KIM)
        exchange = await session.rehearse(wanted, wanted.recipients)
        assert exchange.answers[0].stage is Stage.RCPT
        assert session.usable

    peer = talk({}, story)
    assert "DATA" not in peer.verbs()


def test_cancelling_an_opening_closes_the_connection() -> None:
    async def story(peer: ScriptedPeer) -> None:
        task = asyncio.create_task(opened(peer))
        await until(lambda: "EHLO" in peer.verbs())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: peer.lost == 1)

    talk({"EHLO": Pause(0.1, "250 x")}, story)


def test_interchangeable_sessions_have_equal_keys() -> None:
    async def story(peer: ScriptedPeer) -> None:
        one, two = await opened(peer), await opened(peer)
        other = await opened(peer, helo_name="other.example")
        assert isinstance(one, Session)
        assert isinstance(two, Session)
        assert isinstance(other, Session)
        assert one.key == two.key
        assert one.key != other.key

    talk({}, story)
