"""New messages: what is durable once the transaction is committed."""

from collections.abc import Sequence

import msgspec
from sqlalchemy import Connection

from deliveryagent.mail.envelope import ContentFacts, Envelope
from deliveryagent.queue.operation import operation


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """A message to be taken over.

    ``parts`` is the whole content in wire form, cut in parts of at most ``CONTENT_PART`` octets, or ``()``
    when the parts were staged before under the same ``queue_id``. ``arrival`` is seconds since the epoch;
    recipients beyond the first ``bulk_after`` wait in the bulk line (0: none does). Recipients are numbered
    from 1.
    """

    queue_id: int
    envelope: Envelope
    facts: ContentFacts
    parts: tuple[bytes, ...]
    arrival: float
    origin: str
    bulk_after: int = 0


class Accepted(msgspec.Struct, frozen=True):
    """The message is in the queue under this id."""

    queue_id: int


class Duplicate(msgspec.Struct, frozen=True):
    """The same content was taken over under the same key before: this is the id it got then."""

    queue_id: int


class KeyConflict(msgspec.Struct, frozen=True):
    """The key belongs to another content; ``queue_id`` is the message that has it."""

    queue_id: int


Answer = Accepted | Duplicate | KeyConflict


class StagedPart(msgspec.Struct, frozen=True):
    """One part of a content that is still arriving; ``part`` counts from 0."""

    queue_id: int
    part: int
    data: bytes
    started: float


@operation()
def add(connection: Connection, items: Sequence[Submission]) -> list[Answer]:
    raise NotImplementedError


@operation(cap=16)
def stage(connection: Connection, items: Sequence[StagedPart]) -> list[None]:
    raise NotImplementedError


@operation()
def abandon(connection: Connection, items: Sequence[int]) -> list[None]:
    raise NotImplementedError


@operation()
def sweep_arriving(connection: Connection, items: Sequence[None]) -> list[int]:
    raise NotImplementedError


def last_id(connection: Connection) -> int:
    raise NotImplementedError
