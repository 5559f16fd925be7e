"""The whole conversation: any order of commands, any way of cutting them, always the replies of the RFCs."""

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from deliveryagent.mail.verdict import Accept, Reject, Tempfail
from deliveryagent.protocol.session import TlsFacts
from deliveryagent.protocol.smtpd_steps import RESPONSE_LIMIT, Terms
from tests.doubles.smtp_talk import (
    LMTP,
    SUBMISSION,
    TERMS,
    Talk,
    answers,
    check_statuses,
)
from tests.protocol.smtp_dialogues import PIECES

TLS = TlsFacts(version="TLSv1.3", cipher="TLS_AES_128_GCM_SHA256")
GUARDED = msgspec.structs.replace(
    SUBMISSION,
    tls=True,
    mechanisms=("PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-256", "XOAUTH2"),
    size_limit=200,
    line_limit=60,
    hold_limit=3600.0,
)
ALL_TERMS = [
    msgspec.structs.replace(TERMS, normalise=True, soft_error_limit=2, hard_error_limit=0),
    msgspec.structs.replace(GUARDED, require_tls=True, require_auth=True),
    msgspec.structs.replace(GUARDED, tls=False, auth_without_tls=True, command_limit=3),
    msgspec.structs.replace(LMTP, recipient_limit=2),
]


def test_a_message_in_one_write_is_answered_in_order() -> None:
    talk = Talk()
    said = answers(
        talk.hear(
            b"EHLO a.b.dev\r\nMAIL FROM:<a@b.dev>\r\nRCPT TO:<c@d.dev>\r\nRCPT TO:<bad>\r\nDATA\r\n"
            b"Subject: x\r\n\r\n..hi\r\n.\r\nMAIL FROM:<>\r\nRSET\r\nNOOP\r\nQUIT\r\n"
        )
    )
    assert [one.code for one in said] == [220, 250, 250, 250, 501, 354, 250, 250, 250, 250, 221]
    assert [one.content for one in talk.kept] == [b"Subject: x\r\n\r\n.hi\r\n"]
    assert talk.closed


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("NOOP anything at all", "250 2.0.0"),
        ("RSET", "250 2.0.0"),
        ("RSET now", "501 5.5.4"),
        ("HELP", "214 2.0.0"),
        ("VRFY root", "252 2.0.0"),
        ("VRFY", "501 5.5.4"),
        ("VRFY jürgen", "252 2.0.0"),
        ("NOOP jürgen", "500 5.5.2"),
        ("EXPN staff", "502 5.5.1"),
        ("ETRN example.org", "502 5.5.1"),
        ("TURN", "500 5.5.1"),
        ("FOO bar", "500 5.5.2"),
        ("", "500 5.5.2"),
        ("QUIT now", "501 5.5.4"),
        ("STARTTLS", "502 5.5.1"),
        ("AUTH PLAIN AGEAYg==", "502 5.5.1"),
        ("LHLO a.dev", "500 5.5.1"),
        ("RCPT TO:<a@b.dev>", "503 5.5.1"),
        ("DATA", "503 5.5.1"),
        (b"NOOP\n\r\nNOOP"[:5], "500 5.5.2"),
        (b"\xff\xfe\xfd", "500 5.5.2"),
        ("x" * 3000, "500 5.5.2"),
        ("XCLIENT ADDR=10.1.1.1", "550 5.7.0"),
    ],
)
def test_commands_outside_a_message(line: str | bytes, status: str) -> None:
    talk = Talk()
    talk.say("EHLO a.b.dev")
    assert status in talk.codes(line)


def test_quit_is_the_last_word() -> None:
    talk = Talk()
    assert answers(talk.hear(b"QUIT\r\nNOOP\r\n"))[-1].code == 221
    assert talk.closed


@pytest.mark.parametrize("verb", ["GET / HTTP/1.1", "POST /x HTTP/1.0", "CONNECT a:25 HTTP/1.1"])
@pytest.mark.parametrize("terms", ALL_TERMS)
def test_a_browser_gets_no_further_than_its_first_line(verb: str, terms: Terms) -> None:
    talk = Talk(terms)
    talk.said()
    said = answers(talk.hear(verb.encode() + b"\r\nHost: a\r\n\r\nMAIL FROM:<a@b.dev>\r\n"))
    assert [(one.code, one.enhanced) for one in said] == [(554, "5.5.1")]
    assert talk.closed


