"""Lines and chunks of the local socket."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deliveryagent.protocol.local import (
    END_OF_CONTENT,
    ExitCode,
    ServiceError,
    chunk,
    decode_line,
    encode_line,
    error_fields,
    error_of,
)

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), values))
def test_anything_is_one_line_and_comes_back(fields: dict[str, Any]) -> None:
    line = encode_line(fields)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert decode_line(line) == fields


def test_octets_that_are_no_text_do_not_pass() -> None:
    with pytest.raises(UnicodeEncodeError):
        encode_line({"sender": "kim\udcff@example.net"})


@pytest.mark.parametrize("line", [b"", b"\n", b"[]", b"7", b"null", b"{", b"250 ok\r\n", b"\xff"])
def test_what_is_no_object_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_line(line)


def test_chunks_carry_their_length() -> None:
    assert chunk(b"abc") == b"\0\0\0\3abc"
    assert chunk(b"") == END_OF_CONTENT


def test_an_error_comes_back_as_it_was() -> None:
    error = error_of(error_fields(ServiceError(ExitCode.TRY_LATER, "the disk is full", "wait")))
    assert error is not None
    assert (error.code, str(error), error.text, error.hint) == (
        75,
        "the disk is full",
        "the disk is full",
        "wait",
    )
    assert error_of({"ok": True, "id": "x"}) is None


@pytest.mark.parametrize("answer", [{}, {"ok": "yes"}, {"ok": False, "code": "x"}, {"ok": 1}])
def test_a_strange_answer_is_an_error(answer: dict[str, Any]) -> None:
    error = error_of(answer)
    assert error is not None
    assert error.code == 1
    assert str(error)
