"""Next hops: routes that decide themselves, lists, relays, fallback, and finding ourselves."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from deliveryagent.mail.delivery import DeliveryResult, Pressure, Verdict
from tests.doubles.courier import FIRST, SECOND, TWO_HOSTS, Courier, request
from tests.doubles.scripted_peer import Close, ScriptedPeer

KIM = "kim@example.net"
RELAY = "127.0.0.35"
ZONE = {
    **TWO_HOSTS,
    "relay.test": ["A 127.0.0.35"],
    "sick.test": ["!SERVFAIL"],
    "null.test": ["MX 0 ."],
    "alone.test": ["MX 10 mail.example.org"],
    "among.test": ["MX 10 mx1.example.net", "MX 20 mail.example.org", "MX 30 mx2.example.net"],
    "unreachable.test": ["MX 10 gone.test", "MX 20 mail.example.org"],
    "named.test": ["MX 10 mx1.example.net", "MX 20 mx2.example.net"],
    "mail.example.org": ["A 127.0.0.36"],
    "literal.test": ["MX 10 127.0.0.31"],
}


def verdict(result: DeliveryResult) -> tuple[str, str, str]:
    (found,) = result.recipients
    return (Verdict(found.verdict).name, found.stage, found.enhanced)


def on_loopback(
    story: Callable[[Courier], Awaitable[None]],
    zone: Mapping[str, list[str]] | None = None,
    **settings: Any,
) -> None:
    async def run() -> None:
        async with Courier(zone or ZONE, **settings) as courier:
            await story(courier)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("next_hop", "expected", "text"),
    [
        ("error:5.1.1 gone away", ("BOUNCED", "route", "5.1.1"), "gone away"),
        ("error:4.2.0 later", ("DEFERRED", "route", "4.2.0"), "later"),
        ("error:no mail here", ("BOUNCED", "route", "5.0.0"), "no mail here"),
        ("hold:let me see", ("HELD", "route", "4.3.0"), "let me see"),
        ("discard:", ("DELIVERED", "route", "2.0.0"), "discarded by a route"),
    ],
)
def test_some_routes_decide_themselves(
    next_hop: str, expected: tuple[str, str, str], text: str
) -> None:
    async def story(courier: Courier) -> None:
        result = await courier.deliver(request(KIM, next_hop=next_hop))
        assert verdict(result) == expected
        assert result.recipients[0].text == text
        assert (result.tries, result.pressure) == ((), Pressure.NONE)
        assert courier.names.queries == []

    on_loopback(story)


@pytest.mark.parametrize(
    ("domain", "expected", "pressure"),
    [
        ("nowhere.test", ("BOUNCED", "resolve", "5.1.2"), Pressure.NONE),
        ("null.test", ("BOUNCED", "resolve", "5.1.10"), Pressure.NONE),
        ("sick.test", ("DEFERRED", "resolve", "4.4.3"), Pressure.DOWN),
    ],
)
def test_what_the_name_service_says_decides(
    domain: str, expected: tuple[str, str, str], pressure: Pressure
) -> None:
    async def story(courier: Courier) -> None:
        result = await courier.deliver(request(f"kim@{domain}"))
        assert verdict(result) == expected
        assert (result.tries, result.pressure) == ((), pressure)

    on_loopback(story)


def test_a_relay_that_is_not_found_is_ours_to_repair() -> None:
    async def story(courier: Courier) -> None:
        result = await courier.deliver(request(KIM, next_hop="[gone.test]"))
        assert verdict(result) == ("DEFERRED", "resolve", "4.3.5")

    on_loopback(story)


@pytest.mark.parametrize(
    "next_hop",
    ["[127.0.0.31]:{port}", "[mx1.example.net]:{port}", "literal.test:{port}", "literal.test"],
)
def test_next_hops_of_every_kind_are_reached(next_hop: str) -> None:
    async def story(courier: Courier) -> None:
        async with ScriptedPeer(host=FIRST, port=courier.port) as peer:
            hop = next_hop.format(port=courier.port)
            result = await courier.deliver(request(KIM, next_hop=hop))
        assert verdict(result)[0] == "DELIVERED"
        assert len(peer.messages) == 1

    on_loopback(story)


def test_a_version_six_address_is_reached() -> None:
    async def story(courier: Courier) -> None:
        async with ScriptedPeer(host="::1") as peer:
            hop = f"[ipv6:::1]:{peer.port}"
            result = await courier.deliver(request(KIM, next_hop=hop))
        assert verdict(result)[0] == "DELIVERED"
        assert result.tries[0].ip == "::1"

    on_loopback(story)


def test_a_list_is_tried_in_order() -> None:
    async def story(courier: Courier) -> None:
        async with ScriptedPeer(host=RELAY, port=courier.port) as relay:
            hops = "[gone.test], [mx1.example.net], [relay.test]"
            result = await courier.deliver(request(KIM, next_hop=hops))
        assert verdict(result)[0] == "DELIVERED"
        assert [t.ip for t in result.tries] == [FIRST, RELAY]
        assert len(relay.messages) == 1

    on_loopback(story)


FALLBACK = {"fallback_relay": ("[relay.test]",)}


@pytest.mark.parametrize("domain", ["nowhere.test", "sick.test", "example.net"])
def test_the_fallback_relay_takes_what_cannot_be_delivered_now(domain: str) -> None:
    async def story(courier: Courier) -> None:
        async with ScriptedPeer(host=RELAY, port=courier.port) as relay:
            result = await courier.deliver(request(f"kim@{domain}"))
        assert verdict(result)[0] == "DELIVERED"
        assert len(relay.messages) == 1

    on_loopback(story, smtp=FALLBACK)


def test_the_fallback_relay_never_gets_what_was_refused() -> None:
    async def story(courier: Courier) -> None:
        script = {"RCPT": "550 5.1.1 unknown"}
        async with (
            ScriptedPeer(script, host=FIRST, port=courier.port),
            ScriptedPeer(host=RELAY, port=courier.port) as relay,
        ):
            result = await courier.deliver(request(KIM))
        assert verdict(result) == ("BOUNCED", "rcpt", "5.1.1")
        assert relay.clients == []

    on_loopback(story, smtp=FALLBACK)


@pytest.mark.parametrize("domain", ["among.test", "unreachable.test"])
def test_an_mx_host_never_uses_its_fallback_relay(domain: str) -> None:
    async def story(courier: Courier) -> None:
        async with ScriptedPeer(host=RELAY, port=courier.port) as relay:
            result = await courier.deliver(request(f"kim@{domain}"))
        assert verdict(result)[0] == "DEFERRED"
        assert relay.clients == []

    on_loopback(story, smtp=FALLBACK)


def test_only_better_hosts_than_ourselves_are_asked() -> None:
    async def story(courier: Courier) -> None:
        result = await courier.deliver(request("kim@among.test"))
        assert [t.ip for t in result.tries] == [FIRST]

    on_loopback(story)


def test_mail_that_would_come_back_bounces() -> None:
    async def story(courier: Courier) -> None:
        result = await courier.deliver(request("kim@alone.test"))
        assert verdict(result) == ("BOUNCED", "resolve", "5.4.6")

    on_loopback(story)


def test_a_host_found_by_its_address_is_ourselves_too() -> None:
    async def story(courier: Courier) -> None:
        result = await courier.deliver(request(KIM))
        assert verdict(result) == ("BOUNCED", "resolve", "5.4.6")

    on_loopback(story, loop={"proxy_interfaces": (FIRST,)})


def test_mx_hosts_on_loopback_are_ourselves_outside_a_lab() -> None:
    async def story(courier: Courier) -> None:
        result = await courier.deliver(request(KIM))
        assert verdict(result) == ("BOUNCED", "resolve", "5.4.6")

    on_loopback(story, loop={"loopback_mx": False})


def test_mail_that_would_come_back_goes_where_it_was_told_to() -> None:
    async def story(courier: Courier) -> None:
        async with ScriptedPeer(host=RELAY, port=courier.port) as relay:
            result = await courier.deliver(request("kim@alone.test"))
        assert verdict(result)[0] == "DELIVERED"
        assert len(relay.messages) == 1

    on_loopback(story, loop={"best_mx_transport": "[relay.test]"})


def test_a_best_mx_transport_that_loops_ends() -> None:
    async def story(courier: Courier) -> None:
        result = await courier.deliver(request("kim@alone.test"))
        assert verdict(result)[0] in ("BOUNCED", "DEFERRED")

    on_loopback(story, loop={"best_mx_transport": "alone.test"})


def test_the_best_host_with_our_name_bounces() -> None:
    async def story(courier: Courier) -> None:
        async with ScriptedPeer(host=FIRST, port=courier.port, name="MAIL.example.org") as peer:
            result = await courier.deliver(request(KIM))
        assert verdict(result) == ("BOUNCED", "ehlo", "5.4.6")
        assert "MAIL" not in peer.verbs()

    on_loopback(story)


def test_another_host_with_our_name_is_passed_over() -> None:
    async def story(courier: Courier) -> None:
        async with ScriptedPeer(host=SECOND, port=courier.port, name="mail.example.org"):
            result = await courier.deliver(request(KIM))
        assert verdict(result) == ("DEFERRED", "ehlo", "4.4.6")

    on_loopback(story)


def test_a_host_with_our_name_on_another_port_is_somebody_else() -> None:
    async def story(courier: Courier) -> None:
        async with ScriptedPeer(host=FIRST, name="mail.example.org") as peer:
            result = await courier.deliver(request(KIM, next_hop=f"[{FIRST}]:{peer.port}"))
        assert verdict(result)[0] == "DELIVERED"

    on_loopback(story)


def test_a_route_has_settings_of_its_own() -> None:
    async def story(courier: Courier) -> None:
        async with ScriptedPeer(host=FIRST, port=courier.port) as peer:
            await courier.deliver(request(KIM, route=0))
            await courier.deliver(request(KIM))
        assert [line for line in peer.received if line.startswith("EHLO")] == [
            "EHLO other.example.org",
            "EHLO mail.example.org",
        ]
        assert peer.clients == ["127.0.0.77", "127.0.0.1"]

    on_loopback(story, routes=[{"helo_name": "other.example.org", "bind_address": "127.0.0.77"}])


def test_a_source_address_that_is_not_ours_defers() -> None:
    async def story(courier: Courier) -> None:
        async with ScriptedPeer(host=FIRST, port=courier.port) as peer:
            result = await courier.deliver(request(KIM))
        assert verdict(result) == ("DEFERRED", "connect", "4.4.0")
        assert peer.clients == []

    on_loopback(story, smtp={"bind_address": "192.0.2.99"})


def test_a_next_hop_that_is_none_defers() -> None:
    async def story(courier: Courier) -> None:
        result = await courier.deliver(request(KIM, next_hop="[unfinished"))
        assert verdict(result) == ("DEFERRED", "route", "4.3.0")

    on_loopback(story)


# -- LMTP ---


def test_lmtp_answers_for_each_recipient() -> None:
    async def story(courier: Courier) -> None:
        script = {
            "DOT full@example.net": "452 4.2.2 mailbox full",
            "DOT gone@example.net": "550 5.1.1 gone",
        }
        async with ScriptedPeer(script, host=FIRST, port=courier.port, lmtp=True) as peer:
            wanted = request(
                KIM, "full@example.net", "gone@example.net", next_hop="lmtp:[mx1.example.net]"
            )
            result = await courier.deliver(wanted)
        assert [Verdict(r.verdict).name for r in result.recipients] == [
            "DELIVERED", "DEFERRED", "BOUNCED",
        ]  # fmt: skip
        assert peer.verbs()[0] == "LHLO"

    on_loopback(story)


def test_lmtp_over_a_unix_socket_is_spoken_in_clear(tmp_path: Path) -> None:
    async def story(courier: Courier) -> None:
        path = tmp_path / "lmtp.sock"
        async with ScriptedPeer(path=path, lmtp=True, tls=True) as peer:
            for _ in range(2):
                result = await courier.deliver(request(KIM, next_hop=f"lmtp:unix:{path}"))
        assert verdict(result)[0] == "DELIVERED"
        assert "STARTTLS" not in peer.verbs()
        assert peer.verbs().count("LHLO") == 1
        (host,) = result.tries
        assert (host.ip, host.port, host.uses) == (str(path), 0, 2)

    on_loopback(story, lmtp={"tls_security_level": "may"})


def test_a_unix_socket_that_is_not_there_defers_without_fallback(tmp_path: Path) -> None:
    async def story(courier: Courier) -> None:
        async with ScriptedPeer(host=RELAY, port=courier.port, lmtp=True) as relay:
            wanted = request(KIM, next_hop=f"lmtp:unix:{tmp_path}/none")
            assert verdict(await courier.deliver(wanted)) == ("DEFERRED", "connect", "4.4.1")
        assert relay.clients == []

    on_loopback(story, lmtp={"fallback_relay": ("lmtp:[relay.test]",)})


def test_an_lmtp_session_lost_between_answers_leaves_only_the_unanswered_in_doubt() -> None:
    async def story(courier: Courier) -> None:
        script = {"DOT lee@example.net": Close()}
        async with ScriptedPeer(script, host=FIRST, port=courier.port, lmtp=True):
            wanted = request(KIM, "lee@example.net", next_hop="lmtp:[mx1.example.net]")
            result = await courier.deliver(wanted)
        assert [Verdict(r.verdict).name for r in result.recipients] == ["DELIVERED", "IN_DOUBT"]

    on_loopback(story)
