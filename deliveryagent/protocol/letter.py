"""A message that is there as a whole, turned into the form that is stored and sent, fast.

Does what :class:`~deliveryagent.protocol.arrival.Arrival` does piece by piece, with a few passes of
C code over the whole. Guarantees: the same octets, facts and refusals as ``Arrival``, which gets
everything that is large, unusual, or to be refused. Never decodes a body.
"""

import hashlib
import re
from typing import NamedTuple

import msgspec

from deliveryagent.mail.envelope import ContentFacts
from deliveryagent.protocol import headers
from deliveryagent.protocol.arrival import (
    LONGEST_LINE,
    Arrival,
    Arrived,
    LimitSettings,
    Stamp,
    missing_fields,
    needs_utf8,
    note_digest,
    received,
)

_NAMES = re.compile(rb"^([!-9;-~]+)[ \t]*:", re.MULTILINE)
_MBOX_LINES = (b"From ", b">From ")
_DROPPED = frozenset({b"return-path", b"bcc"})
_REQUIRED = frozenset({b"from", b"date", b"message-id"})


class Letter(NamedTuple):
    """Parts in wire form, and what is known of the message."""

    parts: list[bytes]
    arrived: Arrived


def take(
    content: bytes,
    stamp: Stamp,
    *,
    limits: LimitSettings,
    part_size: int,
    read_recipients: bool = False,
    clean: bool = False,
    keyed: bool = True,
) -> Letter:
    """The message as it is kept. Raises ``ContentError``.

    ``clean``: it is known to have CRLF line ends only, and no NUL (``protocol.datastream``). Without ``keyed``
    nobody will compare it with another, and it gets no digest.
    """
    if not read_recipients and len(content) < part_size:
        letter = (
            None
            if not clean and b"\0" in content
            else _at_once(content if clean else _in_wire_form(content), stamp, limits, part_size)
        )
        if letter is not None:
            return letter if not keyed else _with_digest(letter, content)
    arrival = Arrival(stamp, limits=limits, part_size=part_size, read_recipients=read_recipients)
    parts = arrival.feed(content)
    rest, arrived = arrival.finish()
    return Letter(parts + rest, arrived)


def _in_wire_form(content: bytes) -> bytes:
    """The same lines, each ended by CRLF."""
    text = content
    if b"\r" in text:
        lines = text.count(b"\r\n")
        if lines == text.count(b"\n") == text.count(b"\r"):
            return text
        text = text.replace(b"\r\n", b"\n").replace(b"\r", b" ")
    return text.replace(b"\n", b"\r\n")


def _with_digest(letter: Letter, content: bytes) -> Letter:
    digest = hashlib.sha256()
    note_digest(digest, content)
    arrived = letter.arrived
    facts = msgspec.structs.replace(arrived.facts, digest=digest.digest())
    return Letter(letter.parts, Arrived(facts=facts, recipients=arrived.recipients))


def _at_once(wire: bytes, stamp: Stamp, limits: LimitSettings, part_size: int) -> Letter | None:
    """The same for a message with nothing odd about it; None for any other."""
    if not wire or wire.startswith(_MBOX_LINES):
        return None
    if not wire.endswith(b"\r\n"):
        wire += b"\r\n"
    end = headers.end_of_fields(wire)
    if end > limits.header_size_limit:
        return None
    head = _head(wire[:end].replace(b"\r\n", b"\n"), stamp, limits)
    if head is None:
        return None
    body = end + 2 if wire.startswith(b"\r\n", end) else end
    whole = head.replace(b"\n", b"\r\n") + wire[body:]
    size, limit = len(whole), limits.message_size_limit
    if size >= part_size or (limit and size > limit):
        return None
    facts = ContentFacts(
        size=size,
        dotted=b"\n." in whole,
        eightbit=not whole.isascii(),
        utf8_headers=not head.isascii() and any(map(needs_utf8, head.split(b"\n"))),
        long_lines=_has_long_line(whole),
    )
    return Letter([whole], Arrived(facts=facts, recipients=()))


def _has_long_line(wire: bytes) -> bool:
    """Looks at one line in a thousand octets: the last that ends within so many."""
    start, octets = 0, len(wire)
    while octets - start > LONGEST_LINE + 2:
        start = wire.rfind(b"\n", start, start + LONGEST_LINE + 2) + 1
        if not start:
            return True
    return False


def _head(section: bytes, stamp: Stamp, limits: LimitSettings) -> bytes | None:
    """The header section as it is kept, with the empty line; None when fields have to go."""
    folded = section.lower()
    found = _NAMES.findall(folded)
    names = frozenset(found)
    if not _DROPPED.isdisjoint(names) or b"resent-" in folded:
        return None
    if b"received" in names and found.count(b"received") > limits.hopcount_limit:
        return None
    added = b""
    if not names >= _REQUIRED:
        added = missing_fields(headers.split_fields(section), stamp)
    return received(stamp) + section + added + b"\n"
