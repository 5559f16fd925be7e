"""Message content as it goes over the wire after DATA (RFC 5321 2.3.8, 4.1.1.4, 4.5.2).

The normal form of a content has CRLF after every line, the last one included, and no other CR or LF. Stored
contents are in normal form already; here it is made sure of, because one lone LF before a dot would let a
sender end the message and speak commands of his own to the next host.

Guarantees: what comes out has no lone CR or LF and no CRLF.CRLF, so the message ends where the client says;
taking the doubled dots away gives back the normal form, octet for octet; no line is longer than the limit
(not counting the doubled dot, RFC 5321 4.5.3.1.6), longer ones are continued after CRLF and a blank as Postfix
does, but never inside a UTF-8 character. Never looks at what the content means.
"""

import re
from io import IncrementalNewlineDecoder

LINE_LENGTH_LIMIT = 998
"""Octets of a line without CRLF (RFC 5321 4.5.3.1.6; Postfix ``smtp_line_length_limit``)."""

LEAST_LIMIT = 64
"""The smallest limit that leaves room for continuing a line."""

_DOTTED = re.compile(rb"\n\.")  # searching is several times as quick as replacing
_STRAY = re.compile(rb"\r(?!\n)|(?<!\r)\n")


def encode(content: bytes, *, long_lines: bool, limit: int = LINE_LENGTH_LIMIT) -> bytes:
    """A whole content in wire form, without the final dot.

    ``long_lines`` says that some line is longer than 998 octets (``mail.envelope.ContentFacts``). ``limit``
    0 means no limit. Content that needs nothing done is returned as it is.
    """
    if not (long_lines or 0 < limit < LINE_LENGTH_LIMIT) and _is_plain(content):
        return content
    stuffer = Stuffer(limit if long_lines or limit < LINE_LENGTH_LIMIT else 0)
    return stuffer.feed(content) + stuffer.end()


def _is_plain(content: bytes) -> bool:
    """Whether the content is in normal form and no line begins with a dot."""
    return (
        _line_ends(content) in {"\r\n", None}
        and (content.endswith(b"\n") or not content)
        and not content.startswith(b".")
        and _DOTTED.search(content) is None
    )


def _line_ends(content: bytes) -> str | tuple[str, ...] | None:
    """The kinds of line ends there are: CRLF, lone CR, lone LF; one, or a tuple of them.

    The reader of text files knows them after one pass, several times as quick as counting octets.
    """
    reader = IncrementalNewlineDecoder(None, translate=False)
    reader.decode(str(content, "latin-1"), final=True)
    return reader.newlines


class Stuffer:
    """Brings a content into wire form part by part, whatever way it is cut.

    ``limit`` is the octets of a line without CRLF, 0 for no limit.
    """

    __slots__ = ("_cr", "_limit", "_line_start", "_room", "_tail")

    def __init__(self, limit: int = LINE_LENGTH_LIMIT) -> None:
        if limit and limit < LEAST_LIMIT:
            raise ValueError(f"lines cannot be limited to less than {LEAST_LIMIT} octets")
        self._limit = limit
        self._room = limit  # octets the current line may still have; one less after a continuation
        self._tail = b""  # with a limit: the current line as far as it is known, less than its room
        self._cr = False  # a CR that may be half of a CRLF is held back
        self._line_start = True  # of what went out

    def feed(self, data: bytes) -> bytes:
        """The next octets for the wire; may be none yet."""
        if self._cr:
            data = b"\r" + data
        self._cr = data.endswith(b"\r")
        if self._cr:
            data = data[:-1]
        if _line_ends(data) not in {"\r\n", None}:
            data = _STRAY.sub(b"\r\n", data)
        return self._stuff(self._fold(data) if self._limit else data)

    def end(self) -> bytes:
        """What is still owed: the rest, and the CRLF of a last line that has none."""
        rest = self._stuff(self._tail + (b"\r\n" if self._cr else b""))
        self._tail, self._cr = b"", False
        return rest if self._line_start else rest + b"\r\n"

    def _stuff(self, data: bytes) -> bytes:
        if not data:
            return data
        stuffed = data if _DOTTED.search(data) is None else data.replace(b"\n.", b"\n..")
        if self._line_start and stuffed.startswith(b"."):
            stuffed = b"." + stuffed
        self._line_start = data.endswith(b"\n")
        return stuffed

    def _fold(self, data: bytes) -> bytes:
        pieces: list[bytes] = []
        *lines, self._tail = (self._tail + data).split(b"\r\n")
        for line in lines:
            pieces += (self._cut(line, pieces), b"\r\n")
            self._room = self._limit
        self._tail = self._cut(self._tail, pieces)
        return b"".join(pieces)

    def _cut(self, line: bytes, pieces: list[bytes]) -> bytes:
        """Move all of a line but its last part to ``pieces``, each part followed by its continuation."""
        start = 0
        while len(line) - start > self._room:
            full = cut = start + self._room
            while cut > full - 4 and line[cut] & 0xC0 == 0x80:
                cut -= 1
            if line[cut] & 0xC0 == 0x80:  # no UTF-8, so there is no character to spare
                cut = full
            pieces += (line[start:cut], b"\r\n ")
            start = cut
            self._room = self._limit - 1
        return line[start:]
