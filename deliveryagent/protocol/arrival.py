"""Turns a message as a local program hands it over into the form that is stored and sent.

Octets go in as they come, parts of wire form come out. What changes, and nothing else:

* Line ends: LF and CRLF, mixed or not, become CRLF; a CR without LF becomes a space, as in Postfix
  (``cleanup_replace_stray_cr_lf``), so no sequence of them can end the message early at a lenient receiver.
  A last line without line end gets one.
* A leading mbox line (``From kim@example.org Fri Nov 21 …``) is dropped. Return-Path, Bcc and Resent-Bcc
  are dropped (Postfix ``message_drop_headers``); all other fields keep their octets and their order.
* One Received field is put on top; From, Date and Message-ID (of a message that was resent: their Resent-
  forms) are added at the end of the header section when missing (RFC 6409 section 8). A missing empty line
  between header section and body is added.

Guarantees: any chunking of the input gives the same parts and facts; at most the header section and one part
are held in memory; input in wire form comes out as it went in, apart from the header fields named above.
Refused, with ``ContentError``: NUL (RFC 5321 and 5322 forbid it, and what receivers make of it differs), a
message, header section or number of hops over its limit, unreadable recipients. Never decodes a body.
"""

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.header import Header
from email.utils import format_datetime
from functools import lru_cache
from typing import Annotated

import msgspec

from deliveryagent.mail.envelope import ContentFacts
from deliveryagent.protocol import headers
from deliveryagent.protocol.headers import Field, HeaderError
from deliveryagent.setting import ByteSize, format_size, key, parse_size

