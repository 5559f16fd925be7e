"""Several whole agents on one PostgreSQL queue, and one receiving host that all their mail goes to.

All destinations have the same MX host, so they are one site, whose limit holds for the agents together: the
host counts the connections it has at one time.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg

from deliveryagent.lab.arrivals import Arrival, Ledger
from deliveryagent.lab.nameserver import NameServer
from deliveryagent.lab.receiver import Receiver
from deliveryagent.lab.session import HostSettings
from deliveryagent.mail.envelope import ContentFacts, Envelope, NewRecipient, new_queue_id
from deliveryagent.mail.submission import Submission
from deliveryagent.queue import submissions
from deliveryagent.queue.engine import open_writer
from deliveryagent.queue.single import execute
from tests.program.whole_agent import Background, WholeAgent, eventually, letter, workers_of

LIMIT = 8  # sessions to the one site, all agents together
LEASE = 3.0  # seconds
SLACK = 1.0  # from a final dot until the sender, on a busy machine, has recorded the answer

CONFIGURATION = """
hostname = "{name}.test"
run_dir = "{directory}/run"
[queue]
url = "{url}"
lease_time = "{lease}s"
minimal_backoff_time = "1s"
maximal_backoff_time = "2s"
[delivery]
workers = 1
loopback_mx = true
default_destination_concurrency_limit = {limit}
initial_destination_concurrency = {limit}
[dns]
nameservers = ["{nameserver}"]
[smtp]
port = {port}
"""


class Site:
    """The receiving host and the names of its domains."""

    def __init__(self, host: Receiver, nameserver: NameServer, ledger: Ledger) -> None:
        self.host = host
        self.nameserver = nameserver
        self.ledger = ledger

    @property
    def peak(self) -> int:
        """The most connections at one time."""
        return self.host.house.peak


@contextlib.asynccontextmanager
async def site(dot_delay: tuple[float, float]) -> AsyncIterator[Site]:
    """A receiving host for everything below ``same.test``."""
    ledger = Ledger(clock=time.monotonic)
    zone = {"*.same.test": ["MX 10 mx.host.test"], "mx.host.test": ["A 127.0.0.1"]}
    settings = HostSettings(name="mx.host.test", dot_delay=dot_delay)
    async with Receiver(settings, ledger=ledger) as host, NameServer(zone) as nameserver:
        yield Site(host, nameserver, ledger)


class Cluster:
    """Agents on the queue at ``url``, in directories of their own."""

    def __init__(
        self, directory: Path, url: str, *, agents: int = 2, dot_delay: tuple[float, float]
    ) -> None:
        self.url = url
        self.accepted: set[str] = set()
        self._last = 0
        self._directory = directory
        self._count = agents
        self._site = Background(lambda: site(dot_delay))
        self.agents: list[WholeAgent] = []
        self.services: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        self.site = self._site.__enter__()
        for number in range(self._count):
            place = self._directory / f"agent{number}"
            (place / "run").mkdir(parents=True)
            text = CONFIGURATION.format(
                name=f"agent{number}",
                directory=place,
                url=self.url,
                lease=LEASE,
                limit=LIMIT,
                nameserver=self.site.nameserver.address,
                port=self.site.host.port,
            )
            self.agents.append(WholeAgent(place, text))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for agent in self.agents:
            agent.__exit__(kind, error, trace)
        self._site.__exit__(kind, error, trace)

    # -- agents ---

    def start(self, *numbers: int) -> None:
        """Start agents and wait until they answer."""
        started = [(self.agents[number], self.agents[number].start()) for number in numbers]
        for agent, process in started:
            agent.ready(process, limit=40)
            self.services.append(process)

    def stop(self) -> None:
        """End all agents in the proper way."""
        running = [process for process in self.services if process.poll() is None]
        for process in running:
            process.terminate()
        for process in running:
            assert process.wait(40) == 0, self.logs()

    def logs(self) -> str:
        """The ends of the agents' logs."""
        return "\n".join(agent.log.read_text()[-2000:] for agent in self.agents)

    # -- mail ---

    def fill(self, names: Sequence[str], domains: int) -> None:
        """Put messages into the queue itself, spread over so many domains."""
        engine = open_writer(self.url)
        try:
            for start in range(0, len(names), 500):
                batch = [
                    self._submission(name, place % domains)
                    for place, name in enumerate(names[start : start + 500])
                ]
                execute(engine, submissions.add, batch)
        finally:
            engine.dispose()
        self.accepted.update(f"<{name}@x>" for name in names)

    def _submission(self, name: str, domain: int) -> Submission:
        content, now = letter(f"{name}@x"), time.time()
        self._last = new_queue_id(now, 7, after=self._last)
        return Submission(
            queue_id=self._last,
            envelope=Envelope(
                sender="s@home.test",
                recipients=(NewRecipient(address=f"{name}@d{domain}.same.test"),),
            ),
            facts=ContentFacts(size=len(content)),
            parts=(content,),
            arrival=now,
            origin="uid=0",
        )

    def arrived(self) -> set[str]:
        """The messages that came."""
        return {arrival.message_id for arrival in self.site.ledger.arrivals}

    def by(self, number: int) -> list[Arrival]:
        """What one agent delivered."""
        name = f"agent{number}.test"
        return [arrival for arrival in self.site.ledger.arrivals if arrival.helo == name]

    def settled(self, limit: float = 90) -> None:
        """Wait until nothing waits any more."""
        eventually(lambda: self.rows(_LIVE) == [(0,)], limit=limit, pause=0.1)

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Ask the database."""
        with psycopg.connect(_plain(self.url)) as connection:
            return connection.execute(query, values or None).fetchall()

    def owners(self) -> dict[int, int]:
        """How many destinations each agent owns."""
        query = "SELECT owner, count(*) FROM destination WHERE owner IS NOT NULL GROUP BY owner"
        return dict(self.rows(query))

    def repeated(self) -> list[Arrival]:
        """The arrivals that were followed by another of the same message."""
        last = {arrival.message_id: arrival for arrival in self.site.ledger.arrivals}
        return [a for a in self.site.ledger.arrivals if last[a.message_id] is not a]


_LIVE = "SELECT count(*) FROM recipient WHERE finished IS NULL"


def _plain(url: str) -> str:
    return url.replace("postgresql+psycopg://", "postgresql://")


@contextlib.contextmanager
def paused(process: subprocess.Popen[bytes], *, workers: bool = True) -> Iterator[None]:
    """The service stands still (SIGSTOP), with its workers or without."""
    pids = [process.pid, *(workers_of(process) if workers else ())]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def names(count: int, prefix: str = "m") -> list[str]:
    """So many names for messages."""
    return [f"{prefix}{number}" for number in range(count)]


def judge(cluster: Cluster, moments: list[float]) -> None:
    """Everything came, and only what was in doubt at one of the moments came twice."""
    lost = cluster.accepted - cluster.arrived()
    assert not lost, f"lost {len(lost)}: {sorted(lost)[:5]}\n{cluster.logs()}"

    def in_doubt(arrival: Arrival) -> bool:
        answered = arrival.replied or float("inf")
        return any(arrival.dotted - SLACK <= at <= answered + SLACK for at in moments)

    again = cluster.repeated()
    unexplained = [arrival for arrival in again if not in_doubt(arrival)]
    assert not unexplained, f"repeated without need: {unexplained[:3]}\n{cluster.logs()}"
    # In flight, or answered and on its way to the database.
    assert len(again) <= 4 * LIMIT * len(moments)
