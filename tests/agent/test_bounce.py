"""The mail system's own messages: who gets them, from whom, and who does not."""

import email
import email.policy
import itertools
from email.message import EmailMessage
from typing import Any, cast

import pytest
from flufl.bounce import all_failures

from deliveryagent.agent.bounce import Composer, content_facts
from deliveryagent.mail.envelope import Notify, first_queue_id, format_queue_id
from deliveryagent.mail.submission import Submission
from deliveryagent.policy.notices import Incident, NoticeSettings
from deliveryagent.policy.retry import RetrySettings
from deliveryagent.queue.reports import OwedRecipient, ReportFacts
from deliveryagent.setting import ByteSize

NOW = 1762778411.5
MESSAGE = first_queue_id(NOW - 3600)
CONTENT = b"From: <shop@example.org>\r\nSubject: order\r\n\r\nhello\r\n"


def composer(**settings: Any) -> Composer:
    ids = itertools.count(MESSAGE + 1)
    return Composer(
        hostname="mail.example.org",
        postmaster="postmaster@example.org",
        notices=NoticeSettings(**settings),
        retry=RetrySettings(),
        part_size=1000,
        new_id=lambda: next(ids),
        clock=lambda: NOW,
    )


def owed(address: str = "kim@example.net", **facts: Any) -> OwedRecipient:
    defaults: dict[str, Any] = {
        "number": 1,
        "destination": "example.net",
        "orcpt": "",
        "notify": 0,
        "status": "bounced",
        "attempts": 1,
        "due": None,
        "updated": NOW - 1,
        "stage": "rcpt",
        "code": 550,
        "enhanced": "5.1.1",
        "text": "no such user",
        "host": "mx.example.net",
    }
    return OwedRecipient(address=address, **{**defaults, **facts})


def facts(*recipients: OwedRecipient, **changes: Any) -> ReportFacts:
    defaults: dict[str, Any] = {
        "kind": "failure",
        "queue_id": MESSAGE,
        "sender": "shop@example.org",
        "size": len(CONTENT),
        "eightbit": False,
        "utf8": False,
        "ret": "",
        "envid": "",
        "origin": "uid=1000",
        "content": CONTENT,
        "complete": True,
    }
    return ReportFacts(recipients=recipients or (owed(),), **{**defaults, **changes})


def content(submission: Submission) -> bytes:
    return b"".join(submission.parts)


def parsed(submission: Submission) -> EmailMessage:
    return email.message_from_bytes(content(submission), policy=email.policy.default)


def status(submission: Submission) -> list[EmailMessage]:
    _, part, _ = parsed(submission).iter_parts()
    return cast(list[EmailMessage], part.get_payload())[1:]


def written(submission: Submission | None) -> Submission:
    assert submission is not None
    return submission


def test_a_report_goes_to_the_sender_from_nobody_and_wants_no_answer() -> None:
    report = written(composer()(facts()))
    assert report.envelope.sender == ""
    (recipient,) = report.envelope.recipients
    assert (recipient.address, recipient.notify) == ("shop@example.org", Notify.NEVER)
    assert report.origin == "agent"
    assert report.arrival == NOW
    assert parsed(report)["Message-ID"] == f"<{format_queue_id(report.queue_id)}@mail.example.org>"


def test_every_failed_recipient_is_named_once() -> None:
    report = written(composer()(facts(owed("a@example.net"), owed("b@example.net", number=2))))
    assert [block["Final-Recipient"] for block in status(report)] == [
        "rfc822; a@example.net",
        "rfc822; b@example.net",
    ]
    assert all_failures(email.message_from_bytes(content(report)))[1] == frozenset(
        {b"a@example.net", b"b@example.net"}
    )


def test_the_null_sender_gets_nothing() -> None:
    assert composer(notify_classes=("bounce", "2bounce"))(facts(sender="")) is None


def test_an_expired_recipient_failed_with_its_last_answer() -> None:
    late = owed(status="expired", code=451, enhanced="4.3.0", text="busy", attempts=40)
    report = written(composer()(facts(late)))
    (block,) = status(report)
    assert (block["Action"], block["Status"]) == ("failed", "4.3.0")
    text = next(parsed(report).iter_parts()).get_content()
    assert "Given up after 40 attempts" in text


def test_a_delay_report_says_until_when_it_is_tried() -> None:
    waiting = owed(status="deferred", code=450, enhanced="4.7.1", text="later", due=NOW + 60)
    (block,) = status(written(composer()(facts(waiting, kind="delay"))))
    assert block["Action"] == "delayed"
    assert block["Will-Retry-Until"] == "Sat, 15 Nov 2025 11:40:11 +0000"


@pytest.mark.parametrize(("host", "action"), [("mx.example.net", "relayed"), ("", "delivered")])
def test_success_is_relayed_to_a_peer_and_delivered_here(host: str, action: str) -> None:
    done = owed(status="delivered", code=250, enhanced="2.0.0", text="ok", host=host)
    (block,) = status(written(composer()(facts(done, kind="success"))))
    assert block["Action"] == action


def test_a_recipient_that_was_never_tried_has_no_last_attempt() -> None:
    (block,) = status(written(composer()(facts(owed(attempts=0)))))
    assert "Last-Attempt-Date" not in block


