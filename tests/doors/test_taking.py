"""What becomes of a message at the door before the queue has it: its trace, its limits, its key."""

import io
from collections.abc import Sequence
from typing import Any

import pytest

from deliveryagent.intake.message import Message
from deliveryagent.intake.taking import RefusedError, Taking, TakingTerms, depth_of
from deliveryagent.mail.envelope import DsnReturn, Notify, QueueId
from deliveryagent.mail.submission import Submission
from deliveryagent.protocol.arrival import LimitSettings
from deliveryagent.protocol.session import Client, Recipient, Session, TlsFacts, Transaction
from deliveryagent.setting import ByteSize

NOW = 1_800_000_000.0
TERMS = TakingTerms(
    hostname="mx.host.dev",
    limits=LimitSettings(),
    part_size=65536,
    bulk_after=0,
    nesting_limit=5,
    key_header="",
)
PLAIN = b"From: a@b.dev\r\nSubject: x\r\n\r\nhi\r\n"
TLS = TlsFacts(version="TLSv1.3", cipher="TLS_AES_256_GCM_SHA384", bits=256)


def taking(
    content: bytes = PLAIN,
    terms: TakingTerms = TERMS,
    *,
    recipients: Sequence[str] = ("c@d.dev",),
    file: bool = False,
    transaction: Transaction | None = None,
    **facts: Any,
) -> Taking:
    given: dict[str, Any] = {
        "kind": "smtp",
        "client": Client(address="192.0.2.7"),
        "hostname": "mx.host.dev",
        "helo": "mail.b.dev",
        "verb": "EHLO",
    }
    session = Session(**given | facts)
    transaction = transaction or Transaction(sender="a@b.dev")
    transaction.recipients += [Recipient(address=one) for one in recipients]
    session.transaction = transaction
    message = Message(session, transaction, io.BytesIO(content) if file else content)
    return Taking(message, terms, queue_id=QueueId(4711), now=NOW)


def stored(one: Taking) -> tuple[bytes, Submission]:
    parts = list(one.parts()) if one.large else []
    submission = one.submission()
    return b"".join(parts) + b"".join(submission.parts), submission


def received(content: bytes = PLAIN, **facts: Any) -> str:
    whole, _ = stored(taking(content, **facts))
    field = whole.partition(b"\r\nFrom:")[0].decode("ascii")
    assert field.startswith("Received: ")
    return " ".join(field.removeprefix("Received: ").split())


def refused(content: bytes, terms: TakingTerms = TERMS, *, file: bool = False) -> str:
    with pytest.raises(RefusedError) as caught:
        stored(taking(content, terms, file=file))
    return f"{caught.value.reply.code} {caught.value.reply.enhanced}"


# -- the trace ---


def test_the_trace_says_who_gave_it_how_and_when() -> None:
    assert received() == (
        "from mail.b.dev ([192.0.2.7]) by mx.host.dev (deliveryagent) with ESMTP id "
        f"{_id()}; Fri, 15 Jan 2027 08:00:00 +0000"
    )


def _id() -> str:
    return taking().stamp.queue_id


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"tls": TLS}, "with ESMTPS tls TLS_AES_256_GCM_SHA384 id"),
        ({"tls": TLS, "user": "kim"}, "with ESMTPSA tls TLS_AES_256_GCM_SHA384 id"),
        ({"verb": "HELO"}, "with SMTP id"),
        ({"verb": "LHLO", "kind": "lmtp"}, "with LMTP id"),
        ({"client": Client(address="2001:db8::1")}, "([IPv6:2001:db8::1])"),
        (
            {"client": Client(address="192.0.2.7", name="real.b.dev", proxied=True)},
            "(real.b.dev [192.0.2.7])",
        ),
        ({"client": Client(uid=1000)}, "(uid=1000)"),
        ({"helo": "[192.0.2.7]"}, "from [192.0.2.7] ("),
        ({"helo": "a) by (evil"}, "from a??by??evil ("),
    ],
)
def test_the_trace_of_other_ways_in(facts: dict[str, Any], words: str) -> None:
    assert words in received(**facts)


def test_the_trace_names_no_recipient_and_leaves_the_others_alone() -> None:
    old = b"Received: from x by y; Fri, 15 Jan 2027 07:00:00 +0000\r\n"
    whole, _ = stored(taking(old + PLAIN, recipients=["c@d.dev", "e@f.dev"]))
    assert whole.count(b"Received: ") == 2
    assert whole.endswith(old + PLAIN)
    assert b"c@d.dev" not in whole


def test_what_is_missing_is_added_to_submissions_only() -> None:
    bare = b"Subject: x\r\n\r\nhi\r\n"
    for kind in ("smtp", "lmtp"):
        whole, _ = stored(taking(bare, kind=kind))
        assert whole.endswith(b"\r\n" + bare)
        assert b"Date:" not in whole
    whole, _ = stored(taking(bare, kind="submission", user="kim"))
    for name in (b"\r\nDate: ", b"\r\nMessage-ID: <", b"\r\nFrom: a@b.dev\r\n"):
        assert whole.count(name) == 1
    again, _ = stored(taking(b"Date: x\r\nMessage-ID: <y>\r\n" + PLAIN, kind="submission"))
    assert again.count(b"Date:") == again.count(b"Message-ID:") == again.count(b"From:") == 1


def test_recipients_of_blind_copies_are_not_shown() -> None:
    whole, _ = stored(taking(b"Bcc: secret@d.dev\r\n" + PLAIN))
    assert b"secret" not in whole


# -- what is not taken ---


