"""Header sections and address lists of messages (RFC 5322 sections 2.2, 3.4 and 3.6.6).

Works on header sections whose lines end in LF (but for ``header_section``, which cuts one out of a message in
wire form); fields are cut out, never rewritten. Guarantees: the fields of
a section, joined, are the section octet for octet; an address list either is understood completely or raises
``HeaderError`` with the place that was not understood, so that no address is guessed and none is lost.
Never judges whether an address is valid: that is ``mail.address``.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

# A run of more than 998 name characters is taken for text: RFC 5322 2.1.1 allows no longer line.
_START = rb"[!-9;-~]{1,998}+[ \t]{0,20}+:"
_FIELD = re.compile(rb"([!-9;-~]{1,998}+)[ \t]{0,20}+:([^\n]*+\n(?:[ \t][^\n]*+\n)*+)")
_FIELDS = re.compile(rb"(?:" + _START + rb"[^\n]*+\n(?:[ \t][^\n]*+\n)*+)*+")
_CONTINUATIONS = re.compile(rb"(?:[ \t][^\n]*+\n)*+")
_BEGINS_FIELD = re.compile(_START)

_UNDECIDED = 1100
"""Octets of an unfinished line after which it is known whether it begins a field."""

_TOKEN = re.compile(
    r'(?P<space>[ \t\r\n]++)|(?P<quoted>"(?:[^"\\]|\\.)*+")|(?P<literal>\[[^\[\]\\]*+\])'
    r'|(?P<mark>[<>,;:@.])|(?P<atom>[^\s()<>\[\]:;@\\,."]++)',
    re.DOTALL,
)
_COMMENT_PART = re.compile(r"[()]|\\.", re.DOTALL)

_ORIGINAL_LISTS = (b"to", b"cc", b"bcc")
_RESENT_LISTS = (b"resent-to", b"resent-cc", b"resent-bcc")
_ONCE_PER_RESENDING = frozenset(
    {b"resent-date", b"resent-from", b"resent-sender", b"resent-message-id"}
)


class HeaderError(ValueError):
    """An address list that cannot be read."""


class Field(NamedTuple):
    """One field: its name in lower case, its body, and all its octets including line ends."""

    name: bytes
    body: bytes
    raw: bytes


class SectionEnd(NamedTuple):
    """How far a header section reaches.

    ``lines`` octets are complete lines of it, ``size`` octets certainly belong to it. ``body`` is where the
    body begins, behind the empty line if there is one, or -1 while that is not known.
    """

    lines: int
    size: int
    body: int


def find_end(buffer: bytes | bytearray, start: int, *, final: bool) -> SectionEnd:
    """Look for the end of the header section in the octets that are there.

    Everything before ``start`` (a former answer's ``lines``, or 0) is known to belong to it. ``final`` says
    that nothing more will come and the last line is complete. A line that neither begins nor continues a
    field ends the section, as in Postfix; what an unfinished line is, is known after 1,100 octets of it.
    """
    continued = _CONTINUATIONS.match(buffer, start) if start else None
    fields = _FIELDS.match(buffer, continued.end() if continued else start)
    lines = fields.end() if fields else start
    rest = buffer[lines : lines + _UNDECIDED]
    newline = rest.find(b"\n")
    if newline == 0:
        return SectionEnd(lines, lines, lines + 1)
    if newline < 0 and not final:
        if _BEGINS_FIELD.match(rest) or (lines > 0 and rest[:1] in (b" ", b"\t")):
            return SectionEnd(lines, len(buffer), -1)
        if len(rest) < _UNDECIDED:
            return SectionEnd(lines, lines, -1)
    return SectionEnd(lines, lines, lines)


def end_of_fields(content: bytes) -> int:
    """Where the fields at the beginning of a complete message end; its lines may end in CRLF.

    That is before the empty line, or before the first line that neither begins nor continues a field.
    """
    fields = _FIELDS.match(content)
    return fields.end() if fields else 0


def header_section(content: bytes) -> bytes:
    """The header section of a message in wire form, its last line end included, the blank line not.

    A piece cut off inside the header section loses its incomplete last line.
    """
    if content.startswith(b"\r\n"):
        return b""
    end = content.find(b"\r\n\r\n")
    if end < 0:
        end = content.rfind(b"\r\n")
    return content[: end + 2] if end >= 0 else b""


def begins_field(line: bytes) -> bool:
    """Whether a line begins with a field name and a colon."""
    return _BEGINS_FIELD.match(line) is not None


def split_fields(section: bytes) -> list[Field]:
    """The fields of a complete header section, in order."""
    return [Field(found[1].lower(), found[2], found[0]) for found in _FIELD.finditer(section)]


def recipients_of(fields: Sequence[Field]) -> list[str]:
    """The addresses of To, Cc and Bcc, in order of the fields; raises ``HeaderError``.

    When the message was resent, only the Resent- fields of the topmost resending count (RFC 5322 3.6.6).
    """
    resent = any(field.name in _RESENT_LISTS for field in fields)
    wanted = _RESENT_LISTS if resent else _ORIGINAL_LISTS
    found: list[str] = []
    seen: set[bytes] = set()
    for field in fields:
        if resent and field.name in seen:
            break
        if field.name in _ONCE_PER_RESENDING:
            seen.add(field.name)
        if field.name in wanted:
            try:
                found += parse_address_list(field.body.decode("utf-8", "surrogateescape"))
            except HeaderError as error:
                raise HeaderError(f"{field.name.decode().title()}: {error}") from None
    return found


def parse_address_list(text: str) -> list[str]:
    """The bare addresses of an address list; names, comments, groups and source routes are left out.

    Raises ``HeaderError`` when part of it is not understood.

    >>> parse_address_list('"Doe, Kim" <kim@example.org>, team: lee@example.org (Lee), ann;, root')
    ['kim@example.org', 'lee@example.org', 'ann', 'root']
    """
    found: list[str] = []
    words: list[_Token] = []
    in_group = in_angle = after_angle = False
    for word in _tokens(text):
        match word.mark:
            case ">" if in_angle:
                found.append(_address(words, in_angle=True))
                words, in_angle, after_angle = [], False, True
            case _ if in_angle:
                words.append(word)
            case "," | ";" as end:
                if end == ";" and not in_group:
                    raise HeaderError('";" outside of a group')
                if words:
                    found.append(_address(words))
                words, after_angle = [], False
                in_group = in_group and end == ","
            case _ if after_angle:
                raise HeaderError(f'"{_shown(word.text)}" behind an address in angle brackets')
            case "<":
                words, in_angle = [], True
            case ":":
                if in_group or not words or any(former.mark == "@" for former in words):
                    raise HeaderError('":" that begins no group')
                words, in_group = [], True
            case _:
                words.append(word)
    if in_angle or in_group:
        raise HeaderError("an angle bracket is not closed" if in_angle else "a group is not closed")
    if words:
        found.append(_address(words))
    return found


class _Token(NamedTuple):
    """``mark`` is the character of a special token, and empty for atoms, quoted strings and literals."""

    mark: str
    text: str


def _tokens(text: str) -> Iterator[_Token]:
    """The lexical tokens of RFC 5322 3.2 without white space and comments."""
    place = 0
    while place < len(text):
        if text[place] == "(":
            place = _after_comment(text, place)
            continue
        match = _TOKEN.match(text, place)
        if match is None:
            raise HeaderError(f'"{_shown(text[place : place + 40])}" is not understood')
        place = match.end()
        if match.lastgroup != "space":
            yield _Token(match["mark"] or "", match[0])


def _after_comment(text: str, place: int) -> int:
    depth = 0
    for match in _COMMENT_PART.finditer(text, place):
        depth += {"(": 1, ")": -1}.get(match[0], 0)
        if depth == 0:
            return match.end()
    raise HeaderError("a comment is not closed")


def _address(words: list[_Token], *, in_angle: bool = False) -> str:
    """The address made of these tokens; two words side by side are none."""
    if in_angle and words and words[0].mark == "@":  # a source route (RFC 5322 4.4), to be ignored
        colon = next((place for place, word in enumerate(words) if word.mark == ":"), -1)
        words = words[colon + 1 :]
    side_by_side = any(not a.mark and not b.mark for a, b in pairwise(words))
    if not words or side_by_side or any(word.mark not in ("", "@", ".") for word in words):
        shown = " ".join(word.text for word in words)
        raise HeaderError(f'"{_shown(shown)}" is not an address')
    return "".join(word.text for word in words)


def _shown(text: str) -> str:
    text = text[:80]
    return text if text.isprintable() else text.encode("unicode_escape").decode()
