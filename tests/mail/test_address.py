"""Reading and writing mail addresses."""

import doctest

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from deliveryagent.mail import address
from deliveryagent.mail.address import (
    AddressError,
    Mailbox,
    destination_of,
    domain_to_ascii,
    parse_mailbox,
    parse_sender,
)


def test_the_examples_hold() -> None:
    assert doctest.testmod(address).failed == 0


@pytest.mark.parametrize(
    ("text", "wire"),
    [
        ("joe@example.org", "joe@example.org"),
        ("<joe@example.org>", "joe@example.org"),
        ("Joe.User@Example.ORG", "Joe.User@Example.ORG"),
        ("!#$%&'*+-/=?^_`{|}~@example.org", "!#$%&'*+-/=?^_`{|}~@example.org"),
        ("<@a.example,@b.example:joe@example.org>", "joe@example.org"),
        ("@[192.0.2.1]:joe@example.org", "joe@example.org"),
        ('"joe"@example.org', "joe@example.org"),
        (r'"j\o\e"@example.org', "joe@example.org"),
        ('"a b"@example.org', '"a b"@example.org'),
        ('"a@b"@example.org', '"a@b"@example.org'),
        ('"a>b"@example.org', '"a>b"@example.org'),
        (r'"a\"b\\c"@example.org', r'"a\"b\\c"@example.org'),
        ('""@example.org', '""@example.org'),
        ('".joe"@example.org', '".joe"@example.org'),
        ("joe@[192.0.2.1]", "joe@[192.0.2.1]"),
        ("joe@[ipv6:2001:DB8:0:0::1]", "joe@[IPv6:2001:db8::1]"),
        ("joe@under_score.example", "joe@under_score.example"),
        ("joe@localhost", "joe@localhost"),
        ("joe@3com.example", "joe@3com.example"),
        ("joe@bücher.example", "joe@xn--bcher-kva.example"),
        ("jürgen@bücher.example", "jürgen@xn--bcher-kva.example"),
        ("用户@例子.example", "用户@xn--fsqu00a.example"),
        (f"{'a' * 64}@example.org", f"{'a' * 64}@example.org"),
    ],
)
def test_an_address_is_written_as_it_goes_on_the_wire(text: str, wire: str) -> None:
    assert parse_mailbox(text).address == wire
    assert str(parse_mailbox(wire)) == wire


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("joe", "no domain"),
        ("<>", "no local part"),
        ("@example.org", "no local part"),
        ("<@a.example:>", "no local part"),
        ("joe@", "no domain"),
        (".joe@example.org", "a dot too many"),
        ("joe.@example.org", "a dot too many"),
        ("jo..e@example.org", "a dot too many"),
        ("jo e@example.org", "a space"),
        ("joe @example.org", "a space"),
        (" joe@example.org", "a space"),
        ("a@b@example.org", "impossible part"),
        ("joe<x>@example.org", '"<"'),
        ("joe,ann@example.org", '","'),
        ("<joe@example.org", '"<"'),
        ('"joe@example.org', "not closed"),
        ('"joe"x@example.org', "between the quotes"),
        ("joe@example..org", "empty part"),
        ("joe@example.org.", "empty part"),
        ("joe@.example.org", "empty part"),
        ("joe@-x.example", "impossible part"),
        ("joe@x-.example", "impossible part"),
        ("joe@ex ample.org", "impossible part"),
        ("joe@192.0.2.1", r"\[192.0.2.1\]"),
        ("joe@[192.0.2]", "without an IP address"),
        ("joe@[192.0.2.1", "without an IP address"),
        ("joe@[2001:db8::1]", "without an IP address"),
        ("joe@[IPv6:fe80::1%eth0]", "scope"),
        ("joe@[IPv6:nonsense]", "without an IP address"),
        (f"{'a' * 65}@example.org", "64 octets"),
        (f"{'é' * 33}@example.org", "64 octets"),
        (f"joe@{'a' * 64}.example", "63 characters"),
        (f"{'a' * 64}@{'.'.join(['b' * 60] * 4)}", "254 octets"),
        (f"joe@{'.'.join(['b' * 60] * 5)}", "255 characters"),
        (f"joe@{'.'.join(['aü'] * 60)}", "international name"),
        ("x" * 2000, "254 octets"),
        ("joe\r\nRCPT TO:<ann@example.org>", r"U\+000D"),
        ("joe\x00@example.org", r"U\+0000"),
        ("joe\x7f@example.org", r"U\+007F"),
        ('"joe\n"@example.org', r"U\+000A"),
        ("joe\u2028@example.org", r"U\+2028"),
        ("joe\u202e@example.org", r"U\+202E"),
        ("joe\u00a0@example.org", r"U\+00A0"),
        ("joe\udcff@example.org", r"U\+DCFF"),
        ("joe@xn--\u00fc.example", "international name"),
    ],
)
def test_what_is_no_address_is_refused_with_a_reason(text: str, reason: str) -> None:
    with pytest.raises(AddressError, match=reason):
        parse_mailbox(text)