def test_an_incomplete_content_is_returned_as_its_header() -> None:
    report = written(composer()(facts(complete=False)))
    _, _, last = parsed(report).iter_parts()
    assert last.get_content_type() == "text/rfc822-headers"


def test_an_unreadable_content_still_gives_a_report() -> None:
    report = written(composer()(facts(content=b"", complete=False)))
    assert len(list(parsed(report).iter_parts())) == 3


def test_an_international_sender_needs_an_international_way_back() -> None:
    report = written(composer()(facts(sender="émilie@example.org", utf8=True)))
    assert report.facts.utf8_headers


def test_content_is_cut_in_parts_of_the_store_s_size() -> None:
    report = written(composer()(facts(content=CONTENT + b"x" * 5000 + b"\r\n")))
    assert {len(part) for part in report.parts[:-1]} == {1000}
    assert report.facts.size == len(content(report))
    assert report.facts.long_lines


def test_the_postmaster_gets_copies_only_when_asked() -> None:
    silent = composer()
    silent(facts())
    assert silent.take_copies() == []


@pytest.mark.parametrize(("kind", "notify_class"), [("failure", "bounce"), ("delay", "delay")])
def test_the_postmaster_gets_a_copy_of_the_class_asked_for(kind: str, notify_class: str) -> None:
    writer = composer(notify_classes=(notify_class,))
    report = written(writer(facts(kind=kind)))
    (copy,) = writer.take_copies()
    assert copy.queue_id != report.queue_id
    assert copy.envelope.recipients[0].address == "postmaster@example.org"
    assert parsed(copy)["Subject"].startswith("Postmaster copy:")
    assert [block["Final-Recipient"] for block in status(copy)] == ["rfc822; kim@example.net"]
    assert writer.take_copies() == []


def test_a_repeated_transaction_does_not_double_the_copy() -> None:
    writer = composer(notify_classes=("bounce",))
    writer(facts())
    writer(facts())
    assert len(writer.take_copies()) == 1


def test_success_reports_are_not_copied() -> None:
    writer = composer(notify_classes=("bounce", "delay"))
    writer(facts(owed(status="delivered"), kind="success"))
    assert writer.take_copies() == []


@pytest.mark.parametrize(
    ("setting", "address"),
    [
        ("postmaster", "postmaster@example.org"),
        ("", "postmaster@example.org"),
        ("anna", "anna@mail.example.org"),
        ("ops@example.com", "ops@example.com"),
    ],
)
def test_the_recipient_of_notices_becomes_a_full_address(setting: str, address: str) -> None:
    assert composer(error_notice_recipient=setting).notice_recipient == address


def test_a_notice_carries_what_happened_to_the_postmaster() -> None:
    notice = written(
        composer(notify_classes=("protocol",)).notice(
            Incident.PROTOCOL_BROKEN,
            what="mx.example.net broke the protocol",
            queue_id=MESSAGE,
            sender="shop@example.org",
            recipients=["kim@example.net"],
            host="mx.example.net",
            transcript=["In:  +25 what"],
        )
    )
    assert notice.envelope.sender == ""
    assert notice.envelope.recipients[0].address == "postmaster@example.org"
    text = parsed(notice).get_content()
    assert "+25 what" in text
    assert format_queue_id(MESSAGE) in text


def test_a_notice_of_a_class_nobody_asked_for_is_not_written() -> None:
    assert composer().notice(Incident.PROTOCOL_BROKEN, what="x") is None


def test_an_undeliverable_report_is_told_of_unless_it_went_to_the_postmaster() -> None:
    writer = composer(notify_classes=("2bounce",))
    lost = writer.notice(
        Incident.REPORT_UNDELIVERABLE, what="x", queue_id=MESSAGE, recipients=["shop@example.org"]
    )
    assert lost is not None
    in_vain = writer.notice(
        Incident.REPORT_UNDELIVERABLE,
        what="x",
        queue_id=MESSAGE,
        recipients=["Postmaster@Example.org"],
    )
    assert in_vain is None


def test_a_larger_limit_returns_more() -> None:
    large = CONTENT + b"x\r\n" * 40_000
    assert len(content(written(composer()(facts(content=large))))) < 5000
    writer = composer(bounce_size_limit=ByteSize(200_000))
    assert len(content(written(writer(facts(content=large))))) > 120_000


@pytest.mark.parametrize(
    ("octets", "dotted", "eightbit", "long_lines"),
    [
        (b"a\r\n.b\r\n", True, False, False),
        (b".a\r\n", True, False, False),
        (b"a.\r\n", False, False, False),
        ("é\r\n".encode(), False, True, False),
        (b"x" * 998 + b"\r\n", False, False, False),
        (b"x" * 999 + b"\r\n", False, False, True),
    ],
)
def test_facts_of_a_content(octets: bytes, dotted: bool, eightbit: bool, long_lines: bool) -> None:
    found = content_facts(octets, utf8_headers=False)
    assert (found.size, found.dotted, found.eightbit, found.long_lines) == (
        len(octets),
        dotted,
        eightbit,
        long_lines,
    )
