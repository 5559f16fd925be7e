"""The milter protocol, version 6, as octets: its words, and what a mail agent says to a mail filter.

A packet is its length (4 octets, big-endian), a letter and data. Guarantees: no string that is sent can end
early (NUL is left out). Never touches a socket. What a filter says is read by ``protocol.milter_answers``.

The protocol is described by libmilter alone; names are its names (``SMFIC_``, ``SMFIR_``, ``SMFIF_``,
``SMFIP_``) without the prefix.
"""

import ipaddress
import struct
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum, IntFlag

import msgspec

VERSION = 6
"""The version that is spoken; filters may ask for an older one, down to ``OLDEST``."""

OLDEST = 2

CHUNK = 65535
"""Octets of a body that go into one packet at most."""

LENGTH = struct.Struct("!I")
"""How long a packet is."""

NEGOTIATION = struct.Struct("!III")
"""Version, actions and steps."""


class Command(Enum):
    """What is said to a filter.

    QUIT_NC is never said, as in Postfix: filters made with libmilter do not go on after it.
    """

    ABORT = b"A"
    BODY = b"B"
    CONNECT = b"C"
    MACRO = b"D"
    BODYEOB = b"E"
    HELO = b"H"
    HEADER = b"L"
    MAIL = b"M"
    EOH = b"N"
    OPTNEG = b"O"
    QUIT = b"Q"
    RCPT = b"R"
    DATA = b"T"
    UNKNOWN = b"U"


class Action(IntFlag):
    """What a filter may want to change (``SMFIF_``)."""

    ADDHDRS = 0x01
    CHGBODY = 0x02
    ADDRCPT = 0x04
    DELRCPT = 0x08
    CHGHDRS = 0x10
    QUARANTINE = 0x20
    CHGFROM = 0x40
    ADDRCPT_PAR = 0x80
    SETSYMLIST = 0x100


class Step(IntFlag):
    """What a filter does not want to hear, or not to answer, and other agreements (``SMFIP_``)."""

    NOCONNECT = 0x01
    NOHELO = 0x02
    NOMAIL = 0x04
    NORCPT = 0x08
    NOBODY = 0x10
    NOHDRS = 0x20
    NOEOH = 0x40
    NR_HDR = 0x80
    NOUNKNOWN = 0x100
    NODATA = 0x200
    SKIP = 0x400
    NR_CONN = 0x1000
    NR_HELO = 0x2000
    NR_MAIL = 0x4000
    NR_RCPT = 0x8000
    NR_DATA = 0x10000
    NR_UNKN = 0x20000
    NR_EOH = 0x40000
    NR_BODY = 0x80000
    HDR_LEADSPC = 0x100000


ACTIONS = Action(0x1FF)
STEPS = Step(0x1FF7FF)  # all but RCPT_REJ: recipients that were refused are not told

NOT_WANTED: dict[Command, Step] = {
    Command.CONNECT: Step.NOCONNECT,
    Command.HELO: Step.NOHELO,
    Command.MAIL: Step.NOMAIL,
    Command.RCPT: Step.NORCPT,
    Command.DATA: Step.NODATA,
    Command.HEADER: Step.NOHDRS,
    Command.EOH: Step.NOEOH,
    Command.BODY: Step.NOBODY,
    Command.UNKNOWN: Step.NOUNKNOWN,
}
"""The step by which a filter says that it does not want to hear a command."""

NOT_ANSWERED: dict[Command, Step] = {
    Command.CONNECT: Step.NR_CONN,
    Command.HELO: Step.NR_HELO,
    Command.MAIL: Step.NR_MAIL,
    Command.RCPT: Step.NR_RCPT,
    Command.DATA: Step.NR_DATA,
    Command.HEADER: Step.NR_HDR,
    Command.EOH: Step.NR_EOH,
    Command.BODY: Step.NR_BODY,
    Command.UNKNOWN: Step.NR_UNKN,
}
"""The step by which a filter says that it will not answer a command."""

SYMBOL_STAGES = (
    Command.CONNECT,
    Command.HELO,
    Command.MAIL,
    Command.RCPT,
    Command.DATA,
    Command.BODYEOB,
    Command.EOH,
)
"""The stages for which a filter may choose macros, by their number (``SMFIM_``)."""

_SINCE = {Command.UNKNOWN: 3, Command.DATA: 4}


class Terms(msgspec.Struct, frozen=True):
    """What was agreed on at the start; ``macros`` are the names a filter asked for, by stage."""

    version: int
    actions: Action
    steps: Step
    macros: dict[Command, tuple[str, ...]]

    def wants(self, command: Command) -> bool:
        """Whether the filter hears this command at all."""
        if self.version < _SINCE.get(command, OLDEST):
            return False
        return not self.steps & NOT_WANTED.get(command, Step(0))

    def answers(self, command: Command) -> bool:
        """Whether the filter answers it."""
        return not self.steps & NOT_ANSWERED.get(command, Step(0))


def packet(command: Command, *data: bytes) -> bytes:
    """A packet of these octets."""
    content = b"".join(data)
    return LENGTH.pack(1 + len(content)) + command.value + content


def strings(command: Command, texts: Sequence[str]) -> bytes:
    """A packet of strings: HELO; MAIL and RCPT with their parameters; HEADER; UNKNOWN."""
    return packet(command, *map(_string, texts))


def _string(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape").replace(b"\0", b"") + b"\0"


def negotiation() -> bytes:
    """The first packet."""
    return packet(Command.OPTNEG, NEGOTIATION.pack(VERSION, ACTIONS, STEPS))


def connect(name: str, address: str, port: int) -> bytes:
    """Who connected: the name, and an IP address or nothing."""
    if not address:
        return packet(Command.CONNECT, _string(name), b"U")
    family = b"6" if ipaddress.ip_address(address).version == 6 else b"4"
    return packet(Command.CONNECT, _string(name), family, struct.pack("!H", port), _string(address))


def header(name: str, value: str, terms: Terms) -> bytes:
    """A field: its value as it stands behind the colon, folded with CRLF, which filters see as LF.

    Without HDR_LEADSPC the one blank that all fields have belongs to the colon.
    """
    if not terms.steps & Step.HDR_LEADSPC and value[:1] in {" ", "\t"}:
        value = value[1:]
    return strings(Command.HEADER, (name, value.replace("\r\n", "\n")))


def field_value(value: str, terms: Terms) -> str:
    """The value of a field that a filter wants, as it stands behind the colon, folded with CRLF.

    What would end the field, a line that is no continuation, is made one.
    """
    lines = value.replace("\r\n", "\n").replace("\r", "").split("\n")
    folded = [
        line if line[:1] in {" ", "\t"} else "\t" + line for line in lines[1:] if line.strip()
    ]
    blank = "" if terms.steps & Step.HDR_LEADSPC else " "
    return blank + "\r\n".join([lines[0], *folded])


def macros(command: Command, values: Mapping[str, str], names: Iterable[str]) -> bytes:
    """The macros for a command, those of these names that have a value; nothing when none has."""
    known = [text for name in names if values.get(name) for text in (name, values[name])]
    if not known:
        return b""
    return packet(Command.MACRO, command.value, *map(_string, known))
