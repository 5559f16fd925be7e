"""The content of a message as it comes over the wire: the octets behind DATA, or the chunks of BDAT.

Only CRLF.CRLF ends what follows DATA (RFC 5321 4.1.1.4); the dots that were added on the way are taken out.
Guarantees: any way the octets are cut gives the same content and the same end; a CR or LF that stands alone,
a NUL, a line or a message over its limit is a ``fault``, found without losing the end of the data, and from
then on nothing more is kept; with ``normalise`` lone CRs and LFs are kept as they came, and it is
``protocol.arrival`` that makes them harmless. Never holds more than one unfinished line.
"""

import re

from deliveryagent.mail.verdict import Refusal, Reject

_DOTTED = b"\r\n."
_END = b"\r\n.\r\n"
_HELD = 1 << 16  # octets of an unfinished line that are waited for
_TAIL = 4  # octets that may be the beginning of the end
_BARE = re.compile(rb"\r(?!\n)|(?<!\r)\n")


class ContentRules:
    """What is let through. ``size_limit`` and ``line_limit`` are octets; 0: no limit."""

    __slots__ = ("line_limit", "normalise", "size_limit")

    def __init__(
        self, *, size_limit: int = 0, line_limit: int = 0, normalise: bool = False
    ) -> None:
        self.size_limit = size_limit
        self.line_limit = line_limit
        self.normalise = normalise


class DataStream:
    """One content. ``fault`` is why it cannot be taken, ``size`` how much of it has come."""

    __slots__ = ("_at_line", "_held", "_line", "_rules", "fault", "size")

    def __init__(self, rules: ContentRules) -> None:
        self._rules = rules
        self._at_line = True  # whether what comes next begins a line
        self._line = 0  # octets of the line that is not finished
        self._held = b""  # a CR at the end of a chunk
        self.fault: Refusal | None = None
        self.size = 0

    def take(self, buffer: bytearray) -> tuple[bytes, bool]:
        """Cut the next content out of what has come; also whether that was its end.

        What cannot be understood yet stays in the buffer, at most 64 KiB.
        """
        if self._at_line and buffer.startswith(b"."):
            if buffer.startswith(b".\r\n"):
                del buffer[:3]
                return b"", True
            if len(buffer) < 3 and b".\r\n".startswith(buffer):
                return b"", False
            del buffer[:1]
            self._at_line = False
        end = buffer.find(_DOTTED)  # most contents have no line that begins with a dot but the last
        dotted = end >= 0 and not buffer.startswith(_END, end)
        if dotted:
            end = buffer.find(_END, end)
        if end >= 0:
            piece = bytes(memoryview(buffer)[: end + 2])
            del buffer[: end + len(_END)]
            return self._checked(piece, dotted=dotted), True
        cut = buffer.rfind(b"\r\n") + 2
        if cut < 2:
            if len(buffer) <= _HELD:
                return b"", False
            cut = len(buffer) - _TAIL
            if buffer[cut - 1] == 0x0D:
                cut -= 1
        piece = bytes(memoryview(buffer)[:cut])
        del buffer[:cut]
        self._at_line = piece.endswith(b"\r\n")
        return self._checked(piece, dotted=True), False

    def chunk(self, data: bytes) -> bytes:
        """Octets of a BDAT chunk; a CR at the end of one waits for the next (``finish_chunks``)."""
        data = self._held + data
        self._held = b"\r" if data.endswith(b"\r") else b""
        return self._checked(data[:-1] if self._held else data, dotted=False)

    def finish_chunks(self) -> bytes:
        """What was held back, when no chunk follows."""
        held, self._held = self._held, b""
        return self._checked(held, dotted=False)

    def expect(self, size: int) -> None:
        """So many octets will come: if they are too many, nothing of them is kept."""
        limit = self._rules.size_limit
        if limit and self.size + size > limit:
            self.refuse(self._too_large())

    def refuse(self, fault: Refusal) -> None:
        """Keep nothing more; an earlier ``fault`` remains what it is."""
        self.fault = self.fault or fault

    def _checked(self, piece: bytes, *, dotted: bool) -> bytes:
        if dotted:
            piece = piece.replace(_DOTTED, b"\r\n")
        if self.fault is None:
            line = self._line
            if self._is_faulty(piece):
                self._line = line
                self.fault = self._first_fault(piece)
        self.size += len(piece)
        return piece if self.fault is None else b""

    def _is_faulty(self, piece: bytes) -> bool:
        rules = self._rules
        if rules.size_limit and self.size + len(piece) > rules.size_limit:
            return True
        if b"\0" in piece:
            return True
        if not rules.normalise:
            lines = piece.count(b"\r\n")
            if piece.count(b"\n") != lines or piece.count(b"\r") != lines:
                return True
        if not rules.line_limit:
            return False
        if not self._line and len(piece) <= rules.line_limit and piece.endswith(b"\n"):
            return False  # nothing as short as this has a long line
        return self._is_long(piece, rules.line_limit)

    def _first_fault(self, piece: bytes) -> Reject:
        """Which of its faults comes first: the same one, however the content was cut."""
        rules, found = self._rules, []
        if rules.size_limit and self.size + len(piece) > rules.size_limit:
            found.append((rules.size_limit - self.size, self._too_large()))
        if (place := piece.find(b"\0")) >= 0:
            nul = Reject(code=550, enhanced="5.6.0", text="The message has a NUL octet")
            found.append((place, nul))
        if not rules.normalise and (bare := _BARE.search(piece)) is not None:
            text = "The message has a CR or LF that is not part of CRLF"
            found.append((bare.start(), Reject(code=550, enhanced="5.5.2", text=text)))
        if rules.line_limit and (place := self._place_of_long_line(piece)) >= 0:
            text = f"The message has a line of more than {rules.line_limit} octets"
            found.append((place, Reject(code=550, enhanced="5.6.0", text=text)))
        return min(found, key=lambda one: one[0])[1]

    def _too_large(self) -> Reject:
        text = f"Message size exceeds the limit of {self._rules.size_limit} octets"
        return Reject(code=552, enhanced="5.3.4", text=text)

    def _place_of_long_line(self, piece: bytes) -> int:
        """Where a line has its first octet too many, or -1."""
        start, room = 0, self._rules.line_limit + 2 - self._line
        while start < len(piece):
            end = piece.find(b"\n", start) + 1 or len(piece)
            if end - start > room:
                return start + room
            start, room = end, self._rules.line_limit + 2
        return -1

    def _is_long(self, piece: bytes, limit: int) -> bool:
        last = piece.rfind(b"\n")
        if last < 0:
            self._line += len(piece)
            return self._line > limit + 2
        if len(piece) + self._line <= limit:
            self._line = len(piece) - last - 1
            return False
        first = piece.find(b"\n") + 1 + self._line
        self._line = len(piece) - last - 1
        longest = max(map(len, piece.split(b"\n"))) + 1
        return max(first, longest) > limit + 2
