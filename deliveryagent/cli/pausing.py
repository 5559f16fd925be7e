"""Pauses destinations, ends pauses, and has the service forget failures, for ``dagent dest``.

Where no service runs, pauses are recorded in the queue itself.
"""

import time
from contextlib import closing

from deliveryagent.cli.command import Invocation
from deliveryagent.cli.destinations import destination_name
from deliveryagent.cli.door import Door
from deliveryagent.cli.faults import ExitStatus
from deliveryagent.cli.ordering import by_user, locked
from deliveryagent.cli.screen import clean, span
from deliveryagent.queue import orders
from deliveryagent.queue.orders import FOREVER, Pause, Resume


def pause(invocation: Invocation, domain: str, length: float | None, note: str) -> None:
    """Pause a destination for so many seconds, or until it is resumed."""
    name = destination_name(domain)
    location = invocation.location()
    with closing(Door(location.socket)) as door:
        answer = door.ask("dest_pause", name=name, note=note, **{"for": length or 0})
    if answer is None:
        now = time.time()
        end = now + length if length else FOREVER
        order = Pause(name=name, until=end, note=note, by=by_user().removeprefix("by "))
        locked(location.queue_url, lambda connection: orders.pause(connection, [order]))
    screen = invocation.screen()
    if invocation.json:
        screen.record({"name": name, "paused": True, "for": length})
        return
    lasting = f" for {span(length)}" if length else ""
    screen.line(f"Paused {name}{lasting}. To end it: dagent dest resume {name}")


def resume(invocation: Invocation, domain: str) -> int:
    """End a pause; returns the exit status."""
    name = destination_name(domain)
    location = invocation.location()
    with closing(Door(location.socket)) as door:
        answer = door.ask("dest_resume", name=name)
    if answer is None:
        order = Resume(name=name, now=time.time())
        (done,) = locked(location.queue_url, lambda connection: orders.resume(connection, [order]))
    else:
        done = bool(answer.get("resumed"))
    screen = invocation.screen()
    if invocation.json:
        screen.record({"name": name, "resumed": done})
    elif done:
        screen.line(f"Resumed {name}. See: dagent queue list --domain {name}")
    else:
        screen.line(f"{name} was not paused.")
    return ExitStatus.DONE if done else ExitStatus.NOT_FOUND


def reset(invocation: Invocation, domain: str) -> None:
    """Have the service forget that a site failed."""
    name = destination_name(domain)
    with closing(Door(invocation.location().socket)) as door:
        answer = door.demand("dest_reset", name=name)
    screen = invocation.screen()
    if invocation.json:
        screen.record({"name": name, "site": answer.get("site", "")})
        return
    site = str(answer.get("site", ""))
    what = f"site {clean(site)}" if site else "no site is known for it yet"
    screen.line(f"Reset {name} ({what}). See: dagent dest show {name}")
