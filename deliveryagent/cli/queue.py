"""``dagent queue``: what waits, and orders about it.

``list``, ``show`` and ``shape`` look (``cli.listing``); ``retry``, ``hold``, ``release``, ``bounce`` and
``delete`` change (``cli.orders``). All take the same FILTER. Only declared here: the store is imported when
it is used.
"""

from typing import Any, Literal

import click

from deliveryagent.cli import orders
from deliveryagent.cli.command import Invocation, group
from deliveryagent.cli.filters import filter_options

_ROWS = 100


@group(
    "queue",
    examples=[
        "dagent queue list --domain example.net --older 1h",
        "dagent queue show 0C7QK4M2V9XTB",
        "dagent queue retry --domain example.net",
    ],
)
def queue() -> None:
    """List, show and change what waits.

    FILTER is any number of ids (or unique beginnings, or - for standard input) and conditions; all
    conditions must hold.
    """


for _order in orders.COMMANDS:
    queue.add_command(_order)


@queue.command(
    "list",
    examples=[
        "dagent queue list",
        "dagent queue list --from @example.org --status held",
        "dagent --json queue list --all",
    ],
)
@filter_options
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    default=None,
    metavar="N",
    help=f"Lines at most, 0 for no limit. Default: {_ROWS}, with --json no limit.",
)
@click.pass_obj
def list_(invocation: Invocation, /, limit: int | None, **given: Any) -> None:
    """List recipients, oldest message first; one line for those of a message that are alike.

    Without ids, a state or --all, only what still lives is listed.
    """
    from deliveryagent.cli import listing

    listing.print_list(invocation, given, limit, rows=_ROWS)


@queue.command(
    "show",
    examples=["dagent queue show 0C7QK4M2V9XTB", "dagent queue show 0C7QK4M2V9XTB --headers"],
)
@click.argument("identity", metavar="ID")
@click.option("--headers", is_flag=True, help="Show the header section of the message too.")
@click.pass_obj
def show(invocation: Invocation, identity: str, headers: bool) -> None:
    """Show one message: its envelope, every recipient, every attempt."""
    from deliveryagent.cli import listing

    listing.print_message(invocation, identity, headers=headers)


@queue.command("shape", examples=["dagent queue shape", "dagent queue shape --by sender"])
@click.option(
    "--by",
    type=click.Choice(["destination", "site", "sender"]),
    default="destination",
    show_default=True,
    help="What a line stands for.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=30,
    show_default=True,
    metavar="N",
    help="Lines at most.",
)
@click.pass_obj
def shape(invocation: Invocation, by: Literal["destination", "site", "sender"], limit: int) -> None:
    """Show how much waits for whom, and since when: columns are minutes in the queue."""
    from deliveryagent.cli import listing

    listing.print_shape(invocation, by, limit)
