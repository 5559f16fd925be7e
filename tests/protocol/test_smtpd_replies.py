"""Replies as octets: always replies, whatever text they carry."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deliveryagent.protocol.session import Client, Session, TlsFacts
from deliveryagent.protocol.smtpd_replies import ehlo_reply, offered_mechanisms, reply
from deliveryagent.protocol.smtpd_steps import Terms
from tests.doubles.smtp_talk import TERMS, answers

TLS = TlsFacts(version="TLSv1.3", cipher="x")


@given(st.text(max_size=600) | st.lists(st.text(max_size=30), max_size=40).map("\n".join))
def test_a_text_cannot_break_out_of_its_reply(text: str) -> None:
    (one,) = answers(reply(550, "5.7.1", text))
    assert (one.code, one.enhanced) == (550, "5.7.1")
    assert len(one.lines) <= 20
    answers(reply(250, "", text))


@pytest.mark.parametrize(
    ("text", "octets"),
    [
        ("", b"550 5.7.1 \r\n"),
        ("No", b"550 5.7.1 No\r\n"),
        ("No\r\n250 Ok", b"550-5.7.1 No\r\n550 5.7.1 250 Ok\r\n"),
        ("a\x1b[2J\tb", b"550 5.7.1 a?[2J?b\r\n"),
        ("Nö", b"550 5.7.1 N?\r\n"),
    ],
)
def test_what_is_no_text_is_made_harmless(text: str, octets: bytes) -> None:
    assert reply(550, "5.7.1", text).replace(b"5.7.1\r\n", b"5.7.1 \r\n") == octets


def test_an_empty_reply_keeps_its_blank() -> None:
    assert reply(250, "", "") == b"250 \r\n"


@pytest.mark.parametrize("secure", [False, True])
def test_mechanisms_are_offered_by_what_they_show(secure: bool) -> None:
    terms = msgspec.structs.replace(TERMS, mechanisms=("PLAIN", "SCRAM-SHA-256"))
    assert offered_mechanisms(terms, secure=secure) == (
        ["PLAIN", "SCRAM-SHA-256"] if secure else ["SCRAM-SHA-256"]
    )
    must = msgspec.structs.replace(terms, require_tls=True)
    assert bool(offered_mechanisms(must, secure=secure)) == secure


@given(
    st.builds(
        Terms,
        kind=st.just("smtp"),
        hostname=st.just("mx.host.dev"),
        tls=st.booleans(),
        mechanisms=st.just(("PLAIN", "LOGIN")),
        size_limit=st.integers(0, 1 << 40),
        hold_limit=st.sampled_from([0.0, 60.0, 1e8]),
        recipient_limit=st.integers(0, 50_000),
    ),
    st.booleans(),
    st.booleans(),
)
def test_the_answer_to_ehlo_is_one_reply_without_enhanced_codes(
    terms: Terms, secure: bool, xclient: bool
) -> None:
    session = Session(kind="smtp", client=Client(), hostname="", tls=TLS if secure else None)
    (one,) = answers(ehlo_reply(terms, session, xclient=xclient, now=1e9))
    assert (one.code, one.enhanced, one.lines[0]) == (250, "", "mx.host.dev")
    words = [line.split(" ")[0] for line in one.lines[1:]]
    assert len(words) == len(set(words))
    assert ("STARTTLS" in words) == (terms.tls and not secure)
    assert ("REQUIRETLS" in words) == secure
    assert "BINARYMIME" not in words
    assert ("XCLIENT" in words) == xclient
