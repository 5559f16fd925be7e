"""Which addresses are dialled, in what order, and what a site is called."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deliveryagent.mail.delivery import Failure, Trouble
from deliveryagent.mail.nexthop import Endpoint, HostAddresses, MailHosts, parse_next_hops
from deliveryagent.policy.targets import (
    OwnNames,
    TargetSettings,
    includes_ourselves,
    order,
    site_name,
)

DEFAULTS = TargetSettings()
NOBODY = OwnNames()


def host(
    name: str, preference: int, *addresses: str, trouble: Trouble | None = None
) -> HostAddresses:
    failure = Failure(trouble, f"{name}: {trouble}") if trouble else None
    return HostAddresses(name, preference, addresses, failure)


def dial(
    *hosts: HostAddresses,
    settings: TargetSettings = DEFAULTS,
    own: OwnNames = NOBODY,
    port: int = 25,
    seed: int = 1,
    mx: bool = True,
    implicit: bool = False,
) -> tuple[Endpoint, ...] | Failure:
    return order(
        MailHosts(hosts, implicit=implicit),
        port=port,
        settings=settings,
        own=own,
        rng=random.Random(seed),
        mx=mx,
    )


def ips(found: tuple[Endpoint, ...] | Failure) -> list[str]:
    assert not isinstance(found, Failure), found
    return [endpoint.ip for endpoint in found]


def trouble(found: tuple[Endpoint, ...] | Failure) -> Trouble:
    assert isinstance(found, Failure)
    return found.trouble


def test_the_best_preference_comes_first() -> None:
    found = dial(host("b.example", 20, "192.0.2.2"), host("a.example", 10, "192.0.2.1"))
    assert ips(found) == ["192.0.2.1", "192.0.2.2"]
    assert not isinstance(found, Failure)
    assert found[0] == Endpoint("a.example", "192.0.2.1", 25, 10)


def test_equal_preferences_share_the_work() -> None:
    first = Counter(
        ips(dial(host("a.x", 10, "192.0.2.1"), host("b.x", 10, "192.0.2.2"), seed=seed))[0]
        for seed in range(200)
    )
    assert 60 <= first["192.0.2.1"] <= 140


def test_without_shuffling_the_given_order_stays() -> None:
    fixed = TargetSettings(randomize_addresses=False)
    found = dial(host("a.x", 10, "192.0.2.3", "192.0.2.1", "192.0.2.2"), settings=fixed)
    assert ips(found) == ["192.0.2.3", "192.0.2.1", "192.0.2.2"]


def test_a_preferred_family_comes_first_among_equals_only() -> None:
    hosts = (host("a.x", 10, "192.0.2.1", "2001:db8::1"), host("b.x", 20, "2001:db8::2"))
    four = TargetSettings(address_preference="ipv4")
    six = TargetSettings(address_preference="ipv6")
    assert ips(dial(*hosts, settings=four)) == ["192.0.2.1", "2001:db8::1", "2001:db8::2"]
    assert ips(dial(*hosts, settings=six)) == ["2001:db8::1", "192.0.2.1", "2001:db8::2"]


def test_one_address_under_two_names_is_dialled_once_where_it_is_best() -> None:
    found = dial(host("b.x", 20, "192.0.2.1"), host("a.x", 10, "192.0.2.1", "192.0.2.1"))
    assert found == (Endpoint("a.x", "192.0.2.1", 25, 10),)


FOURS = [f"192.0.2.{n}" for n in range(1, 10)]
SIXES = [f"2001:db8::{n}" for n in range(1, 10)]


@pytest.mark.parametrize(
    ("fours", "sixes", "limit", "kept"),
    [
        (9, 1, 5, (4, 1)),
        (1, 9, 5, (1, 4)),
        (9, 2, 5, (3, 2)),
        (9, 9, 4, (2, 2)),
        (2, 2, 5, (2, 2)),
        (9, 0, 5, (5, 0)),
        (0, 9, 5, (0, 5)),
    ],
)
def test_both_families_are_kept_within_the_limit(
    fours: int, sixes: int, limit: int, kept: tuple[int, int]
) -> None:
    found = ips(
        dial(
            host("a.x", 10, *FOURS[:fours], *SIXES[:sixes]),
            settings=TargetSettings(mx_address_limit=limit),
        )
    )
    six = sum(":" in ip for ip in found)
    assert (len(found) - six, six) == kept


def test_the_odd_place_goes_to_the_family_of_the_first_address() -> None:
    settings = TargetSettings(mx_address_limit=5, randomize_addresses=False)
    found = ips(dial(host("a.x", 10, *SIXES, *FOURS), settings=settings))
    assert sum(":" in ip for ip in found) == 3


def test_a_limit_of_one_keeps_the_first_and_zero_keeps_all() -> None:
    one = TargetSettings(mx_address_limit=1, randomize_addresses=False)
    assert ips(dial(host("a.x", 10, *FOURS, *SIXES), settings=one)) == [FOURS[0]]
    everything = TargetSettings(mx_address_limit=0)
    assert len(ips(dial(host("a.x", 10, *FOURS, *SIXES), settings=everything))) == 18


def test_families_can_be_left_unbalanced() -> None:
    settings = TargetSettings(balance_inet_protocols=False, randomize_addresses=False)
    assert ips(dial(host("a.x", 10, *FOURS, *SIXES), settings=settings)) == FOURS[:5]


def test_a_family_that_is_switched_off_is_not_dialled() -> None:
    four = TargetSettings(inet_protocols="ipv4")
    assert ips(dial(host("a.x", 10, "192.0.2.1", "2001:db8::1"), settings=four)) == ["192.0.2.1"]
    found = dial(host("a.x", 10, "2001:db8::1"), settings=four)
    assert trouble(found) is Trouble.NO_ADDRESS_FAMILY


OWN = OwnNames(frozenset({"me.example"}), frozenset({"192.0.2.9"}))


def test_only_hosts_better_than_ourselves_are_used() -> None:
    hosts = (
        host("a.x", 10, "192.0.2.1"),
        host("me.example", 20, "198.51.100.1"),
        host("b.x", 20, "192.0.2.2"),
        host("c.x", 30, "192.0.2.3"),
    )
    assert ips(dial(*hosts, own=OWN)) == ["192.0.2.1"]


def test_we_are_known_by_address_as_well() -> None:
    hosts = (host("a.x", 10, "192.0.2.1"), host("alias.x", 20, "192.0.2.8", "192.0.2.9"))
    assert ips(dial(*hosts, own=OWN)) == ["192.0.2.1"]


def test_a_domain_whose_best_host_we_are_loops() -> None:
    found = dial(host("me.example", 10, "198.51.100.1"), host("b.x", 20, "192.0.2.2"), own=OWN)
    assert trouble(found) is Trouble.LOOP
    assert isinstance(found, Failure)
    assert "me.example" in found.text


def test_a_backup_does_not_bounce_when_the_primary_has_no_address() -> None:
    hosts = (
        host("a.x", 10, trouble=Trouble.HOST_NOT_FOUND),
        host("me.example", 20, "198.51.100.1"),
    )
    assert trouble(dial(*hosts, own=OWN)) is Trouble.PRIMARY_UNREACHABLE
    hosts = (host("a.x", 10, trouble=Trouble.DNS_TEMPORARY), hosts[1])
    assert trouble(dial(*hosts, own=OWN)) is Trouble.DNS_TEMPORARY


def test_on_another_port_nobody_is_ourselves() -> None:
    assert ips(dial(host("me.example", 10, "192.0.2.9"), own=OWN, port=2525)) == ["192.0.2.9"]


def test_our_own_port_may_be_another() -> None:
    settings = TargetSettings(port=2525)
    found = dial(host("me.example", 10, "192.0.2.9"), own=OWN, port=2525, settings=settings)
    assert trouble(found) is Trouble.LOOP


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "127.9.9.9", "0.0.0.0", "0.1.2.3", "::1", "::", "::ffff:127.0.0.1"]
)
def test_mail_for_others_never_goes_to_private_services_of_this_machine(address: str) -> None:
    assert trouble(dial(host("a.x", 10, address))) is Trouble.LOOP
    assert ips(dial(host("good.x", 5, "192.0.2.1"), host("a.x", 10, address))) == ["192.0.2.1"]
    assert ips(dial(host("a.x", 10, address), own=OwnNames(allow_loopback=True))) == [address]
    assert ips(dial(host("a.x", 10, address), mx=False)) == [address]


def test_a_next_hop_in_brackets_is_taken_as_it_is() -> None:
    assert ips(dial(host("me.example", 0, "192.0.2.9"), own=OWN, mx=False)) == ["192.0.2.9"]


@pytest.mark.parametrize(
    ("troubles", "worst"),
    [
        ([Trouble.HOST_NOT_FOUND, Trouble.DNS_TEMPORARY], Trouble.DNS_TEMPORARY),
        ([Trouble.DNS_FAILED, Trouble.DNS_INVALID], Trouble.DNS_INVALID),
        ([Trouble.HOST_NOT_FOUND, Trouble.DNS_FAILED], Trouble.DNS_FAILED),
        ([Trouble.HOST_NOT_FOUND, Trouble.HOST_NOT_FOUND], Trouble.HOST_NOT_FOUND),
    ],
)
def test_the_most_hopeful_reason_counts_when_no_host_resolves(
    troubles: list[Trouble], worst: Trouble
) -> None:
    hosts = [host(f"h{n}.x", n, trouble=kind) for n, kind in enumerate(troubles)]
    assert trouble(dial(*hosts)) is worst


def test_one_host_that_resolves_is_enough() -> None:
    hosts = (host("a.x", 10, trouble=Trouble.DNS_TEMPORARY), host("b.x", 20, "192.0.2.2"))
    assert ips(dial(*hosts)) == ["192.0.2.2"]


def test_hosts_without_addresses_bounce_unless_told_to_wait() -> None:
    lost = host("a.x", 10, trouble=Trouble.HOST_NOT_FOUND)
    found = dial(lost)
    assert isinstance(found, Failure)
    assert found.enhanced == ""
    patient = dial(lost, settings=TargetSettings(defer_if_no_mx_address_found=True))
    assert isinstance(patient, Failure)
    assert patient.enhanced == "4.4.4"


def test_a_domain_without_mx_records_keeps_its_own_reason() -> None:
    lost = host("a.x", 0, trouble=Trouble.HOST_NOT_FOUND)
    assert dial(lost, implicit=True) == lost.trouble
    assert trouble(dial()) is Trouble.HOST_NOT_FOUND
    assert trouble(dial(host("a.x", 0), implicit=True)) is Trouble.HOST_NOT_FOUND


HOSTS = st.lists(
    st.builds(
        lambda name, preference, addresses: host(name, preference, *addresses),
        st.sampled_from(["a.x", "b.x", "c.x", "me.example"]),
        st.integers(0, 3),
        st.lists(st.sampled_from(FOURS + SIXES), max_size=5),
    ),
    max_size=5,
)
SETTINGS = st.builds(
    TargetSettings,
    mx_address_limit=st.integers(0, 8),
    randomize_addresses=st.booleans(),
    address_preference=st.sampled_from(["any", "ipv4", "ipv6"]),
    balance_inet_protocols=st.booleans(),
    inet_protocols=st.sampled_from(["all", "ipv4", "ipv6"]),
)


@given(HOSTS, SETTINGS, st.integers(0, 100))
def test_any_hosts_give_a_sound_list_or_a_reason(
    hosts: list[HostAddresses], settings: TargetSettings, seed: int
) -> None:
    found = dial(*hosts, settings=settings, own=OWN, seed=seed)
    assert found == dial(*hosts, settings=settings, own=OWN, seed=seed)
    if isinstance(found, Failure):
        assert found.text
        return
    given_addresses = {(h.name, h.preference, ip) for h in hosts for ip in h.addresses}
    assert found
    assert {(e.host, e.preference, e.ip) for e in found} <= given_addresses
    assert len({e.ip for e in found}) == len(found)
    assert [e.preference for e in found] == sorted(e.preference for e in found)
    mine = [h.preference for h in hosts if h.name == "me.example" or "192.0.2.9" in h.addresses]
    assert all(e.preference < min(mine, default=99) for e in found)
    assert not settings.mx_address_limit or len(found) <= settings.mx_address_limit


def name(next_hop: str, *hosts: str) -> str:
    found = MailHosts(tuple(host(h, n) for n, h in enumerate(hosts)))
    return site_name(found, parse_next_hops(next_hop)[0])


GOOGLE = ("aspmx.l.google.com", *(f"alt{n}.aspmx.l.google.com" for n in range(1, 5)))


def test_domains_with_the_same_hosts_are_one_site_whatever_their_preferences() -> None:
    assert name("one.example", *GOOGLE) == name("two.example", *reversed(GOOGLE))
    assert name("one.example", *GOOGLE) != name("one.example", *GOOGLE[1:])


def test_a_site_is_called_by_what_its_hosts_have_in_common() -> None:
    assert name("a.example", "MX.example.org") == "mx.example.org"
    assert name("a.example", "b.example.org", "a.example.org") == "a.example.org,b.example.org"
    assert name("a.example", *GOOGLE).startswith("aspmx.l.google.com~")


def test_port_and_transport_make_another_site() -> None:
    names = {
        name("[mx.example]", "mx.example"),
        name("[mx.example]:26", "mx.example"),
        name("lmtp:mx.example", "mx.example"),
        name("lmtp:mx.example:26", "mx.example"),
        name("lmtp:unix:/run/lmtp"),
    }
    assert len(names) == 5
    assert "lmtp:unix:/run/lmtp" in names


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=60, unique=True))
def test_no_site_has_a_name_too_long_to_read(numbers: list[int]) -> None:
    hosts = [f"h{n}.{'long' * 10}.example" for n in numbers]
    assert 1 <= len(name("a.example:2525", *hosts)) <= 200
    assert len(name(f"error:{'x' * 500}")) <= 200
    unlike = [f"{'l' * 60}{n}.{'m' * 60}.{'n' * 60}.d{n}" for n in numbers]
    assert len(name("a.example", *unlike)) <= 200


def test_being_any_of_the_hosts_is_noticed() -> None:
    hosts = (host("a.x", 10, "192.0.2.1"), host("me.example", 20, "198.51.100.1"))
    assert includes_ourselves(MailHosts(hosts), OWN)
    assert not includes_ourselves(MailHosts(hosts[:1]), OWN)
