"""From a request to a message: what the queue is handed, and what it never sees."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deliveryagent.intake.admission import Peer
from deliveryagent.intake.envelope import Terms, parse_notify
from deliveryagent.intake.submit import InternalError, Reception, answer_of, told
from deliveryagent.mail.envelope import DsnReturn, Notify, QueueId
from deliveryagent.mail.submission import KeyBusy, StagedPart, Submission
from deliveryagent.protocol.arrival import LimitSettings
from deliveryagent.protocol.local import ServiceError
from deliveryagent.protocol.sending import SendRequest
from deliveryagent.queue.thread import StoreUnavailable

NOW = 1762778407.0
ANNA = Peer(uid=1000, gid=1000, pid=1, groups=frozenset(), user="anna")
TERMS = Terms(hostname="mail.example.org", limits=LimitSettings(), part_size=500, bulk_after=50)


def receive(
    content: bytes = b"\nhi\n", *, peer: Peer = ANNA, **fields: Any
) -> tuple[list[StagedPart], Submission]:
    request: SendRequest = {"recipients": ["kim@example.net"]}
    request.update(fields)  # type: ignore[typeddict-item]
    reception = Reception(request, peer=peer, terms=TERMS, queue_id=QueueId(7), now=NOW)
    staged = [
        part
        for place in range(0, len(content), 50)
        for part in reception.feed(content[place:][:50])
    ]
    rest, submission = reception.finish()
    return staged + rest, submission


def test_a_small_message_travels_whole() -> None:
    staged, submission = receive(sender="shop@example.org", tags={"a": "b"}, hold=True, ret="full")
    assert not staged
    assert submission.queue_id == 7
    assert submission.origin == "uid=1000"
    assert submission.arrival == NOW
    assert submission.bulk_after == 50
    assert sum(map(len, submission.parts)) == submission.facts.size
    envelope = submission.envelope
    assert (envelope.sender, envelope.hold, envelope.ret) == (
        "shop@example.org",
        True,
        DsnReturn.FULL,
    )
    assert envelope.tags == {"a": "b"}
    assert b"from userid 1000" in submission.parts[0]


def test_a_large_message_is_staged_in_order() -> None:
    staged, submission = receive(b"\n" + b"0123456789\n" * 50)
    assert submission.parts == ()
    assert [part.part for part in staged] == list(range(len(staged)))
    assert {part.queue_id for part in staged} == {7}
    assert sum(len(part.data) for part in staged) == submission.facts.size


def test_every_recipient_is_there_once_in_the_order_given() -> None:
    recipients = [
        "kim@example.net",
        "Kim@example.net",
        "kim@EXAMPLE.net",
        "kim@example.net",
        "root",
    ]
    _, submission = receive(
        b"To: lee@example.net, kim@example.net\n\nhi\n", recipients=recipients, from_headers=True
    )
    assert [recipient.address for recipient in submission.envelope.recipients] == [
        "kim@example.net",
        "Kim@example.net",
        "kim@EXAMPLE.net",
        "root@mail.example.org",
        "lee@example.net",
    ]


def test_without_a_stated_sender_it_is_the_user() -> None:
    assert receive()[1].envelope.sender == "anna@mail.example.org"
    assert receive(sender="")[1].envelope.sender == ""
    assert receive(sender="<>")[1].envelope.sender == ""
    nobody = Peer(uid=4711, gid=1, pid=1, groups=frozenset(), user="")
    with pytest.raises(ServiceError, match="4711") as caught:
        receive(peer=nobody)
    assert caught.value.code == 65
    with pytest.raises(ServiceError, match="the sender is not acceptable"):
        receive(peer=Peer(uid=1, gid=1, pid=1, groups=frozenset(), user="EX\\anna"))


def test_a_time_that_has_passed_is_now() -> None:
    assert receive(not_before=NOW - 5)[1].envelope.not_before == 0
    assert receive(not_before=NOW + 5)[1].envelope.not_before == NOW + 5
    for impossible in (float("nan"), float("inf"), NOW + 4e7):
        with pytest.raises(ServiceError, match="year"):
            receive(not_before=impossible)


def test_the_same_key_stands_for_content_sender_and_recipients() -> None:
    def digest(content: bytes = b"\nhi\n", **fields: Any) -> bytes:
        return receive(content, key="k", **fields)[1].facts.digest

    both = ["a@b.example", "c@d.example"]
    assert digest(recipients=both) == digest(recipients=both[::-1], hold=True)
    different = [digest(), digest(b"\nho\n"), digest(sender="x@y.example"), digest(recipients=both)]
    assert len(set(different)) == 4


@pytest.mark.parametrize(
    ("text", "wish"),
    [
        ("", Notify.DEFAULT),
        ("never", Notify.NEVER),
        ("NEVER", Notify.NEVER),
        ("success", Notify.SUCCESS),
        ("failure, delay", Notify.FAILURE | Notify.DELAY),
        ("success,success", Notify.SUCCESS),
    ],
)
def test_reports_are_asked_for_in_words(text: str, wish: Notify) -> None:
    assert parse_notify(text) == wish


@pytest.mark.parametrize(
    "text", ["maybe", "never,never", "never,delay", "success;delay", ",", "delay,"]
)
def test_other_words_are_refused(text: str) -> None:
    with pytest.raises(ServiceError) as caught:
        parse_notify(text)
    assert caught.value.code == 2


@given(st.text(max_size=30), st.text(max_size=30))
def test_no_text_reaches_an_envelope_that_could_break_a_command(
    sender: str, recipient: str
) -> None:
    try:
        _, submission = receive(sender=sender, recipients=[recipient])
    except ServiceError:
        return
    envelope = submission.envelope
    for address in (envelope.sender, *(one.address for one in envelope.recipients)):
        assert not set(address) & set("\r\n\0")
        assert len(address) <= 254


class _Coded(Exception):  # noqa: N818 - stands for errors of other rooms
    code = 5
    hint = "look"


def test_what_callers_are_told() -> None:
    mine = ServiceError(65, "no")
    assert told(mine) is mine
    away = told(StoreUnavailable("the disk is full"))
    assert (away.code, away.text) == (75, "the queue cannot be written: the disk is full")
    other = told(_Coded("not there"))
    assert (other.code, other.text, other.hint) == (5, "not there", "look")
    fault = told(KeyError("secret"))
    assert isinstance(fault, InternalError)
    assert "secret" not in f"{fault} {fault.hint}"


def test_a_key_in_use_elsewhere_is_worth_another_try() -> None:
    with pytest.raises(ServiceError, match='not finished uses the key "order-1"') as caught:
        answer_of(KeyBusy(), "order-1")
    assert caught.value.code == 75
