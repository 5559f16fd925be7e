"""The in-flight journal: what a worker is at, in a small file that survives the worker.

A memory-mapped file of equal slots, one per request in flight. Three moments are noted: the request
was taken up, its final dot is about to be written, its outcome is known. Nothing is synced to disk:
stores into a shared mapping belong to the kernel at once, so they outlive a killed process, but not
a power cut.

Guarantees: the one byte that makes a note true is written last, and never over the only copy of
what it replaces, so a process may be killed at any instruction and the file still reads as before
or as after that note. Octets that were torn, truncated or mixed up by a power cut fail a checksum
and are no entry. Every slot handed out has its disk blocks: a full disk makes :meth:`Journal.start`
say None, it never kills the process. An outcome always fits, its texts are shortened if need be.
Each note costs a few microseconds.

Never reads the mail store, never decides: ``agent.recovery`` does, with what :func:`read` returns.

Layout, little-endian. Page 0: magic, version, slots, slot size, process id, queue identity. A slot:
state byte (bits 0-1 ``State``, bits 2-3 the result area in force), checksum of the facts, number of
recipients, length of the host text, two result descriptors (length, checksum), the facts (queue id,
then number and attempt of each recipient), the host text, two result areas of equal size.
"""

import fcntl
import mmap
import os
import struct
from collections import deque
from enum import IntEnum
from functools import lru_cache
from pathlib import Path
from typing import Self
from zlib import crc32

import msgspec

from deliveryagent.mail.delivery import (
    DeliveryRequest,
    DeliveryResult,
    HostTry,
    RecipientResult,
    Stage,
    Verdict,
)

_MAGIC = b"DAjournl"
_VERSION = 1
_PAGE = 4096
_HEADER = struct.Struct("<8sIIIQ16s")
_HEAD = struct.Struct("<III16x")  # at 4: checksum of the facts, recipients, length of the host text
_DESCRIPTORS = (16, 24)  # of the two result areas
_DESCRIPTOR = struct.Struct("<II")
_FACTS = 32
_ONE_RECIPIENT = struct.Struct("<QII")
_LENGTH = struct.Struct("<I")
_HOST_ROOM = 256
_CHUNK = 64  # slots whose disk blocks are claimed at a time
_LEAST_RESULT = 160  # octets of an encoded result without recipients, tries and texts
_LEAST_RECIPIENT = 48  # octets of an encoded recipient without its text
IN_DOUBT_TEXT = "the process died after the final dot; the message may be sent more than once"
_TEXT_CUTS = (1000, 300, 100, 40, 0)

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(DeliveryResult).decode


class State(IntEnum):
    """How far a request had come."""

    STARTED = 1  # taken up; nothing can have been delivered
    DOT = 2  # the final dot was written, or was about to be
    REPLIED = 3  # the outcome is known


_STARTED, _DOT, _REPLIED = map(int, State)  # plain numbers are quicker to store


class Entry(msgspec.Struct, frozen=True):
    """One request found in a journal.

    ``recipients`` are (number, attempt) in the request's order. ``host`` is the one whose dot was
    written last, empty before. ``result`` is set when ``state`` is REPLIED and names every
    recipient: those of which nothing was known yet are IN_DOUBT if a later dot was written, else
    RETURNED.
    """

    state: State
    queue_id: int
    recipients: tuple[tuple[int, int], ...]
    host: str
    result: DeliveryResult | None