def test_an_address_without_a_domain_gets_the_default() -> None:
    assert parse_mailbox("joe", default_domain="example.org").address == "joe@example.org"
    assert parse_mailbox("<Postmaster>", default_domain="x.example").local == "Postmaster"
    assert parse_mailbox('"a b"', default_domain="x.example").address == '"a b"@x.example'


@pytest.mark.parametrize(
    ("text", "destination"),
    [
        ("joe@Example.ORG", "example.org"),
        ('"a@b"@Example.org', "example.org"),
        ("joe@[192.0.2.1]", "[192.0.2.1]"),
        ("joe@[IPV6:2001:DB8::1]", "[IPv6:2001:db8::1]"),
        ("joe@Bücher.example", "xn--bcher-kva.example"),
    ],
)
def test_the_destination_is_the_domain_in_lower_case(text: str, destination: str) -> None:
    mailbox = parse_mailbox(text)
    assert mailbox.destination == destination
    assert destination_of(mailbox.address) == destination


def test_only_a_local_part_beyond_ascii_needs_smtputf8() -> None:
    assert parse_mailbox("jürgen@example.org").needs_utf8
    assert not parse_mailbox("joe@bücher.example").needs_utf8


def test_the_null_sender_is_empty() -> None:
    assert parse_sender("") == parse_sender("<>") == ""
    assert parse_sender("<joe@example.org>") == "joe@example.org"
    assert parse_sender("joe", default_domain="example.org") == "joe@example.org"
    with pytest.raises(AddressError):
        parse_sender("joe@")


def test_a_joiner_that_scripts_need_is_kept() -> None:
    assert parse_mailbox("\u0646\u0627\u0645\u0647\u200c\u0627\u06cc@example.org").needs_utf8


def test_a_domain_keeps_its_case_when_it_is_plain() -> None:
    assert domain_to_ascii("Example.ORG") == "Example.ORG"
    assert domain_to_ascii("BÜCHER.Example") == "xn--bcher-kva.example"
    assert domain_to_ascii("例子。example") == "xn--fsqu00a.example"


LOCALS = st.text(
    st.characters(min_codepoint=32, max_codepoint=126) | st.sampled_from("éü用"), max_size=20
)
DOMAINS = st.from_regex(r"[a-zA-Z]([a-z0-9-]{0,8}[a-z0-9])?(\.[a-z]{2,5}){1,3}", fullmatch=True)


@given(LOCALS, DOMAINS)
def test_every_local_part_can_be_said_in_quotes(local: str, domain: str) -> None:
    quoted = local.replace("\\", "\\\\").replace('"', '\\"')
    mailbox = parse_mailbox(f'"{quoted}"@{domain}')
    assert parse_mailbox(mailbox.address) == mailbox
    assert parse_mailbox(f"<{mailbox.address}>") == mailbox
    assert mailbox.domain == domain


@given(st.text(max_size=60))
@example("a@b@c")
@example('"\\')
@example("<@a:")
def test_any_text_is_an_address_that_reads_back_or_an_error(text: str) -> None:
    try:
        mailbox = parse_mailbox(text, default_domain="example.org")
    except AddressError:
        return
    assert parse_mailbox(mailbox.address) == mailbox
    assert len(mailbox.address.encode()) <= 254
    assert mailbox.domain.isascii()
    assert mailbox.address.isprintable() or not mailbox.address.isascii()
    assert not set(mailbox.address) & set("\r\n\0")
    if " " in mailbox.address or ">" in mailbox.address:
        assert mailbox.local.startswith('"')


@pytest.mark.parametrize("text", ['"' + "\\a" * 490, "@" + "a," * 490, "a." * 499, "[" * 900])
def test_long_nonsense_is_refused_quickly(text: str) -> None:
    with pytest.raises(AddressError):
        parse_mailbox(text)


def test_a_mailbox_is_a_value() -> None:
    assert Mailbox("joe", "example.org") == parse_mailbox("joe@example.org")
