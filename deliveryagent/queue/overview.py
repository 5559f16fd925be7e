"""What views need besides lists: what is overdue, what is paused, who waits for the same reason.

Reads with the caller's connection. Guarantees: each question is answered from an index or stops at ``CAP``
rows, so that a huge queue costs no more than a large one; nothing is changed.
"""

from collections.abc import Iterator

import msgspec
from sqlalchemy import Connection, and_, func, or_, select

from deliveryagent.queue.sites import SiteState
from queue_schema.tables import attempt, destination, recipient, site

CAP = 10_000
"""Rows after which counting stops."""


class Waiting(msgspec.Struct, frozen=True):
    """Others that wait at a destination: all of them, and those with the same last answer; up to ``CAP``."""

    all: int
    same_answer: int


class Paused(msgspec.Struct, frozen=True, kw_only=True):
    """An operator's pause of a destination, or of a site. ``until`` in seconds since the epoch."""

    name: str
    site: bool
    until: float
    note: str
    by: str


def next_ready(connection: Connection, now: float) -> float | None:
    """When the next destination is ready that nobody looks after and nobody paused, if one waits."""
    paused = destination.c.paused_until
    earliest: float | None = connection.scalar(
        select(func.min(destination.c.ready)).where(
            destination.c.owner.is_(None), or_(paused.is_(None), paused <= now)
        )
    )
    return earliest


def others(connection: Connection, name: str, *, code: int, enhanced: str) -> Waiting:
    """How many recipients wait at a destination, and with this last answer; the asker is among them."""
    line = (
        select(recipient.c.message_id, recipient.c.number, recipient.c.attempts)
        .where(recipient.c.destination == name, recipient.c.due.is_not(None))
        .limit(CAP)
        .subquery("line")
    )
    same = (
        select(func.count())
        .select_from(line)
        .join(
            attempt,
            and_(
                attempt.c.message_id == line.c.message_id,
                attempt.c.number == line.c.number,
                attempt.c.attempt == line.c.attempts,
            ),
        )
        .where(attempt.c.code == code, attempt.c.enhanced == enhanced)
    )
    total = connection.scalar(select(func.count()).select_from(line)) or 0
    return Waiting(total, connection.scalar(same) or 0)


def pauses(connection: Connection, now: float) -> Iterator[Paused]:
    """Every pause that is in force, destinations first."""
    for table, is_site in ((destination, False), (site, True)):
        rows = connection.execute(
            select(table.c.name, table.c.paused_until, table.c.pause_note, table.c.paused_by)
            .where(table.c.paused_until > now)
            .order_by(table.c.name)
            .limit(CAP)
        )
        for name, until, note, by in rows:
            yield Paused(name=name, site=is_site, until=until, note=note, by=by)


def one_site(connection: Connection, name: str) -> SiteState | None:
    """What is remembered of a site, None when nothing is."""
    fields = SiteState.__struct_fields__
    row = connection.execute(
        select(*(site.c[field] for field in fields)).where(site.c.name == name)
    ).one_or_none()
    return None if row is None else SiteState(**dict(zip(fields, row, strict=True)))
