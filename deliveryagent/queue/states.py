"""What is remembered of sites, destinations and agents, as values.

Apart from the code that reads and writes them, because that imports SQLAlchemy and whoever shows them should
not have to.
"""

import msgspec


class SiteState(msgspec.Struct, frozen=True, kw_only=True):
    """What is remembered of a site: its window, and until when it is closed and why."""

    name: str
    concurrency: float
    closed_until: float | None
    reason: str
    updated: float


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


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """An agent as it last described itself. ``left``: seconds until its lease ends, negative once it did."""

    agent: int
    host: str
    pid: int
    started: float
    left: float
    version: str
    draining: bool
    destinations: int
    waiting: int
    in_flight: int
    sharing: bool
