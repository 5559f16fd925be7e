"""Claims."""

from collections.abc import Sequence

import msgspec
from sqlalchemy import Connection

from deliveryagent.queue.operation import operation

Cursor = tuple[float, int, int]
"""A place in a waiting line: (due, message id, recipient number). Fetching goes on behind it."""


class Take(msgspec.Struct, frozen=True):
    """Ask for destinations that have work now, at most ``limit``."""

    agent: int
    now: float
    limit: int


class Taken(msgspec.Struct, frozen=True, gc=False):
    """A destination this agent owns now, or owned already and that got new work.

    ``ready`` is the earliest due time of that work: an owner whose cursors are beyond it must go back to it
    (``rewound``). ``paused_until`` is an operator's pause (see ``orders``), None when there is none.
    """

    name: str
    ready: float
    site: str
    paused_until: float | None
    pause_note: str
    paused_by: str


class Fetch(msgspec.Struct, frozen=True):
    """Ask for due recipients of a destination behind the cursors (None: from the beginning)."""

    destination: str
    now: float
    cursor_small: Cursor | None
    cursor_bulk: Cursor | None
    limit: int


class Claimed(msgspec.Struct, frozen=True, gc=False):
    """A due recipient with what its message says."""

    message_id: int
    number: int
    address: str
    destination: str
    bulk: bool
    attempts: int
    due: float
    notify: int
    orcpt: str
    warned: int | None
    sender: str
    size: int
    dotted: bool
    eightbit: bool
    utf8: bool
    long_lines: bool
    ret: str
    envid: str
    recipient_count: int
    crashes: int


class Fetched(msgspec.Struct, frozen=True):
    """Due recipients, small and bulk in turn. ``exhausted``: nothing more is due now behind the new cursors."""

    recipients: list[Claimed]
    cursor_small: Cursor | None
    cursor_bulk: Cursor | None
    exhausted: bool


class Siblings(msgspec.Struct, frozen=True):
    """Ask for the due recipients of one message at the destinations that ``agent`` owns, at most ``limit``."""

    message_id: int
    now: float
    agent: int
    limit: int = 1000


class GiveBack(msgspec.Struct, frozen=True):
    """Stop owning a destination; it is not ready again before ``not_before`` (0: as soon as something is due)."""

    destination: str
    agent: int
    not_before: float = 0.0


def rewound(cursor: Cursor | None, ready: float) -> Cursor | None:
    """The cursor to go on with after new work due at ``ready`` came."""
    raise NotImplementedError


@operation()
def take(connection: Connection, items: Sequence[Take]) -> list[list[Taken]]:
    raise NotImplementedError


@operation(writes=False)
def fetch(connection: Connection, items: Sequence[Fetch]) -> list[Fetched]:
    raise NotImplementedError


@operation(writes=False)
def siblings(connection: Connection, items: Sequence[Siblings]) -> list[list[Claimed]]:
    raise NotImplementedError


@operation(writes=False)
def contents(connection: Connection, items: Sequence[Sequence[int]]) -> list[dict[int, bytes]]:
    raise NotImplementedError


@operation(writes=False)
def part(connection: Connection, items: Sequence[tuple[int, int]]) -> list[bytes | None]:
    raise NotImplementedError


@operation(must=True)
def give_back(connection: Connection, items: Sequence[GiveBack]) -> list[None]:
    raise NotImplementedError


@operation(writes=False)
def next_ready(connection: Connection, items: Sequence[int]) -> list[float | None]:
    raise NotImplementedError
