"""``dagent db``: the steps that bring an older queue up to date, the check of its invariants, and its move.

All open the store itself. ``migrate`` and ``copy`` take the lock that a running service holds; ``check`` only
reads and may be run at any time.
"""

import contextlib
import time
from pathlib import Path

import click
import msgspec

from deliveryagent.cli.command import Invocation, group
from deliveryagent.cli.faults import CommandError, ExitStatus
from deliveryagent.cli.screen import Screen, clean, count
from deliveryagent.config import parts
from deliveryagent.queue import check as invariants
from deliveryagent.queue import inflow, upgrade
from deliveryagent.queue.engine import open_reader, open_writer, store_file
from deliveryagent.queue.lock import LockHeld, QueueLock
from deliveryagent.queue.single import execute


@group("db", examples=["dagent db migrate --plan", "dagent db check"])
def db() -> None:
    """Bring the queue's schema up to date, and verify the queue."""


@db.command("migrate", examples=["dagent db migrate --plan", "dagent db migrate"])
@click.option("--plan", is_flag=True, help="Only say which steps there are to take.")
@click.pass_obj
def migrate(invocation: Invocation, plan: bool) -> None:
    """Take every step from the schema the queue has to the one this program needs.

    All steps are one transaction. The service must be stopped; make a copy of the queue before. On PostgreSQL
    the SQL functions by which applications enqueue are renewed as well.
    """
    url = invocation.location().queue_url
    screen = invocation.screen()
    if plan:
        engine = open_reader(url)
        steps, renewed, by_hand = upgrade.plan(engine), False, ""
    else:
        terms = parts.conditions(invocation.config())
        with _alone(url):
            engine = open_writer(url)
            steps = upgrade.migrate(engine)
            renewed = upgrade.renew_functions(engine)
            by_hand = upgrade.by_hand(engine)
            execute(engine, inflow.note_terms, [terms])
    engine.dispose()
    if screen.json:
        told = [msgspec.to_builtins(step) for step in steps]
        facts = {"functions_renewed": renewed, "by_hand": by_hand}
        screen.record({"schema": upgrade.head(), "done": not plan, "steps": told} | facts)
        return
    for step in steps:
        screen.line(f"{step.revision}  {step.text}")
    if by_hand:
        screen.note(f"applications cannot enqueue before somebody who may has run: {by_hand}")
    if renewed and not steps:
        screen.line("The SQL functions were renewed.")
    elif not steps:
        screen.line(f"The queue is up to date (schema {upgrade.head()}).")
    elif plan:
        screen.note(f"{count(len(steps), 'step')} to take: dagent db migrate")
    else:
        screen.note(f"{count(len(steps), 'step')} taken; start the service again")


@db.command("check", examples=["dagent db check", "dagent db check --json"])
@click.pass_obj
def check(invocation: Invocation) -> int:
    """Verify that the queue keeps its promises: nothing lost, nothing waiting unseen.

    Reads the whole queue and changes nothing. Exits 1 when a promise is broken.
    """
    url = invocation.location().queue_url
    screen = invocation.screen()
    engine = open_reader(url)
    schema = upgrade.current(engine)
    if schema != upgrade.head():
        raise CommandError(
            f"the queue has schema {schema or 'none'}, this program checks {upgrade.head()}",
            hint="dagent db migrate --plan",
        )
    with engine.connect() as connection:
        problems = invariants.problems(connection, time.time())
    engine.dispose()
    if screen.json:
        told = [msgspec.to_builtins(problem) for problem in problems]
        screen.record({"ok": not problems, "problems": told})
    else:
        _print(screen, problems)
    return ExitStatus.FAILED if problems else ExitStatus.DONE


@db.command(
    "copy",
    examples=[
        "dagent db copy --to postgresql://mail@db.example.org/queue",
        "dagent db copy --abandon",
    ],
)
@click.option("--to", metavar="URL", default="", help="Where the queue goes; created if need be.")
@click.option("--abandon", is_flag=True, help="Give up a copy that is not complete.")
@click.pass_obj
def copy(invocation: Invocation, to: str, abandon: bool) -> int:
    """Move an SQLite queue to PostgreSQL, with everything it knows.

    The service must be stopped. A copy that was interrupted goes on where it was when the same command runs
    again; until it is complete neither queue can be served, and afterwards only the new one can.
    """
    from deliveryagent.cli import moving

    if bool(to) == abandon:
        raise click.UsageError("say where the queue goes (--to), or --abandon")
    return moving.give_up(invocation) if abandon else moving.carry_out(invocation, to)


def _print(screen: Screen, problems: list[invariants.Problem]) -> None:
    for problem in problems:
        sample = ", ".join(clean(row) for row in problem.sample)
        more = ", ..." if problem.rows > len(problem.sample) else ""
        rows = count(problem.rows, "time")
        screen.line(f"{screen.paint(problem.code, 'bad')}: {problem.text} ({rows}: {sample}{more})")
    if not problems:
        screen.line("ok: the queue keeps every promise")


def _alone(url: str) -> contextlib.AbstractContextManager[object]:
    """The right to write; on a server database the server sees to it that steps are taken once."""
    file: Path | None = store_file(url)
    return contextlib.nullcontext() if file is None else locked(file)


def locked(file: Path) -> QueueLock:
    """The right to write to an SQLite queue. Raises ``CommandError`` while a service has it."""
    try:
        return QueueLock(file)
    except LockHeld as error:
        raise CommandError(
            str(error), code=ExitStatus.TRY_LATER, hint="Stop the service first: its lock is held."
        ) from error
