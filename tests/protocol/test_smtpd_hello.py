"""How sessions begin: greeting, names, STARTTLS, XCLIENT."""

import msgspec
import pytest

from deliveryagent.mail.verdict import Accept, Hold, Reject, Tempfail
from deliveryagent.protocol.smtpd_steps import HeloChecks, Terms
from tests.doubles.smtp_talk import LMTP, NOW, SUBMISSION, TERMS, Guard, Talk, answers

STRANGER = "192.0.2.7"
OWN = msgspec.structs.replace(TERMS, own_names=frozenset({"mx.host.dev"}))
SECURE = msgspec.structs.replace(TERMS, tls=True, mechanisms=("PLAIN",))


def offered(talk: Talk, line: str = "EHLO a.b.dev") -> dict[str, str]:
    """The keywords of the answer to EHLO."""
    (said,) = talk.say(line)
    assert said.code == 250
    assert said.lines[0] == "mx.host.dev"
    return {word: rest for word, _, rest in (one.partition(" ") for one in said.lines[1:])}


def test_the_greeting_names_the_host_and_its_banner() -> None:
    assert Talk().said() == b"220 mx.host.dev ESMTP\r\n"
    assert Talk(msgspec.structs.replace(TERMS, banner="")).said() == b"220 mx.host.dev\r\n"
    assert Talk(hooks={"connect": Accept(text="hello\nthere")}).said() == (
        b"220-mx.host.dev hello\r\n220 there\r\n"
    )


@pytest.mark.parametrize(
    ("decision", "said"),
    [
        (Reject(text="Go away"), b"554 5.7.1 Go away\r\n"),
        (Reject(enhanced="4.0.0"), b"554 5.7.1 Not accepted\r\n"),
        (Tempfail(text="Later", enhanced="4.3.2"), b"421 4.3.2 Later\r\n"),
    ],
)
def test_a_client_may_be_sent_away_before_it_speaks(decision: Reject, said: bytes) -> None:
    talk = Talk(hooks={"connect": decision})
    assert talk.hear(b"EHLO a.b.dev\r\n") == said
    assert talk.closed


def test_what_a_hook_decides_at_the_beginning_holds_for_all_messages() -> None:
    talk = Talk(hooks={"connect": Hold()})
    talk.say("EHLO a.b.dev")
    for _ in range(2):
        talk.say("MAIL FROM:<a@b.dev>", "RCPT TO:<c@d.dev>", "DATA", "hi", ".")
    assert [one.transaction.hold for one in talk.kept] == [True, True]


def test_ehlo_tells_what_is_there() -> None:
    talk = Talk(
        msgspec.structs.replace(SECURE, size_limit=1000, hold_limit=60.0, recipient_limit=7)
    )
    talk.said()
    assert offered(talk) == {
        "PIPELINING": "",
        "SIZE": "1000",
        "STARTTLS": "",
        "ENHANCEDSTATUSCODES": "",
        "8BITMIME": "",
        "DSN": "",
        "SMTPUTF8": "",
        "CHUNKING": "",
        "LIMITS": "RCPTMAX=7",
        "DELIVERBY": "",
        "MT-PRIORITY": "",
        "FUTURERELEASE": "60 2027-01-15T08:01:00Z",
    }
    assert NOW == 1_800_000_000


def test_no_limit_is_no_keyword() -> None:
    talk = Talk(msgspec.structs.replace(TERMS, recipient_limit=0))
    talk.said()
    words = offered(talk)
    assert "LIMITS" not in words
    assert words["SIZE"] == ""
    assert "STARTTLS" not in words
    assert "AUTH" not in words


def test_helo_offers_nothing() -> None:
    talk = Talk()
    talk.said()
    assert talk.hear(b"HELO a.b.dev\r\n") == b"250 mx.host.dev\r\n"
    assert talk.session.protocol == "SMTP"


def test_each_protocol_has_its_own_hello() -> None:
    talk = Talk(LMTP)
    assert talk.codes("EHLO a.dev", "HELO a.dev") == ["220", "500 5.5.1", "500 5.5.1"]
    assert "PIPELINING" in offered(talk, "LHLO a.dev")
    assert talk.session.protocol == "LMTP"
    talk = Talk(SUBMISSION)
    assert talk.codes("LHLO a.dev", "EHLO a.dev") == ["220", "500 5.5.1", "250"]