def test_too_many_hops_are_a_loop() -> None:
    hops = b"Received: from x by y; z\r\n"
    limits = LimitSettings(hopcount_limit=3)
    few = TakingTerms(**{**vars(TERMS), "limits": limits})
    stored(taking(hops * 3 + PLAIN, few))
    assert refused(hops * 4 + PLAIN, few) == "554 5.4.6"


@pytest.mark.parametrize("file", [False, True])
def test_large_messages_and_headers_are_refused(file: bool) -> None:
    limits = LimitSettings(message_size_limit=ByteSize(1000), header_size_limit=ByteSize(500))
    terms = TakingTerms(**{**vars(TERMS), "limits": limits, "part_size": 400})
    assert refused(PLAIN + b"x" * 1000, terms, file=file) == "552 5.3.4"
    assert refused(b"X: " + b"y" * 600 + b"\r\n" + PLAIN, terms, file=file) == "552 5.3.4"


def nested(depth: int, text: bytes = b"hi\r\n") -> bytes:
    head = b"From: a@b.dev\r\n"
    for level in range(depth):
        head += b'Content-Type: multipart/mixed;\r\n boundary="b%d"\r\n\r\n--b%d\r\n' % (
            level,
            level,
        )
    end = b"".join(b"--b%d--\r\n" % level for level in reversed(range(depth)))
    return head + b"Content-Type: text/plain\r\n\r\n" + text + end


@pytest.mark.parametrize("file", [False, True])
@pytest.mark.parametrize("size", [10, 200_000])
def test_parts_may_be_nested_so_deep_and_no_deeper(file: bool, size: int) -> None:
    text = b"word\r\n" * (size // 6)
    whole, _ = stored(taking(nested(5, text), file=file))
    assert whole.endswith(nested(5, text))
    assert refused(nested(6, text), file=file) == "554 5.6.0"


def test_many_parts_side_by_side_are_not_deep() -> None:
    part = b"--b\r\nContent-Type: text/plain\r\n\r\nhi\r\n"
    flat = (
        b"From: a@b.dev\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"
        + part * 1000
        + b"--b--\r\n"
    )
    assert depth_of(iter([flat]), 5) == 1
    whole, _ = stored(taking(flat, file=True))
    assert whole.endswith(flat)


def test_judging_the_depth_costs_little_whatever_comes() -> None:
    bomb = b"".join(b"boundary=b%d\r\n--x%d--\r\n" % (number, number) for number in range(50_000))
    assert depth_of(iter([bomb]), 100) == 101


def test_the_depth_is_seen_across_pieces() -> None:
    whole = nested(7)
    for size in (1, 7, 64):
        pieces = [whole[start : start + size] for start in range(0, len(whole), size)]
        assert depth_of(iter(pieces), 100) == 7


# -- the envelope ---


def test_all_wishes_reach_the_queue() -> None:
    given = Transaction(
        sender="a@b.dev",
        ret=DsnReturn.HDRS,
        envid="QQ",
        not_before=NOW + 9,
        deliver_by=NOW + 99,
        by_mode="NT",
        priority=-3,
        require_tls=True,
        hold=True,
        tags={"x": "y"},
    )
    given.recipients.append(
        Recipient(address="c@d.dev", notify=Notify.DELAY, orcpt="rfc822;c@d.dev")
    )
    _, submission = stored(taking(transaction=given, recipients=["c@d.dev", "e@f.dev"]))
    envelope = submission.envelope
    assert (envelope.ret, envelope.envid, envelope.not_before) == (DsnReturn.HDRS, "QQ", NOW + 9)
    assert (envelope.deliver_by, envelope.by_mode, envelope.priority) == (NOW + 99, "NT", -3)
    assert (envelope.require_tls, envelope.hold, envelope.tags) == (True, True, {"x": "y"})
    first, second = envelope.recipients
    assert (first.address, first.notify, first.orcpt) == ("c@d.dev", Notify.DELAY, "rfc822;c@d.dev")
    assert second.address == "e@f.dev"


@pytest.mark.parametrize(
    ("facts", "origin"),
    [
        ({}, "client=192.0.2.7"),
        ({"user": "kim"}, "user=kim"),
        ({"client": Client(uid=7)}, "uid=7"),
    ],
)
def test_the_queue_remembers_who_gave_it(facts: dict[str, Any], origin: str) -> None:
    assert stored(taking(**facts))[1].origin == origin


def test_a_field_may_hold_the_key_that_makes_two_messages_one() -> None:
    terms = TakingTerms(**{**vars(TERMS), "key_header": "Idempotency-Key"})
    keyed = b"Idempotency-Key: order-7\r\n" + PLAIN
    one, other = stored(taking(keyed, terms))[1], stored(taking(keyed, terms))[1]
    assert one.envelope.key == other.envelope.key == "client=192.0.2.7 order-7"
    assert one.facts.digest == other.facts.digest
    assert stored(taking(keyed, terms, user="kim"))[1].envelope.key == "user=kim order-7"
    assert stored(taking(keyed + b"more\r\n", terms))[1].facts.digest != one.facts.digest
    assert stored(taking(keyed))[1].envelope.key == "", "only where the door says so"
    assert stored(taking(PLAIN, terms))[1].envelope.key == ""
    assert refused(b"Idempotency-Key: " + b"x" * 201 + b"\r\n" + PLAIN, terms) == "554 5.6.0"


@pytest.mark.parametrize("size", [100, 40_000, 300_000])
def test_any_size_is_taken_whole(size: int) -> None:
    content = PLAIN + b"word\r\n" * (size // 6)
    for file in (False, True):
        whole, submission = stored(taking(content, file=file))
        assert whole.endswith(content)
        assert submission.facts.size == len(whole)
