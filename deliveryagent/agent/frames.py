"""What the manager and its workers say to each other over a socket pair.

Every frame is a 4 byte big-endian length and one MessagePack value of the unions below. Guarantees: a frame
longer than ``FRAME_LIMIT`` or of unknown kind raises ``FrameError`` and ends the connection; frames split or
joined by the transport in any way decode alike. Never blocks, never touches a socket.
"""

from collections.abc import Iterable, Iterator
from typing import TypeVar

import msgspec

from deliveryagent.mail.delivery import DeliveryRequest, DeliveryResult

FRAME_LIMIT = 16 * 1024 * 1024


class FrameError(Exception):
    """The other side sent what is no frame."""


class Configure(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """First frame to a worker: its settings (see ``agent.worker.WorkerSettings``, MessagePack)."""

    settings: bytes


class Lookup(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Ask for the site behind a next hop, before the first request for it is sent."""

    serial: int
    next_hop: str
    route: int


class Deliver(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Take up a delivery."""

    request: DeliveryRequest


class Part(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """One part of a content a worker fetched; ``data`` is None when it cannot be read."""

    queue_id: int
    part: int
    data: bytes | None


class Settled(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """All results up to this sequence number are durable: their journal slots may be used again."""

    sequence: int


class Release(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Close idle sessions: to one site (by next hop) or, with an empty text, to all."""

    next_hop: str


class Drain(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Finish what runs and exit; what has not reached its final dot within ``grace`` seconds is RETURNED."""

    grace: float


class Ready(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """First frame from a worker, after it has read its settings."""

    pid: int


class Site(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Answer to ``Lookup``: the site's name, empty when it cannot be known now, and for how long it holds."""

    serial: int
    name: str
    ttl: float


class Result(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """A delivery is over."""

    result: DeliveryResult


class Fetch(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Ask for one part of a content."""

    queue_id: int
    part: int


class Beat(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Sign of life from the worker's event loop, once a second: its lag in seconds and open sessions."""

    lag: float
    sessions: int


class Event(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Something for the log that belongs to no recipient: ``kind`` as in the event log, fields as text."""

    kind: str
    fields: dict[str, str]


class Transcript(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The dialogue of a session that broke the protocol, for the postmaster's notice (class ``protocol``)."""

    host: str
    queue_id: int
    lines: list[str]


ToWorker = Configure | Lookup | Deliver | Part | Settled | Release | Drain
FromWorker = Ready | Site | Result | Fetch | Beat | Event | Transcript

_encoder = msgspec.msgpack.Encoder()
to_worker_decoder: msgspec.msgpack.Decoder[ToWorker] = msgspec.msgpack.Decoder(ToWorker)
from_worker_decoder: msgspec.msgpack.Decoder[FromWorker] = msgspec.msgpack.Decoder(FromWorker)

T = TypeVar("T")


def encode(frames: Iterable[ToWorker | FromWorker]) -> bytes:
    """The octets of one or more frames, to be written at once."""
    parts: list[bytes] = []
    for frame in frames:
        body = _encoder.encode(frame)
        parts.append(len(body).to_bytes(4, "big"))
        parts.append(body)
    return b"".join(parts)


class Unframer:
    """Cuts a stream of octets into frames, whatever way it arrives."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes, decoder: msgspec.msgpack.Decoder[T]) -> Iterator[T]:
        """Yield every frame that is complete now; raises ``FrameError`` for anything else."""
        buffer = self._buffer
        buffer += data
        start, end = 0, len(buffer)
        with memoryview(buffer) as view:
            frames: list[T] = []
            while end - start >= 4:
                length = int.from_bytes(view[start : start + 4], "big")
                if length > FRAME_LIMIT:
                    raise FrameError(f"a frame of {length} octets")
                if end - start - 4 < length:
                    break
                try:
                    frames.append(decoder.decode(view[start + 4 : start + 4 + length]))
                except (msgspec.DecodeError, ValueError) as error:
                    raise FrameError(str(error)) from error
                start += 4 + length
        del buffer[:start]
        yield from frames