@pytest.mark.parametrize("verb", ["EHLO", "HELO"])
@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("", "501 5.5.4"),
        ("a b", "501 5.5.4"),
        ("mx.host.dev", "550 5.7.1"),
        ("MX.Host.Dev.", "550 5.7.1"),
        ("mail.example.com", "550 5.7.1"),
        ("Example.ORG", "550 5.7.1"),
        ("x.TEST", "550 5.7.1"),
        ("localhost", "550 5.7.1"),
        ("a.localhost", "550 5.7.1"),
        ("workstation", "550 5.7.1"),
        ("a..b", "550 5.7.1"),
        ("-a.dev", "550 5.7.1"),
        ("a;b.dev", "550 5.7.1"),
        ("[1.2.3]", "550 5.7.1"),
        ("[192.0.2.7]", "250"),
        ("[IPv6:2001:db8::1]", "250"),
        ("mail.b.dev", "250"),
        ("mail_1.b.dev.", "250"),
        ("notexample.com", "250"),
    ],
)
def test_names_that_nobody_has_are_refused(verb: str, name: str, status: str) -> None:
    talk = Talk(OWN, address=STRANGER)
    talk.said()
    assert talk.code(f"{verb} {name}") == status
    if status.startswith("550"):
        assert Talk(OWN).codes(f"{verb} {name}")[-1] == "250", "but not to who is trusted"


@pytest.mark.parametrize(
    ("off", "name"),
    [("own", "mx.host.dev"), ("reserved", "a.example.com"), ("bare", "workstation")],
)
def test_each_check_of_names_can_be_switched_off(off: str, name: str) -> None:
    checks = msgspec.structs.replace(HeloChecks(), **{off: False})
    for terms, code in (
        (OWN, "550 5.7.1"),
        (msgspec.structs.replace(OWN, helo_checks=checks), "250"),
    ):
        talk = Talk(terms, address=STRANGER)
        talk.said()
        assert talk.code(f"EHLO {name}") == code


def test_at_a_submission_the_name_does_not_matter_before_the_login() -> None:
    terms = msgspec.structs.replace(SUBMISSION, mechanisms=("PLAIN",), auth_without_tls=True)
    talk = Talk(terms, address=STRANGER)
    talk.said()
    assert talk.codes("EHLO workstation", "AUTH PLAIN AGtpbQBwZW5jaWw=") == ["250", "235 2.7.0"]
    assert talk.code("MAIL FROM:<a@b.dev>") == "250 2.1.0"


def test_a_name_may_be_refused_by_a_hook() -> None:
    hooks = {"helo": lambda name: Reject(text="No") if name == "a.dev" else None}
    talk = Talk(hooks=hooks)
    talk.said()
    assert talk.codes("EHLO a.dev", "MAIL FROM:<a@b.dev>", "EHLO b.dev") == [
        "550 5.7.1",
        "503 5.5.1",
        "250",
    ]


def test_a_new_hello_ends_the_message() -> None:
    talk = Talk()
    talk.say("EHLO a.b.dev", "MAIL FROM:<a@b.dev>", "RCPT TO:<c@d.dev>", "EHLO a.b.dev")
    assert talk.code("DATA") == "503 5.5.1"


# -- TLS ---


def test_after_tls_everything_begins_anew() -> None:
    talk = Talk(SECURE)
    assert talk.codes("EHLO a.b.dev", "STARTTLS")[1:] == ["250", "220 2.0.0"]
    assert talk.codes("MAIL FROM:<a@b.dev>") == ["503 5.5.1"]
    words = offered(talk)
    assert "STARTTLS" not in words
    assert words["REQUIRETLS"] == ""
    assert words["AUTH"] == "PLAIN"
    assert talk.code("STARTTLS") == "503 5.5.1"
    assert talk.code("MAIL FROM:<a@b.dev> REQUIRETLS") == "250 2.1.0"
    assert talk.session.protocol == "ESMTPS"


