"""Postfix's next-hop syntax."""

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deliveryagent.mail import nexthop
from deliveryagent.mail.nexthop import (
    Endpoint,
    NextHop,
    NextHopError,
    format_next_hops,
    parse_next_hops,
)


def test_the_examples_hold() -> None:
    assert doctest.testmod(nexthop).failed == 0


@pytest.mark.parametrize(
    ("text", "hop"),
    [
        ("Example.org", NextHop("smtp", "example.org", mx=True)),
        ("example.org:587", NextHop("smtp", "example.org", 587, mx=True)),
        ("smtp:example.org", NextHop("smtp", "example.org", mx=True)),
        ("localhost:2525", NextHop("smtp", "localhost", 2525, mx=True)),
        ("[mail.example.org]", NextHop("smtp", "mail.example.org")),
        ("[mail.example.org]:587", NextHop("smtp", "mail.example.org", 587)),
        ("smtp:[mail.example.org]:26", NextHop("smtp", "mail.example.org", 26)),
        ("[192.0.2.1]", NextHop("smtp", "192.0.2.1")),
        ("192.0.2.1:26", NextHop("smtp", "192.0.2.1", 26)),
        ("inet:192.0.2.1:26", NextHop("smtp", "192.0.2.1", 26)),
        ("[ipv6:2001:DB8::1]", NextHop("smtp", "2001:db8::1")),
        ("[IPv6:2001:db8::1]:26", NextHop("smtp", "2001:db8::1", 26)),
        ("[::1]:2525", NextHop("smtp", "::1", 2525)),
        ("bücher.example", NextHop("smtp", "xn--bcher-kva.example", mx=True)),
        ("lmtp:mail.example", NextHop("lmtp", "mail.example")),
        ("lmtp:inet:mail.example:24", NextHop("lmtp", "mail.example", 24)),
        ("lmtp:[mail.example]:24", NextHop("lmtp", "mail.example", 24)),
        ("lmtp:inet:[127.0.0.1]:24", NextHop("lmtp", "127.0.0.1", 24)),
        ("lmtp:unix:/run/Dovecot/lmtp", NextHop("lmtp", path="/run/Dovecot/lmtp")),
        ("LMTP:unix:/run/lmtp", NextHop("lmtp", path="/run/lmtp")),
        ("error:5.1.1 no such user, ever", NextHop("error", text="5.1.1 no such user, ever")),
        ("error: moved away", NextHop("error", text="moved away")),
        ("hold:", NextHop("hold")),
        ("discard:unwanted", NextHop("discard", text="unwanted")),
    ],
)
def test_each_form_of_a_next_hop_is_understood(text: str, hop: NextHop) -> None:
    assert parse_next_hops(text) == (hop,)
    assert parse_next_hops(str(hop)) == (hop,)


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("a.example, b.example", ["a.example", "b.example"]),
        ("[a.example]:25 [b.example]", ["[a.example]:25", "[b.example]"]),
        (" a.example,,b.example , ", ["a.example", "b.example"]),
        ("lmtp:[a.example],[b.example]:3", ["lmtp:[a.example]", "lmtp:[b.example]:3"]),
        ("lmtp:a.example smtp:b.example", ["lmtp:[a.example]", "b.example"]),
    ],
)
def test_a_list_is_tried_in_order_and_keeps_its_transport(text: str, keys: list[str]) -> None:
    hops = parse_next_hops(text)
    assert [hop.key for hop in hops] == keys
    assert parse_next_hops(format_next_hops(hops)) == hops


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        (" , ", "empty"),
        ("a.example, error:x", "stands alone"),
        ("ftp:example.org", "no transport"),
        ("example.org:smtp", "no next hop"),
        ("[a.example]x", "no next hop"),
        ("[a.example", "no next hop"),
        ("a.example:0", "impossible port"),
        ("a.example:65536", "impossible port"),
        ("[]", "no next hop"),
        ("-a.example", "impossible part"),
        ("[300.1.1.1]", "valid IP address"),
        ("[ipv6:nonsense]", "valid IP address"),
        ("[fe80::1%eth0]", "scope"),
        ("unix:/run/lmtp", "lmtp:unix:"),
        ("smtp:unix:/run/lmtp", "lmtp:unix:"),
        ("lmtp:unix:run/lmtp", "absolute path"),
        (f"lmtp:unix:/{'x' * 107}", "absolute path"),
        ("a.example\x00", "control characters"),
        ("error:two\nlines", "control characters"),
    ],
)
def test_what_is_no_next_hop_is_refused_with_a_reason(text: str, reason: str) -> None:
    with pytest.raises(NextHopError, match=reason):
        parse_next_hops(text)


def test_only_the_routes_own_verdicts_contact_nobody() -> None:
    assert parse_next_hops("error:x")[0].final
    assert not parse_next_hops("a.example")[0].final


def test_an_endpoint_is_shown_with_name_address_and_port() -> None:
    assert str(Endpoint("mx.example", "192.0.2.1", 25)) == "mx.example[192.0.2.1]:25"
    unix = Endpoint("localhost", "", 0, path="/run/lmtp", transport="lmtp")
    assert str(unix) == "/run/lmtp"


@given(st.text(alphabet="abAZ.-_[]:, 0159ipv6lmtpsunx/ü", max_size=40))
def test_any_text_is_a_list_that_reads_back_or_an_error(text: str) -> None:
    try:
        hops = parse_next_hops(text)
    except NextHopError:
        return
    assert hops
    assert parse_next_hops(format_next_hops(hops)) == hops
    for hop in hops:
        assert not (hop.mx and hop.transport == "lmtp")
        assert bool(hop.host) + bool(hop.path) + hop.final == 1
