"""What a delivery carries from host to host, and what all deliveries of a worker share.

Guarantees: the journal knows of a final dot before it is written, and none is written once the
delivery was told to stop or this agent's lease is over; what a transaction decided is in the
journal when the next one begins. Never talks to a peer, never judges.
"""

from collections.abc import AsyncIterable, Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import NamedTuple

from deliveryagent.agent.clients import Client, Clients
from deliveryagent.agent.connections import Connections
from deliveryagent.agent.frames import FromWorker
from deliveryagent.agent.journal import Journal
from deliveryagent.agent.ledger import Ledger, Source
from deliveryagent.agent.parts import Parts
from deliveryagent.agent.planner import Planner
from deliveryagent.mail.delivery import DeliveryRequest, Failure, Trouble
from deliveryagent.mail.nexthop import NextHop
from deliveryagent.mail.security import TlsLevel
from deliveryagent.protocol import content

TOO_LATE = Failure(Trouble.SHUTDOWN, "stopped before the message was handed over")


class Lease:
    """For how long this agent may deliver: ``until`` is a time of the monotonic clock."""

    __slots__ = ("until",)

    def __init__(self) -> None:
        self.until = float("inf")

    @property
    def over(self) -> bool:
        """Whether it is."""
        return monotonic() >= self.until


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Means:
    """What the deliveries of a worker share. ``minimal_backoff`` is in seconds, ``clock`` tells
    UTC.
    """

    planner: Planner
    clients: Clients
    connections: Connections
    parts: Parts
    journal: Journal
    say: Callable[[FromWorker], None]
    clock: Callable[[], float]
    minimal_backoff: float
    lease: Lease = field(default_factory=Lease)


class Leg(NamedTuple):
    """The part of a delivery that belongs to one next hop; ``relay``: a relay of our own."""

    hop: NextHop
    client: Client
    relay: bool

    def source(self, host: int = -1, label: str = "") -> Source:
        """Where outcomes of this leg come from."""
        opportunistic = self.client.demand.level is TlsLevel.MAY
        return Source(self.client.settings, host, label, self.relay, opportunistic)


class Errand:
    """What a delivery carries from host to host.

    ``past_dot``: the answer to a final dot is awaited. ``stopped``: nothing new is to be begun.
    ``host`` is who gets the final dot.
    """

    __slots__ = (
        "_content", "host", "ledger", "means", "past_dot", "request", "slot", "stopped",
    )  # fmt: skip

    def __init__(self, request: DeliveryRequest, slot: int, means: Means) -> None:
        self.request = request
        self.slot = slot
        self.means = means
        self.ledger = Ledger(request, means.clock())
        self.past_dot = False
        self.stopped = False
        self.host = ""
        self._content: bytes | None = None

    def content(self, client: Client) -> bytes | AsyncIterable[bytes]:
        """The content in wire form: at once, or part by part."""
        limit = client.settings.line_length_limit
        if self.request.content is None:
            return self.means.parts.stream(self.request, line_limit=limit)
        if self._content is None:
            long_lines = self.request.long_lines
            self._content = content.encode(self.request.content, long_lines=long_lines, limit=limit)
        return self._content

    def dot(self) -> Failure | None:
        """The final dot is about to be written; a failure if it must not be."""
        if self.stopped or self.means.lease.over:
            self.stopped = True
            return TOO_LATE
        self.past_dot = True
        self.means.journal.dot(self.slot, self.host)
        return None

    def answered(self) -> None:
        """A transaction is over; what it decided survives whatever comes next."""
        self.past_dot = False
        if self.ledger.decided and not self.ledger.over:
            self.means.journal.learned(self.slot, self.ledger.result())
