"""Deliveries from end to end: real names, real sockets, peers that misbehave in every way of the table."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest

from deliveryagent.agent import frames
from deliveryagent.agent.journal import State
from deliveryagent.mail.delivery import DeliveryResult, Pressure, Verdict
from tests.doubles.courier import FIRST, MESSAGE, SECOND, Courier, request, until
from tests.doubles.scripted_peer import (
    EXTENSIONS,
    Close,
    Endless,
    Pause,
    Raw,
    Reset,
    Script,
    ScriptedPeer,
    Stall,
)

Verdicts = list[tuple[str, str, str]]
KIM = "kim@example.net"
LEE = "lee@example.net"


def verdicts(result: DeliveryResult) -> Verdicts:
    return [(Verdict(r.verdict).name, r.stage, r.enhanced) for r in result.recipients]


def verdict(result: DeliveryResult) -> tuple[str, str, str]:
    (found,) = verdicts(result)
    return found


def on_loopback(
    story: Callable[[Courier], Awaitable[None]],
    zone: Mapping[str, list[str]] | None = None,
    **settings: Any,
) -> None:
    """Run a story with a courier."""

    async def run() -> None:
        async with Courier(zone, **settings) as courier:
            await story(courier)

    asyncio.run(run())


def test_a_message_is_delivered_to_the_best_host() -> None:
    async def story(courier: Courier) -> None:
        async with (
            ScriptedPeer(host=FIRST, port=courier.port) as first,
            ScriptedPeer(host=SECOND, port=courier.port) as second,
        ):
            result = await courier.deliver(request(KIM))
        assert verdict(result) == ("DELIVERED", "dot", "2.0.0")
        assert first.messages[0].content == MESSAGE
        assert first.verbs() == ["EHLO", "MAIL", "RCPT", "DATA"]
        assert second.received == []
        (host,) = result.tries
        assert (host.host, host.ip, host.port) == ("mx1.example.net", FIRST, courier.port)
        assert (host.uses, host.stage, host.code) == (1, "dot", 250)
        assert min(host.connect, host.setup, host.transfer) > 0
        assert result.pressure == Pressure.UP
        assert not result.recipients[0].relayed

    on_loopback(story)


# -- the error table, end to end ---

ONE_HOST = {"example.net": ["MX 10 mx1.example.net"], "mx1.example.net": ["A 127.0.0.31"]}
STAGES = ("greeting", "helo", "mail", "rcpt", "data_init", "data_xfer", "data_done")
QUICK = {f"{stage}_timeout": 0.5 for stage in STAGES}

SOFT: list[tuple[str, Script, str, str, Pressure]] = [
    # what the first host does, and what becomes of the mail when it is the only one
    ("greeting 421", {"CONNECT": "421 4.3.0 closed"}, "greeting", "4.3.0", Pressure.DOWN),
    ("greeting 4xx", {"CONNECT": "450 later"}, "greeting", "4.0.0", Pressure.DOWN),
    ("greeting 5xx", {"CONNECT": "554 5.7.1 you?"}, "greeting", "4.7.1", Pressure.DOWN),
    ("greeting 3xx", {"CONNECT": "354 go"}, "greeting", "4.5.0", Pressure.DOWN),
    ("greeting rubbish", {"CONNECT": "SSH-2.0"}, "greeting", "4.5.0", Pressure.DOWN),
    ("greeting closed", {"CONNECT": Close()}, "greeting", "4.4.2", Pressure.DOWN),
    ("greeting stalls", {"CONNECT": Stall()}, "greeting", "4.4.2", Pressure.DOWN),
    ("greeting endless", {"CONNECT": Endless(b"220-x\r\n")}, "greeting", "4.5.0", Pressure.DOWN),
    ("EHLO 421", {"EHLO": "421 4.3.2 full"}, "ehlo", "4.3.2", Pressure.SLOW),
    ("HELO 4xx", {"EHLO": "500 what", "HELO": "450 no"}, "ehlo", "4.0.0", Pressure.DOWN),
    ("HELO 5xx", {"EHLO": "500 what", "HELO": "550 no"}, "ehlo", "4.0.0", Pressure.DOWN),
    ("EHLO closed", {"EHLO": Close()}, "ehlo", "4.4.2", Pressure.DOWN),
    ("EHLO reset", {"EHLO": Reset()}, "ehlo", "4.4.2", Pressure.DOWN),
    ("EHLO stalls", {"EHLO": Stall()}, "ehlo", "4.4.2", Pressure.DOWN),
    ("MAIL 4xx", {"MAIL": "451 4.3.0 hm"}, "mail", "4.3.0", Pressure.NONE),
    ("MAIL 421", {"MAIL": "421 4.3.2 bye"}, "mail", "4.3.2", Pressure.SLOW),
    ("MAIL 354", {"MAIL": "354 go"}, "mail", "4.5.0", Pressure.NONE),
    ("MAIL closed", {"MAIL": Close()}, "mail", "4.4.2", Pressure.DOWN),
    ("MAIL stalls", {"MAIL": Stall()}, "mail", "4.4.2", Pressure.DOWN),
    ("RCPT 4xx", {"RCPT": "450 4.2.1 busy"}, "rcpt", "4.2.1", Pressure.NONE),
    ("RCPT rate", {"RCPT": "450 4.7.0 rate limit"}, "rcpt", "4.7.0", Pressure.SLOW),
    ("RCPT 552", {"RCPT": "552 5.2.2 full"}, "rcpt", "4.2.2", Pressure.NONE),
    ("RCPT 421", {"RCPT": "421 4.3.2 bye"}, "rcpt", "4.3.2", Pressure.SLOW),
    ("RCPT 354", {"RCPT": "354 go"}, "rcpt", "4.5.0", Pressure.NONE),
    ("RCPT stalls", {"RCPT": Stall()}, "rcpt", "4.4.2", Pressure.DOWN),
    ("RCPT rubbish", {"RCPT": Raw(b"\x00\xff\r\n")}, "rcpt", "4.5.0", Pressure.NONE),
    ("DATA 4xx", {"DATA": "451 4.3.0 hm"}, "data", "4.3.0", Pressure.NONE),
    ("DATA 250", {"DATA": "250 thanks"}, "data", "4.5.0", Pressure.NONE),
    ("DATA closed", {"DATA": Close()}, "data", "4.4.2", Pressure.DOWN),
    ("DATA stalls", {"DATA": Stall()}, "data", "4.4.2", Pressure.DOWN),
    ("dot 4xx", {"DOT": "451 4.3.0 hm"}, "dot", "4.3.0", Pressure.NONE),
    ("dot 421", {"DOT": "421 4.3.2 bye"}, "dot", "4.3.2", Pressure.SLOW),
]  # fmt: skip


@pytest.mark.parametrize(
    ("script", "stage", "enhanced", "pressure"), [r[1:] for r in SOFT], ids=[r[0] for r in SOFT]
)
def test_a_passing_failure_of_the_only_host_defers(
    script: Script, stage: str, enhanced: str, pressure: Pressure
) -> None:
    async def story(courier: Courier) -> None:
        async with ScriptedPeer(script, host=FIRST, port=courier.port):
            result = await courier.deliver(request(KIM))
        assert verdict(result) == ("DEFERRED", stage, enhanced)
        assert result.pressure == pressure
        assert bool(result.reason) is (pressure in (Pressure.SLOW, Pressure.DOWN))
        assert result.recipients[0].text.isprintable()
        assert [host.stage for host in result.tries] == [stage]

    on_loopback(story, ONE_HOST, smtp=QUICK)


@pytest.mark.parametrize("script", [row[1] for row in SOFT], ids=[row[0] for row in SOFT])
def test_a_passing_failure_of_one_host_is_made_good_by_the_next(script: Script) -> None:
    async def story(courier: Courier) -> None:
        async with (
            ScriptedPeer(script, host=FIRST, port=courier.port),
            ScriptedPeer(host=SECOND, port=courier.port) as second,
        ):
            result = await courier.deliver(request(KIM))
        assert verdict(result) == ("DELIVERED", "dot", "2.0.0")
        assert [host.ip for host in result.tries] == [FIRST, SECOND]
        assert result.recipients[0].host == 1
        assert len(second.messages) == 1

    on_loopback(story, smtp=QUICK)


HARD: list[tuple[str, Script, str, str]] = [
    ("MAIL 5xx", {"MAIL": "550 5.1.8 who"}, "mail", "5.1.8"),
    ("RCPT 5xx", {"RCPT": "550 5.1.1 unknown"}, "rcpt", "5.1.1"),
    ("DATA 5xx", {"DATA": "554 5.6.0 no"}, "data", "5.6.0"),
    ("dot 5xx", {"DOT": "554 5.7.1 spam"}, "dot", "5.7.1"),
]


@pytest.mark.parametrize(
    ("script", "stage", "enhanced"), [r[1:] for r in HARD], ids=[r[0] for r in HARD]
)
def test_a_refusal_for_good_bounces_though_hosts_are_left(
    script: Script, stage: str, enhanced: str
) -> None:
    async def story(courier: Courier) -> None:
        async with (
            ScriptedPeer(script, host=FIRST, port=courier.port),
            ScriptedPeer(host=SECOND, port=courier.port) as second,
        ):
            result = await courier.deliver(request(KIM))
        assert verdict(result) == ("BOUNCED", stage, enhanced)
        assert second.received == []

    on_loopback(story)


DOUBT: list[tuple[str, Script, str]] = [
    ("closed", {"DOT": Close()}, "4.4.2"),
    ("reset", {"DOT": Reset()}, "4.4.2"),
    ("stalls", {"DOT": Stall()}, "4.4.2"),
    ("rubbish", {"DOT": "what?"}, "4.5.0"),
    ("354", {"DOT": "354 more"}, "4.5.0"),
]


@pytest.mark.parametrize(("script", "enhanced"), [r[1:] for r in DOUBT], ids=[r[0] for r in DOUBT])
def test_trouble_after_the_dot_is_in_doubt_and_no_other_host_gets_the_message(
    script: Script, enhanced: str
) -> None:
    async def story(courier: Courier) -> None:
        async with (
            ScriptedPeer(script, host=FIRST, port=courier.port),
            ScriptedPeer(host=SECOND, port=courier.port) as second,
        ):
            result = await courier.deliver(request(KIM))
        assert verdict(result) == ("IN_DOUBT", "dot", enhanced)
        assert "may be sent more than once" in result.recipients[0].text
        assert second.received == []

    on_loopback(story, smtp=QUICK)


def test_a_reply_that_came_before_the_end_counts() -> None:
    async def story(courier: Courier) -> None:
        async with ScriptedPeer({"DOT": Close("250 2.0.0 taken")}, host=FIRST, port=courier.port):
            result = await courier.deliver(request(KIM))
        assert verdict(result) == ("DELIVERED", "dot", "2.0.0")

    on_loopback(story)


def test_nobody_listens_anywhere() -> None:
    async def story(courier: Courier) -> None:
        result = await courier.deliver(request(KIM))
        assert verdict(result) == ("DEFERRED", "connect", "4.4.1")
        assert [(t.ip, t.stage) for t in result.tries] == [(FIRST, "connect"), (SECOND, "connect")]
        assert result.recipients[0].host == 1
        assert result.pressure == Pressure.DOWN
        assert SECOND not in result.reason
        assert FIRST in result.reason
        assert [event["ip"] for event in courier.events("connect_failed")] == [FIRST, SECOND]

    on_loopback(story)


def test_greetings_speak_for_all_hosts_when_told_so() -> None:
    async def story(courier: Courier) -> None:
        for greeting, expected in (
            ("450 4.3.2 later", ("DEFERRED", "greeting", "4.3.2")),
            ("554 5.7.1 never", ("BOUNCED", "greeting", "5.7.1")),
        ):
            async with (
                ScriptedPeer({"CONNECT": greeting}, host=FIRST, port=courier.port),
                ScriptedPeer(host=SECOND, port=courier.port) as second,
            ):
                assert verdict(await courier.deliver(request(KIM))) == expected
            assert second.received == []

    on_loopback(story, smtp={"skip_4xx_greeting": False, "skip_5xx_greeting": False})


# -- recipients ---


def test_each_recipient_has_an_outcome_of_its_own() -> None:
    async def story(courier: Courier) -> None:
        script = {
            "RCPT bad@example.net": "550 5.1.1 unknown",
            "RCPT grey@example.net": "450 4.7.1 greylisted, try again in 300 seconds",
        }
        async with (
            ScriptedPeer(script, host=FIRST, port=courier.port) as first,
            ScriptedPeer(script, host=SECOND, port=courier.port) as second,
        ):
            result = await courier.deliver(request(KIM, "bad@example.net", "grey@example.net"))
        assert [v[0] for v in verdicts(result)] == ["DELIVERED", "BOUNCED", "DEFERRED"]
        assert first.messages[0].recipients == [KIM]
        assert second.verbs()[:3] == ["EHLO", "MAIL", "RCPT"]
        assert second.messages == []
        assert result.recipients[2].retry_after == 300
        assert [r.host for r in result.recipients] == [0, 0, 1]
        assert result.pressure == Pressure.UP

    on_loopback(story)


def test_what_is_decided_is_noted_before_the_next_host_is_asked() -> None:
    async def story(courier: Courier) -> None:
        script = {"RCPT grey@example.net": "450 4.7.1 not now"}
        async with (
            ScriptedPeer(script, host=FIRST, port=courier.port),
            ScriptedPeer({"CONNECT": Stall()}, host=SECOND, port=courier.port),
        ):
            delivery = courier.begin(request(KIM, "grey@example.net"))
            task = asyncio.create_task(delivery.run())
            await until(lambda: courier.noted()[0].state is State.REPLIED)
            (entry,) = courier.noted()
            assert entry.result is not None
            assert verdicts(entry.result)[0] == ("DELIVERED", "dot", "2.0.0")
            assert entry.result.recipients[1].verdict == Verdict.RETURNED
            delivery.stop()
            task.cancel()
            await task

    on_loopback(story)


def test_the_journal_knows_of_the_dot_before_the_peer() -> None:
    async def story(courier: Courier) -> None:
        script = {"DOT": Pause(0.2, "250 2.0.0 taken")}
        async with ScriptedPeer(script, host=FIRST, port=courier.port) as peer:
            delivery = courier.begin(request(KIM))
            assert [e.state for e in courier.noted()] == [State.STARTED]
            task = asyncio.create_task(delivery.run())
            await until(lambda: bool(peer.messages))
            (entry,) = courier.noted()
            assert (entry.state, delivery.past_dot) == (State.DOT, True)
            assert FIRST in entry.host
            await task
            assert not delivery.past_dot

    on_loopback(story)


def test_too_many_recipients_are_offered_again_in_the_same_session() -> None:
    async def story(courier: Courier) -> None:
        addresses = [f"r{n}@example.net" for n in range(5)]
        full = "452 4.5.3 too many recipients"
        script = {
            "RCPT": ["250 ok", "250 ok", full, full, full, "250 ok", "250 ok", full, "250 ok"]
        }
        async with ScriptedPeer(script, host=FIRST, port=courier.port) as peer:
            result = await courier.deliver(request(*addresses))
        assert {v[0] for v in verdicts(result)} == {"DELIVERED"}
        assert [len(m.recipients) for m in peer.messages] == [2, 2, 1]
        assert len(peer.clients) == 1
        assert len(result.tries) == 1
        assert result.tries[0].uses == 3
        assert result.tries[0].connect > 0

    on_loopback(story)


def test_too_many_recipients_in_the_last_message_of_a_session_bring_another_session() -> None:
    async def story(courier: Courier) -> None:
        script = {"RCPT": ["250 ok", "452 4.5.3 too many recipients", "250 ok"]}
        extensions = (*EXTENSIONS, "LIMITS MAILMAX=1")
        peer = ScriptedPeer(script, host=FIRST, port=courier.port, extensions=extensions)
        async with peer:
            result = await courier.deliver(request(KIM, LEE))
        assert [v[0] for v in verdicts(result)] == ["DELIVERED", "DELIVERED"]
        assert len(peer.clients) == 2

    on_loopback(story, ONE_HOST)


def test_a_peer_that_takes_nobody_more_defers_the_rest() -> None:
    async def story(courier: Courier) -> None:
        script = {"RCPT": ["250 ok", "452 4.5.3 too many recipients"]}
        async with ScriptedPeer(script, host=FIRST, port=courier.port) as peer:
            result = await courier.deliver(request(KIM, LEE))
        assert [v[0] for v in verdicts(result)] == ["DELIVERED", "DEFERRED"]
        assert len(peer.messages) == 1
        assert peer.verbs().count("MAIL") == 2

    on_loopback(story, ONE_HOST)


@pytest.mark.parametrize(
    ("limits", "sizes"),
    [
        ("RCPTMAX=2", [2, 2, 1]),
        ("RCPTDOMAINMAX=1", [2, 3]),
        ("RCPTMAX=2 RCPTDOMAINMAX=1", [2, 2, 1]),
        ("RCPTMAX=100 RCPTDOMAINMAX=9", [5]),
    ],
)
def test_stated_limits_split_the_transaction(limits: str, sizes: list[int]) -> None:
    async def story(courier: Courier) -> None:
        addresses = [f"r{n}@{'a' if n < 2 else 'b'}.test" for n in range(5)]
        extensions = (*EXTENSIONS, f"LIMITS {limits}")
        async with ScriptedPeer(host=FIRST, port=courier.port, extensions=extensions) as peer:
            result = await courier.deliver(request(*addresses, next_hop="example.net"))
        assert {v[0] for v in verdicts(result)} == {"DELIVERED"}
        assert [len(m.recipients) for m in peer.messages] == sizes
        assert len(peer.clients) == 1

    on_loopback(story)


def test_a_limit_of_messages_per_session_brings_further_sessions_to_the_same_host() -> None:
    async def story(courier: Courier) -> None:
        addresses = [f"r{n}@example.net" for n in range(5)]
        extensions = (*EXTENSIONS, "LIMITS RCPTMAX=1 MAILMAX=2")
        async with ScriptedPeer(host=FIRST, port=courier.port, extensions=extensions) as peer:
            result = await courier.deliver(request(*addresses))
        assert {v[0] for v in verdicts(result)} == {"DELIVERED"}
        assert len(peer.messages) == 5
        assert len(peer.clients) == 3
        assert [t.uses for t in result.tries] == [2, 2, 1]

    on_loopback(story)


def test_a_session_lost_between_transactions_leaves_the_rest_for_the_next_host() -> None:
    async def story(courier: Courier) -> None:
        extensions = (*EXTENSIONS, "LIMITS RCPTMAX=1")
        script: Script = {"DOT": ["250 2.0.0 taken", Close()]}
        async with (
            ScriptedPeer(script, host=FIRST, port=courier.port, extensions=extensions),
            ScriptedPeer(host=SECOND, port=courier.port) as second,
        ):
            result = await courier.deliver(request(KIM, LEE, "max@example.net"))
        assert [v[0] for v in verdicts(result)] == ["DELIVERED", "IN_DOUBT", "DELIVERED"]
        assert second.messages[0].recipients == ["max@example.net"]

    on_loopback(story)


# -- capabilities ---


def test_a_message_too_large_for_one_host_goes_to_another() -> None:
    async def story(courier: Courier) -> None:
        small = ("PIPELINING", "SIZE 10")
        async with (
            ScriptedPeer(host=FIRST, port=courier.port, extensions=small) as first,
            ScriptedPeer(host=SECOND, port=courier.port) as second,
        ):
            result = await courier.deliver(request(KIM))
            assert verdict(result)[0] == "DELIVERED"
            assert "MAIL" not in first.verbs()
            assert len(second.messages) == 1
            second.extensions = small
            courier.connections.release("")
            result = await courier.deliver(request(KIM))
        assert verdict(result) == ("BOUNCED", "mail", "5.3.4")

    on_loopback(story)


def test_a_host_without_smtputf8_is_passed_over() -> None:
    async def story(courier: Courier) -> None:
        async with (
            ScriptedPeer(host=FIRST, port=courier.port, extensions=("PIPELINING",)),
            ScriptedPeer(host=SECOND, port=courier.port) as second,
        ):
            result = await courier.deliver(request("größe@example.net"))
        assert verdict(result)[0] == "DELIVERED"
        assert "SMTPUTF8" in second.messages[0].mail

    on_loopback(story)


def test_a_host_without_dsn_leaves_the_report_to_us() -> None:
    async def story(courier: Courier) -> None:
        async with ScriptedPeer(host=FIRST, port=courier.port, extensions=()):
            result = await courier.deliver(request(KIM))
        assert result.recipients[0].relayed

    on_loopback(story)


def test_helo_is_enough() -> None:
    async def story(courier: Courier) -> None:
        async with ScriptedPeer({"EHLO": "502 no"}, host=FIRST, port=courier.port) as peer:
            result = await courier.deliver(request(KIM))
        assert verdict(result)[0] == "DELIVERED"
        assert peer.verbs() == ["EHLO", "HELO", "MAIL", "RCPT", "DATA"]

    on_loopback(story)


# -- reuse ---


def test_a_session_carries_the_next_message() -> None:
    async def story(courier: Courier) -> None:
        async with ScriptedPeer(host=FIRST, port=courier.port) as peer:
            await courier.deliver(request(KIM))
            result = await courier.deliver(request(LEE))
            assert len(courier.connections) == 1
        assert len(peer.clients) == 1
        assert peer.verbs() == ["EHLO", "MAIL", "RCPT", "DATA", "MAIL", "RCPT", "DATA"]
        (host,) = result.tries
        assert (host.uses, host.connect, host.setup) == (2, 0.0, 0.0)

    on_loopback(story)


def test_a_transaction_that_was_refused_is_reset_before_the_next() -> None:
    async def story(courier: Courier) -> None:
        script = {"RCPT bad@example.net": "550 5.1.1 unknown"}
        async with ScriptedPeer(script, host=FIRST, port=courier.port) as peer:
            await courier.deliver(request("bad@example.net"))
            await courier.deliver(request(KIM))
        assert len(peer.clients) == 1
        assert "RSET" in peer.verbs()
        assert [m.recipients for m in peer.messages] == [[KIM]]

    on_loopback(story)


CLOSED_WHILE_IDLE: list[tuple[str, Script]] = [
    ("closes", {"MAIL": ["250 ok", Close(), "250 ok"]}),
    ("resets", {"MAIL": ["250 ok", Reset(), "250 ok"]}),
    ("says 421", {"MAIL": ["250 ok", Close("421 4.4.2 idle too long"), "250 ok"]}),
    ("closes later", {"DOT": [Close("250 2.0.0 taken"), "250 ok"]}),
    ("says 421 by itself", {"DOT": [Raw(b"250 ok\r\n421 4.4.2 bye\r\n"), "250 ok"]}),
    ("says something odd", {"DOT": [Raw(b"250 ok\r\n250 more\r\n"), "250 ok"]}),
]


@pytest.mark.parametrize(
    "script", [r[1] for r in CLOSED_WHILE_IDLE], ids=[r[0] for r in CLOSED_WHILE_IDLE]
)
def test_a_session_closed_while_idle_is_dialled_again_in_silence(script: Script) -> None:
    async def story(courier: Courier) -> None:
        async with ScriptedPeer(script, host=FIRST, port=courier.port) as peer:
            await courier.deliver(request(KIM))
            await asyncio.sleep(0.02)
            result = await courier.deliver(request(LEE))
        assert verdict(result) == ("DELIVERED", "dot", "2.0.0")
        assert len(peer.clients) == 2
        assert len(result.tries) == 1
        assert result.pressure == Pressure.UP

    on_loopback(story)


def test_a_refused_rset_costs_only_the_session() -> None:
    async def story(courier: Courier) -> None:
        script = {"RCPT bad@example.net": "550 5.1.1 unknown", "RSET": "451 4.3.0 no"}
        async with ScriptedPeer(script, host=FIRST, port=courier.port) as peer:
            await courier.deliver(request("bad@example.net"))
            result = await courier.deliver(request(KIM))
        assert verdict(result)[0] == "DELIVERED"
        assert len(peer.clients) == 2

    on_loopback(story)


def test_an_rset_that_is_not_answered_costs_only_the_session() -> None:
    async def story(courier: Courier) -> None:
        script: Script = {"RCPT bad@example.net": "550 5.1.1 unknown", "RSET": Stall()}
        extensions = ("8BITMIME",)
        async with ScriptedPeer(
            script, host=FIRST, port=courier.port, extensions=extensions
        ) as peer:
            await courier.deliver(request("bad@example.net"))
            result = await courier.deliver(request(KIM))
        assert verdict(result)[0] == "DELIVERED"
        assert len(peer.clients) == 2

    on_loopback(story, smtp={"rset_timeout": 0.2})


def test_an_old_session_that_falls_silent_is_a_failure_of_the_host() -> None:
    async def story(courier: Courier) -> None:
        script: Script = {"MAIL": ["250 ok", Stall()]}
        async with ScriptedPeer(script, host=FIRST, port=courier.port):
            await courier.deliver(request(KIM))
            result = await courier.deliver(request(LEE))
        assert verdict(result) == ("DEFERRED", "mail", "4.4.2")

    on_loopback(story, ONE_HOST, smtp=QUICK)


def test_a_dead_primary_is_not_dialled_for_every_message() -> None:
    async def story(courier: Courier) -> None:
        async with ScriptedPeer(host=SECOND, port=courier.port) as second:
            first = await courier.deliver(request(KIM))
            result = await courier.deliver(request(LEE))
        assert [t.ip for t in first.tries] == [FIRST, SECOND]
        assert [t.ip for t in result.tries] == [SECOND]
        assert len(second.clients) == 1

    on_loopback(story)


def test_a_greylisting_primary_is_still_asked_first() -> None:
    async def story(courier: Courier) -> None:
        script = {"RCPT": ["450 4.7.1 grey", "250 ok"]}
        async with (
            ScriptedPeer(script, host=FIRST, port=courier.port) as first,
            ScriptedPeer(host=SECOND, port=courier.port),
        ):
            await courier.deliver(request(KIM))
            result = await courier.deliver(request(LEE))
        assert [t.ip for t in result.tries] == [FIRST]
        assert first.messages[0].recipients == [LEE]

    on_loopback(story)


# -- limits of an attempt ---

FIVE = {
    "example.net": [f"MX {n}0 mx{n}.example.net" for n in range(1, 6)],
    **{f"mx{n}.example.net": [f"A 127.0.0.4{n}"] for n in range(1, 6)},
}


def test_only_so_many_addresses_are_tried() -> None:
    async def story(courier: Courier) -> None:
        result = await courier.deliver(request(KIM))
        assert [t.ip for t in result.tries] == ["127.0.0.41", "127.0.0.42", "127.0.0.43"]

    on_loopback(story, FIVE, smtp={"mx_address_limit": 3})


def test_only_so_many_sessions_are_held() -> None:
    async def story(courier: Courier) -> None:
        script = {"RCPT": "450 4.7.1 not now"}
        async with (
            ScriptedPeer(script, host="127.0.0.42", port=courier.port),
            ScriptedPeer(script, host="127.0.0.43", port=courier.port),
            ScriptedPeer(script, host="127.0.0.44", port=courier.port) as third,
        ):
            result = await courier.deliver(request(KIM))
        assert [t.ip for t in result.tries] == ["127.0.0.41", "127.0.0.42", "127.0.0.43"]
        assert third.clients == []
        assert verdict(result) == ("DEFERRED", "rcpt", "4.7.1")

    on_loopback(story, FIVE, smtp={"mx_session_limit": 2})


# -- content ---


def test_wire_form_is_what_the_peer_gets() -> None:
    async def story(courier: Courier) -> None:
        content = b"Subject: dots\r\n\r\n.\r\n..x\r\n" + b"y" * 1200 + b"\r\n"
        async with ScriptedPeer(host=FIRST, port=courier.port) as peer:
            await courier.deliver(request(KIM, content=content, dotted=True, long_lines=True))
        lines = peer.messages[0].content.split(b"\r\n")
        assert lines[2:4] == [b".", b"..x"]
        assert [len(line) for line in lines[4:6]] == [998, 203]

    on_loopback(story)


def test_a_content_of_the_wrong_size_is_put_aside() -> None:
    async def story(courier: Courier) -> None:
        async with ScriptedPeer(host=FIRST, port=courier.port) as peer:
            result = await courier.deliver(request(KIM, size=5))
        assert verdict(result) == ("HELD", "route", "4.3.0")
        assert peer.clients == []

    on_loopback(story)


# -- what is told ---


def test_a_broken_protocol_is_told_with_its_dialogue() -> None:
    async def story(courier: Courier) -> None:
        async with ScriptedPeer({"MAIL": "354 go"}, host=FIRST, port=courier.port):
            await courier.deliver(request(KIM))
        (told,) = [f for f in courier.said if isinstance(f, frames.Transcript)]
        assert told.queue_id == 4711
        assert FIRST in told.host
        assert any(line.startswith("C: MAIL FROM") for line in told.lines)
        assert "S: 354 go" in told.lines

    on_loopback(story, ONE_HOST)


@pytest.mark.parametrize("pattern", ["mx1.example.net", "example.net", FIRST, "127.0.0.0/24"])
def test_the_dialogue_of_a_watched_peer_is_told(pattern: str) -> None:
    async def story(courier: Courier) -> None:
        async with ScriptedPeer(host=FIRST, port=courier.port):
            await courier.deliver(request(KIM))
        lines = [event["line"] for event in courier.events("dialogue")]
        assert "C: EHLO mail.example.org" in lines
        assert any(line.startswith("S: 250") for line in lines)

    on_loopback(story, smtp={"debug_peer_list": (pattern,)})


def test_a_request_can_be_stopped_before_its_dot() -> None:
    async def story(courier: Courier) -> None:
        async with ScriptedPeer({"RCPT": Stall()}, host=FIRST, port=courier.port) as peer:
            delivery = courier.begin(request(KIM))
            task = asyncio.create_task(delivery.run())
            await until(lambda: "MAIL" in peer.verbs())
            delivery.stop()
            task.cancel()
            await task
            assert delivery.untried
            assert verdict(delivery.result(0)) == ("RETURNED", "route", "4.3.2")

    on_loopback(story)