def slot_size_for(recipients: int) -> int:
    """A slot size, in octets, that holds requests of so many recipients with legible texts."""
    need = _FACTS + 8 + _HOST_ROOM + 8 * recipients + 2 * (2048 + 128 * recipients)
    return max(16384, -(-need // _PAGE) * _PAGE)


class Journal:
    """A journal being written; one process, one thread.

    The file is locked (flock) as long as this object lives, so that :func:`writer` can tell.
    """

    def __init__(self, file: int, *, slots: int, slot_size: int) -> None:
        self._file = file
        self._slots = slots
        self._slot_size = slot_size
        self._map = mmap.mmap(file, _PAGE + slots * slot_size)
        self._free: list[int] = []
        self._claimed = 0
        self._counts = [0] * slots
        self._unsettled: deque[tuple[int, int]] = deque()

    @classmethod
    def create(cls, path: Path, identity: bytes, slots: int = 2048, slot_size: int = 16384) -> Self:
        """Make a new, empty journal for the queue with this 16 octet identity.

        Raises ``OSError`` when the file exists or cannot be made.
        """
        if len(identity) != 16 or slots < 1 or slot_size % _PAGE:
            raise ValueError("a journal needs an identity of 16 octets and slots of whole pages")
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(file, _PAGE + slots * slot_size)
            os.posix_fallocate(file, 0, _PAGE)
            journal = cls(file, slots=slots, slot_size=slot_size)
        except BaseException:
            os.close(file)
            raise
        _HEADER.pack_into(
            journal._map, 0, _MAGIC, _VERSION, slots, slot_size, os.getpid(), identity
        )
        return journal

    def start(self, request: DeliveryRequest) -> int | None:
        """Note that a request is taken up; returns its slot, None when there is none free.

        Raises ``ValueError`` for more recipients than a slot of this journal can answer for.
        """
        recipients = request.recipients
        count = len(recipients)
        if count == 1:
            facts = _ONE_RECIPIENT.pack(
                request.queue_id, recipients[0].number, recipients[0].attempt
            )
        else:
            if self._area(count, 1)[1] < _LEAST_RESULT + _LEAST_RECIPIENT * count:
                raise ValueError(f"a request of {count} recipients does not fit this journal")
            pairs = [value for r in recipients for value in (r.number, r.attempt)]
            facts = struct.pack(f"<Q{2 * count}I", request.queue_id, *pairs)
        if not self._free and not self._claim():
            return None
        slot = self._free.pop()
        self._counts[slot] = count
        at = _PAGE + slot * self._slot_size
        self._map[at + 4 : at + _FACTS + len(facts)] = _HEAD.pack(crc32(facts), count, 0) + facts
        self._map[at] = _STARTED
        return slot

    def dot(self, slot: int, host: str) -> None:
        """Note that the final dot is about to be written to this host; call it before the write."""
        text = _host_text(host)
        octets, at = self._map, _PAGE + slot * self._slot_size
        place = at + _FACTS + 8 + 8 * self._counts[slot]
        octets[place : place + len(text)] = text
        _LENGTH.pack_into(octets, at + 12, len(text))
        octets[at] = octets[at] & 0b1100 | _DOT

    def learned(self, slot: int, result: DeliveryResult) -> bytes:
        """Note what is known while the request goes on: ``result`` names only some of its
        recipients. Returns the whole result in MessagePack.
        """
        octets, at = self._map, _PAGE + slot * self._slot_size
        area = 2 if octets[at] >> 2 == 1 else 1
        start, room = self._area(self._counts[slot], area)
        whole = body = _encode(result)
        if len(body) > room:
            body = _fitting(result, room)
        place = at + start
        octets[place : place + len(body)] = body
        _DESCRIPTOR.pack_into(octets, at + _DESCRIPTORS[area - 1], len(body), crc32(body))
        octets[at] = area << 2 | _REPLIED
        return whole

    def replied(self, slot: int, result: DeliveryResult) -> bytes:
        """Note the outcome; the slot is kept until :meth:`settled` names the result's sequence.

        Returns the result in MessagePack.
        """
        self._unsettled.append((result.sequence, slot))
        return self.learned(slot, result)

    def settled(self, sequence: int) -> None:
        """Everything up to this sequence is durable elsewhere: free the slots."""
        unsettled = self._unsettled
        octets, size, free = self._map, self._slot_size, self._free
        while unsettled and unsettled[0][0] <= sequence:
            slot = unsettled.popleft()[1]
            octets[_PAGE + slot * size] = 0
            free.append(slot)

    def drop(self, slot: int) -> None:
        """Forget a request that left nothing to remember."""
        self._map[_PAGE + slot * self._slot_size] = 0
        self._free.append(slot)

    def close(self) -> None:
        """Let go of the file; what it says stays."""
        self._map.close()
        os.close(self._file)

    def _area(self, count: int, area: int) -> tuple[int, int]:
        return _area(self._slot_size, count, area)

    def _claim(self) -> bool:
        """Claim disk blocks for more slots; a store into a block the disk cannot give kills a
        process.
        """
        more = min(_CHUNK, self._slots - self._claimed)
        if not more:
            return False
        start = _PAGE + self._claimed * self._slot_size
        try:
            os.posix_fallocate(self._file, start, more * self._slot_size)
        except OSError:
            return False
        self._free.extend(range(self._claimed + more - 1, self._claimed - 1, -1))
        self._claimed += more
        return True


@lru_cache(maxsize=1024)
def _host_text(host: str) -> bytes:
    return host.encode("ascii", "replace")[:_HOST_ROOM]


@lru_cache(maxsize=4096)
def _area(slot_size: int, count: int, area: int) -> tuple[int, int]:
    """Where in a slot a result area begins, and how much it holds."""
    first = _FACTS + 8 + 8 * count + _HOST_ROOM
    room = (slot_size - first) // 2
    return first + (area - 1) * room, room


def _fitting(result: DeliveryResult, room: int) -> bytes:
    """The result with its texts, at last its hosts, shortened until it fits."""
    for cut in _TEXT_CUTS:
        tries = tuple(
            msgspec.structs.replace(t, text=t.text[:cut], host=t.host[:255], tls=t.tls[:100])
            for t in result.tries
        )
        body = _encode(_cut(result, cut, tries))
        if len(body) <= room:
            return body
    bare = msgspec.structs.replace(
        result, recipients=tuple(msgspec.structs.replace(r, host=-1) for r in result.recipients)
    )
    return _encode(_cut(bare, 0, ()))


def _cut(result: DeliveryResult, cut: int, tries: tuple[HostTry, ...]) -> DeliveryResult:
    return msgspec.structs.replace(
        result,
        recipients=tuple(
            msgspec.structs.replace(r, text=r.text[:cut], enhanced=r.enhanced[:11])
            for r in result.recipients
        ),
        tries=tries,
        reason=result.reason[:cut],
    )


def writer(path: Path) -> int | None:
    """The id of the process that writes this journal now; None when there is none."""
    try:
        with path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                head = file.read(_HEADER.size)
                if len(head) < _HEADER.size:
                    return None
                pid: int = _HEADER.unpack(head)[4]
                return pid or None
    except FileNotFoundError:
        return None
    return None


def read(path: Path, identity: bytes) -> list[Entry]:
    """All requests a journal tells of, in any order.

    Empty for a file that is no journal, is of another version, or belongs to another queue. Raises
    ``OSError`` when the file is there and cannot be read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEADER.size)
            if len(head) < _HEADER.size:
                return []
            magic, version, slots, slot_size, _, owner = _HEADER.unpack(head)
            if magic != _MAGIC or version != _VERSION or owner != identity or slot_size < _PAGE:
                return []
            entries = []
            length = os.fstat(file.fileno()).st_size
            for at in range(_PAGE, min(length, _PAGE + slots * slot_size), slot_size):
                if not os.pread(file.fileno(), 1, at).strip(b"\0"):
                    continue
                entry = _entry(os.pread(file.fileno(), slot_size, at), slot_size)
                if entry is not None:
                    entries.append(entry)
            return entries
    except FileNotFoundError:
        return []


def _entry(slot: bytes, slot_size: int) -> Entry | None:
    """What a slot says; None for a free or an illegible one."""
    if len(slot) < _FACTS or not slot[0] & 3:
        return None
    checksum, count, host_length = _HEAD.unpack_from(slot, 4)
    end = _FACTS + 8 + 8 * count
    if end + _HOST_ROOM > slot_size or len(slot) < end:
        return None
    facts = slot[_FACTS:end]
    if crc32(facts) != checksum:
        return None
    queue_id, *pairs = struct.unpack(f"<Q{2 * count}I", facts)
    recipients = tuple(zip(pairs[::2], pairs[1::2], strict=True))
    state, area = State(slot[0] & 3), slot[0] >> 2 & 3
    host = ""
    if state is not State.STARTED:
        host = slot[end : end + min(host_length, _HOST_ROOM)].decode(errors="replace")
    known = _result(slot, slot_size, count, area) if area in (1, 2) else None
    if known is None or known.queue_id != queue_id:
        # The dot was noted before any outcome could be: an illegible outcome leaves that much.
        state = State.DOT if state is State.REPLIED else state
        return Entry(state, queue_id, recipients, host, None)
    unknown = Verdict.IN_DOUBT if state is State.DOT else Verdict.RETURNED
    result = _completed(known, recipients, unknown)
    return Entry(State.REPLIED, queue_id, recipients, host, result)


def _result(slot: bytes, slot_size: int, count: int, area: int) -> DeliveryResult | None:
    length, checksum = _DESCRIPTOR.unpack_from(slot, _DESCRIPTORS[area - 1])
    start, room = _area(slot_size, count, area)
    body = slot[start : start + min(length, room)]
    if len(body) != length or crc32(body) != checksum:
        return None
    try:
        return _decode(body)
    except msgspec.DecodeError:
        return None


def _completed(
    known: DeliveryResult, recipients: tuple[tuple[int, int], ...], unknown: Verdict
) -> DeliveryResult:
    named = {r.number for r in known.recipients}
    rest = tuple(
        RecipientResult(number, unknown, Stage.DOT, 0, "4.4.2", IN_DOUBT_TEXT)
        for number, _ in recipients
        if number not in named
    )
    if not rest:
        return known
    return msgspec.structs.replace(known, recipients=known.recipients + rest)
