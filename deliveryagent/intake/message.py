"""A message that has come completely and is not taken yet: what hooks at its end see and may change.

Guarantees: content is in wire form (CRLF only, no dot-stuffing); what is not changed stays octet for octet;
names and values of header fields that would end a field, or the header section, are refused with
``ValueError``; a large content is never held in memory as a whole unless ``content`` is asked for. Never
stores anything.
"""

import re
from collections.abc import Iterator
from typing import BinaryIO

from deliveryagent.mail.address import parse_mailbox, parse_sender
from deliveryagent.mail.envelope import Notify
from deliveryagent.mail.verdict import Decision
from deliveryagent.protocol import headers
from deliveryagent.protocol.session import Recipient, Session, Transaction

_PIECE = 1 << 16
_HEAD = 1 << 20  # octets in which the header section is looked for; it is limited long before
_NAME = re.compile(r"[!-9;-~]{1,200}")
_ODD = re.compile(r"\r(?!\n[ \t])|(?<!\r)\n|\r\n(?![ \t]+[^ \t\r\n])|\0")


class Message:
    """``transaction`` says from whom and for whom; ``size`` is the number of octets as they came.

    ``refused`` has, over LMTP, the verdict on recipients that are answered in their own way, by address.
    """

    def __init__(self, session: Session, transaction: Transaction, raw: bytes | BinaryIO) -> None:
        self.session = session
        self.transaction = transaction
        self.refused: dict[str, Decision] = {}
        self._raw = raw
        self._fields: list[tuple[bytes, bytes]] | None = None  # name in lower case, all octets
        self._body_at = 0
        self._changed = False
        self._body: bytes | None = None  # when it was replaced
        if isinstance(raw, bytes):
            self.size = len(raw)
        else:
            self.size = raw.seek(0, 2)

    # -- the envelope ---

    @property
    def sender(self) -> str:
        """The reverse-path, empty for the null sender."""
        return self.transaction.sender

    @sender.setter
    def sender(self, address: str) -> None:
        """Raises ``AddressError``."""
        self.transaction.sender = parse_sender(address)

    @property
    def recipients(self) -> tuple[str, ...]:
        """Where it goes."""
        return tuple(one.address for one in self.transaction.recipients)

    @property
    def tags(self) -> dict[str, str]:
        """Names and values that are kept with the message."""
        return self.transaction.tags

    def add_recipient(
        self, address: str, *, notify: Notify = Notify.DEFAULT, orcpt: str = ""
    ) -> None:
        """Send it to this address as well, unless it is one already; raises ``AddressError``."""
        wire = parse_mailbox(address).address
        if all(one.address != wire for one in self.transaction.recipients):
            one = Recipient(address=wire, given=wire, notify=notify, orcpt=orcpt)
            self.transaction.recipients.append(one)

    def drop_recipient(self, address: str) -> None:
        """Do not send it to this address; nothing happens when it is none of the recipients.

        The case of a domain makes no difference. Raises ``AddressError``.
        """
        wanted = _plain(parse_mailbox(address).address)
        kept = [one for one in self.transaction.recipients if _plain(one.address) != wanted]
        self.transaction.recipients[:] = kept

    # -- the content ---

    @property
    def content(self) -> bytes:
        """All octets as they are now. Large ones are better read with ``pieces``."""
        if isinstance(self._raw, bytes) and not self._changed:
            return self._raw
        return b"".join(self.pieces())

    def pieces(self) -> Iterator[bytes]:
        """The octets as they are now, in pieces."""
        if not self._changed:
            yield from self._from(0)
            return
        yield b"".join(raw for _, raw in self._read_fields()) + b"\r\n"
        yield from self.body()

    def body(self) -> Iterator[bytes]:
        """What stands behind the empty line after the header section, in pieces."""
        if self._body is not None:
            yield self._body
            return
        self._read_fields()
        yield from self._from(self._body_at)

    @property
    def fields(self) -> list[tuple[str, str]]:
        """The header fields in order: the name as written, the value with its folding, without line end."""
        return [
            (name.decode("ascii").rstrip(), value[:-2].decode("utf-8", "surrogateescape"))
            for name, _, value in (raw.partition(b":") for _, raw in self._read_fields())
        ]

    def header(self, name: str) -> str | None:
        """The value of the first field of that name, unfolded and without blanks around it."""
        wanted = name.lower().encode()
        for field, raw in self._read_fields():
            if field == wanted:
                value = raw.partition(b":")[2].replace(b"\r\n", b"")
                return value.strip().decode("utf-8", "replace")
        return None

    def add_header(self, name: str, value: str, *, place: int | None = None) -> None:
        """Add a field: at the end of the header section, or before the field number ``place`` (from 0).

        ``value`` stands behind the colon; it may be folded, with CRLF. Raises ``ValueError``.
        """
        field = self._field(name, value)
        fields = self._read_fields()
        fields.insert(len(fields) if place is None else max(0, place), field)
        self._changed = True

    def change_header(self, name: str, value: str | None, *, number: int = 1) -> None:
        """Give the field of that name, counted from 1, another value; None removes it.

        A field that is not there is added, unless it was to be removed. Raises ``ValueError``.
        """
        if number < 1:
            raise ValueError("fields are counted from 1")
        fields = self._read_fields()
        wanted = name.lower().encode()
        places = [place for place, (field, _) in enumerate(fields) if field == wanted]
        if len(places) < number:
            if value is not None:
                self.add_header(name, value)
            return
        if value is None:
            del fields[places[number - 1]]
        else:
            fields[places[number - 1]] = self._field(name, value)
        self._changed = True

    def replace_body(self, body: bytes) -> None:
        """Put another body in place of this one; its lines must end in CRLF (``ValueError`` otherwise)."""
        lines = body.count(b"\r\n")
        if body.count(b"\n") != lines or body.count(b"\r") != lines or b"\0" in body:
            raise ValueError("a body has CRLF line ends only, and no NUL")
        if body and not body.endswith(b"\r\n"):
            raise ValueError("the last line of a body ends in CRLF")
        self._read_fields()
        self._body, self._changed = body, True

    # -- inside ---

    def _from(self, place: int) -> Iterator[bytes]:
        if isinstance(self._raw, bytes):
            yield self._raw[place:] if place else self._raw
            return
        while True:
            self._raw.seek(place)  # somebody else may have read meanwhile
            piece = self._raw.read(_PIECE)
            if not piece:
                return
            yield piece
            place += len(piece)

    def _start(self) -> bytes:
        """Octets in which the header section ends."""
        if isinstance(self._raw, bytes):
            end = self._raw.find(b"\r\n\r\n", 0, _HEAD)
            return self._raw[: end + 4] if end >= 0 else self._raw[:_HEAD]
        self._raw.seek(0)
        return self._raw.read(_HEAD)

    def _read_fields(self) -> list[tuple[bytes, bytes]]:
        if self._fields is None:
            lines = self._start().replace(b"\r\n", b"\n")
            end = headers.find_end(lines, 0, final=True)
            self._body_at = end.body + lines.count(b"\n", 0, end.body)
            self._fields = [
                (field.name, field.raw.replace(b"\n", b"\r\n"))
                for field in headers.split_fields(lines[: end.lines])
            ]
        return self._fields

    def _field(self, name: str, value: str) -> tuple[bytes, bytes]:
        if _NAME.fullmatch(name) is None:
            raise ValueError(f"{name!r} is not the name of a header field")
        if _ODD.search(value) is not None:
            raise ValueError(f"the value of {name} has a line end without a continuation, or a NUL")
        blank = "" if value[:1] in {" ", "\t"} else " "
        text = f"{name}:{blank}{value}\r\n".encode("utf-8", "surrogateescape")
        return name.lower().encode(), text


def _plain(address: str) -> str:
    """For comparisons: the domain in lower case."""
    local, _, domain = address.rpartition("@")
    return f"{local}@{domain.lower()}"
