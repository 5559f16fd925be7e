"""The time limit of every stage: a peer that stalls there is told from one that stalls elsewhere."""

import pytest

from deliveryagent.mail.delivery import Failure, Stage, Trouble
from deliveryagent.mail.status import SmtpReply
from deliveryagent.protocol import dialogue
from deliveryagent.setting import Duration
from deliveryagent.wire.connection import Connection
from deliveryagent.wire.limits import StageLimits
from tests.doors.talks import (
    QUICK,
    SOON,
    Run,
    ask,
    both_loops,
    deliver,
    dialled,
    introduced,
    send,
    told,
)
from tests.doubles.scripted_peer import Drip, Pause, ScriptedPeer, Stall


def only(**limits: float) -> StageLimits:
    """Limits of ten seconds but for the ones given."""
    names = {name: Duration(10.0) for name in StageLimits.__dataclass_fields__}
    return StageLimits(**{**names, **{name: Duration(value) for name, value in limits.items()}})


@both_loops
@pytest.mark.parametrize(
    ("command", "limit", "answer"),
    [
        ("MAIL", "mail_timeout", "mail timeout"),
        ("RCPT", "rcpt_timeout", "rcpt timeout"),
        ("DATA", "data_init_timeout", "data timeout"),
        ("CONTENT", "data_xfer_timeout", "content timeout"),
        ("DOT", "data_done_timeout", "dot timeout"),
        ("RSET", "rset_timeout", "rset timeout"),
    ],
)
@pytest.mark.parametrize("pipelining", [True, False])
def test_each_stage_of_a_transaction_has_its_own_limit(
    run: Run[None], command: str, limit: str, answer: str, pipelining: bool
) -> None:
    async def main() -> None:
        content = b"x" * 70 + b"\r\n" if command != "CONTENT" else (b"x" * 70 + b"\r\n") * 300_000
        extensions = ("PIPELINING",) if pipelining else ()
        async with ScriptedPeer({command: Stall()}, extensions=extensions) as peer:
            limits = only(**{limit: SOON})
            async with introduced(peer, limits) as (connection, capabilities):
                exchange = await send(connection, capabilities, content=content, reset=True)
                assert told(exchange) == [answer]
                assert exchange.dot_sent is (command == "DOT")
                assert not exchange.reusable
                assert connection.closed_by_peer()

    run(main())


@both_loops
def test_each_stage_around_a_transaction_has_its_own_limit(run: Run[None]) -> None:
    async def stalled(command: str, limits: StageLimits) -> object:
        async with ScriptedPeer({command: Stall()}) as peer, dialled(peer, limits) as connection:
            greeting = await connection.greeting()
            if command == "CONNECT":
                return greeting
            hello = await connection.play(dialogue.hello("me.example"))
            if command == "EHLO":
                return hello.outcome
            if command == "RSET":
                return await ask(connection, b"RSET\r\n", Stage.RSET)
            return await ask(connection, b"QUIT\r\n", Stage.QUIT)

    async def main() -> None:
        for command, limit in (
            ("CONNECT", "greeting_timeout"),
            ("EHLO", "helo_timeout"),
            ("RSET", "rset_timeout"),
            ("QUIT", "quit_timeout"),
        ):
            outcome = await stalled(command, only(**{limit: SOON}))
            assert isinstance(outcome, Failure)
            assert outcome.trouble is Trouble.TIMEOUT
            assert "300ms" in outcome.text

    run(main())


@both_loops
def test_octets_that_drip_in_do_not_extend_a_limit(run: Run[None]) -> None:
    async def main() -> None:
        reply = Drip("250 " + "x" * 200, every=0.02)
        for command, answer in (("MAIL", "mail timeout"), ("DOT", "dot timeout")):
            async with ScriptedPeer({command: reply}) as peer:
                assert told(await deliver(peer, QUICK)) == [answer]
        async with ScriptedPeer({"MAIL": Drip("250 slow but in time", every=0.005)}) as peer:
            assert told(await deliver(peer)) == ["dot 250"]

    run(main())


@both_loops
def test_each_reply_of_a_flight_has_the_whole_limit(run: Run[None]) -> None:
    async def main() -> None:
        limits = only(rcpt_timeout=0.6, data_done_timeout=0.6)
        async with ScriptedPeer({"RCPT": Pause(0.2, "250 ok")}) as peer:
            assert told(await deliver(peer, limits, count=4)) == ["dot 250"] * 4
        async with ScriptedPeer({"DOT": Pause(0.2, "250 ok")}, lmtp=True) as peer:
            assert told(await deliver(peer, limits, count=4)) == ["dot 250"] * 4
        script = {"DOT": ["250 ok", Stall()]}
        async with ScriptedPeer(script, lmtp=True) as peer:
            exchange = await deliver(peer, QUICK, count=3)
            assert told(exchange) == ["dot 250", "dot timeout", "dot timeout"]

    run(main())


@both_loops
def test_a_limit_is_kept_however_the_one_before_it_was_set(run: Run[None]) -> None:
    """One timer serves all stages: after a long limit a short one must still ring in time."""

    async def main() -> None:
        async with (
            ScriptedPeer({"RSET": Stall()}) as peer,
            introduced(peer, only(rset_timeout=SOON)) as (connection, capabilities),
        ):
            assert told(await send(connection, capabilities)) == ["dot 250"]
            outcome = await ask(connection, b"RSET\r\n", Stage.RSET)
            assert isinstance(outcome, Failure)
            assert outcome.trouble is Trouble.TIMEOUT
        script = {"MAIL": Pause(0.25, "250 ok"), "DOT": Pause(0.25, "250 ok")}
        async with ScriptedPeer(script, extensions=()) as peer:
            assert told(await deliver(peer)) == ["dot 250"]

    run(main())


@both_loops
def test_no_limit_is_no_limit(run: Run[None]) -> None:
    async def main() -> None:
        none = StageLimits(**{name: Duration(0) for name in StageLimits.__dataclass_fields__})
        async with (
            ScriptedPeer({"MAIL": Pause(0.1, "250 ok")}) as peer,
            introduced(peer, none) as (connection, capabilities),
        ):
            assert told(await send(connection, capabilities)) == ["dot 250"]
            assert isinstance(connection, Connection)
            assert isinstance(await ask(connection, b"RSET\r\n", Stage.RSET), SmtpReply)

    run(main())


def test_every_stage_that_awaits_the_peer_has_a_limit() -> None:
    assert set(StageLimits().table) == set(Stage) - {Stage.ROUTE, Stage.RESOLVE}
    assert set(QUICK.table.values()) == {SOON}


def test_limits_are_at_least_what_rfc_5321_asks_for_by_default() -> None:
    table = StageLimits().table
    minutes = {
        Stage.GREETING: 5,
        Stage.MAIL: 5,
        Stage.RCPT: 5,
        Stage.DATA: 2,
        Stage.CONTENT: 3,
        Stage.DOT: 10,
    }
    assert all(table[stage] >= 60 * least for stage, least in minutes.items())
