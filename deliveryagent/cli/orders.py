"""Orders about what waits: retry, hold, release, bounce, delete.

Only declared here; ``cli.ordering`` carries them out when they are used.
"""

from typing import Any, Literal, NamedTuple

import click

from deliveryagent.cli.command import Command, Invocation, command
from deliveryagent.cli.filters import filter_options


class Verb(NamedTuple):
    """How an order is spoken of."""

    kind: Literal["retry", "hold", "release", "bounce", "delete"]
    help: str
    will: str
    done: str
    next: str


_VERBS = (
    Verb(
        "retry",
        "Try recipients again now, whatever their next attempt's time was.",
        "Will retry",
        "Retrying",
        "dagent queue list --status active",
    ),
    Verb(
        "hold",
        "Keep recipients from being tried until they are released.",
        "Will hold",
        "Held",
        "dagent queue release",
    ),
    Verb(
        "release",
        "Let recipients on hold be tried again, from now on.",
        "Will release",
        "Released",
        "dagent queue list",
    ),
    Verb(
        "bounce",
        "Give recipients up now; their senders get a report.",
        "Will return to their senders",
        "Returned",
        "dagent queue list --status bounced",
    ),
    Verb(
        "delete",
        "Drop recipients silently; nobody gets a report.",
        "Will delete, without a report,",
        "Deleted",
        "dagent queue list",
    ),
)


def _command(verb: Verb) -> Command:
    @command(
        verb.kind,
        examples=[
            f"dagent queue {verb.kind} 0C7QK4M2V9XTB",
            f"dagent queue {verb.kind} --domain example.net --older 1h --yes",
        ],
        help=f"{verb.help}\n\nAsks before it changes more than one message.",
    )
    @filter_options
    @click.option("-n", "--dry-run", is_flag=True, help="Only count what would be changed.")
    @click.option("-y", "--yes", is_flag=True, help="Do not ask.")
    @click.option("--note", metavar="TEXT", default="", help="Why; kept with a hold or bounce.")
    @click.pass_obj
    def run(invocation: Invocation, /, dry_run: bool, yes: bool, note: str, **given: Any) -> int:
        from deliveryagent.cli import ordering

        return ordering.run(invocation, verb, given, dry_run=dry_run, yes=yes, note=note)

    return run


COMMANDS = tuple(_command(verb) for verb in _VERBS)
"""The commands of the group ``queue`` that change something."""
