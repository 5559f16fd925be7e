"""Reports about what became of a message (RFC 3464, RFC 6522; RFC 6533 for international mail).

Three parts in this order: a text for people, the delivery status for programs, and the message or
its header section, inserted octet by octet. Wishes of RFC 3461 are obeyed as far as they concern
the report itself: RET, ENVID, ORCPT; whom to report at all is ``policy.notices``.

Guarantees: lines end in CRLF; nothing a peer or a submitter wrote can begin a header field, a part
or a recipient block; the boundary occurs in no part; every recipient given is reported exactly
once, in the order given. A report to an ASCII address needs no SMTPUTF8: addresses beyond ASCII are
then written in the seven bit form of RFC 6533 section 3. Never decides whether a report is due,
never reads a clock.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import format_datetime
from enum import StrEnum
from typing import assert_never

import msgspec

from deliveryagent.mail.envelope import DsnReturn
from deliveryagent.protocol.diagnosis import ascii_only, plain, quoted, sentence
from deliveryagent.protocol.headers import header_section

MAIL_SYSTEM = "Mail Delivery System"
_LINE = 76
_WORD = 900  # a longer word is broken: RFC 5322 allows no line beyond 998
_GENERIC_STATUS = {"failed": "5.0.0", "delayed": "4.0.0"}


class ReportKind(StrEnum):
    """What a report is about."""

    FAILURE = "failure"
    DELAY = "delay"
    SUCCESS = "success"


class Action(StrEnum):
    """RFC 3464 2.3.3: what was done for a recipient."""

    FAILED = "failed"
    DELAYED = "delayed"
    DELIVERED = "delivered"
    RELAYED = "relayed"  # taken by a peer that sends no reports itself


class Reported(msgspec.Struct, frozen=True, kw_only=True):
    """One recipient of a report.

    ``enhanced``, ``code``, ``text``, ``stage`` and ``host`` are the last answer; ``code`` is 0 when
    none came from a peer. ``orcpt`` is the original recipient with its type, as submitted, or
    empty. ``expired`` says that it was given up for its age. ``last_attempt`` and ``retry_until``
    are seconds since the epoch, 0 when there is none.
    """

    address: str
    action: Action
    enhanced: str
    code: int = 0
    text: str = ""
    stage: str = ""
    host: str = ""
    orcpt: str = ""
    attempts: int = 0
    expired: bool = False
    last_attempt: float = 0.0
    retry_until: float = 0.0


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything one report says.

    ``queue_id`` names the message, ``report_id`` the report; ``sender`` is the message's envelope
    sender. ``to`` is where the report goes: the sender, or the postmaster for a copy. ``contact``
    is whom to ask for help. ``content`` is the original in wire form, at least its header section;
    ``whole`` tells whether it is all of it. ``deliver_by`` is until when the sender wanted it
    delivered, 0 for no such time (RFC 2852 5). Times are seconds since the epoch.
    """

    kind: ReportKind
    queue_id: str
    report_id: str
    hostname: str
    contact: str
    to: str
    sender: str
    recipients: tuple[Reported, ...]
    arrival: float
    now: float
    ret: DsnReturn = DsnReturn.UNSTATED
    envid: str = ""
    utf8: bool = False
    content: bytes = b""
    whole: bool = True
    postmaster_copy: bool = False
    deliver_by: float = 0.0


_SUBJECTS = {
    ReportKind.FAILURE: "Your message could not be delivered",
    ReportKind.DELAY: "Your message is delayed and still being tried",
    ReportKind.SUCCESS: "Your message was delivered",
}

_OPENINGS = {
    ReportKind.FAILURE: (
        "Your message could not be delivered to everybody. It will not be tried again for the "
        "addresses below; each is followed by the reason."
    ),
    ReportKind.DELAY: (
        "Your message has not reached the addresses below yet. There is nothing you need to do: "
        "delivery goes on being tried. Each address is followed by the last answer."
    ),
    ReportKind.SUCCESS: (
        "As you asked, this confirms what became of your message for the addresses below."
    ),
}


def compose(report: Report, *, bounce_size_limit: int) -> bytes:
    """The report as a message in wire form, without trace fields.

    ``bounce_size_limit`` is the size in octets beyond which only the header section of the original
    is returned (Postfix bounce_size_limit).
    """
    international = not report.to.isascii()
    text = _encode(_text_for_people(report))
    status = _encode(_delivery_status(report, international=international))
    original_type, description, original = _original(report, bounce_size_limit)
    status_type = "message/global-delivery-status" if international else "message/delivery-status"
    charset = "us-ascii" if text.isascii() else "utf-8"
    parts = [
        ("Notification", f"text/plain; charset={charset}", text),
        ("Delivery report", status_type, status),
        (description, original_type, original),
    ]
    boundary = _boundary(report, [body for _, _, body in parts])
    eightbit = not all(body.isascii() for _, _, body in parts)
    pieces = [_encode(_top(report, boundary, eightbit=eightbit))]
    for describe, content_type, body in parts:
        lines = [
            "",
            f"--{boundary}",
            f"Content-Description: {describe}",
            f"Content-Type: {content_type}",
        ]
        if not body.isascii():
            lines.append("Content-Transfer-Encoding: 8bit")
        pieces += [_encode([*lines, ""]), body]
    pieces.append(_encode(["", f"--{boundary}--"]))
    return b"".join(pieces)


