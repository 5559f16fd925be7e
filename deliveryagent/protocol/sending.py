"""Requests of the local socket as the service reads them: ``send`` field by field, the others as they are.

Apart from :mod:`deliveryagent.protocol.local` because what reads JSON into types costs a command more
time to load than it takes to hand a message over. Guarantees: what is no request raises
``ServiceError``; fields nobody knows are named, not ignored. Never imported by what must start fast.
"""

from collections.abc import Callable
from typing import Any, TypedDict, TypeVar

import msgspec

from deliveryagent.protocol.local import ExitCode, ServiceError

X = TypeVar("X")


class SendRequest(TypedDict, total=False):
    """The fields of ``send``; each may be left out.

    ``sender`` is an address, empty for the null sender; left out, it is the caller's own.
    ``from_headers`` takes recipients from the header section too. ``dsn`` is ``never`` or a list of
    ``success``, ``failure``, ``delay``; ``ret`` is ``full`` or ``hdrs`` (RFC 3461). ``not_before``
    and ``deliver_by`` are in seconds since the epoch; ``by_mode`` says what becomes of the message
    after the latter, ``return`` or ``notify`` (RFC 2852). ``priority`` is from -9 to 9 (RFC 6710).
    ``full_name`` stands in the From field if one has to be added. ``require_tls``: RFC 8689.
    """

    op: str
    sender: str
    recipients: list[str]
    from_headers: bool
    dsn: str
    ret: str
    envid: str
    not_before: float
    hold: bool
    key: str
    tags: dict[str, str]
    priority: int
    deliver_by: float
    by_mode: str
    full_name: str
    require_tls: bool


_FIELDS = SendRequest.__optional_keys__


def _reading(decode: Callable[[bytes], X]) -> Callable[[bytes], X]:
    """Decoding of a request line, where a line that is no request ends the connection.

    What follows such a line cannot be told from a content.
    """

    def read(line: bytes) -> X:
        try:
            return decode(line)
        except (ValueError, RecursionError) as error:
            raise ServiceError(ExitCode.USAGE, f"not a request: {error}") from None

    return read


_text_of = msgspec.json.Decoder(str).decode
_fields_of = _reading(msgspec.json.Decoder(dict[str, msgspec.Raw]).decode)
_request_of = _reading(msgspec.json.Decoder(SendRequest).decode)
read_order = _reading(msgspec.json.Decoder(dict[str, Any]).decode)
"""A request with all its fields, whatever they are."""


@_reading
def read_op(line: bytes) -> str:
    """What is asked for; empty when the request does not say.

    >>> read_op(b'{"op":"send","recipients":[]}'), read_op(b"{}")
    ('send', '')
    """
    return _text_of(_fields_of(line).get("op", b'""'))


def read_send(line: bytes) -> tuple[SendRequest, set[str]]:
    """A request to send, and the names of its fields that mean nothing.

    >>> read_send(b'{"op":"send","hold":true,"prio":1}')
    ({'op': 'send', 'hold': True}, {'prio'})
    """
    return _request_of(line), _fields_of(line).keys() - _FIELDS
