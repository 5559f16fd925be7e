"""Reports."""

from collections.abc import Callable, Sequence

import msgspec
from sqlalchemy import Connection

from deliveryagent.queue.operation import operation
from deliveryagent.queue.submissions import Submission


class OwedRecipient(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One recipient of a report: its last answer and state. Times in seconds since the epoch."""

    number: int
    address: str
    destination: str
    orcpt: str
    notify: int
    status: str
    attempts: int
    due: float | None
    updated: float
    stage: str
    code: int
    enhanced: str
    text: str
    host: str


class ReportFacts(msgspec.Struct, frozen=True, kw_only=True):
    """All that a report of one kind needs of its message.

    ``kind`` is failure, delay or success. ``content`` is the first part of the content, empty when it is
    unreadable; ``complete`` says that it is all of it.
    """

    kind: str
    queue_id: int
    sender: str
    size: int
    eightbit: bool
    utf8: bool
    ret: str
    envid: str
    origin: str
    recipients: tuple[OwedRecipient, ...]
    content: bytes
    complete: bool


class Report(msgspec.Struct, frozen=True):
    """Write what a message owes. ``compose`` makes the report, or None when nobody may get one."""

    message_id: int
    compose: Callable[[ReportFacts], Submission | None]


class Written(msgspec.Struct, frozen=True):
    """The ids of the reports that are in the queue now; ``more``: the message owes further ones."""

    reports: tuple[int, ...]
    more: bool


@operation(cap=100)
def write(connection: Connection, items: Sequence[Report]) -> list[Written]:
    raise NotImplementedError


@operation(writes=False)
def pending(connection: Connection, items: Sequence[None]) -> list[list[int]]:
    raise NotImplementedError
