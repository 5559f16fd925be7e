"""Carries out orders about what waits.

Where a service runs it does so; else the command does, under the lock the service would hold, with the same
functions. Guarantees: more than one message is changed only after somebody said so (``--yes``, or by typing
the number on a terminal); ``--dry-run`` changes nothing and counts the same; what is in flight is left alone
and counted.
"""

import asyncio
import os
import pwd
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import click
import msgspec

from deliveryagent.cli import view
from deliveryagent.cli.command import Invocation
from deliveryagent.cli.door import ORDER_TIME, Door
from deliveryagent.cli.faults import CommandError, ExitStatus
from deliveryagent.cli.filters import selection
from deliveryagent.cli.orders import Verb
from deliveryagent.cli.screen import Screen, count
from deliveryagent.cli.screen import size as sized
from deliveryagent.mail.envelope import format_queue_id
from deliveryagent.queue import course, leases
from deliveryagent.queue.course import Do
from deliveryagent.queue.engine import open_reader, open_writer, store_file
from deliveryagent.queue.leases import Recovery
from deliveryagent.queue.lock import QueueLock
from deliveryagent.queue.operation import Operation
from deliveryagent.queue.orders import Kind, Order
from deliveryagent.queue.search import Filter
from deliveryagent.queue.single import execute

T = TypeVar("T")
X = TypeVar("X")
R = TypeVar("R")


class Tally(msgspec.Struct, kw_only=True):
    """What an order does or would do. ``bytes`` is the size of the messages, ``sample`` some of their ids."""

    messages: int = 0
    recipients: int = 0
    skipped_active: int = 0
    bytes: int = 0
    sample: list[str] = []


def run(
    invocation: Invocation,
    verb: Verb,
    given: dict[str, Any],
    *,
    dry_run: bool,
    yes: bool,
    note: str,
) -> int:
    """Give an order, asking first where it concerns more than one message; returns the exit status."""
    screen = invocation.screen()
    wanted = selection(given, now=time.time(), order=True)
    missing: list[str] = []
    if wanted.ids:
        with view.opened(invocation) as found:
            ids, missing = found.resolved(wanted.ids)
        for word in missing:
            screen.note(f"No message has the id {word}.")
        if not ids:
            return ExitStatus.NOT_FOUND
        wanted = msgspec.structs.replace(wanted, ids=ids)
    place = _Place(invocation)
    try:
        single = len(wanted.ids) == 1
        if dry_run or not (single or yes):
            tally = place.carry_out(verb.kind, wanted, note=note, dry_run=True)
            if dry_run:
                _report(invocation, screen, verb, tally, dry_run=True)
                return ExitStatus.PARTLY_DONE if missing else ExitStatus.DONE
            if tally.messages > 1:
                _ask(screen, verb, tally)
        tally = place.carry_out(verb.kind, wanted, note=note, dry_run=False)
    finally:
        place.close()
    _report(invocation, screen, verb, tally, dry_run=False)
    if not invocation.json and tally.recipients:
        screen.note(f"See: {verb.next}")
    return ExitStatus.PARTLY_DONE if missing or tally.skipped_active else ExitStatus.DONE


def _ask(screen: Screen, verb: Verb, tally: Tally) -> None:
    """Let a person on a terminal confirm; without one, refuse."""
    screen.note(f"{verb.will} {_counted(tally)}, for example {', '.join(tally.sample)}.")
    if not at_terminal():
        raise CommandError(
            f"this concerns {count(tally.messages, 'message')}; nothing was changed",
            hint="Add --yes to do it, or --dry-run to only count.",
        )
    answer = click.prompt(
        f"Type {tally.messages} to go on", default="", show_default=False, err=True
    )
    if answer.strip() != str(tally.messages):
        raise CommandError("nothing was changed")


def at_terminal() -> bool:
    """Whether there is a person who can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def _counted(tally: Tally) -> str:
    messages = count(tally.messages, "message")
    return f"{count(tally.recipients, 'recipient')} of {messages}, {sized(tally.bytes)}B"


def _report(
    invocation: Invocation, screen: Screen, verb: Verb, tally: Tally, *, dry_run: bool
) -> None:
    if invocation.json:
        screen.record({**msgspec.to_builtins(tally), "dry_run": dry_run})
        return
    if not tally.recipients and not tally.skipped_active:
        screen.line(f"There is nothing to {verb.kind}.")
        return
    screen.line(f"{verb.will if dry_run else verb.done} {_counted(tally)}.")
    if tally.skipped_active:
        screen.line(
            f"{count(tally.skipped_active, 'recipient')} in flight just now: left alone; say it again "
            "in a moment."
        )


class _Place:
    """Where orders are carried out: in the service, or here when none runs."""

    def __init__(self, invocation: Invocation) -> None:
        self._invocation = invocation
        self._location = invocation.location()
        self._door = Door(self._location.socket)

    def close(self) -> None:
        """End the connection to the service."""
        self._door.close()

    def carry_out(self, kind: Kind, wanted: Filter, *, note: str, dry_run: bool) -> Tally:
        """Give an order on recipients."""
        answer = self._door.ask(
            kind,
            patience=ORDER_TIME,
            filter=msgspec.to_builtins(wanted),
            note=note,
            dry_run=dry_run,
        )
        if answer is not None:
            return msgspec.convert({name: answer[name] for name in Tally.__struct_fields__}, Tally)

        order = Order(
            kind=kind, filter=wanted, now=time.time(), note=note or by_user(), dry_run=dry_run
        )
        if dry_run:
            with reading(self._location.queue_url) as connection:

                async def look(operation: Operation[X, R], item: X) -> R:
                    return operation(connection, [item])[0]

                return asyncio.run(_carry_out(look, order))
        with writing(self._location.queue_url) as engine:
            # What agents that died still seem to own is nobody's.
            execute(engine, leases.recover, [Recovery(alone=False)])

            async def do(operation: Operation[X, R], item: X) -> R:
                return execute(engine, operation, [item])[0]

            return asyncio.run(_carry_out(do, order))


@contextmanager
def reading(url: str) -> Iterator[Any]:
    """The queue as an order sees it, opened only to look."""
    engine = open_reader(url)
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def by_user() -> str:
    """Who gives the order, for the record."""
    try:
        return f"by {pwd.getpwuid(os.getuid()).pw_name}"
    except KeyError:
        return f"by uid {os.getuid()}"


def locked(url: str, work: Callable[[Any], T]) -> T:
    """Work on the queue itself, in one transaction, under the lock of its one writer.

    Raises ``LockHeld`` when a service has it.
    """
    with writing(url) as engine, engine.begin() as connection:
        return work(connection)


@contextmanager
def writing(url: str) -> Iterator[Any]:
    """The queue, opened for writing, under the lock of its one writer if it has one.

    Raises ``LockHeld`` when a service has it.
    """
    file = store_file(url)
    with ExitStack() as stack:
        if file is not None:
            stack.enter_context(QueueLock(file))
        engine = open_writer(url)
        stack.callback(engine.dispose)
        yield engine


async def _carry_out(do: Do, order: Order) -> Tally:
    done = course.Tally()
    foreign = await course.first(order, done, tuple, do)
    await course.rest(order, done, tuple, do, foreign=foreign)
    return Tally(
        messages=done.messages,
        recipients=done.recipients,
        skipped_active=done.skipped_active,
        bytes=done.bytes,
        sample=[format_queue_id(one) for one in done.sample[:5]],
    )
