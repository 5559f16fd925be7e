"""Sites and destinations as they are remembered: windows, pauses, who waits where.

The manager keeps windows in memory and records what a restart, or another agent, must know: that a site is
closed, or asks for less. Never decides whether a site is usable.
"""

from collections.abc import Sequence

import msgspec
from sqlalchemy import Connection, bindparam, func, select, update

from deliveryagent.queue import news
from deliveryagent.queue.bulk import Bulk, insertion, item
from deliveryagent.queue.operation import operation
from deliveryagent.queue.states import DestinationState, SiteState
from queue_schema.tables import destination, recipient, site

__all__ = [
    "DestinationState",
    "SiteReset",
    "SiteState",
    "changed",
    "destination_site",
    "destinations",
    "load",
    "one_destination",
    "reset",
    "save",
]


class SiteReset(msgspec.Struct, frozen=True):
    """Forget that the site of a destination failed; ``now`` is seconds since the epoch."""

    destination: str
    now: float


_CLOCKS_DIFFER = 5.0  # seconds
_WINDOW = ("name", "concurrency", "closed_until", "reason", "updated")
_save = insertion(
    site,
    *_WINDOW,
    ending="ON CONFLICT (name) DO UPDATE SET "
    + ", ".join(f"{name} = excluded.{name}" for name in _WINDOW[1:]),
)
_load = select(*(site.c[name] for name in SiteState.__struct_fields__)).order_by(site.c.name)
_site_of = select(destination.c.site).where(destination.c.name == bindparam("wanted"))
_reset = (
    update(site)
    .values(closed_until=None, reason="", updated=bindparam("now"))
    .where(site.c.name == bindparam("name_"))
)
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
    """Record windows; the latest of a site counts. The other agents hear of it."""
    latest = {one.name: one for one in items}
    rows = [tuple(getattr(latest[name], field) for field in _WINDOW) for name in sorted(latest)]
    _save.run(connection, rows)
    news.tell(connection, "shares")
    return [None] * len(items)


@operation(writes=False)
def changed(connection: Connection, items: Sequence[float]) -> list[list[SiteState]]:
    """The sites about which something was recorded after each time; seconds since the epoch.

    Some from before come again, because the clocks of agents differ.
    """
    names = SiteState.__struct_fields__
    answers = []
    for after in items:
        rows = connection.execute(_load.where(site.c.updated > after - _CLOCKS_DIFFER)).all()
        answers.append([SiteState(**dict(zip(names, row, strict=True))) for row in rows])
    return answers


@operation(writes=False)
def load(connection: Connection, items: Sequence[None]) -> list[list[SiteState]]:
    """Every site that is remembered."""
    names = SiteState.__struct_fields__
    rows = connection.execute(_load).all()
    return [[SiteState(**dict(zip(names, row, strict=True))) for row in rows] for _ in items]


@operation()
def reset(connection: Connection, items: Sequence[SiteReset]) -> list[str]:
    """Forget that the sites of destinations failed; the names of the sites, empty where none is known."""
    names = []
    for one in items:
        values = {"wanted": one.destination}
        name = connection.scalar(_site_of, values) or ""
        names.append(name)
        if name:
            connection.execute(_reset, {"name_": name, "now": one.now})
    news.tell(connection, "shares")
    return names


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
