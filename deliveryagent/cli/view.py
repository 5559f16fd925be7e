"""The queue as a command looks at it: rows from the store, and from the service what only it knows.

Guarantees: reads only; works with and without a running service; ids may be unique beginnings.
Lists come page by page, so that their first line appears at once however long they are.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

from deliveryagent.agent.records import active_places, status_of
from deliveryagent.cli.door import Door
from deliveryagent.cli.faults import CommandError, ExitStatus
from deliveryagent.cli.screen import utc
from deliveryagent.mail.envelope import QueueId, RecipientStatus, format_queue_id, parse_queue_id
from deliveryagent.queue import search
from deliveryagent.queue.reader import Reader, open_queue
from deliveryagent.queue.search import Filter, Found

if TYPE_CHECKING:
    from deliveryagent.cli.command import Invocation

_PAGE = 500
_STORED = ("queued", "deferred")  # what the store says of a recipient in flight
_ACTIVE = RecipientStatus.ACTIVE.value


class View:
    """An open queue. ``reader`` reads, ``door`` asks the service, ``now`` is the time of the command."""

    def __init__(self, reader: Reader, door: Door, now: float) -> None:
        self.reader = reader
        self.door = door
        self.now = now
        self._active: dict[tuple[int, int], float] | None = None

    @property
    def active(self) -> dict[tuple[int, int], float]:
        """Recipients in flight, with the time since when; empty when no service can be asked."""
        if self._active is None:
            self._active = active_places(self.door.look("active"))
        return self._active

    def find(self, wanted: Filter) -> Iterator[Found]:
        """Every message the filter means, in the order of arrival, with the recipients it means.

        The state ``active`` is known to the service only: it is asked before rows are read.
        """
        asked = set(wanted.status)
        if asked == {_ACTIVE}:
            ids = tuple(sorted({format_queue_id(place[0]) for place in self.active}))
            if wanted.ids:
                ids = tuple(i for i in ids if i.startswith(wanted.ids))
            for start in range(0, len(ids), _PAGE):
                part = msgspec.structs.replace(
                    wanted, ids=ids[start : start + _PAGE], status=_STORED
                )
                yield from self._narrowed(part, asked)
        elif _ACTIVE in asked:
            stored = tuple((asked | set(_STORED)) - {_ACTIVE})
            yield from self._narrowed(msgspec.structs.replace(wanted, status=stored), asked)
        else:
            yield from self._narrowed(wanted, asked)

    def _narrowed(self, wanted: Filter, asked: set[str]) -> Iterator[Found]:
        for found in self._merged(wanted):
            kept = tuple(
                one
                for one in found.recipients
                if not asked or status_of(found, one, self.active) in asked
            )
            if kept:
                yield msgspec.structs.replace(found, recipients=kept)

    def _merged(self, wanted: Filter) -> Iterator[Found]:
        """Whole messages: one that crosses the border of a page is put together again."""
        after, held = (0, 0), None
        while True:
            page = search.find(self.reader, wanted, _PAGE, after)
            for found in page:
                if held is not None and held.queue_id == found.queue_id:
                    found = msgspec.structs.replace(  # noqa: PLW2901 - the rest of the message held
                        found, recipients=(*held.recipients, *found.recipients)
                    )
                elif held is not None:
                    yield held
                held = found
            if sum(len(found.recipients) for found in page) < _PAGE:
                break
            after = (page[-1].queue_id, page[-1].recipients[-1].number)
        if held is not None:
            yield held

    def resolve(self, word: str) -> QueueId:
        """The message a full id or a unique beginning names; raises ``CommandError`` when there is none."""
        ids = search.resolve_prefix(self.reader, word)
        if not ids:
            raise CommandError(
                f"no message has the id {word}",
                code=ExitStatus.NOT_FOUND,
                hint="History is kept for [queue] history_retention; dagent why ADDRESS finds by address.",
            )
        if len(ids) > 1:
            names = ", ".join(format_queue_id(one) for one in ids[:4])
            raise CommandError(
                f"several ids begin with {word}: {names}{', …' if len(ids) > 4 else ''}",
                code=ExitStatus.USAGE,
            )
        return ids[0]

    def resolved(self, words: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
        """Full ids for words that may be beginnings, and the words nobody has. Ambiguity is an error."""
        known, missing = [], []
        for word in words:
            try:
                known.append(format_queue_id(self.resolve(word)))
            except CommandError as error:
                if error.code != ExitStatus.NOT_FOUND:
                    raise
                missing.append(word)
        return tuple(known), missing


@contextmanager
def opened(invocation: "Invocation") -> Iterator[View]:
    """The queue of the configuration, opened for reading. Raises ``StoreError`` when there is none."""
    location = invocation.location()
    door = Door(location.socket)
    try:
        with open_queue(location.queue_url) as reader:
            yield View(reader, door, time.time())
    finally:
        door.close()


def whole_id(word: str) -> bool:
    """Whether a word is a full queue id."""
    try:
        parse_queue_id(word)
    except ValueError:
        return False
    return True


def wishes(message: Found) -> list[str]:
    """What a message asks of its way, in words."""
    words = []
    if message.priority:
        words.append(f"priority {message.priority}")
    if message.deliver_by:
        then = "or returned" if message.by_mode[:1] == "R" else "or its sender told"
        words.append(f"delivered by {utc(message.deliver_by)} {then}")
    if message.require_tls:
        words.append("protected transport only (REQUIRETLS)")
    return words
