"""``dagent lab``: a playground on loopback to try the agent, its reports and its explanations.

Starts the rooms of ``deliveryagent.lab``, says what is there and how to use it, then prints every
message that arrives until Ctrl-C. Without ``--dir`` everything lives in a directory that is removed
at the end.
"""

import asyncio
import contextlib
import signal
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import click

from deliveryagent.cli.command import Invocation, command
from deliveryagent.cli.faults import CommandError
from deliveryagent.cli.screen import Column, Screen, clean, clock, size
from deliveryagent.lab.arrivals import Arrival
from deliveryagent.lab.domains import ADDRESSES, DOMAINS
from deliveryagent.lab.playground import Playground


@command("lab", examples=["dagent lab", "dagent lab --dir ~/lab --port 2525"])
@click.option(
    "--dir",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep lab.toml, the queue and what arrived here (default: nothing is kept).",
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=2525, show_default=True, help="SMTP; 0 = any."
)
@click.option(
    "--dns-port", type=click.IntRange(0, 65535), default=5300, show_default=True, help="0 = any."
)
@click.pass_obj
def lab(invocation: Invocation, directory: Path | None, port: int, dns_port: int) -> None:
    """Start a name server and receiving hosts on loopback, for trying things out.

    No outside network is used. Addresses such as 550@good.test or greylist@good.test fail in the
    way their names say. Every message that arrives is printed; Ctrl-C ends it.
    """
    screen = invocation.screen()
    with contextlib.ExitStack() as cleanup:
        if directory is None:
            temporary = tempfile.TemporaryDirectory(prefix="deliveryagent-lab-")
            directory = Path(cleanup.enter_context(temporary))
        playground = Playground(
            directory,
            clock=time.time,
            port=port,
            dns_port=dns_port,
            notify=lambda arrival, _content: show_arrival(screen, arrival),
        )
        try:
            asyncio.run(_run(playground, screen))
        except OSError as error:
            raise CommandError(
                f"the lab cannot start: {error.strerror or error}",
                hint="Other ports can be chosen: dagent lab --port 0 --dns-port 0",
            ) from error


async def _run(playground: Playground, screen: Screen) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with playground:
        if screen.json:
            screen.record(
                {
                    "config": str(playground.config_path),
                    "port": playground.port,
                    "nameserver": playground.nameserver.address,
                }
            )
        else:
            describe(playground, screen)
        await stop.wait()
    screen.note("The lab has ended.")


def describe(playground: Playground, screen: Screen) -> None:
    """What is there, and which commands to type in another terminal."""
    screen.line(f"Name server on {playground.nameserver.address}, hosts on port {playground.port}.")
    screen.line()
    hosts = {
        domain.name: ", ".join(
            f"{host.address}{' (nothing listens)' if host.dead else ''}" for host in domain.hosts
        )
        for domain in DOMAINS
    }
    screen.table(
        [Column("Domain"), Column("Behaviour"), Column("Hosts")],
        [(domain.name, domain.meaning, hosts[domain.name] or "-") for domain in DOMAINS],
    )
    screen.line()
    screen.table([Column("Address"), Column("What happens")], ADDRESSES)
    config = playground.config_path
    screen.line()
    screen.line("In another terminal:")
    screen.line(f"  export DELIVERYAGENT_CONFIG={config}")
    screen.line("  dagent serve &")
    screen.line("  echo hello | dagent send -f me@home.test greylist@good.test 550@good.test")
    screen.line("  dagent queue list --all")
    screen.line("  dagent why greylist@good.test")
    screen.line()
    screen.line("What arrives is shown here. Ctrl-C ends the lab.")
    screen.line()


def show_arrival(screen: Screen, arrival: Arrival) -> None:
    """One line about a message that arrived."""
    if screen.json:
        screen.record(asdict(arrival))
        return
    verdict = "took" if arrival.accepted else "did not take"
    recipients = ", ".join(arrival.accepted or arrival.recipients)
    screen.line(
        clean(
            f"{clock(arrival.dotted, arrival.dotted)}  {arrival.host} {verdict}  "
            f"<{arrival.sender}> -> {recipients}  {size(arrival.size)}  {arrival.subject}"
        )
    )
