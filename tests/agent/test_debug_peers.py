"""Which peers are watched."""

import pytest

from deliveryagent.agent.debug_peers import DebugPeers, DebugSettings
from deliveryagent.mail.nexthop import Endpoint

HOST = Endpoint("mx1.example.net", "192.0.2.7", 25)
SIX = Endpoint("mx6.example.net", "2001:db8::7", 25)
SOCKET = Endpoint("me.example", "", 0, path="/run/lmtp")


def peers(*patterns: str, level: int = 2) -> DebugPeers:
    return DebugPeers(DebugSettings(debug_peer_list=patterns, debug_peer_level=level))


@pytest.mark.parametrize(
    "pattern",
    [
        "mx1.example.net", "MX1.Example.Net", "example.net", ".example.net", "*.example.net",
        "dest.test", "192.0.2.7", "[192.0.2.7]", "192.0.2.0/24",
    ],
)  # fmt: skip
def test_a_peer_is_watched_by_name_domain_address_and_network(pattern: str) -> None:
    assert peers(pattern).watches(HOST, "dest.test")


@pytest.mark.parametrize("pattern", ["ample.net", "mx2.example.net", "192.0.3.0/24", "::/0"])
def test_others_are_left_in_peace(pattern: str) -> None:
    assert not peers(pattern).watches(HOST, "dest.test")


def test_version_six_networks_and_sockets() -> None:
    assert peers("2001:db8::/32").watches(SIX, "dest.test")
    assert peers("me.example").watches(SOCKET, "dest.test")
    assert not peers("0.0.0.0/0").watches(SOCKET, "dest.test")


def test_nobody_is_watched_at_level_nought() -> None:
    assert not peers("example.net", level=0).watches(HOST, "dest.test")


@pytest.mark.parametrize("pattern", ["192.0.2.999", "192.0.2.0/99", "1:2:3"])
def test_a_pattern_that_is_none_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="is no host, domain, address or network"):
        peers(pattern)


def test_the_level_decides_about_events() -> None:
    assert peers("x", level=2).shows("* handshake")
    assert not peers("x", level=1).shows("* handshake")
    assert peers("x", level=1).shows("C: QUIT")
