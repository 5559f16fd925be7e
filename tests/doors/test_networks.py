"""Networks, and whether an address is in one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deliveryagent.intake.networks import Networks, plain

SOME = Networks(["10.0.0.0/8", "192.0.2.7", "2001:db8::/32", "172.16.5.4/12"])


@pytest.mark.parametrize(
    "address",
    ["10.255.0.1", "192.0.2.7", "2001:db8:1::9", "::ffff:10.1.2.3", "172.31.0.1"],
)
def test_addresses_within(address: str) -> None:
    assert SOME.hold(address)


@pytest.mark.parametrize(
    "address",
    ["11.0.0.1", "192.0.2.8", "2001:db9::1", "::1", "::ffff:11.0.0.1", "", "unknown", "10.0.0.1/8"],
)
def test_addresses_without(address: str) -> None:
    assert not SOME.hold(address)


def test_nobody_is_in_no_network() -> None:
    assert not Networks([])
    assert not Networks([]).hold("127.0.0.1")


@pytest.mark.parametrize("text", ["10.0.0.0/33", "example.org", "", "10.0.0.0-10.0.0.9"])
def test_what_is_no_network_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Networks([text])


@given(st.ip_addresses(v=4).map(str))
def test_an_address_over_both_families_is_one(address: str) -> None:
    assert plain(f"::ffff:{address}") == address
    assert SOME.hold(f"::ffff:{address}") == SOME.hold(address)


@given(st.text(max_size=20))
def test_any_text_is_judged(text: str) -> None:
    assert SOME.hold(text) in {True, False}
