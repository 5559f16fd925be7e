"""What views need besides lists: what is overdue, what is paused, who waits for the same reason.

Reads with the caller's connection. Guarantees: each question is answered from an index or stops at ``CAP``
rows, so that a huge queue costs no more than a large one; nothing is changed.
"""

from collections.abc import Iterator

import msgspec

from deliveryagent.queue.reader import Reader
from deliveryagent.queue.states import DestinationState, Member, SiteState

CAP = 10_000
"""Rows after which counting stops."""

COMPARED = 2_000
"""Recipients at a destination whose last answers are looked at: each is somewhere else in the store."""


class Waiting(msgspec.Struct, frozen=True):
    """Others that wait at a destination: all of them, and those with the same last answer.

    Up to ``CAP``, and up to ``COMPARED``.
    """

    all: int
    same_answer: int


class Paused(msgspec.Struct, frozen=True, kw_only=True):
    """An operator's pause of a destination. ``until`` in seconds since the epoch."""

    name: str
    until: float
    note: str
    by: str


def next_ready(reader: Reader, now: float) -> float | None:
    """When the next destination is ready that nobody looks after and nobody paused, if one waits."""
    earliest: float | None = reader.value(
        "SELECT min(ready) FROM destination "
        "WHERE owner IS NULL AND (paused_until IS NULL OR paused_until <= :now)",
        now=now,
    )
    return earliest


def others(reader: Reader, name: str, *, code: int = 0, enhanced: str = "") -> Waiting:
    """How many recipients wait at a destination, and with this last answer; the asker is among them.

    Without an answer nobody is compared. Those whose turn comes last are: they were tried not long ago.
    """
    total = reader.value(
        "SELECT count(*) FROM (SELECT due FROM recipient "
        "WHERE destination = :name AND due IS NOT NULL LIMIT :most) AS line",
        name=name,
        most=CAP,
    )
    if not (code or enhanced):
        return Waiting(total, 0)
    same = reader.value(
        "SELECT count(*) FROM (SELECT message_id, number FROM recipient "
        "WHERE destination = :name AND due IS NOT NULL "
        "ORDER BY bulk DESC, due DESC, message_id DESC, number DESC LIMIT :most) AS line "
        "JOIN recipient ON recipient.message_id = line.message_id AND recipient.number = line.number "
        "JOIN attempt ON attempt.message_id = line.message_id "
        "AND attempt.number = line.number AND attempt.attempt = recipient.attempts "
        "WHERE attempt.code = :code AND attempt.enhanced = :enhanced",
        name=name,
        most=COMPARED,
        code=code,
        enhanced=enhanced,
    )
    return Waiting(total, same)


def pauses(reader: Reader, now: float) -> Iterator[Paused]:
    """Every pause that is in force."""
    for row in reader.rows(
        "SELECT name, paused_until, pause_note, paused_by FROM destination "
        "WHERE paused_until > :now ORDER BY name LIMIT :most",
        now=now,
        most=CAP,
    ):
        name, until, note, by = row
        yield Paused(name=name, until=until, note=note, by=by)


_SITE = ", ".join(SiteState.__struct_fields__)
_DESTINATION = ", ".join(DestinationState.__struct_fields__[:-1])
_MEMBER = ", ".join(
    "lease_until - {moment}" if name == "left" else "id" if name == "agent" else name
    for name in Member.__struct_fields__
)


def one_site(reader: Reader, name: str) -> SiteState | None:
    """What is remembered of a site, None when nothing is."""
    rows = reader.rows(f"SELECT {_SITE} FROM site WHERE name = :name", name=name)
    return _state(rows[0]) if rows else None


def sites(reader: Reader) -> list[SiteState]:
    """Every site that is remembered, by name."""
    return [_state(row) for row in reader.rows(f"SELECT {_SITE} FROM site ORDER BY name")]


def _state(row: tuple[object, ...]) -> SiteState:
    return msgspec.convert(dict(zip(SiteState.__struct_fields__, row, strict=True)), SiteState)


def one_destination(
    reader: Reader, name: str, waiting: int | None = None
) -> DestinationState | None:
    """One destination, None when nothing is known of it. ``waiting`` is counted when it is not given."""
    rows = reader.rows(
        f"SELECT {_DESTINATION} FROM destination WHERE name = :name",
        name=name,
    )
    if not rows:
        return None
    if waiting is None:
        waiting = reader.value(
            "SELECT count(*) FROM recipient WHERE destination = :name AND due IS NOT NULL",
            name=name,
        )
    facts = zip(DestinationState.__struct_fields__, (*rows[0], waiting), strict=True)
    return msgspec.convert(dict(facts), DestinationState)


def members(reader: Reader) -> list[Member]:
    """All agents, the oldest first."""
    columns = _MEMBER.format(moment=reader.moment)
    rows = reader.rows(f"SELECT {columns} FROM agent ORDER BY started, id")
    names = Member.__struct_fields__
    return [
        msgspec.convert(dict(zip(names, row, strict=True)), Member, strict=False) for row in rows
    ]
