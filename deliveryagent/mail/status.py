"""Replies and enhanced status codes (RFC 5321 4.2, RFC 2034, RFC 3463).

Guarantees: a reply's code is 200..599 and its text has no CR, LF or NUL besides the line separators it
was built with. Never interprets a reply beyond its digits; judging is ``policy.classify``.
"""

import re

import msgspec

_ENHANCED = re.compile(r"([245])\.([0-9]{1,3})\.([0-9]{1,3})(?![0-9.])")


class SmtpReply(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One complete reply of a peer.

    ``code`` is the three digit number. ``enhanced`` is the X.Y.Z code of the first line if the peer gave one
    and its class equals the first digit of ``code`` (Postfix P7), else the empty string. ``text`` is the
    human part of all lines, joined by ``"\\n"``, without the enhanced code of the first line.
    """

    code: int
    enhanced: str
    text: str

    @property
    def positive(self) -> bool:
        """Whether the peer said yes (2xx)."""
        return 200 <= self.code < 300

    @property
    def intermediate(self) -> bool:
        """Whether the peer asks for more (3xx)."""
        return 300 <= self.code < 400

    @property
    def transient(self) -> bool:
        """Whether the peer said not now (4xx)."""
        return 400 <= self.code < 500

    @property
    def permanent(self) -> bool:
        """Whether the peer said never (5xx)."""
        return 500 <= self.code < 600

    def status(self) -> str:
        """The peer's enhanced code, or the generic one of its class: ``4.0.0`` for a bare 450."""
        return self.enhanced or f"{self.code // 100}.0.0"

    def __str__(self) -> str:
        """Everything on one line, as people quote it: ``450 4.7.1 try again``."""
        return " ".join(
            part for part in (str(self.code), self.enhanced, self.text.replace("\n", " ")) if part
        )


def split_enhanced(code: int, text: str) -> tuple[str, str]:
    """Separate a leading enhanced status code from reply text.

    Returns ``(enhanced, rest)``; ``enhanced`` is empty, and the text unchanged, when there is none or its
    class contradicts the reply code.

    >>> split_enhanced(450, "4.7.1 try again"), split_enhanced(250, "4.7.1 odd")
    (('4.7.1', 'try again'), ('', '4.7.1 odd'))
    """
    match = _ENHANCED.match(text)
    if match is None or int(match[1]) != code // 100:
        return "", text
    return match[0], text[match.end() :].lstrip(" ")


def is_enhanced(text: str) -> bool:
    """Whether the text is exactly one enhanced status code.

    >>> is_enhanced("5.1.1"), is_enhanced("3.0.0"), is_enhanced("5.1")
    (True, False, False)
    """
    return _ENHANCED.fullmatch(text) is not None
