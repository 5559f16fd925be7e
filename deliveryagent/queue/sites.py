"""Sites and destinations as they are remembered: windows, pauses, who waits where.

The manager keeps windows in memory and records what a restart must not forget: that a site is closed.
Guarantees: recording a window never touches an operator's pause. Never decides whether a site is usable.
"""

from collections.abc import Sequence

import msgspec
from sqlalchemy import Connection, func, select, update

from deliveryagent.queue.bulk import Bulk, insertion, item
from deliveryagent.queue.operation import operation
from queue_schema.tables import destination, recipient, site


class SiteState(msgspec.Struct, frozen=True, kw_only=True):
    """What is remembered of a site: its window, until when it is closed, and an operator's pause."""

    name: str
    concurrency: float
    closed_until: float | None
    reason: str
    updated: float
    paused_until: float | None = None
    pause_note: str = ""
    paused_by: str = ""


class DestinationState(msgspec.Struct, frozen=True, kw_only=True):
    """What is remembered of a destination: when it is ready, who owns it, its site and pause.

    ``waiting`` counts its recipients that have a due time.
    """

    name: str
    ready: float | None
    owner: int | None
    site: str
    paused_until: float | None
    pause_note: str
    paused_by: str
    waiting: int


_WINDOW = ("name", "concurrency", "closed_until", "reason", "updated")
_save = insertion(
    site,
    *_WINDOW,
    ending="ON CONFLICT (name) DO UPDATE SET "
    + ", ".join(f"{name} = excluded.{name}" for name in _WINDOW[1:]),
)
_load = select(*(site.c[name] for name in SiteState.__struct_fields__)).order_by(site.c.name)
_seen = item(destination.c.name, destination.c.site)
_assign = Bulk(
    update(destination).values(site=_seen.c.site).where(destination.c.name == _seen.c.name), _seen
)
_waiting = (
    select(func.count())
    .where(recipient.c.destination == destination.c.name, recipient.c.due.is_not(None))
    .correlate(destination)
    .scalar_subquery()
)
_destinations = select(
    *(destination.c[name] for name in DestinationState.__struct_fields__[:-1]), _waiting
).order_by(destination.c.name)


@operation()
def save(connection: Connection, items: Sequence[SiteState]) -> list[None]:
    """Record windows; the latest of a site counts."""
    latest = {one.name: one for one in items}
    rows = [tuple(getattr(latest[name], field) for field in _WINDOW) for name in sorted(latest)]
    _save.run(connection, rows)
    return [None] * len(items)


@operation(writes=False)
def load(connection: Connection, items: Sequence[None]) -> list[list[SiteState]]:
    """Every site that is remembered."""
    names = SiteState.__struct_fields__
    rows = connection.execute(_load).all()
    return [[SiteState(**dict(zip(names, row, strict=True))) for row in rows] for _ in items]


@operation()
def destination_site(connection: Connection, items: Sequence[tuple[str, str]]) -> list[None]:
    """Record to which sites destinations belong: (destination, site)."""
    _assign.run(connection, sorted(dict(items).items()))
    return [None] * len(items)


def destinations(
    connection: Connection, *, after: str = "", limit: int = 1000
) -> list[DestinationState]:
    """Destinations by name, behind ``after``."""
    query = _destinations.where(destination.c.name > after).limit(limit)
    return [_state(row) for row in connection.execute(query)]


def one_destination(connection: Connection, name: str) -> DestinationState | None:
    """One destination, None when nothing is known of it."""
    row = connection.execute(_destinations.where(destination.c.name == name)).one_or_none()
    return None if row is None else _state(row)


def _state(row: Sequence[object]) -> DestinationState:
    facts = zip(DestinationState.__struct_fields__, row, strict=True)
    return msgspec.convert(dict(facts), DestinationState)
