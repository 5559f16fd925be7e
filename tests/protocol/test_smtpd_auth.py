"""Logins: what is offered when, what ends an exchange, and what guessing costs."""

import hmac
from base64 import b64encode

import msgspec
import pytest

from deliveryagent.mail.verdict import Tempfail
from deliveryagent.protocol.session import TlsFacts
from deliveryagent.protocol.smtpd_steps import RESPONSE_LIMIT, Terms
from tests.doubles.smtp_talk import PASSWORD, SECRET, SUBMISSION, USER, Talk, answers

TLS = TlsFacts(version="TLSv1.3", cipher="TLS_AES_128_GCM_SHA256")
ALL = ("PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-256", "XOAUTH2")
TERMS = msgspec.structs.replace(SUBMISSION, tls=True, mechanisms=ALL)


def b64(text: str | bytes) -> str:
    return b64encode(text.encode() if isinstance(text, str) else text).decode()


PLAIN = b64(f"\0{USER}\0{PASSWORD}")
WRONG = b64(f"\0{USER}\0wrong")


def begun(terms: Terms = TERMS, tls: TlsFacts | None = TLS) -> Talk:
    talk = Talk(terms, tls=tls, address="192.0.2.7")
    talk.say("EHLO a.b.dev")
    return talk


def test_a_login_with_the_command_or_after_it() -> None:
    for lines in (
        [f"AUTH PLAIN {PLAIN}"],
        [f"auth plain {PLAIN}"],
        ["AUTH PLAIN", PLAIN],
        ["AUTH LOGIN", b64(USER), b64(PASSWORD)],
        [f"AUTH LOGIN {b64(USER)}", b64(PASSWORD)],
        [f"AUTH XOAUTH2 {b64(f'user={USER}{chr(1)}auth=Bearer good{chr(1)}{chr(1)}')}"],
    ):
        talk = begun()
        codes = talk.codes(*lines)
        assert codes == ["334"] * (len(lines) - 1) + ["235 2.7.0"]
        assert talk.session.user == USER
        assert talk.session.mechanism == lines[0].split()[1].upper()
        assert talk.session.protocol == "ESMTPSA"


def test_a_challenge_is_answered_with_its_digest() -> None:
    talk = begun(tls=None)
    (challenge,) = talk.say("AUTH CRAM-MD5")
    digest = hmac.new(SECRET, _decoded(challenge.lines[0]), "md5").hexdigest()
    assert talk.code(b64(f"{USER} {digest}")) == "235 2.7.0"


def _decoded(text: str) -> bytes:
    import base64  # noqa: PLC0415

    return base64.b64decode(text)


def test_passwords_are_not_asked_for_in_clear() -> None:
    talk = begun(tls=None)
    offered = next(line for line in talk.say("EHLO a.b.dev")[0].lines if line.startswith("AUTH"))
    assert offered == "AUTH CRAM-MD5 SCRAM-SHA-256"
    for name in ("PLAIN", "LOGIN", "XOAUTH2"):
        assert talk.code(f"AUTH {name}") == "538 5.7.11"
    clear = begun(msgspec.structs.replace(TERMS, auth_without_tls=True), tls=None)
    assert clear.code(f"AUTH PLAIN {PLAIN}") == "235 2.7.0"


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("AUTH", "501 5.5.4"),
        ("AUTH !", "501 5.5.4"),
        (f"AUTH {'X' * 21}", "501 5.5.4"),
        ("AUTH GSSAPI", "504 5.5.4"),
        ("AUTH PLAIN not-base64", "501 5.5.2"),
        ("AUTH PLAIN A", "501 5.5.2"),
        ("AUTH PLAIN QQ=", "501 5.5.2"),
        ("AUTH PLAIN =", "501 5.5.2"),
        (f"AUTH CRAM-MD5 {PLAIN}", "501 5.5.4"),
    ],
)
def test_exchanges_that_cannot_begin(line: str, status: str) -> None:
    talk = begun()
    assert talk.code(line) == status
    assert not talk.session.user
    assert not talk.session.mechanism
    assert talk.code("NOOP") == "250 2.0.0"


