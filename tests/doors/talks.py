"""Sessions with scripted peers, as the tests of the wire hold them: on both event loops, with short limits."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import pytest
import uvloop

from deliveryagent.mail.delivery import Failure, Outcome, Stage, Trouble
from deliveryagent.protocol import dialogue
from deliveryagent.protocol.capabilities import Capabilities
from deliveryagent.protocol.dialogue import Answer, Exchange
from deliveryagent.setting import Duration
from deliveryagent.wire.connection import Connection
from deliveryagent.wire.dial import dial
from deliveryagent.wire.limits import StageLimits
from tests.doubles.scripted_peer import ScriptedPeer
from tests.protocol.messages import message, recipients

T = TypeVar("T")

both_loops = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
Run = Callable[[Coroutine[Any, Any, T]], T]

BODY = b"Subject: test\r\n\r\nhello\r\n"

SOON = Duration(0.3)
QUICK = StageLimits(
    connect_timeout=SOON,
    greeting_timeout=SOON,
    helo_timeout=SOON,
    starttls_timeout=SOON,
    mail_timeout=SOON,
    rcpt_timeout=SOON,
    data_init_timeout=SOON,
    data_xfer_timeout=SOON,
    data_done_timeout=SOON,
    rset_timeout=SOON,
    quit_timeout=SOON,
)
"""Every stage may take 0.3 seconds."""

PATIENT = StageLimits(connect_timeout=Duration(20.0))
"""Limits that no test reaches, however busy the machine."""


@asynccontextmanager
async def dialled(peer: ScriptedPeer, limits: StageLimits = PATIENT) -> AsyncIterator[Connection]:
    """A connection to the peer before its greeting."""
    connection = await dial(peer.endpoint, limits=limits)
    assert isinstance(connection, Connection)
    try:
        yield connection
    finally:
        connection.abort()


@asynccontextmanager
async def introduced(
    peer: ScriptedPeer, limits: StageLimits = PATIENT
) -> AsyncIterator[tuple[Connection, Capabilities]]:
    """A connection past EHLO."""
    async with dialled(peer, limits) as connection:
        greeting = await connection.greeting()
        assert not isinstance(greeting, Failure)
        hello = await connection.play(dialogue.hello("me.example", lmtp=peer.lmtp))
        assert hello.capabilities is not None
        yield connection, hello.capabilities


async def send(
    connection: Connection,
    capabilities: Capabilities,
    *,
    count: int = 1,
    content: bytes | AsyncIterable[bytes] = BODY,
    on_dot: Callable[[], Failure | None] | None = None,
    reset: bool = False,
) -> Exchange:
    """One transaction to that many recipients."""
    people = recipients(count)
    talk = dialogue.transaction(message(recipients=people), people, capabilities, reset=reset)
    return await connection.play(talk, content=content, on_dot=on_dot)


async def ask(connection: Connection, command: bytes, stage: Stage) -> Outcome:
    """What becomes of one command outside a transaction."""
    outcomes = connection.speak(command) or await connection.replies((stage,))
    return outcomes[-1]


async def deliver(peer: ScriptedPeer, limits: StageLimits = PATIENT, **facts: Any) -> Exchange:
    """A whole session with one transaction; the peer must get past EHLO."""
    async with introduced(peer, limits) as (connection, capabilities):
        return await send(connection, capabilities, **facts)


def trouble(answer: Answer) -> Trouble | None:
    """What trouble an answer tells of, if any."""
    return answer.outcome.trouble if isinstance(answer.outcome, Failure) else None


def told(exchange: Exchange) -> list[str]:
    """The answers in short: stage and code or trouble."""
    return [
        f"{answer.stage} {answer.outcome.trouble}"
        if isinstance(answer.outcome, Failure)
        else f"{answer.stage} {answer.outcome.code}"
        for answer in exchange.answers
    ]