@pytest.mark.parametrize("behind", [b"M", b"EHLO a.b.dev\r\n", b"\x16\x03\x01", b"\n"])
def test_nothing_may_follow_starttls(behind: bytes) -> None:
    talk = Talk(SECURE)
    talk.say("EHLO a.b.dev")
    said = answers(talk.hear(b"STARTTLS\r\n" + behind + b"MAIL FROM:<a@b.dev>\r\n"))
    assert [(one.code, one.enhanced) for one in said] == [(554, "5.5.1")]
    assert talk.closed
    assert talk.session.tls is None


def test_what_comes_while_a_hook_thinks_about_starttls_is_seen() -> None:
    talk = Talk(SECURE)

    def late() -> None:
        talk._input.buffer += b"NOOP\r\n"

    talk.talk.asked |= {"starttls"}
    talk.hooks["starttls"] = late
    talk.say("EHLO a.b.dev")
    assert talk.code("STARTTLS") == "554 5.5.1"
    assert talk.closed


@pytest.mark.parametrize(
    ("terms", "lines", "status"),
    [
        (TERMS, ["STARTTLS"], "502 5.5.1"),
        (SECURE, ["STARTTLS now"], "501 5.5.4"),
        (SECURE, ["EHLO a.b.dev", "MAIL FROM:<a@b.dev>", "STARTTLS"], "503 5.5.1"),
    ],
)
def test_starttls_out_of_place(terms: Terms, lines: list[str], status: str) -> None:
    assert Talk(terms).codes(*lines)[-1] == status


def test_a_hook_may_refuse_tls() -> None:
    talk = Talk(SECURE, hooks={"starttls": Tempfail(code=454, enhanced="4.7.0")})
    talk.said()
    assert talk.codes("STARTTLS", "NOOP") == ["454 4.7.0", "250 2.0.0"]


# -- XCLIENT ---


def test_a_proxy_says_whom_it_speaks_for() -> None:
    talk = Talk(xclient=True)
    talk.said()
    assert "XCLIENT" in offered(talk)
    said = talk.say("XCLIENT NAME=mail.b.dev ADDR=192.0.2.9 PORT=4711 LOGIN=[UNAVAILABLE]")
    assert said[0].code == 220
    client = talk.session.client
    assert (client.address, client.port, client.name, client.proxied) == (
        "192.0.2.9",
        4711,
        "mail.b.dev",
        True,
    )
    assert not talk.session.trusted
    assert talk.code("MAIL FROM:<a@b.dev>") == "503 5.5.1"
    talk.say("EHLO a.b.dev", "MAIL FROM:<a@b.dev>")
    assert talk.code("RCPT TO:<c@d.dev>") == "550 5.7.1"


def test_who_was_logged_in_is_so_no_more_when_a_proxy_has_spoken() -> None:
    terms = msgspec.structs.replace(TERMS, mechanisms=("PLAIN",), auth_without_tls=True)
    talk = Talk(terms, xclient=True)
    talk.say("EHLO a.b.dev", "AUTH PLAIN AGtpbQBwZW5jaWw=")
    assert talk.session.user == "kim"
    talk.say("XCLIENT ADDR=192.0.2.9")
    assert (talk.session.user, talk.session.mechanism) == ("", "")
    talk.say("XCLIENT LOGIN=j+C3+BCrgen")
    assert talk.session.user == "jürgen"


@pytest.mark.parametrize(
    "line",
    ["XCLIENT", "XCLIENT ADDR", "XCLIENT FOO=1", "XCLIENT ADDR=1.2.3.4.5", "XCLIENT NAME=a+0Ab"],
)
def test_what_a_proxy_says_badly_changes_nothing(line: str) -> None:
    talk = Talk(xclient=True)
    talk.said()
    assert talk.code(line) == "501 5.5.4"
    assert talk.session.client.address == "10.0.0.1"


def test_a_proxy_may_not_speak_within_a_message() -> None:
    talk = Talk(xclient=True, guard=Guard())
    assert (
        talk.codes("EHLO a.b.dev", "MAIL FROM:<a@b.dev>", "XCLIENT ADDR=10.0.0.2")[-1]
        == "503 5.5.1"
    )
