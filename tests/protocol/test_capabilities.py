"""The answer to EHLO: what is understood, what is ignored."""

from hypothesis import given
from hypothesis import strategies as st

from deliveryagent.mail.status import SmtpReply
from deliveryagent.protocol.capabilities import Capabilities, parse, parse_limits, peer_name


def offer(*lines: str, discard: frozenset[str] = frozenset()) -> Capabilities:
    return parse(SmtpReply(250, "", "\n".join(["mx.example", *lines])), discard=discard)


def test_keywords_are_read_in_any_case_and_unknown_ones_are_ignored() -> None:
    found = offer("pipelining", "Size 1000", "8BitMime", "SMTPUTF8", "dsn", "StartTLS", "XYZZY 1 2")
    assert (found.pipelining, found.eightbitmime, found.smtputf8, found.dsn) == (True,) * 4
    assert found.starttls
    assert (found.size, found.size_limit) == (True, 1000)
    assert found.keywords["XYZZY"] == "1 2"
    assert found.name == "mx.example"


def test_a_peer_that_offers_nothing_is_offered_nothing() -> None:
    assert offer() == Capabilities(name="mx.example")


def test_a_size_without_a_number_is_no_limit() -> None:
    for parameters in ("", " 0", " x", " -5", " ²", " " + "9" * 30):
        found = offer("SIZE" + parameters)
        assert found.size
        assert found.size_limit == 0


def test_discarded_keywords_count_as_not_offered() -> None:
    found = offer("PIPELINING", "STARTTLS", "DSN", discard=frozenset({"PIPELINING", "STARTTLS"}))
    assert not found.pipelining
    assert not found.starttls
    assert found.dsn


def test_mechanisms_are_read_in_both_ways_of_writing() -> None:
    assert offer("AUTH plain LOGIN", "AUTH=LOGIN CRAM-MD5").auth == ("PLAIN", "LOGIN", "CRAM-MD5")
    assert offer("AUTH=PLAIN").auth == ("PLAIN",)
    assert offer("AUTH").auth == ()


def test_limits_are_read_and_malformed_ones_ignored() -> None:
    found = offer("LIMITS RCPTMAX=2 MAILMAX=1 RCPTDOMAINMAX=x")
    assert (found.rcptmax, found.mailmax, found.rcptdomainmax) == (2, 1, 0)
    assert parse_limits("RCPTMAX=0 MAILMAX=1234567 RCPTMAX = 3 =4 RCPTDOMAINMAX") == {}


def test_the_first_word_is_the_name_of_the_peer() -> None:
    assert peer_name(SmtpReply(250, "", "MX.Example. at your service\nDSN")) == "mx.example"
    assert peer_name(SmtpReply(250, "", "")) == ""
    assert len(peer_name(SmtpReply(250, "", "x" * 9000))) == 255


@given(st.text(), st.booleans())
def test_any_answer_is_understood_somehow(text: str, lmtp: bool) -> None:
    found = parse(SmtpReply(250, "", text), lmtp=lmtp)
    assert found.lmtp is lmtp
    assert found.size_limit >= 0


def test_what_a_peer_does_for_urgent_and_for_protected_mail() -> None:
    found = offer("MT-PRIORITY MIXER", "deliverby 240", "RequireTLS")
    assert (found.mt_priority, found.deliverby, found.requiretls) == (True,) * 3
    assert found.least_time == 240
    assert not found.protected, "that is not for the peer to say"
    for parameters in ("", " x", " -5", " 9999999999"):
        found = offer("DELIVERBY" + parameters)
        assert (found.deliverby, found.least_time) == (True, 0)
