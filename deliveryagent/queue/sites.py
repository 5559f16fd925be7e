"""Sites."""

from collections.abc import Sequence

import msgspec
from sqlalchemy import Connection

from deliveryagent.queue.operation import operation


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


@operation()
def save(connection: Connection, items: Sequence[SiteState]) -> list[None]:
    raise NotImplementedError


@operation(writes=False)
def load(connection: Connection, items: Sequence[None]) -> list[list[SiteState]]:
    raise NotImplementedError


@operation()
def destination_site(connection: Connection, items: Sequence[tuple[str, str]]) -> list[None]:
    raise NotImplementedError
