"""What programs on this host and the service say to each other over the local socket.

A connection carries any number of requests, one after the other or without waiting for answers;
answers come in the order of the requests. A request is one line of JSON, an object with ``op``. The
request ``send`` (:class:`~deliveryagent.protocol.sending.SendRequest`) is followed by the content
as it is, in chunks: four octets of length, most significant first, and that many octets; a length
of 0 ends it. A connection that ends before that leaves nothing behind. An answer is one line of
JSON: ``{"ok": true, …}`` (for ``send``: ``"id"``, and ``"duplicate"`` when the key was known), or
``{"ok": false, "code": 75, "error": "…", "hint": "…"}`` where ``code`` is the exit status of a
command that has to give up.

Guarantees: a request or answer is one line whatever it contains. Never touches a socket; imports
nothing at all until something has to be said or understood that is not plain, since this is on the
path of commands that start in a few milliseconds.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

LINE_LIMIT = 4 * 1024 * 1024
"""The most octets of a request line: an envelope of 50,000 recipients fits."""

CHUNK_LIMIT = 16 * 1024 * 1024
"""The most octets of a chunk. Neither side needs to hold one whole."""

END_OF_CONTENT = b"\0\0\0\0"

NO_RECIPIENTS = "the message has no recipients"
"""The text of that refusal, which ``sendmail`` has an exit status of its own for."""

_ACCEPTED = b'{"ok":true,"id":"'
_ACCEPTED_END = b'"}'


class ExitCode:
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


def encode_line(fields: Mapping[str, Any]) -> bytes:
    """A request or an answer as it goes over the socket.

    Raises ``UnicodeEncodeError`` for text that came from octets which are not UTF-8.

    >>> encode_line({"op": "send", "recipients": ["kim@example.net"], "hold": True})
    b'{"op":"send","recipients":["kim@example.net"],"hold":true}\\n'
    """
    return _json(fields).encode() + b"\n"


def _json(value: Any) -> str:
    """A value as JSON. What is not plain is left to the module that knows it all, and costs 10 ms to load."""
    kind = type(value)
    if kind is str:
        if value.isascii() and value.isprintable() and '"' not in value and "\\" not in value:
            return f'"{value}"'
    elif kind is bool:
        return "true" if value else "false"
    elif kind is list and len(value) <= _FEW:
        return f"[{','.join(map(_json, value))}]"
    elif kind is dict and len(value) <= _FEW:
        return f"{{{','.join([f'{_json(name)}:{_json(one)}' for name, one in value.items()])}}}"
    from json import dumps  # noqa: PLC0415

    return dumps(value, separators=(",", ":"), ensure_ascii=False)


_FEW = 16


def accepted_line(queue_id: str) -> bytes:
    """The usual answer to ``send``."""
    return _ACCEPTED + queue_id.encode() + _ACCEPTED_END + b"\n"


def decode_line(line: bytes) -> dict[str, Any]:
    """The object of a line; raises ``ValueError`` when it is none.

    >>> decode_line(b'{"ok":true,"id":"0C7QK4M2V9XTB"}')
    {'ok': True, 'id': '0C7QK4M2V9XTB'}
    """
    if line.startswith(_ACCEPTED) and line.endswith(_ACCEPTED_END):
        queue_id = line[len(_ACCEPTED) : -len(_ACCEPTED_END)]
        if queue_id.isalnum():
            return {"ok": True, "id": queue_id.decode()}
    from json import loads  # noqa: PLC0415

    found = loads(line)
    if isinstance(found, dict):
        return found
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