LONGEST_LINE = 998  # octets without CRLF, RFC 5322 2.1.1
_LONGEST_MBOX_LINE = 1000
_DROPPED = frozenset({b"return-path", b"bcc", b"resent-bcc"})
_SLICE = 1 << 16  # octets converted at a time, so that a large feed costs no copies of itself
_HASHED_AT_ONCE = 2047
_ATOMS = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?: [A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_TO_ESCAPE = re.compile(r'(["\\])')
_ESCAPED = r"\\\1"
_SMALL = 1 << 15


@dataclass(frozen=True, kw_only=True)
class LimitSettings:
    """What is accepted into the queue at most."""

    message_size_limit: Annotated[
        ByteSize,
        key(
            "Largest message in octets, as it goes over the wire; 0 means no limit.",
            postfix="message_size_limit",
        ),
    ] = parse_size("50 MB")
    recipient_limit: Annotated[
        int,
        key("Most recipients of one message; 0 means no limit.", postfix="smtpd_recipient_limit"),
    ] = 50_000
    header_size_limit: Annotated[
        ByteSize,
        key("Largest header section of a message.", postfix="header_size_limit"),
    ] = parse_size("100 KiB")
    hopcount_limit: Annotated[
        int,
        key(
            "A message with more Received header fields than this is in a loop and refused.",
            postfix="hopcount_limit",
        ),
    ] = 50


class Stamp(msgspec.Struct, frozen=True, kw_only=True):
    """What is written into the header section of a message that is taken over.

    ``origin`` says who handed it over, for the Received field (``"from userid 1000"``). ``sender`` is the
    reverse-path, for a missing From field, ``full_name`` the name of its owner or empty. ``now`` is in seconds
    since the epoch. For mail that came over the network ``trace`` is what the Received field says up to the
    id, in place of ``origin``. Without ``complete`` no missing fields are added: a relay does not mend
    (RFC 5321 3.6.3).
    """

    hostname: str
    queue_id: str
    origin: str
    sender: str
    now: float
    full_name: str = ""
    trace: str = ""
    complete: bool = True


class Arrived(msgspec.Struct, frozen=True, kw_only=True):
    """A message that has come in completely: its facts, and the recipients its header section names."""

    facts: ContentFacts
    recipients: tuple[str, ...]


class ContentError(Exception):
    """The content cannot be taken: an RFC 3463 code, one sentence why, and what to do."""

    def __init__(self, enhanced: str, text: str, hint: str = "") -> None:
        super().__init__(text)
        self.enhanced = enhanced
        self.hint = hint


class Arrival:
    """One message on its way in: ``feed`` what comes, then ``finish``.

    ``part_size`` is the size of the parts that come out; only the last one is smaller. ``read_recipients``
    asks for the recipients in the header section (``sendmail -t``).
    """

    def __init__(
        self, stamp: Stamp, *, limits: LimitSettings, part_size: int, read_recipients: bool = False
    ) -> None:
        self._stamp = stamp
        self._limits = limits
        self._part_size = part_size
        self._read_recipients = read_recipients
        self._recipients: tuple[str, ...] = ()
        self._digest = hashlib.sha256()
        self._held_cr = False
        self._in_head = True
        self._head = bytearray()  # what has come of the header section
        self._head_lines = 0
        self._mbox_checked = False
        self._part = bytearray()
        self._size = 0
        self._line = 0  # octets of the unfinished line
        self._dotted = self._eightbit = self._utf8_headers = self._long_lines = False

    def feed(self, data: bytes) -> list[bytes]:
        """Take octets of the message; returns the parts they complete. Raises ``ContentError``."""
        note_digest(self._digest, data)
        parts: list[bytes] = []
        for start in range(0, len(data), _SLICE):
            parts += self._take(self._with_line_ends(data[start : start + _SLICE]))
        return parts

    def finish(self) -> tuple[list[bytes], Arrived]:
        """The rest of the parts, and what the message is. Raises ``ContentError``."""
        parts = self._take(b" ") if self._held_cr else []
        if self._in_head:
            if self._head and not self._head.endswith(b"\n"):
                self._head += b"\n"
            parts += self._take_head(final=True)
        if self._line:
            parts += self._emit(b"\n")
        if self._part:
            parts.append(bytes(self._part))
            self._part.clear()
        facts = ContentFacts(
            size=self._size,
            dotted=self._dotted,
            eightbit=self._eightbit,
            utf8_headers=self._utf8_headers,
            long_lines=self._long_lines,
            digest=self._digest.digest(),
        )
        return parts, Arrived(facts=facts, recipients=self._recipients)

    def _with_line_ends(self, data: bytes) -> bytes:
        """The same lines, each ended by a single LF; a CR at the end waits for what follows."""
        if b"\0" in data:
            raise ContentError(
                "5.6.0",
                "the message contains a NUL octet, which mail cannot carry",
                "Send binary data as an attachment in base64.",
            )
        if self._held_cr:
            data = b"\r" + data
        self._held_cr = data.endswith(b"\r")
        if self._held_cr:
            data = data[:-1]
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b" ")
        return data

    def _take(self, data: bytes) -> list[bytes]:
        if not self._in_head:
            return self._emit(data)
        self._head += data
        return self._take_head(final=False)

    def _take_head(self, *, final: bool) -> list[bytes]:
        """Collect the header section; when it is complete, let it and what stands behind it out."""
        if not self._mbox_checked and not self._check_mbox_line(final=final):
            return []
        head = self._head
        end = headers.find_end(head, self._head_lines, final=final)
        if end.size > self._limits.header_size_limit:
            limit = format_size(self._limits.header_size_limit)
            raise ContentError(
                "5.3.4",
                f"the header section is larger than {limit}",
                "The limit is queue.header_size_limit.",
            )
        self._head_lines = end.lines
        if end.body < 0:
            return []
        section, rest = bytes(head[: end.lines]), bytes(head[end.body :])
        self._in_head, self._head = False, bytearray()
        parts = self._emit(self._completed(section))
        for start in range(0, len(rest), _SLICE):
            parts += self._emit(rest[start : start + _SLICE])
        return parts

    def _check_mbox_line(self, *, final: bool) -> bool:
        """Drop a leading mbox separator. Returns whether enough is there to know."""
        head = self._head
        newline = head.find(b"\n", 0, _LONGEST_MBOX_LINE)
        if newline < 0 and len(head) < _LONGEST_MBOX_LINE and not final:
            return False
        self._mbox_checked = True
        line = bytes(head[: newline + 1])
        if line.startswith((b"From ", b">From ")) and not headers.begins_field(line):
            del head[: newline + 1]
        return True

    def _completed(self, section: bytes) -> bytes:
        """The header section as it is kept, with the empty line behind it."""
        fields = headers.split_fields(section)
        names = [field.name for field in fields]
        hops = names.count(b"received")
        if hops > self._limits.hopcount_limit:
            raise ContentError(
                "5.4.6",
                f"the message has passed {hops} hosts and seems to be in a loop",
                "The limit is queue.hopcount_limit; the Received header fields show the way it took.",
            )
        if self._read_recipients:
            try:
                self._recipients = tuple(headers.recipients_of(fields))
            except HeaderError as error:
                raise ContentError("5.1.3", f"cannot read the recipients: {error}") from None
        if not _DROPPED.isdisjoint(names):
            section = b"".join(field.raw for field in fields if field.name not in _DROPPED)
        section = received(self._stamp) + section + missing_fields(fields, self._stamp) + b"\n"
        if not section.isascii():
            self._utf8_headers = any(needs_utf8(line) for line in section.split(b"\n"))
        return section

    def _emit(self, data: bytes) -> list[bytes]:
        """Note the facts of some lines, and let out the parts that are full."""
        if not data:
            return []
        self._dotted = self._dotted or b"\n." in data or (not self._line and data.startswith(b"."))
        self._eightbit = self._eightbit or not data.isascii()
        self._note_lengths(data)
        wire = data.replace(b"\n", b"\r\n")
        self._size += len(wire)
        limit = self._limits.message_size_limit
        if limit and self._size > limit:
            raise ContentError(
                "5.3.4",
                f"the message is larger than {format_size(limit)}",
                "The limit is queue.message_size_limit.",
            )
        self._part += wire
        parts = []
        while len(self._part) >= self._part_size:
            parts.append(bytes(self._part[: self._part_size]))
            del self._part[: self._part_size]
        return parts

    def _note_lengths(self, data: bytes) -> None:
        last = data.rfind(b"\n")
        if self._long_lines:
            self._line = len(data) - last - 1 if last >= 0 else self._line + len(data)
            return
        lines = data.split(b"\n")
        first = self._line + len(lines[0])
        self._line = first if last < 0 else len(lines[-1])
        self._long_lines = first > LONGEST_LINE or max(map(len, lines)) > LONGEST_LINE


