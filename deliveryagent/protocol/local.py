"""What programs on this host and the service say to each other over the local socket.

A connection carries any number of requests, one after the other or without waiting for answers;
answers come in the order of the requests. A request is one line of JSON, an object with ``op``. The
request ``send`` (:class:`SendRequest`) is followed by the content as it is, in chunks: four octets
of length, most significant first, and that many octets; a length of 0 ends it. A connection that
ends before that leaves nothing behind. An answer is one line of JSON: ``{"ok": true, …}`` (for
``send``: ``"id"``, and ``"duplicate"`` when the key was known), or ``{"ok": false, "code": 75,
"error": "…", "hint": "…"}`` where ``code`` is the exit status of a command that has to give up.

Guarantees: a request or answer is one line whatever it contains. Never touches a socket; imports
only what a command that starts in a few milliseconds can afford.
"""

import json
from collections.abc import Mapping
from enum import IntEnum
from typing import Any, TypedDict

LINE_LIMIT = 4 * 1024 * 1024
"""The most octets of a request line: an envelope of 50,000 recipients fits."""

CHUNK_LIMIT = 16 * 1024 * 1024
"""The most octets of a chunk. Neither side needs to hold one whole."""

END_OF_CONTENT = b"\0\0\0\0"


class ExitCode(IntEnum):
    """Why a request was not carried out; the same numbers as the exit statuses of commands."""

    FAILED = 1
    USAGE = 2  # the request makes no sense
    UNREACHABLE = 3
    NOT_PERMITTED = 4
    NOT_FOUND = 5
    BAD_DATA = 65  # an address or the content is not acceptable, now or later (EX_DATAERR)
    TRY_LATER = 75  # EX_TEMPFAIL
    BAD_CONFIGURATION = 78


class ServiceError(Exception):
    """A request was not carried out: the exit status, one sentence why, and what to do about it."""

    def __init__(self, code: int, text: str, hint: str = "") -> None:
        super().__init__(text)
        self.code = code
        self.text = text
        self.hint = hint


class SendRequest(TypedDict, total=False):
    """The fields of ``send``; each may be left out.

    ``sender`` is an address, empty for the null sender; left out, it is the caller's own.
    ``from_headers`` takes recipients from the header section too. ``dsn`` is ``never`` or a list of
    ``success``, ``failure``, ``delay``; ``ret`` is ``full`` or ``hdrs`` (RFC 3461). ``not_before``
    is in seconds since the epoch.
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


def encode_line(fields: Mapping[str, Any]) -> bytes:
    """A request or an answer as it goes over the socket.

    Raises ``UnicodeEncodeError`` for text that came from octets which are not UTF-8.
    """
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


def decode_line(line: bytes) -> dict[str, Any]:
    """The object of a line; raises ``ValueError`` when it is none."""
    match json.loads(line):
        case dict() as found:
            return found
        case _:
            raise ValueError("not an object")


def chunk(data: bytes) -> bytes:
    """Octets of the content as one chunk; at most ``CHUNK_LIMIT``, and not empty."""
    return len(data).to_bytes(4, "big") + data


def error_fields(error: ServiceError) -> dict[str, Any]:
    """The answer that carries an error.

    >>> error_fields(ServiceError(75, "the disk is full"))
    {'ok': False, 'code': 75, 'error': 'the disk is full', 'hint': ''}
    """
    return {"ok": False, "code": int(error.code), "error": error.text, "hint": error.hint}


def error_of(answer: Mapping[str, Any]) -> ServiceError | None:
    """The error an answer carries, None when the request was carried out."""
    if answer.get("ok") is True:
        return None
    code = answer.get("code")
    text = str(answer.get("error") or "the service gave no reason")
    return ServiceError(code if isinstance(code, int) else 1, text, str(answer.get("hint") or ""))
