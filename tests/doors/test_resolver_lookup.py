"""What the resolver makes of zones, good and bad (RFC 5321 5.1, RFC 7505)."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from deliveryagent.lab.nameserver import NameServer
from deliveryagent.mail.delivery import Failure, Trouble
from deliveryagent.mail.nexthop import MailHosts, NextHop, parse_next_hops
from deliveryagent.resolver.lookup import Resolver
from deliveryagent.resolver.settings import ResolverSettings
from deliveryagent.setting import parse_duration

Found = MailHosts | Failure

ZONE: dict[str, list[str]] = {
    "good.test": ["MX 20 mx2.good.test", "MX 10 mx1.good.test"],
    "mx1.good.test": ["A 127.0.0.2", "AAAA ::1"],
    "mx2.good.test": ["A 127.0.0.3"],
    "bare.test": ["A 127.0.0.4", "AAAA ::1"],
    "alias.test": ["CNAME good.test"],
    "mxalias.test": ["MX 10 aliased.test"],
    "aliased.test": ["CNAME mx1.good.test"],
    "loop.test": ["CNAME loop2.test"],
    "loop2.test": ["CNAME loop.test"],
    "null.test": ["MX 0 ."],
    "mixed-null.test": ["MX 0 .", "MX 10 mx1.good.test"],
    "empty.test": ["TXT nothing"],
    "sick.test": ["!SERVFAIL", "A 127.0.0.4"],
    "sickmx.test": ["!SERVFAIL MX", "A 127.0.0.4"],
    "refused.test": ["!REFUSED"],
    "formerr.test": ["!FORMERR"],
    "silent.test": ["!SILENCE"],
    "garbage.test": ["!GARBAGE"],
    "stranger.test": ["!STRANGER"],
    "half.test": ["MX 10 halfhost.test"],
    "halfhost.test": ["A 127.0.0.5", "!SERVFAIL AAAA"],
    "sickhost.test": ["MX 10 sick.test", "MX 20 gone.test"],
    "dangling.test": ["MX 10 gone.test", "MX 20 mx2.good.test"],
    "lost.test": ["MX 10 gone.test"],
    "numeric.test": ["MX 10 127.0.0.9"],
    "odd.test": ["MX 10 bad\\ host.test", "MX 20 mx1.good.test"],
    "allodd.test": ["MX 10 bad\\ host.test"],
    "twice.test": ["MX 20 mx1.good.test", "MX 10 mx1.good.test"],
    "cut.test": ["MX 10 mx1.good.test", "!TRUNCATE"],
    "secure.test": ["MX 10 securehost.test", "!SECURE"],
    "securehost.test": ["A 127.0.0.2", "!SECURE"],
    "brief.test": ["0 MX 10 mx1.good.test"],
    "crowd.test": [f"MX {n} mx{n}.crowd.test" for n in range(1, 151)],
    "*.crowd.test": ["A 127.0.0.8"],
}

PATIENT: dict[str, Any] = {"timeout": 5.0, "attempts": 1}


def by_mx(domain: str) -> NextHop:
    return NextHop("smtp", domain.lower(), mx=True)


def ask(
    *domains: str,
    zone: Mapping[str, list[str]] = ZONE,
    times: int = 1,
    **changes: Any,
) -> tuple[list[Found], NameServer]:
    """Resolve next hops one after the other against the zone, each several times at once."""

    async def run() -> tuple[list[Found], NameServer]:
        async with NameServer(zone) as server:
            settings = ResolverSettings(**{"nameservers": (server.address,), **PATIENT, **changes})
            resolver = Resolver(settings)
            found: list[Found] = []
            for domain in domains:
                (hop,) = parse_next_hops(domain)
                found += await asyncio.gather(*(resolver.next_hop(hop) for _ in range(times)))
            await resolver.close()
            return found, server

    return asyncio.run(run())


def hosts(domain: str, **changes: Any) -> MailHosts:
    ((found,), _) = ask(domain, **changes)
    assert isinstance(found, MailHosts), found
    return found


def failure(domain: str, **changes: Any) -> Failure:
    ((found,), _) = ask(domain, **changes)
    assert isinstance(found, Failure), found
    return found


def listed(found: MailHosts) -> list[tuple[str, int, tuple[str, ...]]]:
    return [(host.name, host.preference, host.addresses) for host in found.hosts]


def test_mx_hosts_come_by_preference_with_both_families() -> None:
    found = hosts("good.test")
    assert listed(found) == [
        ("mx1.good.test", 10, ("127.0.0.2", "::1")),
        ("mx2.good.test", 20, ("127.0.0.3",)),
    ]
    assert not found.implicit
    assert found.hosts[0].trouble is None


def test_a_domain_without_mx_stands_in_for_itself() -> None:
    found = hosts("bare.test")
    assert listed(found) == [("bare.test", 0, ("127.0.0.4", "::1"))]
    assert found.implicit


def test_a_domain_that_is_an_alias_is_followed() -> None:
    assert listed(hosts("alias.test")) == listed(hosts("good.test"))


def test_an_mx_host_that_is_an_alias_is_followed() -> None:
    assert listed(hosts("mxalias.test")) == [("aliased.test", 10, ("127.0.0.2", "::1"))]


@pytest.mark.parametrize("domain", ["null.test", "mixed-null.test"])
def test_a_null_mx_is_final_and_no_address_is_asked_for(domain: str) -> None:
    ((found,), server) = ask(domain)
    assert isinstance(found, Failure)
    assert found.trouble is Trouble.NULL_MX
    assert [query.rdtype for query in server.queries] == ["MX"]


def test_a_domain_that_does_not_exist_is_a_bad_destination() -> None:
    found = failure("nowhere.test")
    assert (found.trouble, found.enhanced) == (Trouble.HOST_NOT_FOUND, "5.1.2")
    assert "nowhere.test" in found.text


def test_a_domain_without_mx_and_address_is_not_found() -> None:
    found = failure("empty.test")
    assert (found.trouble, found.enhanced) == (Trouble.HOST_NOT_FOUND, "")


@pytest.mark.parametrize(
    "domain", ["sick.test", "refused.test", "silent.test", "garbage.test", "stranger.test"]
)
def test_a_failure_that_may_pass_is_temporary(domain: str) -> None:
    found = failure(domain, timeout=0.2)
    assert found.trouble is Trouble.DNS_TEMPORARY
    assert domain in found.text
    assert found.text.isprintable()


def test_a_failed_mx_lookup_never_falls_back_to_addresses() -> None:
    ((found,), server) = ask("sickmx.test")
    assert isinstance(found, Failure)
    assert found.trouble is Trouble.DNS_TEMPORARY
    assert server.count("sickmx.test", "A") == 0


def test_a_failed_mx_lookup_falls_back_when_told_to() -> None:
    found = hosts("sickmx.test", ignore_mx_lookup_error=True)
    assert listed(found) == [("sickmx.test", 0, ("127.0.0.4",))]
    assert failure("sick.test", ignore_mx_lookup_error=True).trouble is Trouble.DNS_TEMPORARY


def test_a_question_the_servers_will_never_answer_has_failed_for_good() -> None:
    assert failure("formerr.test").trouble is Trouble.DNS_FAILED


def test_an_alias_that_leads_back_to_itself_is_never_an_address() -> None:
    found = failure("loop.test")
    assert found.trouble in (Trouble.DNS_TEMPORARY, Trouble.HOST_NOT_FOUND)


def test_one_family_is_enough() -> None:
    assert listed(hosts("half.test")) == [("halfhost.test", 10, ("127.0.0.5",))]


def test_hosts_that_do_not_resolve_are_named_with_their_trouble() -> None:
    found = hosts("dangling.test")
    assert [bool(host.addresses) for host in found.hosts] == [False, True]
    assert found.hosts[0].trouble is not None
    assert found.hosts[0].trouble.trouble is Trouble.HOST_NOT_FOUND
    troubles = [host.trouble and host.trouble.trouble for host in hosts("sickhost.test").hosts]
    assert troubles == [Trouble.DNS_TEMPORARY, Trouble.HOST_NOT_FOUND]


def test_an_mx_domain_whose_hosts_are_gone_never_uses_its_own_address() -> None:
    found = hosts("lost.test", zone={**ZONE, "lost.test": ["MX 10 gone.test", "A 127.0.0.6"]})
    assert listed(found) == [("gone.test", 10, ())]


def test_an_address_as_mx_target_is_taken_for_what_it_is() -> None:
    assert listed(hosts("numeric.test")) == [("127.0.0.9", 10, ("127.0.0.9",))]


def test_impossible_mx_targets_are_left_out() -> None:
    assert [name for name, *_ in listed(hosts("odd.test"))] == ["mx1.good.test"]
    assert failure("allodd.test").trouble is Trouble.DNS_INVALID


def test_a_host_named_twice_counts_where_it_is_best() -> None:
    assert [(n, p) for n, p, _ in listed(hosts("twice.test"))] == [("mx1.good.test", 10)]


def test_a_truncated_answer_is_fetched_over_tcp() -> None:
    ((found,), server) = ask("cut.test")
    assert isinstance(found, MailHosts)
    assert [q.transport for q in server.queries if q.name == "cut.test"] == ["udp", "tcp"]


def test_only_the_hundred_best_of_many_records_are_kept() -> None:
    found = hosts("crowd.test")
    assert [host.preference for host in found.hosts] == list(range(1, 101))


@pytest.mark.parametrize(
    "domain",
    ["a..test", f"{'x' * 64}.test", f"{'x.' * 127}test", "ü.test", "a b.test", "a\\046test"],
)
def test_a_malformed_name_is_invalid_and_never_asked_for(domain: str) -> None:
    async def run() -> None:
        async with NameServer(ZONE) as server:
            resolver = Resolver(ResolverSettings(nameservers=(server.address,)))
            found = await resolver.next_hop(by_mx(domain))
            assert isinstance(found, Failure)
            assert found.trouble is Trouble.DNS_INVALID
            assert server.queries == []

    asyncio.run(run())


@pytest.mark.parametrize(("trusted", "expected"), [(True, True), (False, False)])
def test_the_servers_word_about_dnssec_counts_only_when_trusted(
    trusted: bool, expected: bool
) -> None:
    assert hosts("secure.test", trust_ad=trusted).authenticated is expected
    assert not hosts("good.test", trust_ad=trusted).authenticated


def test_an_unwanted_family_is_not_asked_for() -> None:
    async def run() -> None:
        async with NameServer(ZONE) as server:
            resolver = Resolver(ResolverSettings(nameservers=(server.address,)))
            found = await resolver.next_hop(by_mx("good.test"), protocols="ipv4")
            assert isinstance(found, MailHosts)
            assert [host.addresses for host in found.hosts] == [("127.0.0.2",), ("127.0.0.3",)]
            assert server.count(rdtype="AAAA") == 0
            other = await resolver.next_hop(by_mx("good.test"), protocols="ipv6")
            assert isinstance(other, MailHosts)
            assert other.hosts[0].addresses == ("::1",)

    asyncio.run(run())


def test_brackets_and_literals_ask_for_no_mx() -> None:
    (found, server) = ask("[bare.test]", "[127.0.0.7]", "[ipv6:::1]:26", "[localhost]")
    assert [listed(f) for f in found if isinstance(f, MailHosts)] == [
        [("bare.test", 0, ("127.0.0.4", "::1"))],
        [("127.0.0.7", 0, ("127.0.0.7",))],
        [("::1", 0, ("::1",))],
        [("localhost", 0, ("127.0.0.1", "::1"))],
    ]
    assert {query.rdtype for query in server.queries} == {"A", "AAAA"}
    ((gone,), _) = ask("[gone.test]")
    assert isinstance(gone, Failure)
    assert (gone.trouble, gone.enhanced) == (Trouble.HOST_NOT_FOUND, "")


def test_answers_are_remembered_and_asked_for_once_at_a_time() -> None:
    (found, server) = ask("good.test", "good.test", times=5)
    assert len(found) == 10
    assert server.count("good.test") == 1
    assert server.count() == 5


@pytest.mark.parametrize("domain", ["nowhere.test", "sick.test", "empty.test"])
def test_absence_and_failure_are_remembered_too(domain: str) -> None:
    (_, server) = ask(domain, domain)
    assert server.count(domain, "MX") == 1


def test_an_answer_is_asked_for_again_after_its_time() -> None:
    async def run() -> None:
        now = 100.0
        async with NameServer(ZONE, ttl=30, negative_ttl=20) as server:
            resolver = Resolver(
                ResolverSettings(
                    nameservers=(server.address,), failure_ttl=parse_duration(5), **PATIENT
                ),
                clock=lambda: now,
            )
            for domain in ("bare.test", "nowhere.test", "sick.test", "brief.test"):
                await resolver.next_hop(by_mx(domain))
            server.queries.clear()
            now += 4
            for domain in ("bare.test", "nowhere.test", "sick.test", "brief.test"):
                await resolver.next_hop(by_mx(domain))
            assert server.queries == []
            now += 2
            await resolver.next_hop(by_mx("bare.test"))
            left = resolver.holds(NextHop("smtp", "bare.test", mx=True))
            assert left == pytest.approx(14)  # no MX is known for 20 s, its addresses for 30
            await resolver.next_hop(by_mx("nowhere.test"))
            assert server.queries == []
            await resolver.next_hop(by_mx("sick.test"))
            await resolver.next_hop(by_mx("brief.test"))
            assert {query.name for query in server.queries} == {"sick.test", "brief.test"}
            now += 15
            server.queries.clear()
            await resolver.next_hop(by_mx("bare.test"))
            await resolver.next_hop(by_mx("nowhere.test"))
            assert {(q.name, q.rdtype) for q in server.queries} == {
                ("bare.test", "MX"),
                ("nowhere.test", "MX"),
                ("nowhere.test", "A"),
                ("nowhere.test", "AAAA"),
            }
            await resolver.close()

    asyncio.run(run())


def test_a_waiter_that_gives_up_does_not_disturb_the_others() -> None:
    async def run() -> None:
        zone = {**ZONE, "late.test": ["!DELAY 0.1", "MX 10 mx1.good.test"]}
        async with NameServer(zone) as server:
            resolver = Resolver(ResolverSettings(nameservers=(server.address,)))
            first = asyncio.create_task(resolver.next_hop(by_mx("late.test")))
            second = asyncio.create_task(resolver.next_hop(by_mx("late.test")))
            await asyncio.sleep(0.02)
            first.cancel()
            assert isinstance(await second, MailHosts)
            assert server.count("late.test") == 1

    asyncio.run(run())


def test_the_next_server_answers_when_the_first_does_not() -> None:
    async def run() -> None:
        dead = {"*.test": ["!SILENCE"]}
        async with NameServer(dead) as first, NameServer(ZONE) as second:
            resolver = Resolver(
                ResolverSettings(
                    nameservers=(first.address, second.address),
                    timeout=parse_duration(0.1),
                    attempts=1,
                )
            )
            assert isinstance(await resolver.next_hop(by_mx("good.test")), MailHosts)
            asked = first.count()
            assert isinstance(await resolver.next_hop(by_mx("bare.test")), MailHosts)
            assert first.count() == asked  # the one that answers is asked first from now on

    asyncio.run(run())


def test_a_name_server_that_is_none_is_a_configuration_error() -> None:
    with pytest.raises(ValueError, match="is no name server"):
        Resolver(ResolverSettings(nameservers=("ns.example.org",)))


def test_what_another_resolver_found_is_not_asked_for_again() -> None:
    async def run() -> None:
        async with NameServer(ZONE) as server:
            settings = ResolverSettings(nameservers=(f"127.0.0.1:{server.port}",))
            other, resolver = Resolver(settings), Resolver(settings)
            found = await other.next_hop(by_mx("good.test"))
            assert isinstance(found, MailHosts)
            asked = len(server.queries)
            resolver.learn(by_mx("good.test"), found, 60.0)
            assert await resolver.next_hop(by_mx("good.test")) is found
            assert 0.0 < resolver.holds(by_mx("good.test")) <= 60.0
            again = MailHosts(())
            resolver.learn(by_mx("good.test"), again, 60.0)
            assert await resolver.next_hop(by_mx("good.test")) is found, "what is known stays"
            assert len(server.queries) == asked

    asyncio.run(run())
