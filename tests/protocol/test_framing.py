"""Frames between processes: split or joined in any way, and never anything but frames."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deliveryagent.protocol.framing import FRAME_LIMIT, FrameError, Unframer, encode


class Note(msgspec.Struct, frozen=True, tag="note"):
    """Something that is said."""

    text: str


decoder = msgspec.msgpack.Decoder(Note)


@given(
    st.lists(st.text(max_size=40).map(Note), max_size=8), st.lists(st.integers(0, 200), max_size=8)
)
def test_any_way_of_cutting_gives_the_same_frames(notes: list[Note], places: list[int]) -> None:
    octets = encode(notes)
    marks = sorted({place % (len(octets) + 1) for place in places})
    unframer, found = Unframer(), []
    for start, end in zip([0, *marks], [*marks, len(octets)], strict=True):
        found += unframer.feed(octets[start:end], decoder)
    assert found == notes


@pytest.mark.parametrize(
    "octets",
    [
        (FRAME_LIMIT + 1).to_bytes(4, "big"),
        b"\0\0\0\1\xc1",
        b"\0\0\0\0",
        encode([{"type": "letter", "text": "x"}]),
        encode([{"type": "note", "text": 7}]),
    ],
)
def test_what_is_no_frame_is_said_to_be_none(octets: bytes) -> None:
    with pytest.raises(FrameError):
        Unframer().feed(octets, decoder)


@given(st.binary(max_size=60))
def test_any_octets_are_frames_or_an_error(octets: bytes) -> None:
    try:
        found = Unframer().feed(octets, decoder)
    except FrameError:
        return
    assert all(isinstance(one, Note) for one in found)
