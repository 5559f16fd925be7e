"""Deliveries in the test's own event loop: real names, real sockets, scripted peers, no worker process.

    async with Courier(zone) as courier:
        async with ScriptedPeer(script, host="127.0.0.31", port=courier.port):
            result = await courier.deliver(request("b@example.net"))

Every next hop without a port means ``courier.port``, so hosts are told apart by their loopback addresses.
"""

import asyncio
import random
import socket
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from deliveryagent.agent import frames
from deliveryagent.agent.clients import Clients
from deliveryagent.agent.connections import Connections
from deliveryagent.agent.delivery import Delivery
from deliveryagent.agent.errand import Means
from deliveryagent.agent.journal import Entry, Journal, read
from deliveryagent.agent.parts import Parts
from deliveryagent.agent.planner import Planner
from deliveryagent.agent.worker_settings import ClientSettings, LmtpSettings, WorkerSettings
from deliveryagent.lab.nameserver import NameServer
from deliveryagent.mail.delivery import DeliveryRequest, DeliveryResult, RequestRecipient, Verdict
from deliveryagent.policy.targets import LoopSettings
from deliveryagent.resolver.lookup import Resolver
from deliveryagent.resolver.settings import ResolverSettings
from deliveryagent.setting import parse_duration

IDENTITY = b"0123456789abcdef"
MESSAGE = b"Subject: a test\r\n\r\nHello.\r\n"

TWO_HOSTS = {
    "example.net": ["MX 10 mx1.example.net", "MX 20 mx2.example.net"],
    "mx1.example.net": ["A 127.0.0.31"],
    "mx2.example.net": ["A 127.0.0.32"],
}
FIRST, SECOND = "127.0.0.31", "127.0.0.32"

QUICK = parse_duration("10s")
LIMITS: dict[str, Any] = dict.fromkeys(
    (
        "connect_timeout", "greeting_timeout", "helo_timeout", "starttls_timeout", "mail_timeout",
        "rcpt_timeout", "data_init_timeout", "data_xfer_timeout", "data_done_timeout", "rset_timeout",
        "quit_timeout",
    ),
    QUICK,
)  # fmt: skip


def request(*addresses: str, **changes: Any) -> DeliveryRequest:
    """A request for these recipients, numbered from 1, to the domain of the first."""
    domain = addresses[0].rpartition("@")[2]
    content = changes.get("content", MESSAGE)
    whole = DeliveryRequest(
        serial=1,
        queue_id=4711,
        sender="sender@example.org",
        recipients=tuple(
            RequestRecipient(number, address, 1) for number, address in enumerate(addresses, 1)
        ),
        domain=domain,
        next_hop=domain,
        route=-1,
        size=len(content or b""),
        dotted=False,
        eightbit=False,
        utf8=False,
        long_lines=False,
        ret="",
        envid="",
        arrival=time.time(),
        due=time.time(),
        content=MESSAGE,
    )
    return replace_struct(whole, **changes)


def replace_struct(whole: DeliveryRequest, **changes: Any) -> DeliveryRequest:
    """The request with some fields changed."""
    fields = {name: getattr(whole, name) for name in whole.__struct_fields__}
    return DeliveryRequest(**{**fields, **changes})


async def until(true: Callable[[], bool]) -> None:
    """Wait until something has come about."""
    async with asyncio.timeout(5):
        while not true():  # noqa: ASYNC110 - what is awaited has no event of its own
            await asyncio.sleep(0.005)


def free_port() -> int:
    """A port that nobody uses on any loopback address."""
    with socket.socket() as probe:
        probe.bind(("0.0.0.0", 0))
        port: int = probe.getsockname()[1]
        return port


class Courier:
    """See the module. ``said`` are the frames for the manager; ``smtp`` and ``lmtp`` change settings."""

    def __init__(
        self,
        zone: Mapping[str, Sequence[str]] | None = None,
        *,
        smtp: Mapping[str, Any] | None = None,
        lmtp: Mapping[str, Any] | None = None,
        loop: Mapping[str, Any] | None = None,
        routes: Sequence[Mapping[str, Any]] = (),
        hostname: str = "mail.example.org",
        minimal_backoff: float = 300.0,
    ) -> None:
        self.port = free_port()
        self.said: list[frames.FromWorker] = []
        self._zone = {name: list(records) for name, records in (zone or TWO_HOSTS).items()}
        client = ClientSettings(**{**LIMITS, "port": self.port, **(smtp or {})})
        self.settings = WorkerSettings(
            hostname=hostname,
            identity=IDENTITY,
            loop=LoopSettings(
                **{"loopback_mx": True, "inet_interfaces": ("127.0.0.250",), **(loop or {})}
            ),
            smtp=client,
            lmtp=LmtpSettings(**{**LIMITS, "port": self.port, **(lmtp or {})}),
            routes=tuple((replace(client, **changes), LmtpSettings()) for changes in routes),
            minimal_backoff_time=minimal_backoff,
        )
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self.names = await self._stack.enter_async_context(NameServer(self._zone))
        folder = self._stack.enter_context(tempfile.TemporaryDirectory())
        self.path = Path(folder) / "courier.journal"
        self.settings = replace(
            self.settings,
            dns=ResolverSettings(
                nameservers=(self.names.address,), timeout=parse_duration("5s"), attempts=1
            ),
        )
        self.resolver = Resolver(self.settings.dns)
        self.journal = Journal.create(self.path, IDENTITY)
        self.connections = Connections(limit=20, spare=lambda _: 20)
        self.clients = Clients(self.settings)
        self.means = Means(
            planner=Planner(self.resolver, random.Random(5)),
            clients=self.clients,
            connections=self.connections,
            parts=Parts(self.said.append),
            journal=self.journal,
            say=self.said.append,
            clock=time.time,
            minimal_backoff=self.settings.minimal_backoff_time,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.connections.close()
        for goodbye in list(self.clients.goodbyes):
            await goodbye
        await self.resolver.close()
        self.journal.close()
        await self._stack.aclose()

    def begin(self, wanted: DeliveryRequest) -> Delivery:
        """A delivery, noted in the journal, not running yet."""
        slot = self.journal.start(wanted)
        assert slot is not None
        return Delivery(wanted, slot, self.means)

    async def deliver(self, wanted: DeliveryRequest) -> DeliveryResult:
        """Carry a request out; every recipient must be answered for once."""
        delivery = self.begin(wanted)
        await delivery.run()
        result = delivery.result(1)
        assert [r.number for r in result.recipients] == [r.number for r in wanted.recipients]
        assert all(r.verdict != Verdict.NEXT_HOST for r in result.recipients)
        return result

    def noted(self) -> list[Entry]:
        """What the journal says now."""
        return read(self.path, IDENTITY)

    def events(self, kind: str) -> list[dict[str, str]]:
        """The fields of the events of one kind that were reported."""
        return [f.fields for f in self.said if isinstance(f, frames.Event) and f.kind == kind]
