"""Queue ids, recipients' wishes and their states.

A queue id is a positive 63 bit number, shown as 13 characters of Crockford's base 32: its upper 51 bits
are microseconds since 2020, its lower 12 bits tell writers apart, so ids sort by arrival and are never
reused. Guarantees: ``QueueId`` text and number convert both ways without loss.
"""

from enum import IntFlag, StrEnum
from typing import NewType

import msgspec

QueueId = NewType("QueueId", int)

ID_EPOCH = 1577836800.0  # 2020-01-01T00:00:00Z
_ID_MARK_BITS = 12
_ID_MARK = (1 << 11) - 1
_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]
_VALUES = {letter: value for value, letter in enumerate(_ALPHABET)} | {"I": 1, "L": 1, "O": 0}


class RecipientStatus(StrEnum):
    """Where a recipient stands. The first four live; the others are final and never change."""

    QUEUED = "queued"  # waits for its first attempt
    ACTIVE = "active"  # an attempt is in flight; known to the manager only, never stored
    DEFERRED = "deferred"  # waits for its next attempt
    HELD = "held"  # waits for a person
    DELIVERED = "delivered"
    BOUNCED = "bounced"
    EXPIRED = "expired"
    DELETED = "deleted"


FINAL_STATUSES = frozenset(
    {
        RecipientStatus.DELIVERED,
        RecipientStatus.BOUNCED,
        RecipientStatus.EXPIRED,
        RecipientStatus.DELETED,
    }
)

MOST_ALIVE = (
    RecipientStatus.ACTIVE,
    RecipientStatus.QUEUED,
    RecipientStatus.DEFERRED,
    RecipientStatus.HELD,
    RecipientStatus.BOUNCED,
    RecipientStatus.EXPIRED,
    RecipientStatus.DELIVERED,
    RecipientStatus.DELETED,
)
"""The status of a message is the first of these that one of its recipients has."""


class Notify(IntFlag):
    """RFC 3461 NOTIFY. ``DEFAULT`` (no wish stated) means failure and delay; ``NEVER`` excludes the rest."""

    DEFAULT = 0
    NEVER = 1
    SUCCESS = 2
    FAILURE = 4
    DELAY = 8

    def wants(self, kind: "Notify") -> bool:
        """Whether a report of this kind (SUCCESS, FAILURE or DELAY) may be sent."""
        if not self:
            return kind in (Notify.FAILURE, Notify.DELAY)
        return bool(self & kind)


class DsnReturn(StrEnum):
    """RFC 3461 RET: how much of the message a failure report carries."""

    UNSTATED = ""
    FULL = "FULL"
    HDRS = "HDRS"


class NewRecipient(msgspec.Struct, frozen=True, kw_only=True):
    """A recipient as submitted.

    ``address`` is in wire form (local part as given, quoted where RFC 5321 needs it; domain as A-label,
    case kept). ``orcpt`` is the RFC 3461 original recipient with its type, decoded from xtext
    (``"rfc822;User@example.org"``), or empty.
    """

    address: str
    notify: Notify = Notify.DEFAULT
    orcpt: str = ""


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """What a submitter asks for, besides the content.

    ``sender`` is the reverse-path in wire form, empty for the null sender. ``not_before`` is an earliest
    attempt (seconds since the epoch) or 0. ``key`` is the idempotency key or empty. ``hold`` keeps the message
    until released. ``priority`` is from -9 to 9 (RFC 6710). ``deliver_by`` is until when it is to be delivered
    (seconds since the epoch, 0 for no such time), ``by_mode`` what becomes of it then: ``R`` or ``N``, with a
    ``T`` behind it for a trace (RFC 2852). ``require_tls``: only by way of hosts that promise protected
    transport (RFC 8689).
    """

    sender: str
    recipients: tuple[NewRecipient, ...]
    ret: DsnReturn = DsnReturn.UNSTATED
    envid: str = ""
    not_before: float = 0.0
    key: str = ""
    tags: dict[str, str] = {}
    hold: bool = False
    priority: int = 0
    deliver_by: float = 0.0
    by_mode: str = ""
    require_tls: bool = False


class ContentFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What delivery must know of a content without reading it again.

    ``size`` is the number of octets in wire form (CRLF line ends, not dot-stuffed). ``dotted``: some line
    begins with a dot. ``eightbit``: some octet is above 127. ``utf8_headers``: the header section has such
    octets, so the next hop must speak SMTPUTF8. ``long_lines``: some line exceeds 998 octets. ``digest`` is
    SHA-256 of the submitted octets, for idempotency keys.
    """

    size: int
    dotted: bool = False
    eightbit: bool = False
    utf8_headers: bool = False
    long_lines: bool = False
    digest: bytes = b""


def new_queue_id(now: float, mark: int, after: int = 0) -> QueueId:
    """A fresh id for a message that arrives at ``now``, larger than ``after``.

    The low 11 bits of ``mark``, any integer, are the low bits of the id, whatever comes before them; the
    twelfth is 0 (it is 1 in ids that SQL functions draw).
    """
    moment = max(0, int((now - ID_EPOCH) * 1e6))
    low = mark & _ID_MARK
    candidate = moment << _ID_MARK_BITS | low
    if candidate <= after:
        candidate = ((after >> _ID_MARK_BITS) + 1) << _ID_MARK_BITS | low
    return QueueId(candidate)


def first_queue_id(moment: float) -> QueueId:
    """The smallest id a message arriving at ``moment`` can have: turns ages into id ranges."""
    return QueueId(max(0, int((moment - ID_EPOCH) * 1e6)) << _ID_MARK_BITS)


def arrival_of(queue_id: int) -> float:
    """The time (seconds since the epoch) an id was drawn."""
    return ID_EPOCH + (queue_id >> _ID_MARK_BITS) / 1e6


def lifetime_start(queue_id: int, not_before: float) -> float:
    """From when the lifetime of a message counts: its arrival, or the earliest attempt it asked for."""
    return max(arrival_of(queue_id), not_before)


def format_queue_id(queue_id: int) -> str:
    """The 13 characters people see.

    >>> format_queue_id(0), format_queue_id(2**63 - 1)
    ('0000000000000', '7ZZZZZZZZZZZZ')
    """
    pairs, one = _PAIRS, queue_id
    return (
        f"{_ALPHABET[one >> 60]}{pairs[one >> 50 & 1023]}{pairs[one >> 40 & 1023]}"
        f"{pairs[one >> 30 & 1023]}{pairs[one >> 20 & 1023]}{pairs[one >> 10 & 1023]}{pairs[one & 1023]}"
    )


def parse_queue_id(text: str) -> QueueId:
    """The number of a full queue id; case and the look-alikes I, L, O are forgiven.

    Raises ``ValueError`` when the text is not 13 characters of the alphabet.

    >>> parse_queue_id("000000000000z")
    31
    """
    if len(text) != 13:
        raise ValueError(f'"{text}" is not a queue id: one has 13 letters and digits')
    low, high = queue_id_range(text)
    assert low == high - 1
    return low


def queue_id_range(prefix: str) -> tuple[QueueId, QueueId]:
    """The half-open range of ids that begin with a prefix of 1 to 13 characters.

    Raises ``ValueError`` for other characters or lengths.
    """
    number = 0
    letters = prefix.upper()
    if not 1 <= len(letters) <= 13 or any(letter not in _VALUES for letter in letters):
        raise ValueError(f'"{prefix}" is not a queue id or the beginning of one')
    for letter in letters:
        number = number << 5 | _VALUES[letter]
    shift = 5 * (13 - len(letters))
    if (number + 1) << shift > 1 << 63:
        raise ValueError(f'"{prefix}" is not a queue id: they begin with 0 to 7')
    return QueueId(number << shift), QueueId((number + 1) << shift)
