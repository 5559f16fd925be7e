"""Agents and their leases."""

from collections.abc import Sequence

import msgspec
from sqlalchemy import Connection

from deliveryagent.queue.operation import operation


class Lease(msgspec.Struct, frozen=True):
    """An agent at work: who and where it is, and until when its claims are good (seconds since the epoch)."""

    agent: int
    host: str
    pid: int
    started: float
    until: float


class Renewal(msgspec.Struct, frozen=True):
    """Carry a lease on until a later moment."""

    agent: int
    until: float


class Recovery(msgspec.Struct, frozen=True):
    """Give back what dead agents own. ``alone``: there can be no other agent (SQLite under its lock)."""

    now: float
    alone: bool


@operation()
def register(connection: Connection, items: Sequence[Lease]) -> list[None]:
    raise NotImplementedError


@operation(must=True)
def renew(connection: Connection, items: Sequence[Renewal]) -> list[bool]:
    raise NotImplementedError


@operation(must=True)
def retire(connection: Connection, items: Sequence[int]) -> list[None]:
    raise NotImplementedError


@operation()
def recover(connection: Connection, items: Sequence[Recovery]) -> list[int]:
    """Returns how many destinations were given back."""
    raise NotImplementedError
