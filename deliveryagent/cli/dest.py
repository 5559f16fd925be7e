"""``dagent dest``: destinations and the sites behind them: look, pause, resume, reset.

A destination is a recipient's domain, a site the set of hosts that take its mail; limits hold per site. Only
declared here; ``cli.destinations`` does the work.
"""

import click

from deliveryagent.cli.command import Invocation, group
from deliveryagent.cli.filters import read_span


@group(
    "dest",
    examples=[
        "dagent dest list",
        "dagent dest pause example.net --for 2h --note 'their migration'",
        "dagent dest resume example.net",
    ],
)
def dest() -> None:
    """Look at destinations and their sites, pause and resume them."""


@dest.command("list", examples=["dagent dest list", "dagent --json dest list --limit 1000"])
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=30,
    show_default=True,
    metavar="N",
    help="Lines at most.",
)
@click.pass_obj
def list_(invocation: Invocation, limit: int) -> None:
    """List destinations: those that are paused, then those with most waiting."""
    from deliveryagent.cli import destinations

    destinations.print_list(invocation, limit)


@dest.command("show", examples=["dagent dest show example.net"])
@click.argument("domain")
@click.pass_obj
def show(invocation: Invocation, domain: str) -> None:
    """Show one destination: what waits, its site, its window, its pause."""
    from deliveryagent.cli import destinations

    destinations.print_one(invocation, domain)


@dest.command("pause", examples=["dagent dest pause example.net --for 2h --note 'their migration'"])
@click.argument("domain")
@click.option(
    "--for", "span_", metavar="T", callback=read_span, help="How long; else until resumed."
)
@click.option("--note", metavar="TEXT", default="", help="Why, for those who wonder.")
@click.pass_obj
def pause(invocation: Invocation, domain: str, span_: float | None, note: str) -> None:
    """Start no delivery to a destination; what is in flight ends by itself. Survives a restart."""
    from deliveryagent.cli import pausing

    pausing.pause(invocation, domain, span_, note)


@dest.command("resume", examples=["dagent dest resume example.net"])
@click.argument("domain")
@click.pass_obj
def resume(invocation: Invocation, domain: str) -> int:
    """End the pause of a destination; what is due is tried at once."""
    from deliveryagent.cli import pausing

    return pausing.resume(invocation, domain)


@dest.command("reset", examples=["dagent dest reset example.net"])
@click.argument("domain")
@click.pass_obj
def reset(invocation: Invocation, domain: str) -> None:
    """Forget that a destination's site failed: its window opens anew, its mail is tried now.

    Needs a running service.
    """
    from deliveryagent.cli import pausing

    pausing.reset(invocation, domain)