def rfc5322_date(moment: float) -> str:
    """A moment as mail writes it, in UTC.

    >>> rfc5322_date(1762778407)
    'Mon, 10 Nov 2025 12:40:07 +0000'
    """
    return format_datetime(datetime.fromtimestamp(int(moment), UTC))


def _encode(lines: Iterator[str] | list[str]) -> bytes:
    return "".join(f"{line}\r\n" for line in lines).encode("utf-8", "backslashreplace")


def _top(report: Report, boundary: str, *, eightbit: bool) -> Iterator[str]:
    # A copy answers nothing that its reader sent (RFC 3834 section 5).
    submitted = "auto-generated" if report.postmaster_copy else "auto-replied"
    subject = _SUBJECTS[report.kind]
    if report.postmaster_copy:
        subject = f"Postmaster copy: {subject[0].lower()}{subject[1:]}"
    yield from top_fields(
        hostname=report.hostname,
        identity=report.report_id,
        to=report.to,
        subject=subject,
        now=report.now,
    )
    yield f"Auto-Submitted: {submitted}"
    yield "MIME-Version: 1.0"
    yield "Content-Type: multipart/report; report-type=delivery-status;"
    yield f'    boundary="{boundary}"'
    if eightbit:
        yield "Content-Transfer-Encoding: 8bit"
    yield ""
    yield "This is a delivery report in MIME form."


def top_fields(*, hostname: str, identity: str, to: str, subject: str, now: float) -> Iterator[str]:
    """The header fields that every message of the mail system itself begins with."""
    yield f"Date: {rfc5322_date(now)}"
    yield f"From: {MAIL_SYSTEM} <MAILER-DAEMON@{hostname}>"
    yield f"To: <{plain(to)}>"
    yield f"Subject: {subject}"
    yield f"Message-ID: <{identity}@{hostname}>"


# -- the part for people ---------------------------------------------------------------------------


def _text_for_people(report: Report) -> Iterator[str]:
    yield f"This is the mail system at {report.hostname}."
    yield ""
    if report.postmaster_copy:
        addressee = (
            f"<{plain(report.sender)}>" if report.sender else "nobody, because it has a null sender"
        )
        yield from wrap(f"Copy for the postmaster. The report itself went to {addressee}.")
        yield ""
    yield from wrap(_OPENINGS[report.kind])
    yield ""
    yield f"Queue id: {report.queue_id}"
    yield f"Received: {rfc5322_date(report.arrival)}"
    for recipient in report.recipients:
        yield ""
        yield from _recipient_for_people(recipient)
    yield ""
    yield from wrap(
        f"Details for programs follow. For help write to {plain(report.contact)} and include "
        "this report; the queue id leads to every attempt that was made."
    )


def _recipient_for_people(recipient: Reported) -> Iterator[str]:
    yield f"<{plain(recipient.address)}>"
    _, _, given = recipient.orcpt.partition(";")
    if given and given.lower() != recipient.address.lower():
        yield from wrap(f"(originally for {plain(given)})", indent=4)
    answer = sentence(
        recipient.stage, recipient.code, recipient.enhanced, recipient.text, recipient.host
    )
    match recipient.action:
        case Action.RELAYED:
            yield from wrap(
                "Handed to the next mail system, which does not report delivery: expect no further "
                f"news unless it fails. {answer}",
                indent=4,
            )
        case Action.DELIVERED:
            yield from wrap(f"Delivered. {answer}", indent=4)
        case Action.FAILED if recipient.expired:
            yield from wrap(
                f"Given up after {_times(recipient.attempts)} because the time allowed is over. "
                f"The last answer: {answer}",
                indent=4,
            )
        case Action.FAILED | Action.DELAYED:
            yield from wrap(answer, indent=4)
        case _:
            assert_never(recipient.action)
    if recipient.retry_until:
        yield from wrap(f"Will be tried until {rfc5322_date(recipient.retry_until)}.", indent=4)


def _times(attempts: int) -> str:
    return "1 attempt" if attempts == 1 else f"{attempts} attempts"


