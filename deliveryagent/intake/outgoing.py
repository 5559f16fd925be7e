"""A message as an application has it, on its way into the queue.

Turns what Python programs hold (octets, objects of the ``email`` package, files) into a request.
Guarantees: the same message can be sent as often as needed, and its key lets the queue know it
again. Light to import; never connects to anything.
"""

from __future__ import annotations

import os
import time

from deliveryagent.protocol.local import ExitCode, ServiceError, encode_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime
    from typing import Any

    from deliveryagent.intake.wishes import Readable, Wishes
    from deliveryagent.protocol.sending import SendRequest

ANSWER_TIME = 180.0
"""Seconds without any sign until a service counts as stuck."""

_CHUNK = 1 << 16
WISHES = frozenset(
    {
        *("key", "at", "tags", "dsn", "ret", "envid", "hold", "from_headers", "full_name"),
        *("priority", "deliver_by", "by_mode", "require_tls"),
    }
)
"""The names of what may be wished for: the fields of ``Wishes``."""


class Outgoing:
    """A message that can be sent as often as needed; ``line`` is the request as it is sent."""

    __slots__ = ("content", "line", "request", "start")

    def __init__(
        self, request: SendRequest, line: bytes, content: bytes | Readable, start: int = 0
    ) -> None:
        self.request = request
        self.line = line
        self.content = content
        self.start = start

    def whole(self) -> bytes:
        """The content, if it is small and at hand; else nothing."""
        small = isinstance(self.content, bytes) and len(self.content) <= _CHUNK
        return self.content if small else b""  # type: ignore[return-value] # it is octets then

    def pieces(self) -> Iterator[bytes]:
        """The content from its beginning; raises ``OSError`` when a file cannot be read."""
        if isinstance(self.content, bytes):
            for place in range(0, len(self.content), _CHUNK):
                yield self.content[place : place + _CHUNK]
            return
        self.content.seek(self.start)
        while piece := self.content.read(_CHUNK):
            yield piece


def fresh_key() -> str:
    """A key nobody else has. Later ones are greater, so that the queue files them side by side."""
    return f"{time.time_ns() // 1000:014x}{os.urandom(9).hex()}"


def outgoing(
    sender: str | None, recipients: str | Iterable[str], content: Any, wishes: Wishes
) -> Outgoing:
    """A message as the service takes it.

    Raises ``ServiceError`` for what the service could not even be told, ``TypeError`` for misuse.
    """
    to = [recipients] if isinstance(recipients, str) else list(recipients)
    request: SendRequest = {"op": "send", "recipients": to, "key": fresh_key()}
    if sender is not None:
        request["sender"] = sender
    if wishes:
        _add_wishes(request, wishes)
    try:
        line = encode_line(request)
    except UnicodeEncodeError:
        raise ServiceError(ExitCode.BAD_DATA, "an address or text is not valid UTF-8") from None
    if type(content) is bytes:
        return Outgoing(request, line, content)
    international = not all(address.isascii() for address in (sender or "", *to))
    if (key := wishes.get("key")) and hasattr(content, "walk"):
        from deliveryagent.intake.boundaries import settle_boundaries  # noqa: PLC0415 - seldom needed

        settle_boundaries(content, key)
    octets = _octets(content, international=international)
    return Outgoing(request, line, octets, 0 if isinstance(octets, bytes) else octets.tell())


def _add_wishes(request: SendRequest, wishes: Wishes) -> None:
    if unknown := wishes.keys() - WISHES:
        raise TypeError(f"there is no argument {', '.join(sorted(unknown))}")
    if key := wishes.get("key"):
        request["key"] = key
    if moment := wishes.get("at"):
        request["not_before"] = _seconds(moment)
    if tags := wishes.get("tags"):
        request["tags"] = dict(tags)
    if dsn := wishes.get("dsn"):
        request["dsn"] = dsn if isinstance(dsn, str) else ",".join(dsn)
    if ret := wishes.get("ret"):
        request["ret"] = ret
    if envid := wishes.get("envid"):
        request["envid"] = envid
    if wishes.get("hold"):
        request["hold"] = True
    if wishes.get("from_headers"):
        request["from_headers"] = True
    if wishes.get("require_tls"):
        request["require_tls"] = True
    if full_name := wishes.get("full_name"):
        request["full_name"] = full_name
    if priority := wishes.get("priority"):
        request["priority"] = priority
    if moment := wishes.get("deliver_by"):
        request["deliver_by"] = _seconds(moment)
        request["by_mode"] = wishes.get("by_mode") or "notify"


def _seconds(moment: datetime | float) -> float:
    if isinstance(moment, int | float):
        return float(moment)
    if moment.tzinfo is None:
        raise ServiceError(ExitCode.USAGE, "the time to send has no time zone")
    return moment.timestamp()


def _octets(content: Any, *, international: bool) -> bytes | Readable:
    if isinstance(content, bytes | bytearray | memoryview):
        return bytes(content)
    if hasattr(content, "as_bytes"):
        # As smtplib.send_message does it: header fields in UTF-8 only when an address needs it.
        policy = content.policy.clone(linesep="\r\n")
        if international and hasattr(policy, "utf8"):
            policy = policy.clone(utf8=True)
        octets: bytes = content.as_bytes(policy=policy)
        return octets
    if hasattr(content, "read") and hasattr(content, "seek"):
        file: Readable = content
        return file
    raise TypeError("a message is octets, an email.message.EmailMessage, or a binary file")
