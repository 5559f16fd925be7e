"""Outcomes."""

from collections.abc import Sequence

import msgspec
from sqlalchemy import Connection

from deliveryagent.queue.operation import operation


class Settlement(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The outcome of one attempt for one recipient: its new state and the row of its history.

    ``attempt`` counts from 1. ``status`` is a stored status; ``due`` is the next attempt's time, None unless
    deferred. ``owed`` names a report that is due now: ``""``, ``"failure"``, ``"delay"`` or ``"success"``.
    ``updated`` is now, ``started`` the attempt's begin (seconds since the epoch). ``decision`` is the word of
    the history: delivered, deferred, bounced, in_doubt, held, expired. ``trail`` is a JSON list of the hosts
    tried before the one that decided, or empty. Times in seconds.
    """

    message_id: int
    number: int
    destination: str
    attempt: int
    status: str
    due: float | None
    owed: str
    updated: float
    started: float
    decision: str
    stage: str
    code: int
    enhanced: str
    text: str
    host: str = ""
    ip: str = ""
    port: int = 0
    tls: str = ""
    queue_time: float = 0.0
    connect_time: float = 0.0
    setup_time: float = 0.0
    transfer_time: float = 0.0
    trail: str = ""


class Expiry(msgspec.Struct, frozen=True, kw_only=True):
    """A recipient whose time is over while it waits. The last answer stays as it is; when there was none,
    ``stage``, ``enhanced`` and ``text`` say why."""

    message_id: int
    number: int
    now: float
    owed: str
    stage: str = "route"
    enhanced: str = "4.4.7"
    text: str = ""


class Warning_(msgspec.Struct, frozen=True):
    """A delay report becomes due for a waiting recipient."""

    message_id: int
    number: int


class Aged(msgspec.Struct, frozen=True):
    """Ask for live recipients of messages with ids below ``before``, in order, behind ``after``.

    ``unwarned``: only those that still may get a delay warning (none sent, none owed).
    """

    before: int
    after: tuple[int, int] = (0, 0)
    limit: int = 1000
    unwarned: bool = False


class AgedRecipient(msgspec.Struct, frozen=True, gc=False):
    """A live recipient with what expiry and warning depend on."""

    message_id: int
    number: int
    status: str
    destination: str
    notify: int
    attempts: int
    sender: str
    address: str


class HoldOrder(msgspec.Struct, frozen=True, kw_only=True):
    """Put the live recipients of a message (or one of them) aside for a person, with the reason."""

    message_id: int
    now: float
    text: str
    number: int | None = None
    stage: str = "route"
    enhanced: str = "4.3.0"


@operation(must=True)
def settle(connection: Connection, items: Sequence[Settlement]) -> list[bool]:
    raise NotImplementedError


@operation()
def expire(connection: Connection, items: Sequence[Expiry]) -> list[bool]:
    raise NotImplementedError


@operation()
def warn(connection: Connection, items: Sequence[Warning_]) -> list[bool]:
    raise NotImplementedError


@operation(writes=False)
def aged(connection: Connection, items: Sequence[Aged]) -> list[list[AgedRecipient]]:
    raise NotImplementedError


@operation(must=True)
def crashed(connection: Connection, items: Sequence[int]) -> list[int]:
    raise NotImplementedError


@operation(must=True)
def hold(connection: Connection, items: Sequence[HoldOrder]) -> list[int]:
    raise NotImplementedError
