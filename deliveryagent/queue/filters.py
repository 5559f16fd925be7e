"""Which recipients people mean: a filter as they write it, and as a condition of SQL.

Guarantees: a filter that cannot be understood raises ``FilterError`` with a sentence that says what would be
understood; nothing a person writes becomes SQL text. Never reads a clock: ages are moments already.
"""

import re

import msgspec
from sqlalchemy import ColumnElement, and_, func, or_

from deliveryagent.mail.address import destination_of
from deliveryagent.mail.envelope import RecipientStatus, first_queue_id, queue_id_range
from deliveryagent.mail.status import is_enhanced
from queue_schema.tables import attempt, message, recipient

_TRIES = re.compile(r"(<=|>=|<|>|=|)\s*([0-9]{1,6})")
_REPLY_CODE = re.compile(r"[2-5][0-9]{2}")
_REPLY_CLASS = re.compile(r"([2-5])xx")
_ENHANCED_CLASS = re.compile(r"([245]\.(?:[0-9]{1,3}\.)?)x(?:\.x)?")


class FilterError(ValueError):
    """The filter says nothing that can be understood."""


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which recipients are meant: every condition that is set must hold.

    ``ids`` are full queue ids or beginnings of one. ``to`` and ``from_`` are an address or ``@domain`` (for
    ``from_``, ``<>`` is the null sender). ``older`` and ``newer`` are moments in seconds since the epoch: the
    message arrived before, or at or after it; 0 means no bound. ``tries`` is a number of attempts with an
    optional ``>``, ``>=``, ``<``, ``<=`` or ``=`` before it. ``code`` is a reply code (``450``), a class
    (``4xx``) or an enhanced code (``4.7.1``, ``4.7.x``). ``all`` is the explicit word that no condition is
    meant to be set. Without ``status`` and ``ids``, only live recipients are meant.
    """

    ids: tuple[str, ...] = ()
    to: str = ""
    from_: str = ""
    domain: str = ""
    status: tuple[str, ...] = ()
    older: float = 0.0
    newer: float = 0.0
    tries: str = ""
    code: str = ""
    all: bool = False

    @property
    def says_nothing(self) -> bool:
        """Whether neither a condition nor ``all`` is set."""
        return self == Filter()

    @property
    def live_only(self) -> bool:
        """Whether finished recipients are left out."""
        return not self.status and not self.ids


def conditions(wanted: Filter) -> list[ColumnElement[bool]]:
    """The filter as conditions on ``recipient``, ``message`` and each recipient's last ``attempt``."""
    found: list[ColumnElement[bool]] = []
    if wanted.ids:
        found.append(or_(*(_id_condition(text) for text in wanted.ids)))
    if wanted.to:
        found.append(_to_condition(wanted.to))
    if wanted.from_:
        found.append(_from_condition(wanted.from_))
    if wanted.domain:
        found.append(recipient.c.destination == wanted.domain.lower().rstrip("."))
    if wanted.status:
        unknown = set(wanted.status) - {status.value for status in RecipientStatus}
        if unknown:
            names = ", ".join(status.value for status in RecipientStatus)
            raise FilterError(f'no recipient is ever "{min(unknown)}"; they are {names}')
        found.append(recipient.c.status.in_(wanted.status))
    if wanted.older:
        found.append(recipient.c.message_id < first_queue_id(wanted.older))
    if wanted.newer:
        found.append(recipient.c.message_id >= first_queue_id(wanted.newer))
    if wanted.tries:
        found.append(_tries_condition(wanted.tries))
    if wanted.code:
        found.append(_code_condition(wanted.code.lower()))
    return found


def _id_condition(text: str) -> ColumnElement[bool]:
    try:
        low, high = queue_id_range(text)
    except ValueError as error:
        raise FilterError(str(error)) from error
    # The highest range ends beyond what the column can hold.
    return recipient.c.message_id.between(low, high - 1)


def _to_condition(text: str) -> ColumnElement[bool]:
    at_domain = recipient.c.destination == destination_of(text)
    if text.startswith("@"):
        return at_domain
    if "@" not in text:
        raise FilterError(f'"{text}" is neither an address nor @domain')
    return and_(at_domain, func.lower(recipient.c.address) == text.lower())


def _from_condition(text: str) -> ColumnElement[bool]:
    if text == "<>":
        return message.c.sender == ""
    if text.startswith("@"):
        return func.lower(message.c.sender).endswith(text.lower(), autoescape=True)
    if "@" not in text:
        raise FilterError(f'"{text}" is neither an address, nor @domain, nor <>')
    return func.lower(message.c.sender) == text.lower()


def _tries_condition(text: str) -> ColumnElement[bool]:
    match = _TRIES.fullmatch(text.strip())
    if match is None:
        raise FilterError(f'"{text}" is no number of tries; write it like 3, ">3" or "<=10"')
    count, column = int(match[2]), recipient.c.attempts
    match match[1]:
        case ">":
            return column > count
        case ">=":
            return column >= count
        case "<":
            return column < count
        case "<=":
            return column <= count
        case _:
            return column == count


def _code_condition(text: str) -> ColumnElement[bool]:
    if _REPLY_CODE.fullmatch(text):
        return attempt.c.code == int(text)
    if is_enhanced(text):
        return or_(attempt.c.enhanced == text, recipient.c.enhanced == text)
    if match := _REPLY_CLASS.fullmatch(text):
        first = int(match[1])
        # An answer that was no reply but trouble has an enhanced code only.
        return or_(
            attempt.c.code.between(first * 100, first * 100 + 99),
            and_(attempt.c.code == 0, attempt.c.enhanced.startswith(f"{first}.")),
        )
    if match := _ENHANCED_CLASS.fullmatch(text):
        return attempt.c.enhanced.startswith(match[1])
    raise FilterError(f'"{text}" is no code; write it like 450, 4xx, 4.7.1 or 4.7.x')
