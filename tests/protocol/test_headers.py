"""Header sections and address lists: nothing lost, nothing guessed."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deliveryagent.protocol.headers import (
    HeaderError,
    begins_field,
    find_end,
    parse_address_list,
    recipients_of,
    split_fields,
)

SECTION = b"Received: by a\n\tid 1\nSubject : odd\nTo:kim@example.net\nX-Empty:\n"


def recipients(section: bytes) -> list[str]:
    return recipients_of(split_fields(section))


def test_fields_joined_are_the_section() -> None:
    fields = split_fields(SECTION)
    assert b"".join(field.raw for field in fields) == SECTION
    assert [field.name for field in fields] == [b"received", b"subject", b"to", b"x-empty"]
    assert fields[0].body == b" by a\n\tid 1\n"


def test_a_section_ends_at_the_empty_line() -> None:
    end = find_end(SECTION + b"\nbody\n", 0, final=True)
    assert end == (len(SECTION), len(SECTION), len(SECTION) + 1)


@pytest.mark.parametrize(
    "line", [b"no colon here\n", b"sp ace: x\n", b"\xe4: x\n", b": x\n", b"a\tb:\n"]
)
def test_a_line_that_is_no_field_begins_the_body(line: bytes) -> None:
    end = find_end(SECTION + line + b"\n", 0, final=True)
    assert end.body == end.lines == len(SECTION)


def test_a_continuation_line_without_a_field_begins_the_body() -> None:
    assert find_end(b" folded\nTo: a@b\n\n", 0, final=True).body == 0


@given(st.integers(0, len(SECTION) + 6))
def test_the_end_is_found_however_the_section_arrives(cut: int) -> None:
    whole = SECTION + b"\nbody\n"
    first = find_end(whole[:cut], 0, final=False)
    assert first.size <= cut
    if first.body < 0:
        assert find_end(whole, first.lines, final=True) == find_end(whole, 0, final=True)
    else:
        assert first == find_end(whole, 0, final=True)


def test_an_endless_line_is_known_to_be_no_field_after_a_while() -> None:
    assert find_end(b"x" * 900, 0, final=False).body == -1
    assert find_end(b"x" * 1100, 0, final=False).body == 0
    assert not begins_field(b"x" * 999 + b":")
    assert begins_field(b"x" * 998 + b":")


def test_an_unfinished_field_counts_to_the_section() -> None:
    assert find_end(b"To: " + b"x" * 5000, 0, final=False).size == 5004


@pytest.mark.parametrize(
    ("text", "addresses"),
    [
        ("kim@example.net", ["kim@example.net"]),
        (" kim @ example . net ", ["kim@example.net"]),
        ("<kim@example.net>", ["kim@example.net"]),
        ("Kim <kim@example.net>, lee@example.net", ["kim@example.net", "lee@example.net"]),
        ('"Doe, \\"K\\" <x@y>" <kim@example.net>', ["kim@example.net"]),
        ("John Q. Public <john@example.net>", ["john@example.net"]),
        ("=?utf-8?q?K=C3=B6nig=2C_A?= <ann@example.net>", ["ann@example.net"]),
        ("kim@example.net (a (nested, \\) ) comment)", ["kim@example.net"]),
        ("(before) kim(in)@example.net", ["kim@example.net"]),
        ("team: kim@example.net, Lee <lee@example.net>;, ann@example.net",
         ["kim@example.net", "lee@example.net", "ann@example.net"]),
        ("undisclosed-recipients:;", []),
        ("one:a@b;two:c@d;", ["a@b", "c@d"]),
        (",,kim@example.net,,", ["kim@example.net"]),
        ("<@relay.example,@other.example:kim@example.net>", ["kim@example.net"]),
        ('"a b"@example.net', ['"a b"@example.net']),
        ('"a@b, c"@example.net', ['"a@b, c"@example.net']),
        ("kim@[192.0.2.1]", ["kim@[192.0.2.1]"]),
        ("kim@[IPv6:2001:db8::1]", ["kim@[IPv6:2001:db8::1]"]),
        ("root, postmaster", ["root", "postmaster"]),
        ("jürgen@bücher.example", ["jürgen@bücher.example"]),
        ("kim@example.net\n ,\n\tlee@example.net\n", ["kim@example.net", "lee@example.net"]),
        ("", []),
    ],
)  # fmt: skip
def test_addresses_are_taken_out_of_their_names_groups_and_comments(
    text: str, addresses: list[str]
) -> None:
    assert parse_address_list(text) == addresses


@pytest.mark.parametrize(
    "text",
    [
        "kim@example.net lee@example.net",
        "Kim Doe",
        "Kim kim@example.net",
        "<kim@example.net",
        "kim@example.net>",
        "<>",
        "<kim@example.net> trailing",
        "<kim@example.net> <lee@example.net>",
        "team: kim@example.net",
        "a: b: c@d;;",
        "kim@example.net;",
        "kim@example.net: lee@example.net;",
        ": kim@example.net;",
        '"open kim@example.net',
        "(open kim@example.net",
        "kim@[192.0.2.1",
        "kim)@example.net",
        "<kim@example.net,lee@example.net>",
        "back\\slash@example.net",
    ],
)
def test_what_is_not_understood_is_refused_as_a_whole(text: str) -> None:
    with pytest.raises(HeaderError):
        parse_address_list(f"ann@example.net, {text}")


@given(st.text(alphabet='ab@.,;:<>()[]"\\ \n', max_size=40))
def test_any_text_gives_addresses_without_separators_or_an_error(text: str) -> None:
    try:
        found = parse_address_list(text)
    except HeaderError:
        return
    for address in found:
        bare = re.sub(r'"(?:[^"\\]|\\.)*"|\[[^\]]*\]', "x", address, flags=re.DOTALL)
        assert bare
        assert not set(bare) & set(',;<>() \n"')


def test_every_address_list_of_the_message_counts() -> None:
    section = b"To: a@b\nCC: c@d,\n e@f\nBcc: g@h\nFrom: x@y\nReply-To: z@z\nTo: i@j\n"
    assert recipients(section) == ["a@b", "c@d", "e@f", "g@h", "i@j"]


def test_a_message_sent_on_goes_to_the_new_recipients_only() -> None:
    new = b"Resent-From: x@y\nResent-To: new@b\nResent-Bcc: also@b\n"
    old = b"Resent-From: w@y\nResent-To: old@b\n"
    assert recipients(new + old + b"To: first@b\n") == ["new@b", "also@b"]


def test_an_unreadable_list_is_named() -> None:
    with pytest.raises(HeaderError, match=r"^Resent-Cc: an angle bracket"):
        recipients(b"Resent-Cc: <kim@example.net\n")


def test_octets_that_are_no_utf8_are_shown_escaped() -> None:
    with pytest.raises(HeaderError) as caught:
        recipients(b"To: kim\xff lee@example.net\n")
    assert str(caught.value).isprintable()
