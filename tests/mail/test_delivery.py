"""Requests and results as they travel between processes."""

import msgspec

from deliveryagent.mail.delivery import (
    DeliveryRequest,
    DeliveryResult,
    Failure,
    HostTry,
    RecipientResult,
    RequestRecipient,
    Stage,
    Trouble,
    Verdict,
)

REQUEST = DeliveryRequest(
    serial=1,
    queue_id=2**62,
    sender="joe@example.org",
    recipients=(RequestRecipient(0, "ann@example.net", 1),),
    domain="example.net",
    next_hop="example.net",
    route=-1,
    size=2048,
    dotted=False,
    eightbit=True,
    utf8=False,
    long_lines=False,
    ret="",
    envid="",
    arrival=1.5e9,
    due=1.5e9,
    content=b"Subject: hi\r\n\r\n\xff",
)
RESULT = DeliveryResult(
    1,
    2**62,
    (RecipientResult(0, Verdict.DELIVERED, Stage.DOT, 250, "2.0.0", "queued\nas 1", 0),),
    (HostTry("mx.example", "192.0.2.1", 25, "", 1, 0.1, 0.1, 0.2, Stage.DOT, 250, "2.0.0", ""),),
    1,
    "",
    1.5e9,
    7,
)


def test_a_request_and_its_result_arrive_as_they_were_sent() -> None:
    for value in (REQUEST, RESULT):
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(value), type=type(value)) == value


def test_a_newer_field_at_the_end_may_be_missing() -> None:
    older = msgspec.msgpack.encode([Trouble.LOST, "the peer went away"])
    decoded = msgspec.msgpack.decode(older, type=Failure)
    assert decoded == Failure(Trouble.LOST, "the peer went away")
