"""Reports: what programs read, what people read, and what a hostile peer cannot do to either."""

import email
import email.policy
from email.message import EmailMessage
from typing import Any, cast

import pytest
from flufl.bounce import all_failures
from hypothesis import given
from hypothesis import strategies as st

from deliveryagent.mail.envelope import DsnReturn
from deliveryagent.protocol.headers import header_section
from deliveryagent.protocol.notification import (
    Action,
    Report,
    Reported,
    ReportKind,
    compose,
    rfc5322_date,
    wrap,
)

ORIGINAL = b"From: <shop@example.org>\r\nSubject: order\r\n\r\nhello\r\n.dot\r\n\r\nend\r\n"
LIMIT = 50_000


def failed(address: str = "kim@example.net", **facts: Any) -> Reported:
    defaults: dict[str, Any] = {
        "action": Action.FAILED,
        "enhanced": "5.1.1",
        "code": 550,
        "text": "no such user",
        "stage": "rcpt",
        "host": "mx.example.net",
        "attempts": 1,
        "last_attempt": 1762778410.0,
    }
    return Reported(address=address, **{**defaults, **facts})


def report(*recipients: Reported, **facts: Any) -> Report:
    defaults: dict[str, Any] = {
        "kind": ReportKind.FAILURE,
        "queue_id": "0C7QK4M2V9XTB",
        "report_id": "0C7QK51RA3HNW",
        "hostname": "mail.example.org",
        "contact": "help@example.org",
        "to": "shop@example.org",
        "sender": "shop@example.org",
        "arrival": 1762778407.0,
        "now": 1762778411.5,
        "content": ORIGINAL,
    }
    return Report(recipients=recipients or (failed(),), **{**defaults, **facts})


def parsed(octets: bytes) -> EmailMessage:
    return email.message_from_bytes(octets, policy=email.policy.default)


def parts(octets: bytes) -> list[EmailMessage]:
    return cast(list[EmailMessage], parsed(octets).get_payload())


def status_blocks(octets: bytes) -> list[EmailMessage]:
    return cast(list[EmailMessage], parts(octets)[1].get_payload())


def text(octets: bytes) -> str:
    return cast(str, parts(octets)[0].get_content())


def test_a_report_has_three_parts_in_the_order_of_rfc_6522() -> None:
    message = parsed(compose(report(), bounce_size_limit=LIMIT))
    assert message.get_content_type() == "multipart/report"
    assert message.get_param("report-type") == "delivery-status"
    assert [part.get_content_type() for part in message.iter_parts()] == [
        "text/plain",
        "message/delivery-status",
        "message/rfc822",
    ]
    assert not message.defects


def test_the_header_says_who_writes_and_that_a_program_does() -> None:
    message = parsed(compose(report(), bounce_size_limit=LIMIT))
    assert message["From"] == "Mail Delivery System <MAILER-DAEMON@mail.example.org>"
    assert message["To"] == "shop@example.org"
    assert message["Auto-Submitted"] == "auto-replied"
    assert message["Message-ID"] == "<0C7QK51RA3HNW@mail.example.org>"
    assert message["Date"] == "Mon, 10 Nov 2025 12:40:11 +0000"


def test_the_status_of_a_refused_recipient_carries_all_fields() -> None:
    first, second = status_blocks(
        compose(
            report(failed(orcpt="rfc822;Kim+list@example.net"), envid="order-4711"),
            bounce_size_limit=LIMIT,
        )
    )
    assert dict(first) == {
        "Reporting-MTA": "dns; mail.example.org",
        "Original-Envelope-Id": "order-4711",
        "X-DeliveryAgent-Queue-ID": "0C7QK4M2V9XTB",
        "X-DeliveryAgent-Sender": "rfc822; shop@example.org",
        "Arrival-Date": "Mon, 10 Nov 2025 12:40:07 +0000",
    }
    assert dict(second) == {
        "Final-Recipient": "rfc822; kim@example.net",
        "Original-Recipient": "rfc822; Kim+list@example.net",
        "Action": "failed",
        "Status": "5.1.1",
        "Remote-MTA": "dns; mx.example.net",
        "Diagnostic-Code": "smtp; 550 5.1.1 no such user",
        "Last-Attempt-Date": "Mon, 10 Nov 2025 12:40:10 +0000",
    }


def test_what_was_not_given_is_not_reported() -> None:
    first, second = status_blocks(compose(report(), bounce_size_limit=LIMIT))
    assert "Original-Envelope-Id" not in first
    assert "Original-Recipient" not in second
    assert "Will-Retry-Until" not in second


def test_trouble_without_a_reply_names_no_remote_system() -> None:
    _, block = status_blocks(
        compose(
            report(
                failed(code=0, enhanced="5.4.4", text="no such domain", stage="resolve", host="")
            ),
            bounce_size_limit=LIMIT,
        )
    )
    assert "Remote-MTA" not in block
    assert block["Diagnostic-Code"] == "x-deliveryagent; no such domain"
    assert block["Status"] == "5.4.4"


