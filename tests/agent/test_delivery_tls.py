"""Opportunistic TLS: used where offered, demanded where told, given up only after a wait."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from deliveryagent.mail.delivery import DeliveryResult, Pressure, Verdict
from tests.doubles.courier import FIRST, SECOND, Courier, request
from tests.doubles.scripted_peer import Close, Pause, Raw, Script, ScriptedPeer, Stall

KIM = "kim@example.net"
OLD = time.time() - 1000


def verdict(result: DeliveryResult) -> tuple[str, str, str]:
    (found,) = result.recipients
    return (Verdict(found.verdict).name, found.stage, found.enhanced)


def on_loopback(story: Callable[[Courier], Awaitable[None]], **settings: Any) -> None:
    async def run() -> None:
        async with Courier(**settings) as courier:
            await story(courier)

    asyncio.run(run())


@pytest.mark.parametrize("level", ["", "may", "encrypt"])
def test_tls_is_used_where_it_is_offered(level: str) -> None:
    async def story(courier: Courier) -> None:
        async with ScriptedPeer(host=FIRST, port=courier.port, tls=True) as peer:
            await courier.deliver(request(KIM))
            result = await courier.deliver(request(KIM))
        assert verdict(result)[0] == "DELIVERED"
        assert peer.verbs()[:4] == ["EHLO", "STARTTLS", "EHLO", "MAIL"]
        assert result.tries[0].tls.startswith("TLSv1.")
        assert result.tries[0].tls.endswith("untrusted")
        assert len(peer.clients) == 1

    on_loopback(story, smtp={"tls_security_level": level})


def test_tls_is_left_alone_when_told_so() -> None:
    async def story(courier: Courier) -> None:
        async with ScriptedPeer(host=FIRST, port=courier.port, tls=True) as peer:
            result = await courier.deliver(request(KIM))
        assert "STARTTLS" not in peer.verbs()
        assert result.tries[0].tls == ""

    on_loopback(story, smtp={"tls_security_level": "none"})


@pytest.mark.parametrize("answer", ["454 4.7.0 not now", "502 no", "220-odd\n220 but fine"])
def test_a_refused_starttls_goes_on_in_clear_on_the_same_connection(answer: str) -> None:
    async def story(courier: Courier) -> None:
        script: Script = {"STARTTLS": answer}
        async with ScriptedPeer(script, host=FIRST, port=courier.port, tls=True) as peer:
            result = await courier.deliver(request(KIM))
        assert verdict(result)[0] == "DELIVERED"
        assert len(peer.clients) == 1

    on_loopback(story, smtp={"tls_security_level": "may"})


DEMANDED: list[tuple[str, Script, bool, tuple[str, str, str]]] = [
    ("not offered", {}, False, ("DEFERRED", "starttls", "4.7.4")),
    ("4xx", {"STARTTLS": "454 4.7.0 not now"}, True, ("DEFERRED", "starttls", "4.7.0")),
    ("5xx", {"STARTTLS": "554 5.7.0 no"}, True, ("BOUNCED", "starttls", "5.7.0")),
    (
        "broken",
        {"HANDSHAKE": Pause(0.05, Raw(b"not TLS\r\n"))},
        True,
        ("DEFERRED", "starttls", "4.7.5"),
    ),
    ("closed", {"HANDSHAKE": Close()}, True, ("DEFERRED", "starttls", "4.7.5")),
    ("stalls", {"HANDSHAKE": Stall()}, True, ("DEFERRED", "starttls", "4.7.5")),
    (
        "injection",
        {"STARTTLS": Raw(b"220 go\r\n250 injected\r\n")},
        True,
        ("DEFERRED", "starttls", "4.5.0"),
    ),
]


@pytest.mark.parametrize(
    ("script", "offered", "expected"), [r[1:] for r in DEMANDED], ids=[r[0] for r in DEMANDED]
)
def test_without_the_tls_that_is_demanded_nothing_is_said_about_the_message(
    script: Script, offered: bool, expected: tuple[str, str, str]
) -> None:
    async def story(courier: Courier) -> None:
        async with ScriptedPeer(script, host=FIRST, port=courier.port, tls=offered) as peer:
            result = await courier.deliver(request(KIM, arrival=OLD, next_hop=f"[{FIRST}]"))
        assert verdict(result) == expected
        assert "MAIL" not in peer.verbs()
        assert len(peer.clients) == 1

    on_loopback(story, smtp={"tls_security_level": "encrypt", "starttls_timeout": 0.3})


BROKEN: list[tuple[str, Script]] = [
    ("rubbish", {"HANDSHAKE": Pause(0.05, Raw(b"not TLS\r\n"))}),
    ("closed", {"HANDSHAKE": Close()}),
    ("stalls", {"HANDSHAKE": Stall()}),
]


@pytest.mark.parametrize("script", [row[1] for row in BROKEN], ids=[row[0] for row in BROKEN])
def test_a_fresh_message_does_not_go_in_clear_because_a_handshake_broke(script: Script) -> None:
    async def story(courier: Courier) -> None:
        async with (
            ScriptedPeer(script, host=FIRST, port=courier.port, tls=True) as first,
            ScriptedPeer(script, host=SECOND, port=courier.port, tls=True),
        ):
            result = await courier.deliver(request(KIM))
        assert verdict(result) == ("DEFERRED", "starttls", "4.7.5")
        assert "MAIL" not in first.verbs()
        assert result.pressure == Pressure.NONE

    on_loopback(story, smtp={"starttls_timeout": 0.3})


@pytest.mark.parametrize("script", [row[1] for row in BROKEN], ids=[row[0] for row in BROKEN])
def test_a_message_that_has_waited_goes_in_clear_to_the_same_address(script: Script) -> None:
    async def story(courier: Courier) -> None:
        async with (
            ScriptedPeer(script, host=FIRST, port=courier.port, tls=True) as first,
            ScriptedPeer(host=SECOND, port=courier.port) as second,
        ):
            result = await courier.deliver(request(KIM, arrival=OLD))
        assert verdict(result)[0] == "DELIVERED"
        assert len(first.clients) == 2
        assert second.clients == []
        assert [(t.stage, t.tls) for t in result.tries] == [("starttls", ""), ("dot", "")]
        # A session in clear must not carry messages that have not tried TLS themselves.
        assert len(courier.connections) == 0

    on_loopback(story, smtp={"starttls_timeout": 0.3, "mx_session_limit": 1})


def test_a_tls_session_lost_before_the_dot_is_tried_again_in_clear() -> None:
    async def story(courier: Courier) -> None:
        script: Script = {"RCPT": [Close(), "250 ok"]}
        async with ScriptedPeer(script, host=FIRST, port=courier.port, tls=True) as peer:
            result = await courier.deliver(request(KIM, arrival=OLD))
        assert verdict(result)[0] == "DELIVERED"
        assert peer.verbs().count("STARTTLS") == 1
        assert [bool(t.tls) for t in result.tries] == [True, False]

    on_loopback(story)


def test_a_tls_session_lost_after_the_dot_is_in_doubt() -> None:
    async def story(courier: Courier) -> None:
        async with ScriptedPeer({"DOT": Close()}, host=FIRST, port=courier.port, tls=True) as peer:
            result = await courier.deliver(request(KIM, arrival=OLD))
        assert verdict(result) == ("IN_DOUBT", "dot", "4.4.2")
        assert len(peer.clients) == 1

    on_loopback(story)
