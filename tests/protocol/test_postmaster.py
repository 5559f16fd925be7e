"""Notices to the postmaster."""

import email
import email.policy
from email.message import EmailMessage
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deliveryagent.protocol.postmaster import TRANSCRIPT_LIMIT, Notice, compose


def notice(**facts: Any) -> Notice:
    defaults: dict[str, Any] = {
        "notify_class": "protocol",
        "notice_id": "0C7QK51RA3HNW",
        "hostname": "mail.example.org",
        "to": "postmaster@example.org",
        "what": "mx.example.net broke the protocol.",
        "now": 1762778411.5,
    }
    return Notice(**{**defaults, **facts})


def parsed(octets: bytes) -> EmailMessage:
    return email.message_from_bytes(octets, policy=email.policy.default)


def test_a_protocol_notice_carries_the_transcript() -> None:
    message = parsed(
        compose(
            notice(
                host="mx.example.net[192.0.2.1]:25",
                queue_id="0C7QK4M2V9XTB",
                sender="shop@example.org",
                recipients=("kim@example.net",),
                transcript=("In:  +25 what", "Out: QUIT"),
            )
        )
    )
    assert message["To"] == "postmaster@example.org"
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["Subject"] == "A mail server broke the protocol"
    text = message.get_content()
    for line in (
        "Peer:     mx.example.net[192.0.2.1]:25",
        "Queue id: 0C7QK4M2V9XTB",
        "Sender:   <shop@example.org>",
        "For:      <kim@example.net>",
        "    In:  +25 what",
        "    Out: QUIT",
    ):
        assert line in text.splitlines()


def test_a_long_transcript_loses_its_middle_and_says_so() -> None:
    lines = tuple(f"line {n}" for n in range(TRANSCRIPT_LIMIT + 7))
    text = parsed(compose(notice(transcript=lines))).get_content()
    assert "[7 lines left out]" in text
    assert "    line 0" in text.splitlines()
    assert f"    line {TRANSCRIPT_LIMIT + 6}" in text.splitlines()


def test_many_recipients_are_counted() -> None:
    text = parsed(
        compose(notice(queue_id="0C7QK4M2V9XTB", recipients=tuple(f"u{n}@x" for n in range(25))))
    ).get_content()
    assert "and 5 more" in text


@pytest.mark.parametrize(
    "notify_class", ["resource", "software", "data", "policy", "protocol", "new"]
)
def test_every_class_has_a_subject(notify_class: str) -> None:
    assert parsed(compose(notice(notify_class=notify_class)))["Subject"]


@given(st.text(), st.lists(st.text(), max_size=3), st.text())
def test_hostile_text_adds_no_field_and_no_bare_line_end(
    what: str, transcript: list[str], host: str
) -> None:
    octets = compose(notice(what=what, transcript=tuple(transcript), host=host, queue_id="0" * 13))
    assert parsed(octets).keys() == parsed(compose(notice())).keys()
    assert b"\n" not in octets.replace(b"\r\n", b"")
    assert b"\r" not in octets.replace(b"\r\n", b"")
    assert max(map(len, octets.split(b"\r\n"))) <= 998
