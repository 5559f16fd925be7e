"""Routes: first match wins, relays, literals."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deliveryagent.mail.address import destination_of
from deliveryagent.mail.nexthop import NextHopError, parse_next_hops
from deliveryagent.policy import routing
from deliveryagent.policy.routing import RelaySettings, Routed, RouteError, Router, RouteSettings


def router(*routes: tuple[str, str], relay: str = "") -> Router:
    """A router of routes given as patterns separated by spaces, and a next hop."""
    return Router(
        [RouteSettings(match=tuple(match.split()), nexthop=hop) for match, hop in routes],
        RelaySettings(host=relay),
    )


def way(of: Router, address: str) -> tuple[int, str]:
    routed = of.route(address, destination_of(address))
    return routed.index, routed.next_hop


def test_without_routes_mail_goes_to_the_hosts_of_its_domain() -> None:
    assert way(router(), "joe@Example.ORG") == (-1, "example.org")
    assert way(Router(), "joe@example.org") == (-1, "example.org")


def test_a_literal_goes_to_its_address() -> None:
    assert way(router(), "joe@[192.0.2.1]") == (-1, "[192.0.2.1]")
    index, next_hop = way(router(), "joe@[IPv6:2001:DB8::1]")
    assert (index, next_hop) == (-1, "[ipv6:2001:db8::1]")
    assert parse_next_hops(next_hop)[0].host == "2001:db8::1"


def test_a_relay_takes_what_no_route_matches() -> None:
    routes = router(("example.net", "[192.0.2.7]"), relay="[smtp.example.com]:587")
    assert way(routes, "a@example.net") == (0, "[192.0.2.7]")
    assert way(routes, "a@example.org") == (-1, "[smtp.example.com]:587")
    assert way(routes, "a@[192.0.2.1]") == (-1, "[smtp.example.com]:587")


def test_a_dot_matches_subdomains_and_not_the_domain() -> None:
    routes = router((".example.net", "[a.example]"))
    assert way(routes, "x@deep.sub.example.net")[0] == 0
    assert way(routes, "x@example.net")[0] == -1
    assert way(routes, "x@badexample.net")[0] == -1


def test_the_first_match_wins_however_unspecific() -> None:
    routes = router(("*", "[all.example]"), ("example.org joe@example.org", "[late.example]"))
    assert way(routes, "joe@example.org") == (0, "[all.example]")
    assert routes.by_domain("example.org") == Routed(0, "[all.example]")


def test_an_address_can_go_its_own_way() -> None:
    routes = router(("Joe@Example.org", "hold:look at it"), ("example.org", "[b.example]"))
    assert routes.by_domain("example.org") is None
    assert way(routes, "joe@example.org") == (0, "hold:look at it")
    assert way(routes, "ann@example.org") == (1, "[b.example]")
    assert way(routes, "joe@example.net") == (-1, "example.net")


def test_a_route_without_a_next_hop_keeps_the_domains_own_hosts() -> None:
    assert way(router(("example.org", "")), "a@example.org") == (0, "example.org")


def test_international_patterns_match_their_a_labels() -> None:
    assert way(router(("bücher.example", "[c.example]")), "a@xn--bcher-kva.example")[0] == 0


def test_a_literal_can_be_matched() -> None:
    routes = router(("[192.0.2.1]", "discard:"))
    assert way(routes, "joe@[192.0.2.1]") == (0, "discard:")


@pytest.mark.parametrize(
    "pattern", ["", "exa mple.org", "..example.org", "joe@", "[nonsense]", "a..b"]
)
def test_a_pattern_that_matches_nothing_is_refused(pattern: str) -> None:
    with pytest.raises(RouteError, match="matches nothing"):
        Router([RouteSettings(match=(pattern,), nexthop="[a.example]")])


def test_a_bad_next_hop_is_refused() -> None:
    with pytest.raises(NextHopError):
        router(("*", "ftp://example.org"))
    with pytest.raises(NextHopError):
        router(relay="[[")


def test_the_memory_of_domains_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing, "_CACHED_DOMAINS", 10)
    routes = router(("*", "[a.example]"))
    for number in range(100):
        assert routes.by_domain(f"d{number}.example") == Routed(0, "[a.example]")
    assert len(routes._cache) <= 10


DOMAINS = st.sampled_from(["a.example", "b.a.example", "c.b.a.example", "example", "z.test"])
PATTERNS = st.one_of(
    DOMAINS, DOMAINS.map(lambda d: f".{d}"), DOMAINS.map(lambda d: f"joe@{d}"), st.just("*")
)


def matches(pattern: str, address: str) -> bool:
    domain = destination_of(address)
    if pattern.startswith("."):
        return domain.endswith(pattern)
    return pattern in ("*", address, domain)


@given(
    st.lists(PATTERNS, max_size=6), st.lists(st.tuples(st.sampled_from(["joe", "ann"]), DOMAINS))
)
def test_lookups_agree_with_trying_every_pattern_in_turn(
    patterns: list[str], mailboxes: list[tuple[str, str]]
) -> None:
    routes = Router(
        [RouteSettings(match=(pattern,), nexthop="[h.example]") for pattern in patterns]
    )
    for local, domain in mailboxes:
        address = f"{local}@{domain}"
        first = next((i for i, pattern in enumerate(patterns) if matches(pattern, address)), -1)
        assert routes.route(address, domain).index == first
        whole = routes.by_domain(domain)
        if whole is not None:
            assert whole.index == first
