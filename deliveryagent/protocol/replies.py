"""Octets into replies (RFC 5321 4.2), for a peer that may be broken or hostile.

Guarantees: any way the octets are cut gives the same replies; memory stays below the limits here whatever
is sent; the only exception that escapes is ``ProtocolError``, after which the parser refuses everything;
reply text is Unicode that prints on one line per reply line: no control character, no terminal escape, no
text direction trick, octets that are no UTF-8 replaced.

Strict where a mistake loses mail: three digits, the first 2 to 5, then a blank, a hyphen or the end, and the
same code on all lines of a reply. Forgiving where it does not: a lone LF ends a line, an overlong text is cut.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import cast

from deliveryagent.mail.status import SmtpReply, split_enhanced

LINE_KEPT = 2048
"""Octets of a line that are kept (Postfix ``line_length_limit``); the rest is cut."""

LINE_LIMIT = 8192
"""Octets of a line that are borne; a longer one is no reply."""

REPLY_LIMIT = 65536
"""Octets of one reply with all its lines."""

REPLY_LINES = 300
"""Lines of one reply."""

TEXT_KEPT = 16384
"""Characters of a reply's text that are kept; an honest answer to EHLO has a few hundred."""

FAMILIAR_LIMIT = 512
"""Octets of a segment whose lines are worth remembering."""

_CODES = {str(code).encode(): code for code in range(200, 600)}
_LAST = {b"": True, b" ": True, b"\r": True, b"-": False}


class ProtocolError(Exception):
    """The peer sent what no reply can be; ``replies`` are the complete ones that came before it."""

    def __init__(self, text: str, replies: list[SmtpReply]) -> None:
        super().__init__(text)
        self.replies = replies


class ReplyParser:
    """Collects the octets of one connection; starts afresh after the TLS handshake."""

    __slots__ = ("_broken", "_code", "_lines", "_octets", "_pending", "_texts")

    def __init__(self) -> None:
        self._pending = b""
        self._code = 0
        self._texts: list[str] = []
        self._lines = 0
        self._octets = 0
        self._broken = ""

    @property
    def idle(self) -> bool:
        """Whether nothing of a reply has been read yet."""
        return not self._pending and not self._lines

    def partial(self) -> str:
        """What has been read of an unfinished reply, one printable line of at most 200 characters."""
        return " ".join([*self._texts, printable(self._pending[:LINE_KEPT])])[:200]

    def feed(self, data: bytes) -> Sequence[SmtpReply]:
        """The replies completed by these octets; raises ``ProtocolError`` for anything that is none."""
        if self._broken:
            raise ProtocolError(self._broken, [])
        replies: list[SmtpReply] = []
        lines = (self._pending + data).split(b"\n")
        if len(data) <= FAMILIAR_LIMIT and not lines[-1] and not self._lines:
            familiar = list(map(_familiar, lines[:-1]))
            if None not in familiar:
                self._pending = b""
                return cast("list[SmtpReply]", familiar)
        self._pending = lines.pop()
        try:
            for line in lines:
                self._take(line, replies)
            self._measure(len(self._pending), replies)
        except ProtocolError as error:
            self._broken = str(error)
            self._pending = b""
            self._texts.clear()
            raise
        return replies

    def _measure(self, octets: int, replies: list[SmtpReply]) -> None:
        too_many = self._octets > REPLY_LIMIT or self._lines > REPLY_LINES
        if octets > LINE_LIMIT or too_many:
            raise ProtocolError("a reply without end", replies)

    def _take(self, line: bytes, replies: list[SmtpReply]) -> None:
        code = _CODES.get(line[:3], 0)
        last = _LAST.get(line[3:4])
        self._lines += 1
        self._octets += len(line)
        if not code or last is None or (self._lines > 1 and code != self._code):
            raise ProtocolError(f'not a reply: "{printable(line[:80])}"', replies)
        self._measure(len(line), replies)
        self._code = code
        self._texts.append(printable(line[4:LINE_KEPT]))
        if not last:
            return
        enhanced, self._texts[0] = split_enhanced(code, self._texts[0])
        replies.append(SmtpReply(code, enhanced, "\n".join(self._texts)[:TEXT_KEPT]))
        self._texts.clear()
        self._lines = self._octets = 0


@lru_cache(maxsize=512)
def _familiar(line: bytes) -> SmtpReply | None:
    """The reply that a line is, without its LF; None for what needs a closer look.

    Peers repeat themselves: most lines of a busy connection are found in this cache.
    """
    code = _CODES.get(line[:3])
    if code is None or line[3:4] != b" ":
        return None
    enhanced, text = split_enhanced(code, printable(line[4:]))
    return SmtpReply(code, enhanced, text)


def printable(octets: bytes) -> str:
    """Text of one line that any terminal, log or page can show.

    >>> printable(b"a\\x1b[2Jb\\tc\\xff ")
    'a?[2Jb c�'
    """
    text = octets.decode("utf-8", "replace").strip()
    if text.isprintable():
        return text
    return "".join(
        [letter if letter.isprintable() else " " if letter.isspace() else "?" for letter in text]
    )
