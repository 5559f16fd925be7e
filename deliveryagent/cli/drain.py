"""``dagent drain``: no new deliveries here, what runs is finished (before maintenance).

Where several agents work on the queue, what this one had waiting is taken over by the others at once.
"""

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
    """Stop claiming mail here, give back what waits, and finish what runs.

    Mail is still taken in. Other agents of the queue deliver it, and what this one gave back. To deliver here
    again, restart the service.
    """
    screen = invocation.screen()
    with closing(Door(invocation.location().socket)) as door:
        door.demand("drain")
        active, owned = _left(door)
        deadline = time.monotonic() + timeout
        while wait and (active or owned) and time.monotonic() < deadline:
            time.sleep(_PAUSE)
            active, owned = _left(door)
    if invocation.json:
        screen.record({"draining": True, "active": active, "destinations": owned})
    elif active:
        screen.line(f"Draining: {count(active, 'delivery', 'deliveries')} still in flight.")
    else:
        screen.line("Drained: nothing is in flight.")
    return ExitStatus.PARTLY_DONE if wait and (active or owned) else ExitStatus.DONE


def _left(door: Door) -> tuple[int, int]:
    """Recipients in flight, and destinations that are not given back yet."""
    status = door.demand("status")
    return int(status["active"]), int(status.get("destinations", 0))
