"""Requests as the service reads them."""

import pytest

from deliveryagent.intake.outgoing import WISHES
from deliveryagent.intake.wishes import Wishes
from deliveryagent.protocol.local import ServiceError, encode_line
from deliveryagent.protocol.sending import read_op, read_order, read_send


def test_what_is_asked_for_is_told_from_the_rest() -> None:
    line = encode_line({"op": "send", "recipients": ["kim@example.net"], "hold": True, "x": "y"})
    assert read_op(line) == "send"
    request, unknown = read_send(line)
    assert request == {"op": "send", "recipients": ["kim@example.net"], "hold": True}
    assert unknown == {"x"}
    assert read_order(encode_line({"op": "hold", "filter": {}})) == {"op": "hold", "filter": {}}


@pytest.mark.parametrize("line", [b"", b"[]", b'{"op":1}', b"220 mail.example.org", b"\xff"])
def test_what_is_no_request_is_refused(line: bytes) -> None:
    with pytest.raises(ServiceError, match="not a request"):
        read_op(line)


@pytest.mark.parametrize("line", [b'{"recipients":"kim"}', b'{"hold":"yes"}', b'{"tags":{"a":1}}'])
def test_fields_have_their_types(line: bytes) -> None:
    with pytest.raises(ServiceError, match="not a request"):
        read_send(line)


def test_the_wishes_that_are_checked_are_those_that_are_declared() -> None:
    assert Wishes.__optional_keys__ == WISHES