def test_a_delay_report_says_until_when_it_is_tried() -> None:
    octets = compose(
        report(
            failed(action=Action.DELAYED, enhanced="4.7.1", code=450, retry_until=1763210407.0),
            kind=ReportKind.DELAY,
        ),
        bounce_size_limit=LIMIT,
    )
    _, block = status_blocks(octets)
    assert block["Action"] == "delayed"
    assert block["Will-Retry-Until"] == "Sat, 15 Nov 2025 12:40:07 +0000"
    assert "Sat, 15 Nov 2025" in text(octets)
    assert parts(octets)[2].get_content_type() == "text/rfc822-headers"


def test_a_success_report_tells_delivered_from_relayed() -> None:
    octets = compose(
        report(
            failed("a@example.net", action=Action.DELIVERED, code=250, enhanced="2.0.0", text="ok"),
            failed("b@example.net", action=Action.RELAYED, code=250, enhanced="", text="ok"),
            kind=ReportKind.SUCCESS,
        ),
        bounce_size_limit=LIMIT,
    )
    _, a, b = status_blocks(octets)
    assert (a["Action"], a["Status"], b["Action"], b["Status"]) == (
        "delivered",
        "2.0.0",
        "relayed",
        "2.0.0",
    )
    assert "which does not report delivery" in " ".join(text(octets).split())


def test_an_expired_recipient_is_given_up_with_the_last_reason() -> None:
    octets = compose(
        report(failed(code=451, enhanced="4.3.0", text="busy", expired=True, attempts=30)),
        bounce_size_limit=LIMIT,
    )
    words = " ".join(text(octets).split())
    assert "Given up after 30 attempts because the time allowed is over" in words
    assert "451 4.3.0 busy" in words
    assert status_blocks(octets)[1]["Status"] == "4.3.0"


def test_the_original_is_returned_octet_by_octet() -> None:
    content = b"Subject: x\r\n\r\n" + bytes(range(128, 256)) + b"\r\n" + b"y" * 2000 + b"\r\n"
    octets = compose(report(content=content), bounce_size_limit=LIMIT)
    assert b"Return-Path: <shop@example.org>\r\n" + content + b"\r\n--" in octets
    assert parsed(octets)["Content-Transfer-Encoding"] == "8bit"


@pytest.mark.parametrize(
    "facts",
    [
        {"ret": DsnReturn.HDRS},
        {"whole": False},
        {"content": ORIGINAL + b"x" * LIMIT},
        {"kind": ReportKind.DELAY},
        {"postmaster_copy": True},
    ],
)
def test_only_the_header_is_returned_when_asked_or_too_large(facts: dict[str, Any]) -> None:
    octets = compose(report(**facts), bounce_size_limit=LIMIT)
    last = parts(octets)[2]
    assert last.get_content_type() == "text/rfc822-headers"
    assert (
        last.get_payload(decode=True)
        == b"Return-Path: <shop@example.org>\r\nFrom: <shop@example.org>\r\nSubject: order\r\n"
    )


def test_ret_full_does_not_lift_the_size_limit() -> None:
    octets = compose(
        report(ret=DsnReturn.FULL, content=ORIGINAL + b"x" * LIMIT), bounce_size_limit=LIMIT
    )
    assert len(octets) < 5000


def test_an_international_sender_gets_an_international_report() -> None:
    octets = compose(
        report(
            failed("pelé@example.net"),
            to="émilie@example.org",
            sender="émilie@example.org",
            utf8=True,
            content="Subject: été\r\n\r\nx\r\n".encode(),
        ),
        bounce_size_limit=LIMIT,
    )
    assert [part.get_content_type() for part in parts(octets)] == [
        "text/plain",
        "message/global-delivery-status",
        "message/global",
    ]
    assert "Final-Recipient: utf-8; pelé@example.net\r\n".encode() in octets
    assert "To: <émilie@example.org>\r\n".encode() in octets


def test_an_ascii_sender_gets_an_international_recipient_in_seven_bits() -> None:
    octets = compose(report(failed("pelé+x@example.net"), utf8=True), bounce_size_limit=LIMIT)
    _, block = status_blocks(octets)
    assert block["Final-Recipient"] == r"utf-8; pel\x{E9}\x{2B}x@example.net"
    head, _, _ = octets.partition(b"\r\n\r\n")
    assert head.isascii()


def test_eight_bit_answers_are_seven_bit_in_the_status_and_readable_in_the_text() -> None:
    octets = compose(report(failed(text="boîte inconnue")), bounce_size_limit=LIMIT)
    assert status_blocks(octets)[1]["Diagnostic-Code"] == r"smtp; 550 5.1.1 bo\x{EE}te inconnue"
    assert "boîte inconnue" in text(octets)


def test_a_postmaster_copy_says_so_and_answers_nothing() -> None:
    octets = compose(
        report(to="postmaster@example.org", sender="", postmaster_copy=True),
        bounce_size_limit=LIMIT,
    )
    message = parsed(octets)
    assert message["To"] == "postmaster@example.org"
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["Subject"].startswith("Postmaster copy:")
    assert "null sender" in text(octets)
    assert "X-DeliveryAgent-Sender" not in status_blocks(octets)[0]


