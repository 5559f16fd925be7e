"""The lab as a whole: a name server, the hosts of all domains, and a configuration that points at
them.

``Playground`` starts everything on loopback and writes ``lab.toml`` into its directory; an agent
started with that file delivers to the lab and nowhere else, with short retry times, so that a
greylisting or a time-out can be watched over a cup of tea. Guarantees: nothing leaves the machine;
on exit every socket is closed. What is in the directory stays: it belongs to whoever chose it.
Needs a system where all of 127.0.0.0/8 is loopback, as Linux has it.
"""

import contextlib
import dataclasses
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from deliveryagent.lab.arrivals import Arrival, Ledger
from deliveryagent.lab.certificate import self_signed
from deliveryagent.lab.domains import DOMAINS, LabDomain
from deliveryagent.lab.nameserver import NameServer
from deliveryagent.lab.receiver import Receiver

_CONFIGURATION = """\
# Written by the lab: an agent that delivers to the lab's hosts and nowhere else.
hostname = "agent.lab.test"
postmaster = "postmaster@home.test"
run_dir = "{directory}/run"

[queue]
url = "sqlite:///{directory}/queue.sqlite3"
minimal_backoff_time = "{backoff}"
maximal_backoff_time = "20s"
maximal_queue_lifetime = "5m"
bounce_queue_lifetime = "5m"
delay_warning_time = "0"

[delivery]
workers = 1
loopback_mx = true  # the lab's MX hosts are all on this machine

[dns]
nameservers = ["{nameserver}"]

[smtp]
port = {port}
connect_timeout = "2s"
greeting_timeout = "5s"
mail_timeout = "5s"
rcpt_timeout = "5s"
data_init_timeout = "5s"
data_done_timeout = "5s"
"""


class Playground:
    """The running lab, an asynchronous context manager.

    ``port`` is where all hosts listen, ``dns_port`` the name server; 0 takes free ones. ``notify``
    is called with every arrival. Raises ``OSError`` when a port is taken.
    """

    def __init__(
        self,
        directory: Path,
        *,
        clock: Callable[[], float],
        port: int = 0,
        dns_port: int = 0,
        notify: Callable[[Arrival, bytes], None] | None = None,
        domains: Sequence[LabDomain] = DOMAINS,
        backoff: str = "3s",
    ) -> None:
        self.directory = directory
        self.port = port
        self.ledger = Ledger(clock=clock, directory=directory / "received", notify=notify)
        self.config_path = directory / "lab.toml"
        self._domains = domains
        self._backoff = backoff
        zone = {name: records for domain in domains for name, records in domain.zone().items()}
        self.nameserver = NameServer(zone, port=dns_port, ttl=5, negative_ttl=5)
        self._running = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        alive = [host for domain in self._domains for host in domain.hosts if not host.dead]
        context = self_signed([host.settings.name for host in alive if host.tls])
        port = self.port or _port_free_on([host.address for host in alive])
        async with contextlib.AsyncExitStack() as starting:
            await starting.enter_async_context(self.nameserver)
            for host in alive:
                settings = dataclasses.replace(host.settings, tls=context if host.tls else None)
                receiver = Receiver(settings, ledger=self.ledger, host=host.address, port=port)
                await starting.enter_async_context(receiver)
            self.port = port
            self.write_configuration()
            self._running = starting.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._running.aclose()

    def write_configuration(self) -> None:
        """Write ``lab.toml``."""
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / "run").mkdir(exist_ok=True)
        text = _CONFIGURATION.format(
            directory=self.directory.absolute(),
            backoff=self._backoff,
            nameserver=self.nameserver.address,
            port=self.port,
        )
        self.config_path.write_text(text, encoding="utf-8")


def _port_free_on(addresses: Sequence[str]) -> int:
    """A port that is free on all these addresses now."""
    for last in (False,) * 19 + (True,):
        with contextlib.ExitStack() as probes:
            port = 0
            try:
                for address in addresses:
                    probe = probes.enter_context(socket.socket())
                    probe.bind((address, port))
                    port = probe.getsockname()[1]
            except OSError:
                if last:
                    raise
            else:
                return port
    raise AssertionError