@pytest.mark.parametrize(
    ("response", "status"),
    [
        (b"*", "501 5.7.0"),
        (b"* ", "501 5.5.2"),
        (b"?", "501 5.5.2"),
        (b"QQ==\n"[:-1] + b"\x00", "501 5.5.2"),
        (b"x" * RESPONSE_LIMIT, "500 5.5.6"),
        (b"A" * (RESPONSE_LIMIT - 4), "501 5.5.2"),
        (b"=", "501 5.5.2"),
        (b"", "501 5.5.2"),
        (b64(f"\0{USER}\0wrong").encode(), "535 5.7.8"),
        (b64(f"other\0{USER}\0{PASSWORD}").encode(), "535 5.7.8"),
    ],
)
def test_responses_that_end_an_exchange(response: bytes, status: str) -> None:
    talk = begun()
    assert talk.codes("AUTH PLAIN", response) == ["334", status]
    assert talk.code("NOOP") == "250 2.0.0"
    assert not talk.session.mechanism


def test_a_login_only_once_and_only_outside_a_message() -> None:
    talk = begun()
    talk.say(f"AUTH PLAIN {PLAIN}")
    assert talk.code(f"AUTH PLAIN {PLAIN}") == "503 5.5.1"
    trusted = Talk(TERMS, tls=TLS)
    codes = trusted.codes(
        "AUTH PLAIN", "EHLO a.b.dev", "MAIL FROM:<a@b.dev>", f"AUTH PLAIN {PLAIN}"
    )
    assert codes[1:] == ["503 5.5.1", "250", "250 2.1.0", "503 5.5.1"]
    assert Talk(TERMS, tls=TLS).codes("HELO a.b.dev", "AUTH PLAIN")[2] == "503 5.5.1"


def test_after_a_login_it_is_not_offered_again() -> None:
    talk = begun()
    talk.say(f"AUTH PLAIN {PLAIN}")
    assert not [line for line in talk.say("EHLO a.b.dev")[0].lines if line.startswith("AUTH")]


def test_wrong_passwords_and_strangers_read_the_same() -> None:
    talk = begun()
    wrong = talk.say(f"AUTH PLAIN {WRONG}")
    stranger = talk.say(f"AUTH PLAIN {b64(chr(0) + 'nobody' + chr(0) + 'x')}")
    assert wrong == stranger
    assert talk.failed == [USER, "nobody"]
    assert talk.waited == [0.25, 0.25]


def test_guessing_ends_after_some_failures_and_not_before_the_third() -> None:
    talk = begun()
    assert talk.codes(f"AUTH PLAIN {WRONG}", f"AUTH PLAIN {WRONG}") == ["535 5.7.8"] * 2
    assert talk.codes(f"AUTH PLAIN {WRONG}", "NOOP") == ["535 5.7.8", "421 4.7.0"]
    assert talk.closed
    endless = begun(msgspec.structs.replace(TERMS, auth_error_limit=0, hard_error_limit=0))
    assert set(endless.codes(*[f"AUTH PLAIN {WRONG}"] * 30)) == {"535 5.7.8"}


def test_a_success_forgives_the_session() -> None:
    talk = begun()
    talk.say(f"AUTH PLAIN {WRONG}", f"AUTH PLAIN {WRONG}", f"AUTH PLAIN {PLAIN}")
    assert talk.session.user == USER


def test_who_is_barred_is_not_even_asked() -> None:
    talk = begun()
    talk.barred = Tempfail(code=454, enhanced="4.7.0", text="Too many failed logins")
    assert talk.codes("AUTH PLAIN", "NOOP") == ["454 4.7.0", "250 2.0.0"]


def test_when_nobody_can_tell_the_answer_is_not_now() -> None:
    talk = begun()
    talk._login = lambda question: Tempfail(code=454, enhanced="4.7.0")  # type: ignore[method-assign]
    assert talk.code(f"AUTH PLAIN {PLAIN}") == "454 4.7.0"
    assert talk.failed == []


def test_the_end_of_the_service_ends_an_exchange_too() -> None:
    talk = begun()
    talk.say("AUTH LOGIN")
    assert [one.code for one in answers(talk.end())] == [421]
    assert not talk.session.mechanism


def test_a_session_that_goes_away_in_an_exchange_leaves_nothing() -> None:
    talk = begun()
    talk.say("AUTH SCRAM-SHA-256")
    talk._steps.close()
    assert not talk.session.mechanism