def received(stamp: Stamp) -> bytes:
    """The trace field of a message (RFC 5321 4.4); it names no recipient.

    >>> received(Stamp(hostname="a.example", queue_id="0C7", origin="from userid 0", sender="", now=0))
    b'Received: by a.example (deliveryagent, from userid 0)\\n\\tid 0C7; Thu, 01 Jan 1970 00:00:00 +0000\\n'
    """
    way = stamp.trace or f"by {stamp.hostname} (deliveryagent, {stamp.origin})\n\t"
    return f"Received: {way}id {stamp.queue_id}; {_date(stamp.now)}\n".encode()


def missing_fields(fields: list[Field], stamp: Stamp) -> bytes:
    """The fields a message must have and this one lacks; Resent- fields when it was resent."""
    if not stamp.complete:
        return b""
    names = {field.name for field in fields}
    prefix = "Resent-" if any(name.startswith(b"resent-") for name in names) else ""
    sender = stamp.sender or f"MAILER-DAEMON@{stamp.hostname}"
    required = {
        "From": f"{phrase(stamp.full_name)} <{sender}>" if stamp.full_name else sender,
        "Date": _date(stamp.now),
        "Message-ID": f"<{stamp.queue_id}@{stamp.hostname}>",
    }
    return "".join(
        f"{prefix}{name}: {value}\n"
        for name, value in required.items()
        if f"{prefix}{name}".lower().encode() not in names
    ).encode()


def phrase(name: str) -> str:
    """A full name as it stands before an address (RFC 5322 3.2.5), encoded (RFC 2047) where it has to be.

    >>> phrase("Kim Doe"), phrase('Kim "K." Doe')
    ('Kim Doe', '"Kim \\\\"K.\\\\" Doe"')
    """
    if not name.isascii():
        return Header(name, "utf-8").encode()
    if _ATOMS.fullmatch(name):
        return name
    return f'"{_TO_ESCAPE.sub(_ESCAPED, name)}"'


def _date(now: float) -> str:
    return _date_of_second(int(now))


@lru_cache(maxsize=4)
def _date_of_second(second: int) -> str:
    return format_datetime(datetime.fromtimestamp(second, UTC))


def note_digest(digest: "hashlib._Hash", data: bytes) -> None:
    """Hash some octets of the content."""
    # Python gives the interpreter away to hash more than this at once; for a small message,
    # getting it back from a busy thread takes far longer than the hashing.
    step = _HASHED_AT_ONCE if len(data) <= _SMALL else max(1, len(data))
    for start in range(0, len(data), step):
        digest.update(data[start : start + step])


def needs_utf8(line: bytes) -> bool:
    """Whether a header line is UTF-8 beyond ASCII; other octets above 127 are no reason for SMTPUTF8."""
    if line.isascii():
        return False
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
