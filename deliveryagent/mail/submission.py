"""A message as a door hands it to the queue, and what the queue answers.

Words only; ``queue.submissions`` acts on them. Never imported by who has no message in hand.
"""

import msgspec

from deliveryagent.mail.envelope import ContentFacts, Envelope

CONTENT_PART = 256 * 1024
"""The most octets of a part of a content."""


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """A message to be taken over.

    ``parts`` is the whole content in wire form, cut in parts of at most ``CONTENT_PART`` octets, or ``()``
    when the parts were staged before under the same ``queue_id``. ``arrival`` is seconds since the epoch;
    recipients beyond the first ``bulk_after`` wait in the bulk line (0: none does), as do those of a message
    with a priority below 0. Recipients are numbered from 1.
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


class KeyBusy(msgspec.Struct, frozen=True):
    """A transaction that is not finished uses the key: nobody knows yet whose it will be."""


Answer = Accepted | Duplicate | KeyConflict | KeyBusy


class StagedPart(msgspec.Struct, frozen=True):
    """One part of a content that is still arriving; ``part`` counts from 0."""

    queue_id: int
    part: int
    data: bytes
    started: float
