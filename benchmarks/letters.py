"""The mail that is measured with: plain messages of an exact size, each to its own recipient."""

from collections.abc import Iterator

SENDER = "sender@bench.test"

Letter = tuple[str, list[str], bytes]
"""Sender, recipients, and content with CRLF line ends."""


def domain(number: int, domains: int) -> str:
    """The domain of a recipient, in turn.

    >>> domain(203, 100), domain(7, 1)
    ('d3.test', 'd0.test')
    """
    return f"d{number % domains}.test"


def letters(messages: int, size: int, *, domains: int = 1, first: int = 0) -> Iterator[Letter]:
    """So many messages, the recipients ``r0@d0.test``, ``r1@d1.test``, …"""
    for number in range(first, first + messages):
        yield SENDER, [f"r{number}@{domain(number, domains)}"], content(number, size)


def content(number: int, size: int) -> bytes:
    """A message of exactly this many octets (at least some 200).

    >>> len(content(1, 2048))
    2048
    """
    head = (
        f"From: {SENDER}\r\nTo: r{number}@rcpt.test\r\nSubject: message {number}\r\n"
        f"Date: Mon, 01 Jan 2024 00:00:00 +0000\r\nMessage-ID: <{number}@bench.test>\r\n\r\n"
    ).encode()
    room = size - len(head)
    lines = (b"x" * 70 + b"\r\n") * (room // 72)
    rest = room - len(lines)
    if rest == 1:  # no room for a line of its own: the last one grows
        return head + lines[:-2] + b"x\r\n"
    return head + lines + (b"x" * (rest - 2) + b"\r\n" if rest else b"")
