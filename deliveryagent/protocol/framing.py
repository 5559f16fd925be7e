"""Messages of our processes to each other as octets: how a stream is cut into them.

Every frame is a 4 byte big-endian length and one MessagePack value. Guarantees: a frame longer than
``FRAME_LIMIT``, or one that its decoder does not know, raises ``FrameError``; frames split or joined by the
transport in any way decode alike. Never blocks, never touches a socket.
"""

import struct
from collections.abc import Iterable
from typing import Any, TypeVar

import msgspec

FRAME_LIMIT = 16 * 1024 * 1024


class FrameError(Exception):
    """The other side sent what is no frame."""


_encoder = msgspec.msgpack.Encoder()
T = TypeVar("T")
_LENGTH = struct.Struct("!I")


def encode(frames: Iterable[Any]) -> bytes:
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

    def feed(self, data: bytes, decoder: msgspec.msgpack.Decoder[T]) -> list[T]:
        """Every frame that is complete now; raises ``FrameError`` for anything else."""
        buffer = self._buffer
        whole: bytes | bytearray = data
        if buffer:
            buffer += data
            whole = buffer
        found: list[T] = []
        start, end = 0, len(whole)
        with memoryview(whole) as view:
            while end - start >= 4:
                (length,) = _LENGTH.unpack_from(view, start)
                if length > FRAME_LIMIT:
                    raise FrameError(f"a frame of {length} octets")
                stop = start + 4 + length
                if stop > end:
                    break
                try:
                    found.append(decoder.decode(view[start + 4 : stop]))
                except (msgspec.DecodeError, ValueError) as error:
                    raise FrameError(str(error)) from error
                start = stop
        if whole is buffer:
            del buffer[:start]
        elif start < end:
            buffer += data[start:]
        return found
