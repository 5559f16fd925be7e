"""``dagent why``: why a message waits, what happens next and when, and what to do.

Only declared here; ``cli.reasons`` gathers and tells.
"""

import click

from deliveryagent.cli.command import Invocation, command


@command(
    "why",
    examples=[
        "dagent why 0C7QK4M2V9XTB",
        "dagent why kim@example.net",
        "dagent --json why 0C7QK4M2",
    ],
)
@click.argument("subject", metavar="ID|ADDRESS")
@click.option("--tries", is_flag=True, help="Show every attempt, not only the first and the last.")
@click.pass_obj
def why(invocation: Invocation, subject: str, tries: bool) -> None:
    """Why a message waits or what became of it, what happens next, who else is affected, what to do.

    For an address, its latest messages are explained. The answer comes from the scheduler's own
    rules.
    """
    from deliveryagent.cli import reasons

    reasons.tell(invocation, subject, every=tries)
