"""Where mail for an address goes.

The first ``[[route]]`` that matches wins; without one the ``[relay]`` host takes everything; without that the
destination's own MX hosts, or the address in a literal.

Guarantees: the order of the routes alone decides, however specific their patterns are. Lookups take time in
the number of labels of a domain, not of routes, and the memory they use is bounded. Never resolves a name.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec

from deliveryagent.mail.address import AddressError, domain_to_ascii, parse_mailbox
from deliveryagent.mail.nexthop import format_next_hops, parse_next_hops
from deliveryagent.setting import key

_CACHED_DOMAINS = 50_000


@dataclass(frozen=True, kw_only=True)
class RouteSettings:
    """A route for some mail."""

    match: Annotated[
        tuple[str, ...],
        key(
            'What the route is for: domains ("example.org"), their subdomains (".example.org"), '
            'full addresses, or "*" for everything.',
            postfix="transport_maps",
        ),
    ] = ()
    nexthop: Annotated[
        str,
        key(
            "Where it goes, in Postfix's next-hop syntax; empty keeps the destination's own MX hosts and only "
            "narrows other settings.",
            postfix="transport_maps",
        ),
    ] = ""


@dataclass(frozen=True, kw_only=True)
class RelaySettings:
    """A smart host for everything no route matches."""

    host: Annotated[
        str,
        key('Its next hop, such as "[smtp.example.net]:587"; empty for none.', postfix="relayhost"),
    ] = ""


class RouteError(ValueError):
    """A pattern that is no domain, subdomain pattern, address or ``*``; the message says which."""


class Routed(msgspec.Struct, frozen=True):
    """The way of an address: the index of its route (-1 for none) and the next hop's canonical text."""

    index: int
    next_hop: str


class Router:
    """All routes, ready for fast lookups. Raises ``RouteError`` or ``NextHopError`` for a bad route."""

    def __init__(
        self, routes: Sequence[RouteSettings] = (), relay: RelaySettings | None = None
    ) -> None:
        self._next_hops = [_canonical(route.nexthop) for route in routes]
        self._relay = _canonical(relay.host) if relay is not None else ""
        self._domains: dict[str, int] = {}
        self._suffixes: dict[str, int] = {}
        self._addresses: dict[str, int] = {}
        self._with_addresses: dict[
            str, int
        ] = {}  # destination -> first route with an address there
        self._all = len(self._next_hops)
        self._cache: dict[str, Routed | None] = {}
        for index, route in enumerate(routes):
            for pattern in route.match:
                self._add(pattern, index)

    def route(self, address: str, destination: str) -> Routed:
        """The way of one address; ``destination`` as ``mail.address.destination_of`` gives it."""
        found = self.by_domain(destination)
        if found is not None:
            return found
        index = min(self._by_domain(destination), self._addresses.get(address.lower(), self._all))
        return self._routed(index, destination)

    def by_domain(self, destination: str) -> Routed | None:
        """The way of a whole destination; None when its addresses may go different ways."""
        cache = self._cache
        if destination in cache:
            return cache[destination]
        index = self._by_domain(destination)
        mixed = self._with_addresses.get(destination, self._all) < index
        found = None if mixed else self._routed(index, destination)
        if len(cache) >= _CACHED_DOMAINS:
            cache.clear()
        cache[destination] = found
        return found

    def _by_domain(self, destination: str) -> int:
        """The first route that matches a destination, or the number of routes."""
        index = min(self._domains.get(destination, self._all), self._domains.get("*", self._all))
        if self._suffixes:
            parent = destination
            while parent:
                parent = parent.partition(".")[2]
                index = min(index, self._suffixes.get(parent, self._all))
        return index

    def _routed(self, index: int, destination: str) -> Routed:
        if index < self._all:
            return Routed(index, self._next_hops[index] or destination.lower())
        return Routed(-1, self._relay or destination.lower())

    def _add(self, pattern: str, index: int) -> None:
        try:
            if pattern == "*":
                self._domains.setdefault("*", index)
            elif "@" in pattern:
                mailbox = parse_mailbox(pattern)
                self._addresses.setdefault(mailbox.address.lower(), index)
                self._with_addresses.setdefault(mailbox.destination, index)
            elif pattern.startswith("["):
                self._domains.setdefault(parse_mailbox(f"x@{pattern}").destination, index)
            elif pattern.startswith("."):
                self._suffixes.setdefault(domain_to_ascii(pattern[1:]).lower(), index)
            else:
                self._domains.setdefault(domain_to_ascii(pattern).lower(), index)
        except AddressError as error:
            raise RouteError(f'"{pattern}" matches nothing: {error}') from error


def _canonical(next_hop: str) -> str:
    return format_next_hops(parse_next_hops(next_hop)) if next_hop.strip() else ""
