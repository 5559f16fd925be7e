"""Purge."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec
from sqlalchemy import Connection

from deliveryagent.queue.operation import operation
from deliveryagent.setting import Duration, Key, key, parse_duration


@dataclass(frozen=True, kw_only=True)
class HistorySettings:
    """How long the past is kept."""

    history_retention: Annotated[
        Duration,
        key("How long finished messages with all their attempts, and idempotency keys, are kept."),
    ] = parse_duration("30d")


class Purge(msgspec.Struct, frozen=True, kw_only=True):
    """One small step of forgetting: what ended before ``before`` goes; looked for behind ``cursor``."""

    now: float
    before: float
    cursor: int = 0
    limit: int = 200


class Purged(msgspec.Struct, frozen=True):
    """What a step removed and where the next one goes on; ``cursor`` is 0 when the round is complete."""

    messages: int
    recipients: int
    cursor: int


@operation(cap=1)
def purge(connection: Connection, items: Sequence[Purge]) -> list[Purged]:
    raise NotImplementedError
