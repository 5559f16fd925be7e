"""Command lines: one command is one line, whatever is in it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deliveryagent.mail.envelope import Notify
from deliveryagent.protocol.commands import (
    LINE_LIMIT,
    UnsafeCommandError,
    hello,
    mail_from,
    notify_parameter,
    orcpt_parameter,
    rcpt_to,
    xtext,
)

HOSTILE = [
    "a@b\r\nRCPT TO:<evil@example.org>",
    "a@b\n",
    "a\r@b",
    "a\x00@b",
    "a b@example.org",
    "a@example.org> SIZE=1",
    "<a@example.org",
    "a@example.org ",
    "a,b@example.org",
    "@relay:a@example.org",
    "a(comment)@example.org",
    '"a"b@example.org',
    '"a\r\n"@example.org',
    '"a@example.org',
    "a@b@example.org",
    "a",
    "a@",
    "@example.org",
    "a@exam ple.org",
    'a@"example.org',
    "a\x7f@example.org",
]


@pytest.mark.parametrize("address", HOSTILE)
def test_what_is_no_address_never_becomes_a_command(address: str) -> None:
    for make in (mail_from, rcpt_to):
        with pytest.raises(UnsafeCommandError):
            make(address, utf8=True)


@given(st.text(), st.text(), st.booleans())
def test_every_command_is_one_line_of_bounded_length(
    path: str, parameters: str, utf8: bool
) -> None:
    for make in (mail_from, rcpt_to):
        try:
            line = make(path, parameters, utf8=utf8)
        except UnsafeCommandError:
            continue
        assert line.endswith(b">" + parameters.encode() + b"\r\n")
        assert line.count(b"\r") == line.count(b"\n") == 1
        assert not any(octet < 32 or octet == 127 for octet in line[:-2])
        assert len(line) <= LINE_LIMIT


@pytest.mark.parametrize(
    "address",
    [
        "kim@example.org",
        "Local.Part@Example.ORG",
        "o'neil+tag=x/y@example.org",
        '"a b"@example.org',
        '"a@b"@example.org',
        '"a>b<c"@example.org',
        r'"a\"b\\c"@example.org',
        "a@[192.0.2.1]",
        "a@[IPv6:2001:db8::1]",
    ],
)
def test_case_and_quoting_are_kept(address: str) -> None:
    assert rcpt_to(address) == f"RCPT TO:<{address}>\r\n".encode()


def test_the_null_sender_is_an_empty_path_and_a_recipient_is_never_empty() -> None:
    assert mail_from("", " SIZE=5") == b"MAIL FROM:<> SIZE=5\r\n"
    with pytest.raises(UnsafeCommandError):
        rcpt_to("")


def test_an_address_outside_ascii_needs_smtputf8() -> None:
    assert rcpt_to("käthe@example.org", utf8=True) == "RCPT TO:<käthe@example.org>\r\n".encode()
    with pytest.raises(UnsafeCommandError, match="SMTPUTF8"):
        rcpt_to("käthe@example.org")
    with pytest.raises(UnsafeCommandError, match="Unicode"):
        rcpt_to("k\ud800@example.org", utf8=True)


def test_parameters_cannot_bring_a_second_command() -> None:
    for parameters in (" ENVID=x\r\nQUIT", "SIZE=1", " A  B", " A\x00", " A "):
        with pytest.raises(UnsafeCommandError):
            mail_from("a@example.org", parameters)
    with pytest.raises(UnsafeCommandError, match="octets"):
        mail_from("a@example.org", " ENVID=" + "x" * LINE_LIMIT)


def test_our_name_is_one_word() -> None:
    assert hello("EHLO", "mail.example.org") == b"EHLO mail.example.org\r\n"
    for name in ("", "a b", "a\r\nb", "ä.example", "x" * 256):
        with pytest.raises(UnsafeCommandError):
            hello("EHLO", name)


@pytest.mark.parametrize(
    ("wish", "parameter"),
    [
        (Notify.DEFAULT, ""),
        (Notify.NEVER, " NOTIFY=NEVER"),
        (Notify.SUCCESS, " NOTIFY=SUCCESS"),
        (Notify.SUCCESS | Notify.FAILURE | Notify.DELAY, " NOTIFY=SUCCESS,FAILURE,DELAY"),
    ],
)
def test_wishes_for_reports_are_passed_on(wish: Notify, parameter: str) -> None:
    assert notify_parameter(wish) == parameter


@pytest.mark.parametrize(
    ("original", "parameter"),
    [
        ("", ""),
        ("rfc822;User@Example.org", " ORCPT=rfc822;User@Example.org"),
        ("rfc822;a b+c=d@example.org", " ORCPT=rfc822;a+20b+2Bc+3Dd@example.org"),
        ("rfc822;käthe@example.org", r" ORCPT=utf-8;k\x{E4}the@example.org"),
        ("UTF-8;a\\b@example.org", r" ORCPT=utf-8;a\x{5C}b@example.org"),
        ("x400;/c=us/", " ORCPT=x400;/c+3Dus/"),
    ],
)
def test_the_original_recipient_is_encoded_for_its_type(original: str, parameter: str) -> None:
    assert orcpt_parameter(original) == parameter
    rcpt_to("a@example.org", parameter)


@given(st.text())
def test_xtext_can_be_undone(text: str) -> None:
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        return
    encoded = xtext(text)
    parts = encoded.split("+")
    octets = parts[0].encode() + b"".join(
        bytes([int(part[:2], 16)]) + part[2:].encode() for part in parts[1:]
    )
    assert octets.decode() == text
    assert encoded.isascii()
    assert "=" not in encoded