def test_the_boundary_moves_away_from_content_that_contains_it() -> None:
    stem = b"0C7QK51RA3HNW.1762778411/mail.example.org"
    content = ORIGINAL + b"--" + stem + b"\r\n--" + stem + b"=1--\r\n"
    octets = compose(report(content=content), bounce_size_limit=LIMIT)
    assert parsed(octets).get_boundary() == stem.decode() + "=2"
    assert len(parts(octets)) == 3


def test_a_very_long_host_name_does_not_break_the_boundary() -> None:
    octets = compose(
        report(hostname="a" * 60 + "." + "b" * 60 + ".example"), bounce_size_limit=LIMIT
    )
    assert len(parsed(octets).get_boundary() or "") <= 70


def test_flufl_finds_each_failed_recipient() -> None:
    addresses = [f"user{n}@example.net" for n in range(20)]
    octets = compose(report(*(failed(a) for a in addresses)), bounce_size_limit=LIMIT)
    assert all_failures(email.message_from_bytes(octets)) == (
        frozenset(),
        frozenset(a.encode() for a in addresses),
    )


def test_flufl_knows_a_delay_from_a_failure() -> None:
    octets = compose(
        report(failed(action=Action.DELAYED), kind=ReportKind.DELAY), bounce_size_limit=LIMIT
    )
    assert all_failures(email.message_from_bytes(octets)) == (
        frozenset({b"kim@example.net"}),
        frozenset(),
    )


hostile = st.lists(
    st.one_of(
        st.text(),
        st.sampled_from("\r\n\t :;-\x00\x1b\x85\u2028\u202e"),
        st.sampled_from(
            ["\r\n\r\n", "\r\nAction: delivered", "\r\n--", "--0C7QK51RA3HNW.1762778411"]
        ),
    ),
    max_size=8,
).map("".join)


@given(
    st.lists(st.tuples(hostile, hostile, hostile), min_size=1, max_size=5),
    hostile,
    st.sampled_from(ReportKind),
)
def test_nothing_a_stranger_wrote_changes_the_structure(
    strangers: list[tuple[str, str, str]], envid: str, kind: ReportKind
) -> None:
    recipients = [
        failed(f"u{n}@example.net", text=said, host=host, orcpt=f"rfc822;{orcpt}")
        for n, (said, host, orcpt) in enumerate(strangers)
    ]
    octets = compose(
        report(
            *recipients, envid=envid, kind=kind, content=ORIGINAL + envid.encode("utf-8", "replace")
        ),
        bounce_size_limit=LIMIT,
    )
    assert parsed(octets).keys() == parsed(compose(report(), bounce_size_limit=LIMIT)).keys() + (
        [] if octets.isascii() else ["Content-Transfer-Encoding"]
    )
    assert len(parts(octets)) == 3
    first, *blocks = status_blocks(octets)
    assert first["Reporting-MTA"] == "dns; mail.example.org"
    assert [block["Final-Recipient"] for block in blocks] == [
        f"rfc822; u{n}@example.net" for n in range(len(recipients))
    ]
    assert {block["Action"] for block in blocks} == {"failed"}
    status = octets.partition(b"Content-Type: message/delivery-status")[2].partition(
        b"Content-Desc"
    )[0]
    assert status.isascii()


@given(st.lists(hostile, max_size=3), hostile)
def test_lines_written_here_end_in_crlf_and_fit_the_limit(said: list[str], address: str) -> None:
    octets = compose(
        report(*(failed(address[:300], text=t * 40) for t in said), content=b""),
        bounce_size_limit=LIMIT,
    )
    assert octets.endswith(b"\r\n")
    assert b"\n" not in octets.replace(b"\r\n", b"")
    assert b"\r" not in octets.replace(b"\r\n", b"")
    assert max(map(len, octets.split(b"\r\n"))) <= 998


@pytest.mark.parametrize(
    ("content", "head"),
    [
        (b"A: b\r\n\r\nbody\r\n", b"A: b\r\n"),
        (b"A: b\r\nC: d", b"A: b\r\n"),
        (b"A: b\r\n", b"A: b\r\n"),
        (b"\r\nbody\r\n", b""),
        (b"cut", b""),
        (b"", b""),
    ],
)
def test_the_header_section_ends_before_the_blank_line(content: bytes, head: bytes) -> None:
    assert header_section(content) == head


@given(hostile, st.integers(min_value=0, max_value=8))
def test_wrapping_loses_no_word(words: str, indent: int) -> None:
    lines = list(wrap(words, indent=indent))
    assert "".join("".join(lines).split()) == "".join(words.split())
    assert all(line.startswith(" " * indent) and line.strip() for line in lines)


def test_dates_are_utc_without_fractions() -> None:
    assert rfc5322_date(0.9) == "Thu, 01 Jan 1970 00:00:00 +0000"