def wrap(text: str, *, indent: int = 0) -> Iterator[str]:
    """Lines of at most 76 columns where words allow it; a very long word is broken.

    Runs of white space become one space.
    """
    margin = " " * indent
    line = ""
    for word in _words(text):
        if line and len(margin) + len(line) + 1 + len(word) > _LINE:
            yield margin + line
            line = word
        else:
            line = f"{line} {word}" if line else word
    if line:
        yield margin + line


def _words(text: str) -> Iterator[str]:
    # A character takes up to four octets, and lines are limited in octets.
    step = _WORD if text.isascii() else _WORD // 4
    for word in text.split():
        for start in range(0, len(word), step):
            yield word[start : start + step]


# -- the part for programs -------------------------------------------------------------------------


def _delivery_status(report: Report, *, international: bool) -> Iterator[str]:
    yield f"Reporting-MTA: dns; {report.hostname}"
    if report.envid:
        yield f"Original-Envelope-Id: {_token(report.envid, international=international)}"
    yield f"X-DeliveryAgent-Queue-ID: {report.queue_id}"
    if report.sender:
        yield f"X-DeliveryAgent-Sender: {_typed(report.sender, international=international)}"
    yield f"Arrival-Date: {rfc5322_date(report.arrival)}"
    if report.deliver_by:
        yield f"Deliver-By-Date: {rfc5322_date(report.deliver_by)}"
    for recipient in report.recipients:
        yield ""
        yield from _recipient_status(recipient, international=international)


def _recipient_status(recipient: Reported, *, international: bool) -> Iterator[str]:
    yield f"Final-Recipient: {_typed(recipient.address, international=international)}"
    if recipient.orcpt:
        kind, _, address = recipient.orcpt.partition(";")
        if not kind.replace("-", "").isalnum() or not kind.isascii():
            kind = "unknown"
        yield f"Original-Recipient: {kind}; {_token(address, international=international)}"
    yield f"Action: {recipient.action.value}"
    yield f"Status: {recipient.enhanced or _GENERIC_STATUS.get(recipient.action, '2.0.0')}"
    said = quoted(recipient.code, recipient.enhanced, recipient.text)
    if recipient.code and recipient.host:
        yield f"Remote-MTA: dns; {_token(recipient.host, international=international)}"
    if said:
        kind = "smtp" if recipient.code else "x-deliveryagent"
        yield from _folded("Diagnostic-Code", f"{kind}; {_ascii_unless(said, wide=international)}")
    if recipient.last_attempt:
        yield f"Last-Attempt-Date: {rfc5322_date(recipient.last_attempt)}"
    if recipient.retry_until:
        yield f"Will-Retry-Until: {rfc5322_date(recipient.retry_until)}"


def _ascii_unless(text: str, *, wide: bool) -> str:
    return text if wide else ascii_only(text)


def _token(text: str, *, international: bool) -> str:
    """A value that stays on one line, whoever wrote it."""
    return _ascii_unless(plain(text, limit=_WORD // 2), wide=international)


def _typed(address: str, *, international: bool) -> str:
    """An address with its type: ``rfc822; a@b``, or ``utf-8;`` in the fitting form (RFC 6533 3)."""
    if address.isascii():
        return f"rfc822; {plain(address)}"
    if international:
        return f"utf-8; {plain(address)}"
    written = "".join(
        c if "!" <= c <= "~" and c not in "+=\\" else f"\\x{{{ord(c):X}}}" for c in plain(address)
    )
    return f"utf-8; {written}"


def _folded(name: str, value: str) -> Iterator[str]:
    """A header field over as many lines as it needs."""
    first, *rest = list(wrap(f"{name}: {value}"))
    yield first
    for line in rest:
        yield f"    {line}"


# -- the original ----------------------------------------------------------------------------------


def _original(report: Report, limit: int) -> tuple[str, str, bytes]:
    """Type, description and octets of the third part."""
    head = header_section(report.content)
    international = report.utf8 and not head.isascii()
    back = _encode([f"Return-Path: <{plain(report.sender)}>"])
    complete = (
        report.kind is ReportKind.FAILURE
        and not report.postmaster_copy
        and report.whole
        and report.ret is not DsnReturn.HDRS
        and len(report.content) <= limit
    )
    if complete:
        kind = "message/global" if international else "message/rfc822"
        return kind, "Undelivered message", back + report.content
    kind = "message/global-headers" if international else "text/rfc822-headers"
    return kind, "Message header", back + head


def _boundary(report: Report, bodies: list[bytes]) -> str:
    """A boundary that no part contains; at most 70 characters (RFC 2046 5.1.1)."""
    stem = f"{report.report_id}.{int(report.now)}/{report.hostname[:30]}"
    boundary, serial = stem, 0
    while any(boundary.encode() in body for body in bodies):
        serial += 1
        boundary = f"{stem}={serial}"
    return boundary
