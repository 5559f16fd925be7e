"""What a mail filter says in the milter protocol.

Guarantees: a packet either is read completely or raises ``MilterError``, whatever it is; a reply that is read
is one that SMTP can carry. Never touches a socket, never decides what a refusal means for a session.
"""

import re
from enum import Enum

import msgspec

from deliveryagent.mail.verdict import Discard, Reject, Tempfail
from deliveryagent.protocol.milter import (
    ACTIONS,
    LENGTH,
    NEGOTIATION,
    OLDEST,
    STEPS,
    SYMBOL_STAGES,
    VERSION,
    Action,
    Command,
    Step,
    Terms,
)

PACKET_LIMIT = 1 << 20
"""Octets of a packet that are read; a filter sends bodies in pieces, and nothing else is as large."""

_REPLY_LINES = 32
_REPLY_LINE = 980  # both as libmilter has them
_REPLY_LINE_FORM = re.compile(r"([45][0-9][0-9])(?:[ -](.*))?", re.DOTALL)
_ENHANCED_FORM = re.compile(r"([45]\.[0-9]{1,3}\.[0-9]{1,3})(?: +|$)(.*)", re.DOTALL)


class MilterError(Exception):
    """A filter sent what the protocol does not have."""


class Plain(Enum):
    """Answers of a letter alone."""

    CONN_FAIL = b"f"
    ACCEPT = b"a"
    CONTINUE = b"c"
    DISCARD = b"d"
    PROGRESS = b"p"
    REJECT = b"r"
    SHUTDOWN = b"4"
    SKIP = b"s"
    TEMPFAIL = b"t"


class ReplyCode(msgspec.Struct, frozen=True):
    """A reply to the client in the filter's own words; lines are separated by LF."""

    code: int
    enhanced: str
    text: str


class AddHeader(msgspec.Struct, frozen=True):
    """Add a field at the end. Values of fields have LF where they are folded."""

    name: str
    value: str


class InsertHeader(msgspec.Struct, frozen=True):
    """Add a field at this place. 0 is the top, above the Received field of this host, which no filter sees."""

    index: int
    name: str
    value: str


class ChangeHeader(msgspec.Struct, frozen=True):
    """Another value for the field of that name, counted from 1; an empty one removes it."""

    index: int
    name: str
    value: str


class ReplaceBody(msgspec.Struct, frozen=True):
    """A piece of another body."""

    content: bytes


class ChangeSender(msgspec.Struct, frozen=True):
    """Another reverse-path, and parameters of MAIL."""

    address: str
    parameters: str = ""


class AddRecipient(msgspec.Struct, frozen=True):
    """One more recipient, and parameters of RCPT."""

    address: str
    parameters: str = ""


class DropRecipient(msgspec.Struct, frozen=True):
    """One recipient less."""

    address: str


class Quarantine(msgspec.Struct, frozen=True):
    """Keep the message on hold."""

    reason: str


Change = (
    AddHeader
    | InsertHeader
    | ChangeHeader
    | ReplaceBody
    | ChangeSender
    | AddRecipient
    | DropRecipient
    | Quarantine
)
"""What a filter may say at the end of a message, before its answer."""

Answer = Plain | ReplyCode | Change
"""All of what a filter may say once it is agreed on the terms."""


def packet_size(head: bytes) -> int:
    """Octets that follow the 4 octets of a packet's length; raises ``MilterError``."""
    (size,) = LENGTH.unpack(head)
    if not 1 <= size <= PACKET_LIMIT:
        raise MilterError(f"a packet of {size} octets")
    return int(size)


def read_terms(packet: bytes) -> Terms:
    """The answer to OPTNEG (without its length); raises ``MilterError``."""
    if packet[:1] != Command.OPTNEG.value or len(packet) < 1 + NEGOTIATION.size:
        raise MilterError("no answer to the negotiation")
    version, actions, steps = NEGOTIATION.unpack_from(packet, 1)
    if not OLDEST <= version <= VERSION:
        raise MilterError(f"it wants version {version} of the protocol")
    if actions & ~int(ACTIONS):
        raise MilterError(f"it wants unknown actions ({actions:#x})")
    if steps & ~int(STEPS):
        raise MilterError(f"it wants unknown steps ({steps:#x})")
    return Terms(version, Action(actions), Step(steps), _symbols(packet[1 + NEGOTIATION.size :]))


