"""``dagent status``: the state of the agent on one screen, and as a check for monitoring.

Only declared here; ``cli.condition`` gathers, judges and shows.
"""

import click

from deliveryagent.cli.command import Invocation, command
from deliveryagent.cli.filters import read_span


@command(
    "status",
    examples=[
        "dagent status",
        "dagent status --check --warning-overdue 10m --critical-waiting 50000",
    ],
)
@click.option("--check", is_flag=True, help="One line and exit status 0 to 3, for monitoring.")
@click.option(
    "--warning-overdue",
    default="5m",
    show_default=True,
    metavar="T",
    callback=read_span,
    help="Warn when due mail is not taken up for so long.",
)
@click.option(
    "--critical-overdue",
    default="30m",
    show_default=True,
    metavar="T",
    callback=read_span,
    help="Critical when due mail is not taken up for so long.",
)
@click.option("--warning-waiting", type=int, metavar="N", help="Warn when more recipients wait.")
@click.option("--critical-waiting", type=int, metavar="N", help="Critical when more wait.")
@click.pass_obj
def status(invocation: Invocation, /, check: bool, **limits: float | None) -> int:
    """Show whether the agent works, what waits, and what is in trouble."""
    from deliveryagent.cli import condition

    if check:
        return condition.check(invocation, limits)
    condition.show(invocation)
    return condition.OK
