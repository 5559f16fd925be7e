"""Which recipients people mean: a filter as they write it, and as a condition of SQL.

Guarantees: a filter that cannot be understood raises ``FilterError`` with a sentence that says what would be
understood; nothing a person writes becomes SQL text. Imports no SQLAlchemy: lists have to appear at once.
Never reads a clock: ages are moments already.
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from deliveryagent.mail.address import destination_of
from deliveryagent.mail.envelope import (
    FINAL_STATUSES,
    RecipientStatus,
    first_queue_id,
    queue_id_range,
)
from deliveryagent.mail.status import is_enhanced

_LIVE = frozenset(RecipientStatus) - FINAL_STATUSES
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
        return not self.ids and _LIVE.issuperset(self.status)


class Condition(NamedTuple):
    """A condition of SQL on ``recipient``, ``message`` and each recipient's last ``attempt``."""

    text: str
    values: dict[str, Any]


def conditions(wanted: Filter) -> Condition:
    """The filter as SQL, with ``:name`` for every value a person wrote. Raises ``FilterError``."""
    found: list[Condition] = []
    if wanted.ids:
        ids = [_id_condition(place, text) for place, text in enumerate(wanted.ids)]
        found.append(_all(ids, " OR "))
    if wanted.to:
        found.append(_to_condition(wanted.to))
    if wanted.from_:
        found.append(_from_condition(wanted.from_))
    if wanted.domain:
        name = wanted.domain.lower().rstrip(".")
        found.append(Condition("recipient.destination = :domain", {"domain": name}))
    if wanted.status:
        found.append(_status_condition(wanted.status))
    if wanted.older:
        bound = {"older": first_queue_id(wanted.older)}
        found.append(Condition("recipient.message_id < :older", bound))
    if wanted.newer:
        bound = {"newer": first_queue_id(wanted.newer)}
        found.append(Condition("recipient.message_id >= :newer", bound))
    if wanted.tries:
        found.append(_tries_condition(wanted.tries))
    if wanted.code:
        found.append(_code_condition(wanted.code.lower()))
    return _all(found, " AND ") if found else Condition("1 = 1", {})


def _all(several: Sequence[Condition], word: str) -> Condition:
    values: dict[str, Any] = {}
    for one in several:
        values |= one.values
    return Condition(f"({word.join(f'({one.text})' for one in several)})", values)


def _id_condition(place: int, text: str) -> Condition:
    try:
        low, high = queue_id_range(text)
    except ValueError as error:
        raise FilterError(str(error)) from error
    mark = "".join("abcdefghij"[int(digit)] for digit in str(place))
    # The highest range ends beyond what the column can hold.
    return Condition(
        f"recipient.message_id BETWEEN :low_{mark} AND :high_{mark}",
        {f"low_{mark}": low, f"high_{mark}": high - 1},
    )


def _to_condition(text: str) -> Condition:
    values = {"at": destination_of(text)}
    if text.startswith("@"):
        return Condition("recipient.destination = :at", values)
    if "@" not in text:
        raise FilterError(f'"{text}" is neither an address nor @domain')
    return Condition(
        "recipient.destination = :at AND lower(recipient.address) = :whom",
        values | {"whom": text.lower()},
    )


def _from_condition(text: str) -> Condition:
    if text == "<>":
        return Condition("message.sender = ''", {})
    if text.startswith("@"):
        ending = {"tail": text.lower(), "length": len(text)}
        # Not LIKE, in which some characters of a domain would mean others.
        return Condition(
            "substr(lower(message.sender), length(message.sender) - :length + 1) = :tail", ending
        )
    if "@" not in text:
        raise FilterError(f'"{text}" is neither an address, nor @domain, nor <>')
    return Condition("lower(message.sender) = :sender", {"sender": text.lower()})


def _status_condition(states: Sequence[str]) -> Condition:
    unknown = set(states) - {status.value for status in RecipientStatus}
    if unknown:
        names = ", ".join(status.value for status in RecipientStatus)
        raise FilterError(f'no recipient is ever "{min(unknown)}"; they are {names}')
    listed = ", ".join(f"'{state}'" for state in states)
    return Condition(f"recipient.status IN ({listed})", {})


def _tries_condition(text: str) -> Condition:
    match = _TRIES.fullmatch(text.strip())
    if match is None:
        raise FilterError(f'"{text}" is no number of tries; write it like 3, ">3" or "<=10"')
    return Condition(f"recipient.attempts {match[1] or '='} :tries", {"tries": int(match[2])})


def _code_condition(text: str) -> Condition:
    if _REPLY_CODE.fullmatch(text):
        return Condition("attempt.code = :code", {"code": int(text)})
    if is_enhanced(text):
        either = "attempt.enhanced = :enhanced OR recipient.enhanced = :enhanced"
        return Condition(either, {"enhanced": text})
    if match := _REPLY_CLASS.fullmatch(text):
        first = int(match[1])
        # An answer that was no reply but trouble has an enhanced code only.
        return Condition(
            "attempt.code BETWEEN :least AND :most OR (attempt.code = 0 AND attempt.enhanced LIKE :like)",
            {"least": first * 100, "most": first * 100 + 99, "like": f"{first}.%"},
        )
    if match := _ENHANCED_CLASS.fullmatch(text):
        return Condition("attempt.enhanced LIKE :like", {"like": f"{match[1]}%"})
    raise FilterError(f'"{text}" is no code; write it like 450, 4xx, 4.7.1 or 4.7.x')
