"""The player against peers of every kind, on both event loops."""

import asyncio
from collections.abc import AsyncIterator, Generator
from typing import cast

import pytest

from deliveryagent.mail.delivery import Failure, Stage, Trouble
from deliveryagent.mail.status import SmtpReply
from deliveryagent.protocol import dialogue
from deliveryagent.protocol.dialogue import Outcomes, Step
from deliveryagent.wire.connection import COPIED, HELD_LIMIT, Connection, ContentError
from deliveryagent.wire.stream import _DOING
from tests.doors.talks import (
    BODY,
    PATIENT,
    QUICK,
    Run,
    ask,
    both_loops,
    deliver,
    dialled,
    introduced,
    send,
    told,
)
from tests.doubles.scripted_peer import Close, Endless, Pause, Raw, Reset, ScriptedPeer, Stall
from tests.protocol.messages import message, recipients

LINE = b"x" * 70 + b"\r\n"
BIG = LINE * (8_000_000 // len(LINE))


async def chunks(content: bytes, size: int = 65536) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


@both_loops
def test_a_message_is_delivered(run: Run[None]) -> None:
    async def main() -> None:
        async with ScriptedPeer() as peer:
            exchange = await deliver(peer, count=2)
            assert told(exchange) == ["dot 250", "dot 250"]
            (message,) = peer.messages
            assert message.content == BODY
            assert message.recipients == ["r0@example.net", "r1@example.net"]
            assert peer.verbs() == ["EHLO", "MAIL", "RCPT", "RCPT", "DATA"]

    run(main())


@both_loops
@pytest.mark.parametrize(
    "how", [{"split": 1}, {"split": 7}, {"merge": True}, {"split": 3, "merge": True}], ids=str
)
def test_replies_are_matched_however_they_are_cut_and_joined(
    run: Run[None], how: dict[str, int]
) -> None:
    async def main() -> None:
        script = {"RCPT": ["250-two\n250 lines", "550 5.1.1 no", "451 later", "250 fine"]}
        async with ScriptedPeer(script, **how) as peer:  # type: ignore[arg-type]
            exchange = await deliver(peer, count=4)
            assert told(exchange) == ["dot 250", "rcpt 550", "rcpt 451", "dot 250"]
            assert peer.messages[0].recipients == ["r0@example.net", "r3@example.net"]

    run(main())


@both_loops
def test_the_dot_is_announced_before_it_is_written(run: Run[None]) -> None:
    async def main() -> None:
        for content in (BODY, BIG):
            seen: list[int] = []
            async with ScriptedPeer() as peer:
                await deliver(
                    peer,
                    content=content,
                    on_dot=lambda peer=peer, seen=seen: seen.append(len(peer.messages)),
                )
                assert seen == [0]
                assert len(peer.messages) == 1

    run(main())


@both_loops
def test_small_content_and_its_dot_arrive_together(run: Run[None]) -> None:
    async def main() -> None:
        async with ScriptedPeer() as peer:
            await deliver(peer)
            assert peer.segments[-1] == BODY + b".\r\n"
            assert peer.segments[-2].startswith(b"MAIL FROM")
            assert peer.segments[-2].endswith(b"DATA\r\n")

    run(main())


@both_loops
@pytest.mark.parametrize("octets", [COPIED, COPIED + 1, HELD_LIMIT])
def test_a_content_that_is_not_copied_arrives_whole(run: Run[None], octets: int) -> None:
    async def main() -> None:
        async with ScriptedPeer() as peer:
            content = LINE * ((octets - 2) // len(LINE))
            content += b"x" * (octets - 2 - len(content)) + b"\r\n"
            assert told(await deliver(peer, content=content)) == ["dot 250"]
            assert peer.messages[0].raw == content

    run(main())


@both_loops
@pytest.mark.parametrize("source", ["bytes", "stream"])
def test_large_content_is_streamed_whole(run: Run[None], source: str) -> None:
    async def main() -> None:
        async with ScriptedPeer() as peer:
            content = BIG if source == "bytes" else chunks(BIG)
            assert told(await deliver(peer, content=content)) == ["dot 250"]
            assert peer.messages[0].raw == BIG

    run(main())


@both_loops
def test_content_waits_for_a_slow_reader_in_bounded_memory(run: Run[None]) -> None:
    async def main() -> None:
        taken = 0

        async def counted() -> AsyncIterator[bytes]:
            nonlocal taken
            for _ in range(1000):
                taken += HELD_LIMIT
                yield b"x" * (HELD_LIMIT - 2) + b"\r\n"

        async with ScriptedPeer({"CONTENT": Stall()}) as peer:
            exchange = await deliver(peer, QUICK, content=counted())
            assert told(exchange) == ["content timeout"]
            assert not exchange.dot_sent
            assert taken < 20_000_000  # what the sockets' own buffers took
            assert peer.messages == []

    run(main())


@both_loops
def test_a_source_that_breaks_ends_the_connection_without_a_dot(run: Run[None]) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield LINE * 1000
        raise ContentError(Failure(Trouble.CORRUPT, "a part is missing"))

    async def main() -> None:
        async with ScriptedPeer() as peer, introduced(peer) as (connection, capabilities):
            exchange = await send(connection, capabilities, content=broken())
            assert told(exchange) == ["content corrupt"]
            assert connection.closed_by_peer()
            await asyncio.sleep(0.05)
            assert peer.messages == []
            assert peer.lost == 1

    run(main())


@both_loops
def test_a_fault_of_ours_ends_the_connection_before_it_is_raised(run: Run[None]) -> None:
    def fault() -> None:
        raise ZeroDivisionError

    async def main() -> None:
        async with ScriptedPeer() as peer, introduced(peer) as (connection, capabilities):
            with pytest.raises(ZeroDivisionError):
                await send(connection, capabilities, on_dot=fault)
            assert connection.closed_by_peer()
            await asyncio.sleep(0.05)
            assert peer.messages == []

    run(main())


@both_loops
def test_cancelling_ends_the_connection(run: Run[None]) -> None:
    async def main() -> None:
        async with (
            ScriptedPeer({"MAIL": Stall()}) as peer,
            introduced(peer) as (connection, capabilities),
        ):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await send(connection, capabilities)
            assert connection.closed_by_peer()

    run(main())


@both_loops
@pytest.mark.parametrize(
    ("script", "answers", "dot_sent"),
    [
        ({"MAIL": Close()}, ["mail lost"] * 2, False),
        ({"MAIL": Reset()}, ["mail lost"] * 2, False),
        ({"MAIL": Close("421 4.3.2 going down")}, ["mail 421"] * 2, False),
        ({"MAIL": Close("450 not you")}, ["mail 450"] * 2, False),
        ({"RCPT": ["550 no", Close()]}, ["rcpt 550", "rcpt lost"], False),
        ({"RCPT": ["250 ok", Close("421 enough")]}, ["rcpt 421"] * 2, False),
        ({"DATA": Close()}, ["data lost"] * 2, False),
        ({"DATA": "421 enough"}, ["data 421"] * 2, False),
        ({"DATA": "250 what?"}, ["data 250"] * 2, False),
        ({"DATA": Close("354 go")}, ["content lost"] * 2, False),
        ({"DOT": Close()}, ["dot lost"] * 2, True),
        ({"DOT": Reset()}, ["dot lost"] * 2, True),
        ({"DOT": "421 4.3.2 enough"}, ["dot 421"] * 2, True),
        ({"DOT": "554 5.7.1 spam"}, ["dot 554"] * 2, True),
        ({"DOT": Close("250 2.0.0 taken")}, ["dot 250"] * 2, True),
        ({"DOT": Raw(b"250 taken\r\ngarbage\r\n")}, ["dot 250"] * 2, True),
        ({"DOT": Raw(b"garbage\r\n")}, ["dot protocol"] * 2, True),
        ({"DOT": Raw(b"25")}, ["dot timeout"] * 2, True),
        ({"MAIL": "150 wait"}, ["mail protocol"] * 2, False),
        ({"MAIL": Raw(b"250-a\r\n251 b\r\n")}, ["mail protocol"] * 2, False),
        ({"RCPT": "354 what?"}, ["rcpt 354"] * 2, False),
        ({"MAIL": Endless(b"250-more\r\n")}, ["mail protocol"] * 2, False),
        ({"MAIL": Endless(b"x")}, ["mail protocol"] * 2, False),
        ({"RCPT": Endless(b"250 ok\r\n")}, ["data protocol"] * 2, False),
        ({"MAIL": Raw(b"250 ok\r\n250 ok\r\n")}, ["data protocol"] * 2, False),
        ({"DATA": Raw(b"354 go\r\n421 bye\r\n")}, ["content 421"] * 2, False),
        ({"DATA": Raw(b"354 go\r\n250 taken\r\n")}, ["data protocol"] * 2, False),
    ],
    ids=str,
)
def test_trouble_at_every_stage_is_told_as_it_is(
    run: Run[None], script: dict[str, object], answers: list[str], dot_sent: bool
) -> None:
    async def main() -> None:
        async with ScriptedPeer(script, merge=True) as peer:
            # When the end comes instead of content it must be seen before that is written.
            content = _late() if script == {"DATA": Close("354 go")} else BODY
            limits = QUICK if "timeout" in answers[0] else PATIENT
            exchange = await deliver(peer, limits, count=2, content=content)
            assert told(exchange) == answers
            assert exchange.dot_sent is dot_sent

    run(main())


async def _late() -> AsyncIterator[bytes]:
    await asyncio.sleep(0.1)
    yield BODY


@both_loops
def test_an_early_refusal_of_the_content_is_the_answer(run: Run[None]) -> None:
    async def main() -> None:
        for action in ("552 5.3.4 too big", Close("552 5.3.4 too big")):
            async with ScriptedPeer({"CONTENT": action}) as peer:
                exchange = await deliver(peer, content=chunks(BIG))
                assert told(exchange) == ["content 552"]
                assert not exchange.dot_sent
                assert not exchange.reusable
                assert peer.messages == []

    run(main())


@both_loops
def test_a_refusal_is_read_even_after_writing_has_failed(run: Run[None]) -> None:
    async def blind(connection: Connection) -> AsyncIterator[bytes]:
        cast("asyncio.ReadTransport", connection.transport).pause_reading()
        for _ in range(200):
            yield LINE
            await asyncio.sleep(0.01)

    async def main() -> None:
        script = {"CONTENT": Close("552 5.3.4 too big")}
        async with ScriptedPeer(script) as peer, introduced(peer) as (connection, capabilities):
            exchange = await send(connection, capabilities, content=blind(connection))
            assert told(exchange) == ["content 552"]
            assert not exchange.dot_sent

    run(main())


@both_loops
def test_an_early_yes_to_the_content_is_none(run: Run[None]) -> None:
    async def main() -> None:
        async with ScriptedPeer({"CONTENT": "250 taken"}) as peer:
            exchange = await deliver(peer, content=chunks(BIG))
            assert told(exchange) == ["content protocol"]
            assert not exchange.dot_sent
            assert peer.messages == []

    run(main())


@both_loops
def test_a_lone_dot_delivers_nothing_and_is_not_announced(run: Run[None]) -> None:
    async def main() -> None:
        announced: list[bool] = []
        script = {"RCPT": "550 no", "DATA": "354 go anyway"}
        async with ScriptedPeer(script) as peer, introduced(peer) as (connection, capabilities):
            exchange = await send(connection, capabilities, on_dot=lambda: announced.append(True))
            assert told(exchange) == ["rcpt 550"]
            assert exchange.reusable
            assert announced == []
            assert peer.messages[0].raw == b""
            assert peer.messages[0].recipients == []
            assert not connection.closed_by_peer()

    run(main())


@both_loops
def test_a_session_carries_many_messages(run: Run[None]) -> None:
    async def main() -> None:
        script = {"RCPT": ["250 ok", "550 no", "250 ok"]}
        async with ScriptedPeer(script) as peer, introduced(peer) as (connection, capabilities):
            reset = False
            results = []
            for _ in range(3):
                exchange = await send(connection, capabilities, reset=reset)
                results += told(exchange)
                assert exchange.reusable
                reset = exchange.needs_reset
            assert results == ["dot 250", "rcpt 550", "dot 250"]
            reset_to = await ask(connection, b"RSET\r\n", Stage.RSET)
            assert reset_to == SmtpReply(250, "", "peer.example")
            goodbye = await ask(connection, b"QUIT\r\n", Stage.QUIT)
            assert isinstance(goodbye, SmtpReply)
            assert goodbye.code == 221
            assert peer.verbs() == [
                *["EHLO", "MAIL", "RCPT", "DATA"],
                *["MAIL", "RCPT", "DATA"],
                *["RSET", "MAIL", "RCPT", "DATA"],
                *["RSET", "QUIT"],
            ]
            assert peer.lost == 0

    run(main())


@both_loops
def test_quit_without_waiting_still_arrives(run: Run[None]) -> None:
    async def main() -> None:
        async with ScriptedPeer({"QUIT": Stall()}) as peer, introduced(peer) as (connection, _):
            assert connection.speak(b"QUIT\r\n") == ()
            connection.close()
            connection.close()
            await asyncio.sleep(0.05)
            assert peer.verbs() == ["EHLO", "QUIT"]

    run(main())


@both_loops
def test_an_lmtp_peer_answers_for_each_recipient(run: Run[None]) -> None:
    async def main() -> None:
        script = {
            "RCPT r1@example.net": "550 no",
            "DOT r2@example.net": "450 4.2.2 full",
            "DOT r3@example.net": "552 5.2.2 fuller",
        }
        for merge in (False, True):
            async with ScriptedPeer(script, lmtp=True, merge=merge) as peer:
                exchange = await deliver(peer, count=4)
                assert told(exchange) == ["dot 250", "rcpt 550", "dot 450", "dot 552"]
                assert peer.verbs()[0] == "LHLO"

    run(main())


@both_loops
def test_an_lmtp_peer_that_leaves_between_its_replies_leaves_the_rest_open(run: Run[None]) -> None:
    async def main() -> None:
        script = {"DOT": ["250 ok", "250 ok", Close()]}
        async with ScriptedPeer(script, lmtp=True) as peer:
            exchange = await deliver(peer, count=4)
            assert told(exchange) == ["dot 250", "dot 250", "dot lost", "dot lost"]
            assert exchange.dot_sent

    run(main())


@both_loops
def test_a_peer_that_left_while_idle_is_noticed(run: Run[None]) -> None:
    async def main() -> None:
        for last_words, answer in (
            ("", "mail lost"),
            ("421 4.4.2 idle too long", "mail 421"),
            ("451 4.4.2 idle too long", "mail 451"),
        ):
            script = {"DOT": Raw(b"250 taken\r\n"), "NOOP": Close(last_words)}
            async with ScriptedPeer(script) as peer, introduced(peer) as (connection, offer):
                assert told(await send(connection, offer)) == ["dot 250"]
                assert not connection.closed_by_peer()
                await connection.play(_noop())
                await asyncio.sleep(0.05)
                assert connection.closed_by_peer()
                assert told(await send(connection, offer)) == [answer]

    run(main())


def _noop() -> Generator[Step, Outcomes, None]:
    """Something that makes the peer act, without awaiting it."""
    yield dialogue.Flight(b"NOOP\r\n", ())


@both_loops
@pytest.mark.parametrize(
    ("octets", "answer"),
    [
        (b"250 fine\r\n", "mail protocol"),
        (b"450 no\r\n", "mail protocol"),
        (b"25", "mail protocol"),
        (b"what?\r\n", "mail protocol"),
        (b"421 4.3.2 soon\r\n", "mail 421"),
    ],
)
def test_a_reply_nobody_asked_for_counts_for_no_command(
    run: Run[None], octets: bytes, answer: str
) -> None:
    async def main() -> None:
        async with (
            ScriptedPeer({"NOOP": Raw(octets)}) as peer,
            introduced(peer) as (connection, capabilities),
        ):
            await connection.play(_noop())
            await asyncio.sleep(0.05)
            assert connection.closed_by_peer()
            exchange = await send(connection, capabilities)
            assert told(exchange) == [answer]
            assert not exchange.reusable
            assert "MAIL" not in peer.verbs()

    run(main())


@both_loops
def test_a_flood_while_nobody_asks_ends_the_connection(run: Run[None]) -> None:
    async def main() -> None:
        async with (
            ScriptedPeer({"NOOP": Endless(b"250 ok\r\n")}) as peer,
            introduced(peer) as (connection, capabilities),
        ):
            await connection.play(_noop())
            await asyncio.sleep(0.05)
            assert connection.closed_by_peer()
            assert told(await send(connection, capabilities)) == ["mail protocol"]

    run(main())


@both_loops
def test_a_greeting_of_any_class_is_returned(run: Run[None]) -> None:
    async def main() -> None:
        greetings = {"220 hi": 220, "421 busy": 421, "554 no\n554 no": 554, "300 x": 300}
        for text, code in greetings.items():
            async with ScriptedPeer({"CONNECT": text}) as peer, dialled(peer) as connection:
                greeting = await connection.greeting()
                assert isinstance(greeting, SmtpReply)
                assert greeting.code == code
        async with (
            ScriptedPeer({"CONNECT": Raw(b"HTTP/1.1 200\r\n")}) as peer,
            dialled(peer) as connection,
        ):
            greeting = await connection.greeting()
            assert isinstance(greeting, Failure)
            assert greeting.trouble is Trouble.PROTOCOL

    run(main())


@both_loops
def test_what_follows_the_greeting_unasked_is_an_error(run: Run[None]) -> None:
    async def main() -> None:
        script = {"CONNECT": Raw(b"220 hi\r\n250 and so on\r\n")}
        async with ScriptedPeer(script) as peer, dialled(peer) as connection:
            greeting = await connection.greeting()
            assert isinstance(greeting, Failure)
            assert greeting.trouble is Trouble.PROTOCOL

    run(main())


@both_loops
def test_the_text_of_a_failure_names_the_peer_and_is_one_line(run: Run[None]) -> None:
    async def main() -> None:
        for action in (Close(), Reset(), Stall(), Raw(b"\x1b[2J\r\n"), Raw(b"250-\x00half")):
            async with ScriptedPeer({"MAIL": action}) as peer:
                exchange = await deliver(peer, QUICK)
                failure = exchange.answers[0].outcome
                assert isinstance(failure, Failure)
                assert failure.text.isprintable()
                assert f"mx.example[127.0.0.1]:{peer.port}" in failure.text

    run(main())


@both_loops
def test_a_thousand_recipients_and_a_slow_peer_do_not_lock_up(run: Run[None]) -> None:
    async def main() -> None:
        async with ScriptedPeer({"RCPT": [Pause(0.1, "250 slow"), "250 ok"]}) as peer:
            exchange = await deliver(peer, count=1000)
            assert told(exchange) == ["dot 250"] * 1000
            assert len(peer.messages[0].recipients) == 1000

    run(main())


def test_stages_have_words_for_people() -> None:
    waited_for = set(Stage) - {Stage.ROUTE, Stage.RESOLVE, Stage.CONNECT}
    assert set(_DOING) == waited_for


@both_loops
def test_a_dot_that_must_not_be_is_not_written(run: Run[None]) -> None:
    async def story() -> None:
        veto = Failure(Trouble.SHUTDOWN, "too late")
        async with ScriptedPeer() as peer:
            async with introduced(peer) as (connection, capabilities):
                exchange = await send(connection, capabilities, on_dot=lambda: veto)
                assert connection.closed_by_peer()
            assert told(exchange) == ["content shutdown"]
            assert not exchange.dot_sent
        assert peer.messages == []

    run(story())


@both_loops
def test_what_follows_a_message_may_be_in_the_same_write(run: Run[None]) -> None:
    async def story() -> None:
        async with ScriptedPeer() as peer, introduced(peer) as (connection, capabilities):
            people = recipients(1)
            flight = dialogue.opening(message(recipients=people), capabilities)
            assert connection.speak(flight) == ()
            assert len(await connection.replies(dialogue.OPENING)) == 3
            assert connection.in_step
            connection.end(BODY, flight)
            assert len(await connection.replies((Stage.DOT,), final=True)) == 1
            early = await connection.replies(dialogue.OPENING)
            assert dialogue.agreed(early)
            assert connection.heard(3) is None
            talk = dialogue.transaction(message(recipients=people), people, capabilities)
            next(talk)
            step = talk.send(early)
            exchange = await connection.play(talk, at=step, content=BODY)
            assert told(exchange) == ["dot 250"]
            assert len(peer.messages) == 2
            assert peer.segments[-2].endswith(b".\r\n" + flight)

    run(story())
