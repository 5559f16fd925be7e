"""The settings of the queue: where it is, and how long it remembers.

Apart from the code that uses them, because that imports SQLAlchemy and whoever reads the
configuration should not have to.
"""

from dataclasses import dataclass
from typing import Annotated

from deliveryagent.setting import Duration, key, parse_duration


@dataclass(frozen=True, kw_only=True)
class StoreSettings:
    """Where the queue is."""

    url: Annotated[
        str,
        key(
            "The queue: an SQLite file (sqlite:////path/queue.sqlite3) on a local file system, "
            "or a PostgreSQL database (postgresql://user@host/db).",
            postfix="queue_directory",
        ),
    ] = "sqlite:////var/lib/deliveryagent/queue.sqlite3"
    lease_time: Annotated[
        Duration,
        key(
            "How long an agent may be silent until the other agents of a PostgreSQL queue take over "
            "what it had; it renews its lease four times as often. Of no use to an SQLite queue."
        ),
    ] = parse_duration("20s")


@dataclass(frozen=True, kw_only=True)
class HistorySettings:
    """How long the past is kept."""

    history_retention: Annotated[
        Duration,
        key("How long finished messages with all their attempts, and idempotency keys, are kept."),
    ] = parse_duration("30d")
