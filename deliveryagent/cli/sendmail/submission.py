"""Hands over the message on standard input, as ``sendmail`` is asked to.

Guarantees: success means that the message is on stable storage; whatever else happened, nothing was left behind
and the exit status says what to do, unless the text says that this is not known. A line that is only a dot ends
the message unless the caller said otherwise, and nothing behind it is read into it. Light: no SQL, no event
loop, no regular expressions while a service runs and addresses are plain.
"""

from __future__ import annotations

import os

from deliveryagent.cli.sendmail.sysexits import SendmailError, Sysexit, sysexit_of
from deliveryagent.client import Client
from deliveryagent.protocol.local import NO_RECIPIENTS, ServiceError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import BinaryIO

    from deliveryagent.cli.sendmail.arguments import Arguments
    from deliveryagent.intake.wishes import Wishes

_AT_ONCE = 1 << 16  # octets asked for at a time: what a pipe holds
_IN_MEMORY = 1 << 20  # octets of a message; larger ones go to a temporary file
_LONGEST_NAME = 256
_NOT_PLAIN = frozenset(' \t\r\n,;()<>"')


def submit(arguments: Arguments, environ: Mapping[str, str] = os.environ) -> None:
    """Hand the message over; raises ``SendmailError``."""
    recipients = addresses(arguments.recipients)
    if not recipients and not arguments.from_headers:
        raise SendmailError(
            Sysexit.USAGE,
            "name recipients on the command line, or take them from the message with -t",
        )
    wishes: Wishes = {"from_headers": arguments.from_headers, "require_tls": arguments.require_tls}
    for name in ("dsn", "ret", "envid"):
        if value := getattr(arguments, name):
            wishes[name] = value
    named = arguments.full_name if arguments.full_name is not None else environ.get("NAME", "")
    if full_name := _printable(named):
        wishes["full_name"] = full_name
    sender = None if arguments.sender is None else _sender(arguments.sender)
    content = _content(keep_dots=arguments.keep_dots)
    client = Client()
    try:
        client.enqueue(sender, recipients, content, **wishes)
    except ServiceError as error:
        raise _not_taken(error) from None
    finally:
        client.close()
        if not isinstance(content, bytes):
            content.close()


def addresses(words: Iterable[str]) -> list[str]:
    """The addresses of arguments: each may be a list with names and comments, as in a header field.

    Raises ``SendmailError`` for what cannot be read.

    >>> addresses(["kim@example.net", "Lee <lee@example.net>, ann@example.net", ""])
    ['kim@example.net', 'lee@example.net', 'ann@example.net']
    """
    found: list[str] = []
    for word in words:
        if _NOT_PLAIN.isdisjoint(word):
            found += [word] if word else []
        else:
            found += _listed(word)
    return found


def _listed(text: str) -> list[str]:
    from deliveryagent.protocol.headers import HeaderError, parse_address_list

    try:
        return parse_address_list(text)
    except HeaderError as error:
        raise SendmailError(Sysexit.DATA, f"a recipient is not acceptable: {error}") from None


def _sender(text: str) -> str:
    """The address alone; empty for the null sender."""
    if text.strip() in ("", "<>"):
        return ""
    if _NOT_PLAIN.isdisjoint(text):
        return text
    found = _listed(text)
    if len(found) != 1:
        raise SendmailError(Sysexit.DATA, "the sender is not acceptable: it must be one address")
    return found[0]


def _printable(name: str) -> str:
    """A full name on one line; it comes from accounts and variables and never stops a message."""
    line = " ".join(name.split())[:_LONGEST_NAME]
    if line.isprintable():
        return line
    return "".join(letter if letter.isprintable() else "?" for letter in line)


def _not_taken(error: ServiceError) -> SendmailError:
    if error.text == NO_RECIPIENTS:
        return SendmailError(Sysexit.USAGE, "there is no recipient in the message header")
    text = f"{error.text} ({error.hint})" if error.hint else error.text
    return SendmailError(sysexit_of(error.code), text)


# -- standard input ---


def _content(*, keep_dots: bool) -> bytes | BinaryIO:
    """The message in a form that can be sent again when the service restarts meanwhile."""
    pieces = _pieces(0) if keep_dots else before_dot(_pieces(0))
    head: list[bytes] = []
    size = 0
    for piece in pieces:
        head.append(piece)
        size += len(piece)
        if size > _IN_MEMORY:
            return _spooled(head, pieces)
    return b"".join(head)


def _pieces(descriptor: int) -> Iterator[bytes]:
    try:
        while piece := os.read(descriptor, _AT_ONCE):
            yield piece
    except OSError as error:
        text = f"the message cannot be read: {error.strerror}"
        raise SendmailError(Sysexit.INPUT_OUTPUT, text) from None


def _spooled(head: list[bytes], rest: Iterator[bytes]) -> BinaryIO:
    from tempfile import TemporaryFile

    spool: BinaryIO = TemporaryFile()  # noqa: SIM115 - closed by who sends it
    spool.writelines(head)
    spool.writelines(rest)
    spool.seek(0)
    return spool


def before_dot(pieces: Iterable[bytes]) -> Iterator[bytes]:
    r"""What stands before a line that is only a dot, however it is cut into pieces.

    >>> b"".join(before_dot([b"hello\n", b".", b"\n", b"not this"]))
    b'hello\n'
    """
    held = b"\n"  # the end of the line before, and what may begin such a line
    begun = False  # whether that line end is part of the message
    for piece in pieces:
        data = held + piece
        ends = [end for dot in (b"\n.\n", b"\n.\r\n") if (end := data.find(dot)) >= 0]
        cut = min(ends) if ends else _undecided(data)
        line_end = 1 if ends else 0
        yield from _shown(data[: cut + line_end], begun=begun)
        if ends:
            return
        begun = begun or cut > 0
        held = data[cut:]
    if held != b"\n.":
        yield from _shown(held, begun=begun)
    elif begun:
        yield b"\n"


def _undecided(data: bytes) -> int:
    """Where at the end of the data a line begins that may turn out to be only a dot; else their end."""
    for tail in (b"\n.\r", b"\n.", b"\n"):
        if data.endswith(tail):
            return len(data) - len(tail)
    return len(data)


def _shown(data: bytes, *, begun: bool) -> Iterator[bytes]:
    """The data, without the line end that was put before the first line."""
    shown = data if begun else data[1:]
    if shown:
        yield shown
