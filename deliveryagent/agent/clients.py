"""What a worker is as a client, for each route and transport: settings made ready for use.

Guarantees: everything that can be computed once per worker is computed here, not per message; a
setting that makes no sense raises ``ValueError`` when the worker starts. Never dials.
"""

import asyncio
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from deliveryagent.agent.debug_peers import DebugPeers
from deliveryagent.agent.own_addresses import own_addresses
from deliveryagent.agent.session import Profile
from deliveryagent.agent.worker_settings import ClientSettings, WorkerSettings
from deliveryagent.mail.nexthop import Endpoint, NextHop, parse_next_hops
from deliveryagent.mail.security import TlsDemand
from deliveryagent.policy import tls
from deliveryagent.policy.targets import OwnNames
from deliveryagent.protocol.content import Stuffer

_ALL_KEYWORDS = {"SILENT-DISCARD"}  # a word Postfix accepts there; it is no keyword


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Client:
    """How mail of one route is handed over in one protocol.

    ``fallback`` are the relays for what cannot be delivered now. ``demand`` and ``demand_unix`` are
    how much TLS is asked of hosts and of Unix sockets.
    """

    settings: ClientSettings
    transport: Literal["smtp", "lmtp"]
    profile: Profile
    own: OwnNames
    fallback: tuple[NextHop, ...]
    debug: DebugPeers
    demand: TlsDemand
    demand_unix: TlsDemand

    def own_names(self, endpoint: Endpoint) -> Collection[str]:
        """The names by which a host at this address would be ourselves, none where it cannot be."""
        if self.transport == "smtp" and endpoint.port == self.settings.port:
            return self.own.names
        return ()


class Clients:
    """The clients of all routes."""

    def __init__(self, settings: WorkerSettings) -> None:
        self.goodbyes: set[asyncio.Task[None]] = set()
        self._hostname = settings.hostname
        self._loop = settings.loop
        addresses = frozenset(settings.loop.inet_interfaces) or own_addresses()
        self._addresses = addresses | frozenset(settings.loop.proxy_interfaces)
        both = [(settings.smtp, settings.lmtp), *settings.routes]
        self._clients: dict[tuple[int, str], Client] = {}
        for route, (smtp, lmtp) in enumerate(both, -1):
            self._clients[route, "smtp"] = self._client(smtp, "smtp")
            self._clients[route, "lmtp"] = self._client(lmtp, "lmtp")

    def of(self, route: int, transport: str) -> Client:
        """The client for a route (-1 for none) and a transport, ``smtp`` or ``lmtp``."""
        found = self._clients.get((route, transport))
        return found if found is not None else self._clients[-1, transport]

    @property
    def best_mx_transport(self) -> tuple[NextHop, ...]:
        """Where mail goes whose best host is this one, if anywhere."""
        text = self._loop.best_mx_transport
        return parse_next_hops(text) if text.strip() else ()

    def _client(self, settings: ClientSettings, transport: Literal["smtp", "lmtp"]) -> Client:
        name = settings.helo_name or self._hostname
        discard = frozenset(word.upper() for word in settings.discard_ehlo_keywords) - _ALL_KEYWORDS
        own = OwnNames(
            frozenset({self._hostname.lower().rstrip("."), name.lower().rstrip(".")}),
            self._addresses,
            self._loop.loopback_mx,
        )
        demand = tls.demand(settings)
        Stuffer(settings.line_length_limit)  # would refuse an impossible limit, here and not later
        profile = Profile(
            settings=settings,
            reuse=settings,
            limits=settings,
            name=name,
            lmtp=transport == "lmtp",
            discard=discard,
            policy=(
                transport,
                name,
                settings.bind_address,
                settings.bind_address6,
                demand.level,
                discard,
                own.names,
            ),
            goodbyes=self.goodbyes,
        )
        return Client(
            settings=settings,
            transport=transport,
            profile=profile,
            own=own,
            fallback=tuple(
                hop for text in settings.fallback_relay for hop in parse_next_hops(text)
            ),
            debug=DebugPeers(settings),
            demand=demand,
            demand_unix=tls.demand(settings, unix=True),
        )
