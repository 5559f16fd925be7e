"""The lab's name server answers, and misbehaves, as its zone says."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import dns.asyncquery
import dns.asyncresolver
import dns.exception
import dns.flags
import dns.message
import dns.rcode
import pytest

from deliveryagent.lab.nameserver import NameServer, Query, Zone, ZoneError

T = TypeVar("T")

ZONE: dict[str, list[str]] = {
    "good.test": ["MX 10 mx1.good.test", "60 MX 20 mx2.good.test.", "TXT hello"],
    "mx1.good.test": ["A 127.0.0.2", "AAAA ::1"],
    "*.many.test": ["A 127.0.0.3"],
    "own.many.test": ["A 127.0.0.4"],
    "alias.test": ["CNAME good.test"],
    "ring1.test": ["CNAME ring2.test"],
    "ring2.test": ["CNAME ring1.test"],
    "nowhere.test": ["CNAME missing.test"],
    "empty.test": [],
    "sick.test": ["!SERVFAIL"],
    "shy.test": ["!REFUSED"],
    "half.test": ["A 127.0.0.5", "!SERVFAIL AAAA"],
    "mute.test": ["!SILENCE"],
    "cut.test": ["A 127.0.0.6", "!TRUNCATE"],
    "noise.test": ["!GARBAGE"],
    "stranger.test": ["!STRANGER"],
    "late.test": ["A 127.0.0.7", "!DELAY 0.1"],
    "signed.test": ["A 127.0.0.8", "!SECURE"],
    "crowd.test": [f"MX {n} mx{n}.crowd.test" for n in range(200)],
    "null.test": ["MX 0 ."],
}


def with_server(ask: Callable[[NameServer], Awaitable[T]], zone: Zone = ZONE) -> T:
    async def main() -> T:
        async with NameServer(zone) as server:
            return await ask(server)

    return asyncio.run(main())


async def udp(server: NameServer, name: str, rdtype: str) -> dns.message.Message:
    query = dns.message.make_query(name, rdtype, use_edns=False)
    return await dns.asyncquery.udp(query, server.host, port=server.port, timeout=0.4)


async def tcp(server: NameServer, name: str, rdtype: str) -> dns.message.Message:
    query = dns.message.make_query(name, rdtype)
    return await dns.asyncquery.tcp(query, server.host, port=server.port, timeout=0.4)


def answers(message: dns.message.Message) -> list[str]:
    return sorted(rdata.to_text() for rrset in message.answer for rdata in rrset)


def test_records_come_back_with_absolute_names() -> None:
    reply = with_server(lambda server: udp(server, "good.test", "MX"))
    assert answers(reply) == ["10 mx1.good.test.", "20 mx2.good.test."]
    assert reply.flags & dns.flags.AA


def test_names_are_found_whatever_their_case() -> None:
    reply = with_server(lambda server: udp(server, "GOOD.Test", "TXT"))
    assert answers(reply) == ['"hello"']


def test_the_smallest_ttl_of_a_set_counts() -> None:
    reply = with_server(lambda server: udp(server, "good.test", "MX"))
    assert reply.answer[0].ttl == 60


def test_a_star_stands_for_names_without_an_entry_of_their_own() -> None:
    async def both(server: NameServer) -> list[list[str]]:
        found = [await udp(server, f"{name}.many.test", "A") for name in ("x", "own", "a.b")]
        assert str(found[0].answer[0].name) == "x.many.test."
        return [answers(reply) for reply in found]

    assert with_server(both) == [["127.0.0.3"], ["127.0.0.4"], ["127.0.0.3"]]


def test_aliases_are_followed() -> None:
    reply = with_server(lambda server: udp(server, "alias.test", "MX"))
    assert [len(rrset) for rrset in reply.answer] == [1, 2]


def test_an_alias_ring_ends() -> None:
    reply = with_server(lambda server: udp(server, "ring1.test", "MX"))
    assert (reply.rcode(), len(reply.answer)) == (dns.rcode.NOERROR, 2)


def test_an_alias_to_nothing_does_not_exist() -> None:
    reply = with_server(lambda server: udp(server, "nowhere.test", "MX"))
    assert (reply.rcode(), len(reply.answer)) == (dns.rcode.NXDOMAIN, 1)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("missing.test", dns.rcode.NXDOMAIN),
        ("empty.test", dns.rcode.NOERROR),
        ("mx1.good.test", dns.rcode.NOERROR),
    ],
)
def test_what_does_not_exist_comes_with_a_time_for_the_negative_cache(
    name: str, code: dns.rcode.Rcode
) -> None:
    reply = with_server(lambda server: udp(server, name, "MX"))
    assert (reply.rcode(), reply.answer) == (code, [])
    assert reply.authority[0][0].minimum == 60


@pytest.mark.parametrize(
    ("name", "rdtype", "code"),
    [
        ("sick.test", "MX", dns.rcode.SERVFAIL),
        ("shy.test", "A", dns.rcode.REFUSED),
        ("half.test", "AAAA", dns.rcode.SERVFAIL),
        ("half.test", "A", dns.rcode.NOERROR),
    ],
)
def test_marks_choose_the_answer_code(name: str, rdtype: str, code: dns.rcode.Rcode) -> None:
    assert with_server(lambda server: udp(server, name, rdtype)).rcode() == code


def test_silence_is_counted_but_not_answered() -> None:
    async def ask(server: NameServer) -> int:
        with pytest.raises(dns.exception.Timeout):
            await udp(server, "mute.test", "MX")
        return server.count("mute.test", "MX")

    assert with_server(ask) == 1


def test_truncation_forces_tcp() -> None:
    async def ask(server: NameServer) -> list[list[str]]:
        cut, whole = await udp(server, "cut.test", "A"), await tcp(server, "cut.test", "A")
        assert cut.flags & dns.flags.TC
        return [answers(cut), answers(whole)]

    assert with_server(ask) == [[], ["127.0.0.6"]]


def test_an_answer_too_large_for_udp_is_truncated() -> None:
    async def ask(server: NameServer) -> list[int]:
        cut, whole = await udp(server, "crowd.test", "MX"), await tcp(server, "crowd.test", "MX")
        assert cut.flags & dns.flags.TC
        return [len(answers(cut)), len(answers(whole))]

    assert with_server(ask) == [0, 200]


@pytest.mark.parametrize("name", ["noise.test", "stranger.test"])
def test_answers_that_are_none_are_not_taken_for_one(name: str) -> None:
    async def ask(server: NameServer) -> None:
        with pytest.raises(dns.exception.DNSException):
            await udp(server, name, "MX")

    with_server(ask)


def test_a_delay_passes_before_the_answer() -> None:
    async def ask(server: NameServer) -> float:
        loop = asyncio.get_running_loop()
        started = loop.time()
        await udp(server, "late.test", "A")
        return loop.time() - started

    assert with_server(ask) >= 0.09


def test_a_server_may_end_while_answers_are_delayed() -> None:
    async def ask(server: NameServer) -> None:
        server.publish("never.test", ["!DELAY 3600"])
        with pytest.raises(dns.exception.Timeout):
            await tcp(server, "never.test", "A")

    with_server(ask)


def test_a_secure_name_has_the_ad_bit() -> None:
    async def ask(server: NameServer) -> list[bool]:
        return [
            bool((await udp(server, name, "A")).flags & dns.flags.AD)
            for name in ("signed.test", "mx1.good.test")
        ]

    assert with_server(ask) == [True, False]


def test_names_can_be_published_and_withdrawn_while_it_runs() -> None:
    async def ask(server: NameServer) -> list[list[str]]:
        server.publish("new.test", ["A 127.0.0.9"])
        before = await udp(server, "new.test", "A")
        server.withdraw("new.test")
        return [answers(before), answers(await udp(server, "new.test", "A"))]

    assert with_server(ask) == [["127.0.0.9"], []]


def test_a_resolver_can_be_pointed_at_it() -> None:
    async def ask(server: NameServer) -> str:
        resolver = dns.asyncresolver.Resolver(configure=False)
        resolver.nameservers, resolver.port = [server.host], server.port
        found = await resolver.resolve("null.test", "MX")
        assert server.address == f"127.0.0.1:{server.port}"
        assert server.queries == [Query("null.test", "MX", "udp")]
        return str(found[0])

    assert with_server(ask) == "0 ."


def test_octets_that_are_no_question_are_ignored() -> None:
    async def ask(server: NameServer) -> None:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, remote_addr=(server.host, server.port)
        )
        transport.sendto(b"what?")
        transport.close()
        assert answers(await udp(server, "own.many.test", "A")) == ["127.0.0.4"]
        assert server.count() == 1

    with_server(ask)


@pytest.mark.parametrize("record", ["MX", "MX ten mx.test", "A 1.2.3", "NONSENSE x", "!NONSENSE"])
def test_a_zone_that_cannot_be_read_is_refused(record: str) -> None:
    with pytest.raises(ZoneError):
        NameServer({"bad.test": [record]})
