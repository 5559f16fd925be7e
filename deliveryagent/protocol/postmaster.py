"""Notices to the postmaster that no sender gets: what broke, where, and the dialogue that shows it.

Classes are Postfix's notify_classes: ``resource``, ``software``, ``data``, ``policy`` and
``protocol``; copies of reports (``bounce``, ``2bounce``, ``delay``) are
``protocol.notification``'s. Guarantees: one text part, CRLF line ends, nothing a peer wrote can
begin a header field; transcripts longer than ``TRANSCRIPT_LIMIT`` lines lose their middle, and say
so. Never reads a clock.
"""

from collections.abc import Iterator, Sequence

import msgspec

from deliveryagent.protocol.diagnosis import plain
from deliveryagent.protocol.notification import rfc5322_date, top_fields, wrap

TRANSCRIPT_LIMIT = 400
_LINE_LIMIT = 200

_SUBJECTS = {
    "resource": "Mail is not delivered: a resource is short",
    "software": "Mail is not delivered: a program failed",
    "data": "Mail is put aside: its content is damaged",
    "policy": "Mail was refused by policy",
    "protocol": "A mail server broke the protocol",
}


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """One notice: ``what`` in a sentence or two, the message and peer concerned, the transcript.

    ``notify_class`` is one of Postfix's; ``queue_id`` and ``host`` are empty when no message or
    peer is concerned. ``now`` is seconds since the epoch.
    """

    notify_class: str
    notice_id: str
    hostname: str
    to: str
    what: str
    now: float
    queue_id: str = ""
    sender: str = ""
    recipients: tuple[str, ...] = ()
    host: str = ""
    transcript: tuple[str, ...] = ()


def compose(notice: Notice) -> bytes:
    """The notice as a message in wire form, without trace fields."""
    body = _encode(_body(notice))
    charset = "us-ascii" if body.isascii() else "utf-8"
    subject = _SUBJECTS.get(notice.notify_class, "Notice from the mail system")
    head = [
        *top_fields(
            hostname=notice.hostname,
            identity=notice.notice_id,
            to=notice.to,
            subject=subject,
            now=notice.now,
        ),
        "Auto-Submitted: auto-generated",
        "MIME-Version: 1.0",
        f"Content-Type: text/plain; charset={charset}",
        f"Content-Transfer-Encoding: {'7bit' if body.isascii() else '8bit'}",
        "",
    ]
    return _encode(head) + body


def _encode(lines: Iterator[str] | Sequence[str]) -> bytes:
    return "".join(f"{line}\r\n" for line in lines).encode("utf-8", "backslashreplace")


def _body(notice: Notice) -> Iterator[str]:
    yield f"This is the mail system at {notice.hostname}."
    yield ""
    yield from wrap(plain(notice.what))
    yield ""
    yield f"Class:    {plain(notice.notify_class)}"
    yield f"Noticed:  {rfc5322_date(notice.now)}"
    if notice.host:
        yield f"Peer:     {plain(notice.host, limit=_LINE_LIMIT)}"
    if notice.queue_id:
        yield f"Queue id: {notice.queue_id}"
        yield f"Sender:   <{plain(notice.sender)}>"
    for address in notice.recipients[:20]:
        yield f"For:      <{plain(address)}>"
    if len(notice.recipients) > 20:
        yield f"          and {len(notice.recipients) - 20} more"
    if notice.transcript:
        yield ""
        yield "The session, as it went:"
        yield ""
        for line in _shortened(notice.transcript):
            yield f"    {plain(line, limit=_LINE_LIMIT)}"


def _shortened(lines: Sequence[str]) -> Iterator[str]:
    half = TRANSCRIPT_LIMIT // 2
    if len(lines) <= TRANSCRIPT_LIMIT:
        yield from lines
        return
    yield from lines[:half]
    yield f"[{len(lines) - TRANSCRIPT_LIMIT} lines left out]"
    yield from lines[-half:]