def test_before_tls_hardly_anything_is_taken() -> None:
    talk = Talk(msgspec.structs.replace(GUARDED, require_tls=True))
    assert talk.codes("EHLO a.b.dev", "NOOP") == ["220", "250", "250 2.0.0"]
    for line in (
        "MAIL FROM:<a@b.dev>",
        "AUTH PLAIN AGtpbQBwZW5jaWw=",
        "RSET",
        "VRFY x",
        "FOO",
        "HELP",
    ):
        assert talk.code(line) == "530 5.7.0"
    assert talk.code("STARTTLS") == "220 2.0.0"
    assert talk.session.tls is not None


def test_before_a_login_hardly_anything_is_taken() -> None:
    talk = Talk(msgspec.structs.replace(GUARDED, require_auth=True), tls=TLS)
    assert talk.codes("EHLO a.b.dev", "NOOP", "RSET") == ["220", "250", "250 2.0.0", "250 2.0.0"]
    for line in ("MAIL FROM:<a@b.dev>", "RCPT TO:<a@b.dev>", "DATA", "VRFY x", "FOO"):
        assert talk.code(line) == "530 5.7.0"
    assert talk.code("AUTH PLAIN AGtpbQBwZW5jaWw=") == "235 2.7.0"
    assert talk.code("MAIL FROM:<a@b.dev>") == "250 2.1.0"


def test_chunks_that_may_not_come_are_no_commands() -> None:
    talk = Talk(msgspec.structs.replace(GUARDED, require_auth=True), tls=TLS)
    talk.say("EHLO a.b.dev")
    chunk = b"AUTH PLAIN AGtpbQBwZW5jaWw=\r\n"
    said = talk.hear(b"BDAT %d LAST\r\n" % len(chunk), chunk, b"NOOP\r\n")
    assert [one.code for one in answers(said)] == [530, 250]
    assert not talk.session.user


def test_many_errors_are_answered_slowly_and_then_not_at_all() -> None:
    talk = Talk(
        msgspec.structs.replace(TERMS, soft_error_limit=3, hard_error_limit=6, error_sleep=2.0)
    )
    talk.said()
    assert talk.codes(*["FOO"] * 5) == ["500 5.5.2"] * 5
    assert talk.waited == [2.0, 2.0]
    assert talk.codes("FOO", "NOOP") == ["500 5.5.2", "421 4.7.0"]
    assert talk.closed


def test_without_a_limit_errors_go_on() -> None:
    talk = Talk(msgspec.structs.replace(TERMS, hard_error_limit=0, error_sleep=0.0))
    talk.said()
    assert talk.codes(*["FOO"] * 100) == ["500 5.5.2"] * 100


@pytest.mark.parametrize("line", ["NOOP", "RSET", "VRFY a", "HELP", "EHLO a.b.dev", "XFOO"])
def test_idle_commands_become_errors(line: str) -> None:
    talk = Talk(
        msgspec.structs.replace(TERMS, command_limit=3, hard_error_limit=3),
        hooks={"command": Accept(text="fine")},
    )
    talk.said()
    assert [one.code for one in talk.say(*[line] * 10)] == [
        *[{"VRFY a": 252, "HELP": 214}.get(line, 250)] * 3,
        *[452] * 3,
        421,
    ]


def test_a_message_makes_up_for_idle_commands() -> None:
    talk = Talk(msgspec.structs.replace(TERMS, command_limit=3))
    mail = ["MAIL FROM:<a@b.dev>", "RCPT TO:<c@d.dev>", "DATA", "hi", "."]
    talk.say("EHLO a.b.dev")
    for _ in range(5):
        assert {one.code for one in talk.say("NOOP", *mail)} == {250, 354}


def test_the_end_of_the_service_is_said() -> None:
    talk = Talk()
    talk.said()
    assert talk.end() == b"421 4.3.2 Shutting down\r\n"
    assert talk.closed


