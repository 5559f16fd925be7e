"""``dagent db copy``: from an SQLite queue to a database server, or to another file.

The service must be stopped: its lock is taken for as long as the copy lasts, what its processes knew last is
recorded first (the journals), and nobody owns anything any more. Then ``queue.copy`` does its work; here it is
only shown how far it is.
"""

import asyncio
import contextlib
import random
import time
from pathlib import Path

import msgspec

from deliveryagent.agent.home import Home, journals_of
from deliveryagent.cli.command import Invocation
from deliveryagent.cli.db import locked
from deliveryagent.cli.faults import CommandError, ExitStatus
from deliveryagent.cli.screen import Screen, count
from deliveryagent.config import Config
from deliveryagent.queue import upgrade
from deliveryagent.queue.copy import Report, abandon, copy
from deliveryagent.queue.engine import open_writer, shown, store_file
from deliveryagent.queue.leases import Recovery, recover
from deliveryagent.queue.single import execute
from deliveryagent.queue.thread import Database

_PAUSE = 1.0  # seconds between two lines of progress


def give_up(invocation: Invocation) -> int:
    """Open the queue again after a copy that was begun."""
    screen = invocation.screen()
    file = _file(invocation.location().queue_url)
    with locked(file):
        engine = open_writer(f"sqlite:///{file}")
        given_up = abandon(engine)
        engine.dispose()
    if screen.json:
        screen.record({"abandoned": given_up})
    else:
        screen.note("the queue is open again" if given_up else "no copy of this queue was begun")
    return ExitStatus.DONE


def carry_out(invocation: Invocation, to: str) -> int:
    """Copy the configured queue to the address ``to``."""
    config, screen = invocation.config(), invocation.screen()
    file, there = _file(config.queue.url), store_file(to)
    if there is not None and there.absolute() == file.absolute():
        raise CommandError("a queue cannot be copied to itself", code=ExitStatus.USAGE)
    with contextlib.ExitStack() as stack:
        stack.enter_context(locked(file))
        if there is not None:
            stack.enter_context(locked(there))
        asyncio.run(_settle(config))
        source = open_writer(config.queue.url)
        stack.callback(source.dispose)
        execute(source, recover, [Recovery(alone=True)])
        target = open_writer(to)
        stack.callback(target.dispose)
        upgrade.migrate(target)
        upgrade.renew_functions(target)
        upgrade.ensure(target, copied=True)
        report = copy(source, target, now=time.time(), told=_Progress(screen))
    _tell(screen, report, to)
    return ExitStatus.DONE


async def _settle(config: Config) -> None:
    """Record what dead processes of the service knew last."""
    journals = journals_of(config.queue.url, config.run_dir)
    engine = open_writer(config.queue.url)
    identity = upgrade.ensure(engine, copied=True)
    database = Database(engine)
    try:
        with Home(journals) as home:
            await home.clear(
                database,
                identity=identity,
                retry=config.queue,
                clock=time.time,
                rng=random.Random(),  # noqa: S311 - spreads load, protects nothing
            )
            home.move_out()
    finally:
        await database.close()
        engine.dispose()


class _Progress:
    """Shows at most one line a second, and one for each table."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._next = 0.0

    def __call__(self, table: str, done: int, total: int) -> None:
        now = time.monotonic()
        if now < self._next and done < total:
            return
        self._next = now + _PAUSE
        self._screen.note(f"{table}: {done} of {count(total, 'row')}")


def _tell(screen: Screen, report: Report, to: str) -> None:
    if screen.json:
        screen.record(msgspec.to_builtins(report))
        return
    waiting = sum(report.statuses.get(status, 0) for status in ("queued", "deferred", "held"))
    done = "was copied before" if report.done_before else "is copied"
    screen.line(
        f"The queue {done}: {count(report.rows['message'], 'message')}, "
        f"{count(report.rows['recipient'], 'recipient')}; {count(waiting, 'recipient')} waiting."
    )
    screen.note(f"set [queue] url to {shown(to)} and start the service")


def _file(url: str) -> Path:
    file = store_file(url)
    if file is None:
        raise CommandError(
            "only an SQLite queue is copied by this command",
            hint="Between databases of PostgreSQL use pg_dump and pg_restore.",
        )
    return file
