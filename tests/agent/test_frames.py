"""Frames survive any way the transport cuts or joins them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deliveryagent.agent import frames
from deliveryagent.agent.frames import FrameError, FromWorker, Unframer

FRAMES: list[FromWorker] = [
    frames.Ready(17),
    frames.Site(3, "mx.example.test", 300.0),
    frames.Fetch(2**62, 5),
    frames.Beat(0.25, 12),
    frames.Event("dialogue", {"host": "mx.test", "line": "250 \u00e9"}),
    frames.Transcript("mx.test", 9, ["Out: EHLO", "In:  ???"]),
]


@given(st.lists(st.sampled_from(FRAMES), max_size=8), st.lists(st.integers(1, 40), max_size=60))
def test_any_chunking_gives_the_same_frames(said: list[FromWorker], cuts: list[int]) -> None:
    octets = frames.encode(said)
    unframer, at = Unframer(), 0
    heard: list[FromWorker] = []
    for cut in [*cuts, len(octets) + 1]:
        heard += unframer.feed(octets[at : at + cut], frames.from_worker_decoder)
        at += cut
    assert heard == said


def test_a_frame_beyond_the_limit_is_refused_before_it_is_read() -> None:
    length = (frames.FRAME_LIMIT + 1).to_bytes(4, "big")
    with pytest.raises(FrameError, match="octets"):
        list(Unframer().feed(length, frames.from_worker_decoder))


@given(st.binary(min_size=1, max_size=50))
def test_whatever_is_no_frame_is_a_frame_error(body: bytes) -> None:
    octets = len(body).to_bytes(4, "big") + body
    try:
        heard = list(Unframer().feed(octets, frames.to_worker_decoder))
    except FrameError:
        return
    assert all(frame is not None for frame in heard)