def _symbols(data: bytes) -> dict[Command, tuple[str, ...]]:
    chosen: dict[Command, tuple[str, ...]] = {}
    while data:
        names, end, rest = data[4:].partition(b"\0")
        if len(data) < 5 or not end:
            raise MilterError("a list of macros that is cut off")
        (number,) = LENGTH.unpack_from(data)
        if number >= len(SYMBOL_STAGES):
            raise MilterError(f"macros of an unknown stage {number}")
        words = names.decode("ascii", "replace").replace(",", " ").split()
        chosen[SYMBOL_STAGES[number]] = tuple(words)
        data = rest
    return chosen


def read_answer(packet: bytes) -> Answer:
    """Any later packet of a filter (without its length); raises ``MilterError``."""
    letter, data = packet[:1], packet[1:]
    try:
        return Plain(letter)
    except ValueError:
        pass
    match letter:
        case b"y":
            return _reply_code(_strings(data, 1)[0])
        case b"h":
            return AddHeader(*_strings(data, 2))
        case b"i" | b"m":
            if len(data) < 4:
                raise MilterError("a field without its place")
            index, strings = LENGTH.unpack_from(data)[0], _strings(data[4:], 2)
            kind = InsertHeader if letter == b"i" else ChangeHeader
            return kind(index, *strings)
        case b"b":
            return ReplaceBody(data)
        case b"e":
            return ChangeSender(*_strings(data, 1, 2))
        case b"+":
            return AddRecipient(*_strings(data, 1))
        case b"2":
            return AddRecipient(*_strings(data, 1, 2))
        case b"-":
            return DropRecipient(*_strings(data, 1))
        case b"q":
            return Quarantine(*_strings(data, 1))
    raise MilterError(f"an unknown packet {letter!r}")


def _strings(data: bytes, least: int, most: int = 0) -> list[str]:
    """Strings, each with its NUL."""
    *strings, rest = data.split(b"\0")
    if rest or not least <= len(strings) <= (most or least):
        raise MilterError(f"{len(strings)} strings where {least} were expected, or one without end")
    return [text.decode("utf-8", "surrogateescape") for text in strings]


def _reply_code(text: str) -> ReplyCode:
    """The reply of ``smfi_setreply`` and ``smfi_setmlreply``, in which ``%%`` stands for ``%``."""
    code, enhanced = "", ""
    lines: list[str] = []
    for line in text.replace("%%", "%").replace("\r\n", "\n").rstrip("\n").split("\n"):
        form = _REPLY_LINE_FORM.fullmatch(line)
        if form is None or (code and form[1] != code):
            raise MilterError(f"{text[:80]!r} is not a reply that refuses")
        code, words = form[1], form[2] or ""
        detailed = _ENHANCED_FORM.fullmatch(words)
        if detailed is not None and detailed[1][0] == code[0]:
            enhanced, words = enhanced or detailed[1], detailed[2]
        lines.append("".join(map(_printable, words))[:_REPLY_LINE])
    return ReplyCode(int(code), enhanced or f"{code[0]}.7.1", "\n".join(lines[:_REPLY_LINES]))


def _printable(letter: str) -> str:
    return letter if letter.isprintable() else "?"


def refusal(answer: Plain | ReplyCode) -> Reject | Tempfail | Discard | None:
    """The verdict on a client, a command, a recipient or a message that an answer is; None for a yes."""
    if isinstance(answer, ReplyCode):
        kind = Reject if answer.code >= 500 else Tempfail
        return kind(
            code=answer.code,
            enhanced=answer.enhanced,
            text=answer.text,
            close=answer.code == 421,
        )
    if answer is Plain.REJECT:
        return Reject(text="Command rejected")
    if answer is Plain.TEMPFAIL:
        return Tempfail(text="Service unavailable - try again later")
    if answer in {Plain.SHUTDOWN, Plain.CONN_FAIL}:
        return Tempfail(code=421, enhanced="4.7.0", text="Closing connection", close=True)
    return Discard() if answer is Plain.DISCARD else None
