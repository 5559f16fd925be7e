"""A message that is there as a whole, turned into the form that is stored and sent, fast.

Does what :class:`~deliveryagent.protocol.arrival.Arrival` does piece by piece, with a few passes of
C code over the whole. Guarantees: the same octets, facts and refusals as ``Arrival``, which gets
everything that is large, unusual, or to be refused. Never decodes a body.
"""

import hashlib
import re
from typing import NamedTuple

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
) -> Letter:
    """The message as it is kept. Raises ``ContentError``."""
    if not read_recipients and len(content) < part_size:
        letter = _at_once(content, stamp, limits, part_size)
        if letter is not None:
            return letter
    arrival = Arrival(stamp, limits=limits, part_size=part_size, read_recipients=read_recipients)
    parts = arrival.feed(content)
    rest, arrived = arrival.finish()
    return Letter(parts + rest, arrived)


def _at_once(content: bytes, stamp: Stamp, limits: LimitSettings, part_size: int) -> Letter | None:
    """The same for a message with nothing odd about it; None for any other."""
    if b"\0" in content or not content or content.startswith(_MBOX_LINES):
        return None
    text = content
    if b"\r" in text:
        text = text.replace(b"\r\n", b"\n").replace(b"\r", b" ")
    if not text.endswith(b"\n"):
        text += b"\n"
    end = headers.find_end(text, 0, final=True)
    if end.size > limits.header_size_limit:
        return None
    head = _head(text[: end.lines], stamp, limits)
    if head is None:
        return None
    whole = head + text[end.body :]
    wire = whole.replace(b"\n", b"\r\n")
    if len(wire) >= part_size or (
        limits.message_size_limit and len(wire) > limits.message_size_limit
    ):
        return None
    digest = hashlib.sha256()
    note_digest(digest, content)
    facts = ContentFacts(
        size=len(wire),
        dotted=b"\n." in whole,
        eightbit=not whole.isascii(),
        utf8_headers=not head.isascii() and any(map(needs_utf8, head.split(b"\n"))),
        long_lines=len(whole) > LONGEST_LINE and max(map(len, whole.split(b"\n"))) > LONGEST_LINE,
        digest=digest.digest(),
    )
    return Letter([wire], Arrived(facts=facts, recipients=()))


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
