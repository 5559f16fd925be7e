"""The words between doors and queue."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from deliveryagent.mail.envelope import ContentFacts, Envelope, NewRecipient
from deliveryagent.mail.submission import CONTENT_PART, Submission
from queue_schema import tables


def test_the_store_cuts_contents_as_the_doors_do() -> None:
    assert tables.CONTENT_PART == CONTENT_PART


@given(st.lists(st.binary(max_size=50), max_size=3), st.integers(0, 2**63 - 1))
def test_a_submission_survives_the_way_from_a_listener(parts: list[bytes], number: int) -> None:
    one = Submission(
        queue_id=number,
        envelope=Envelope(sender="", recipients=(NewRecipient(address="kim@example.net"),)),
        facts=ContentFacts(size=sum(map(len, parts))),
        parts=tuple(parts),
        arrival=1.5,
        origin="client=192.0.2.1",
    )
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(one), type=Submission)
    assert again == one
