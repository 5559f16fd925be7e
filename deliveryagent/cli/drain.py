"""``dagent drain``: no new deliveries here, what runs is finished (before maintenance)."""

import time
from contextlib import closing

import click

from deliveryagent.cli.command import Invocation, command
from deliveryagent.cli.door import Door
from deliveryagent.cli.faults import ExitStatus
from deliveryagent.cli.screen import count

_PAUSE = 0.1


@command("drain", examples=["dagent drain", "dagent drain --wait --timeout 60"])
@click.option("--wait", is_flag=True, help="Return when everything in flight has ended.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    metavar="S",
    default=600.0,
    show_default=True,
    help="Seconds to wait with --wait; then the exit status is 6.",
)
@click.pass_obj
def drain(invocation: Invocation, wait: bool, timeout: float) -> int:
    """Stop claiming mail here and finish what runs.

    Mail is still taken in. To deliver again, restart or reload the service.
    """
    screen = invocation.screen()
    with closing(Door(invocation.location().socket)) as door:
        door.demand("drain")
        active = int(door.demand("status")["active"])
        deadline = time.monotonic() + timeout
        while wait and active and time.monotonic() < deadline:
            time.sleep(_PAUSE)
            active = int(door.demand("status")["active"])
    if invocation.json:
        screen.record({"draining": True, "active": active})
    elif active:
        screen.line(f"Draining: {count(active, 'delivery', 'deliveries')} still in flight.")
    else:
        screen.line("Drained: nothing is in flight.")
    return ExitStatus.PARTLY_DONE if wait and active else ExitStatus.DONE