def test_unknown_commands_are_the_hooks() -> None:
    hooks = {
        "command": lambda verb, argument: (
            Accept(text=f"{verb}: {argument}") if verb == "XFOO" else None
        )
    }
    talk = Talk(hooks=hooks)
    talk.said()
    assert talk.hear(b"xfoo a  b\r\n") == b"250 2.0.0 XFOO: a  b\r\n"
    assert talk.code("XBAR") == "500 5.5.2"
    assert Talk(hooks={"command": Reject(close=True)}).codes("XFOO", "NOOP") == ["220", "550 5.7.1"]
    assert Talk(hooks={"command": Tempfail()}).codes("XFOO")[1:] == ["451 4.7.1"]


def test_a_long_token_may_come_with_the_command() -> None:
    talk = Talk(GUARDED, tls=TLS)
    talk.say("EHLO a.b.dev")
    longest = RESPONSE_LIMIT - len("AUTH XOAUTH2 \r\n")
    assert (
        talk.code("AUTH XOAUTH2 " + "A" * (longest // 4 * 4)) == "501 5.5.2"
    )  # read, but no message
    assert talk.code("AUTH XOAUTH2 " + "A" * (longest + 1)) == "500 5.5.2"
    assert talk.code("NOOP " + "A" * 2041) == "250 2.0.0"
    assert talk.code("NOOP " + "A" * 2042) == "500 5.5.2"


# -- any order, any cutting ---

sessions = st.lists(st.sampled_from(PIECES) | st.binary(max_size=20), max_size=40).map(b"".join)
terms_of_all_kinds = st.sampled_from(ALL_TERMS)


@given(terms_of_all_kinds, sessions, st.lists(st.integers(0, 500), max_size=10), st.booleans())
@example(ALL_TERMS[0], b"BDAT 3\r\na\nb" * 3, [10, 11], True)
def test_any_octets_cut_in_any_way_get_the_same_replies(
    terms: Terms, octets: bytes, places: list[int], known: bool
) -> None:
    address = "10.0.0.1" if known else "192.0.2.1"
    whole, parts = Talk(terms, address=address), Talk(terms, address=address)
    said = whole.hear(octets)
    marks = sorted({place % (len(octets) + 1) for place in places})
    pieces = [octets[a:b] for a, b in zip([0, *marks], [*marks, len(octets)], strict=True)]
    said_again = parts.hear(*pieces)
    check_statuses(answers(said))
    if b"STARTTLS" in octets.upper():
        return  # what follows it in one write ends the session
    assert said_again == said
    assert parts.kept == whole.kept
    assert parts.closed == whole.closed


@given(terms_of_all_kinds, sessions)
def test_octet_by_octet_nothing_breaks(terms: Terms, octets: bytes) -> None:
    talk = Talk(terms)
    said = talk.hear(*(octets[place : place + 1] for place in range(len(octets))))
    check_statuses(answers(said))
    assert said.startswith(b"220 mx.host.dev ")


@given(terms_of_all_kinds, sessions)
def test_after_any_session_a_fresh_message_is_taken(terms: Terms, octets: bytes) -> None:
    """Unless the session is over, or in the middle of something."""
    talk = Talk(msgspec.structs.replace(terms, hard_error_limit=0, command_limit=0))
    talk.hear(octets)
    talk.hear(b"\r\n")
    if talk.closed or not talk.listens or terms.require_tls:
        return
    hello = "LHLO" if terms.kind == "lmtp" else "EHLO"
    before = len(talk.kept)
    codes = [one.code for one in talk.say("RSET", f"{hello} a.b.dev")]
    assert codes[-1] == 250
    lines = ("MAIL FROM:<a@b.dev>", "RCPT TO:<c@d.dev>", "DATA", "hi", ".")
    assert [one.code for one in talk.say(*lines)] == [250, 250, 354, 250]
    assert len(talk.kept) == before + 1
    assert talk.kept[-1].recipients == ("c@d.dev",)
    assert talk.kept[-1].content == b"hi\r\n"


@given(terms_of_all_kinds, sessions)
def test_nothing_is_kept_for_strangers(terms: Terms, octets: bytes) -> None:
    talk = Talk(terms, address="192.0.2.1")
    talk.hear(octets)
    assert not talk.kept or talk.logged_in
