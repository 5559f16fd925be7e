"""Frames survive any way the transport cuts or joins them."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deliveryagent.agent import frames
from deliveryagent.agent.frames import FrameError, FromWorker, Unframer
from deliveryagent.mail.delivery import DeliveryResult, RecipientResult

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


def results(count: int, text: str) -> list[DeliveryResult]:
    return [
        DeliveryResult(
            number, 1, (RecipientResult(1, 1, "dot", 250, "2.0.0", text),), (), 1, "", 0.5, number
        )
        for number in range(count)
    ]


def test_encoded_results_read_like_results() -> None:
    ended = results(3, "taken")
    octets = frames.encode_results([msgspec.msgpack.encode(result) for result in ended])
    assert octets == frames.encode([frames.Results(ended)])


def test_many_large_results_go_in_several_frames() -> None:
    ended = results(40, "x" * 100_000)
    octets = frames.encode_results([msgspec.msgpack.encode(result) for result in ended])
    heard = Unframer().feed(octets, frames.from_worker_decoder)
    assert len(heard) > 1
    told = [result for f in heard if isinstance(f, frames.Results) for result in f.results]
    assert told == ended
