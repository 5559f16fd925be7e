"""From a next hop to the hosts behind it and their addresses (RFC 5321 5.1, RFC 7505).

A domain is asked for MX records; each host then for its addresses of both families, all at once.
Only a definite "no MX" makes the domain itself its mail host. What was found is remembered for its
time to live.

Guarantees: whatever happens is a value, nothing raises but cancelling; a failure of the name
service that may pass is DNS_TEMPORARY and never turns into an answer (``ignore_mx_lookup_error`` is
the one, explicit, exception); at most 100 MX records are followed, and 100 questions asked, at a
time; memory is bounded. Ordering the hosts, and finding ourselves among them, is
``policy.targets``.
"""

import asyncio
import ipaddress
import time
from collections.abc import Callable, Iterable
from typing import Literal

import msgspec

from deliveryagent.mail.delivery import Failure, Trouble
from deliveryagent.mail.nexthop import HostAddresses, MailHosts, NextHop
from deliveryagent.resolver.cache import Cache
from deliveryagent.resolver.hosts import SystemHosts
from deliveryagent.resolver.servers import Answer, NameServers, RecordType, Standing, possible
from deliveryagent.resolver.settings import ResolverSettings

Protocols = Literal["all", "ipv4", "ipv6"]

ANSWERS_KEPT = 20_000
SITES_KEPT = 10_000

_TYPES: dict[Protocols, tuple[RecordType, ...]] = {
    "all": ("A", "AAAA"),
    "ipv4": ("A",),
    "ipv6": ("AAAA",),
}
_LOOPBACK: dict[RecordType, str] = {"A": "127.0.0.1", "AAAA": "::1"}
_GRAVITY = (Trouble.DNS_TEMPORARY, Trouble.DNS_INVALID, Trouble.DNS_FAILED)  # gravest first


class Resolver:
    """Everything that is known about names; one per process and event loop.

    ``clock`` counts seconds and never goes back. Raises ``ValueError`` for a name server that is
    none.
    """

    def __init__(
        self, settings: ResolverSettings, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._source: NameServers | SystemHosts
        if settings.disable_dns_lookups:
            self._source = SystemHosts(timeout=settings.timeout * max(1, settings.attempts))
        else:
            self._source = NameServers(
                settings.nameservers,
                timeout=settings.timeout,
                attempts=settings.attempts,
                ask_secure=settings.trust_ad,
            )
        self._answers: Cache[tuple[str, RecordType], Answer] = Cache(ANSWERS_KEPT, clock)
        self._found: Cache[tuple[str, bool, Protocols], MailHosts | Failure] = Cache(
            SITES_KEPT, clock
        )

    async def next_hop(self, hop: NextHop, *, protocols: Protocols = "all") -> MailHosts | Failure:
        """The hosts behind a next hop that has a host; a failure when there are none.

        ``protocols`` are the address families to ask for. As long as an answer holds, this is the
        very same object.
        """
        where = (hop.host, hop.mx, protocols)
        known = self._found.find(where)
        if known is not None:
            return known[0]
        return await self._found.ask(where, lambda: self._behind(*where))

    def holds(self, hop: NextHop, *, protocols: Protocols = "all") -> float:
        """For how many more seconds the last answer of :meth:`next_hop` holds; 0 without one."""
        known = self._found.find((hop.host, hop.mx, protocols))
        return known[1] if known is not None else 0.0

    def known(self, hop: NextHop) -> MailHosts | Failure | None:
        """The last answer of :meth:`next_hop` while it holds."""
        found = self._found.find((hop.host, hop.mx, "all"))
        return found[0] if found is not None else None

    def learn(
        self, hop: NextHop, hosts: MailHosts, ttl: float, *, protocols: Protocols = "all"
    ) -> None:
        """Remember for ``ttl`` seconds what another resolver with the same settings found."""
        where = (hop.host, hop.mx, protocols)
        if self._found.find(where) is None:
            self._found.keep(where, hosts, ttl)

    async def addresses(
        self, name: str, *, preference: int = 0, protocols: Protocols = "all"
    ) -> HostAddresses:
        """The addresses of a host name; an IP address is its own."""
        return (await self._host(name, preference, protocols))[0]

    async def close(self) -> None:
        """Stop asking."""
        await self._found.close()
        await self._answers.close()
        if isinstance(self._source, SystemHosts):
            self._source.close()

    async def _behind(
        self, name: str, mx: bool, protocols: Protocols
    ) -> tuple[MailHosts | Failure, float]:
        """What is behind a next hop, and for how long that holds."""
        if mx and not self._settings.disable_dns_lookups:
            exchange = await self._ask(name, "MX")
            if exchange.standing is Standing.FOUND:
                return await self._exchanges(name, exchange, protocols)
            if exchange.failure is not None and not self._settings.ignore_mx_lookup_error:
                return exchange.failure, exchange.ttl
            return await self._itself(name, exchange, protocols)
        return await self._itself(name, None, protocols)

    async def _exchanges(
        self, name: str, exchange: Answer, protocols: Protocols
    ) -> tuple[MailHosts | Failure, float]:
        if any(not host for _, host in exchange.records):
            text = f"{name} does not take mail (null MX)"
            return Failure(Trouble.NULL_MX, text), exchange.ttl
        best: dict[str, int] = {}
        for preference, host in exchange.records:
            best.setdefault(host, preference)  # they come sorted
        found = await asyncio.gather(*(self._host(h, p, protocols) for h, p in best.items()))
        ttl = min([exchange.ttl, *(ttl for _, ttl, _ in found)])
        secure = exchange.secure and all(secure for *_, secure in found)
        hosts = tuple(host for host, *_ in found)
        return MailHosts(hosts, authenticated=secure and self._settings.trust_ad, ttl=ttl), ttl

    async def _itself(
        self, name: str, exchange: Answer | None, protocols: Protocols
    ) -> tuple[MailHosts | Failure, float]:
        """A name that is its own mail host: it was chosen so, or it has no MX record."""
        host, ttl, secure = await self._host(name, 0, protocols)
        if exchange is not None:
            ttl = min(ttl, exchange.ttl)
            secure = secure and exchange.secure
        if host.trouble is None:
            return (
                MailHosts(
                    (host,),
                    implicit=exchange is not None,
                    authenticated=secure and self._settings.trust_ad,
                    ttl=ttl,
                ),
                ttl,
            )
        trouble = host.trouble
        if exchange is not None and trouble.trouble is Trouble.HOST_NOT_FOUND:
            if exchange.failure is not None:
                return exchange.failure, ttl
            gone = exchange.standing is Standing.NO_NAME
            what = "does not exist" if gone else "has no MX and no address records"
            # RFC 3463 3.2: a destination that does not exist is a bad destination system address.
            code = "5.1.2" if gone else ""
            trouble = Failure(Trouble.HOST_NOT_FOUND, f"the domain {name} {what}", code)
        return trouble, ttl

    async def _host(
        self, name: str, preference: int, protocols: Protocols
    ) -> tuple[HostAddresses, float, bool]:
        """One host: its addresses, for how long they hold, and whether DNSSEC says so."""
        kinds = _TYPES[protocols]
        try:
            literal = str(ipaddress.ip_address(name))
        except ValueError:
            literal = ""
        if literal:
            return HostAddresses(name, preference, (literal,)), self._settings.maximal_ttl, True
        if name == "localhost":  # RFC 6761 6.3: never asked for
            own = tuple(_LOOPBACK[kind] for kind in kinds)
            return HostAddresses(name, preference, own), self._settings.maximal_ttl, True
        answers = await asyncio.gather(*(self._ask(name, kind) for kind in kinds))
        found = tuple(address for answer in answers for _, address in answer.records)
        ttl = min(answer.ttl for answer in answers)
        secure = all(answer.secure for answer in answers)
        trouble = None if found else _gravest(name, answers)
        return HostAddresses(name, preference, found, trouble), ttl, secure

    async def _ask(self, name: str, kind: RecordType) -> Answer:
        """An answer, remembered or new, with the time it still holds."""
        if not possible(name):
            text = f'"{name}" cannot be a domain name'
            failure = Failure(Trouble.DNS_INVALID, text)
            return Answer(Standing.FAILED, failure=failure, ttl=self._settings.negative_ttl)
        known = self._answers.find((name, kind))
        if known is not None:
            return msgspec.structs.replace(known[0], ttl=known[1])
        return await self._answers.ask((name, kind), lambda: self._question(name, kind))

    async def _question(self, name: str, kind: RecordType) -> tuple[Answer, float]:
        answer = await self._source.ask(name, kind)
        settings = self._settings
        match answer.standing:
            case Standing.FOUND:
                ttl = min(max(answer.ttl, settings.minimal_ttl), settings.maximal_ttl)
            case Standing.NO_DATA | Standing.NO_NAME:
                ttl = min(max(answer.ttl, settings.minimal_ttl), settings.negative_ttl)
            case Standing.FAILED:
                ttl = settings.failure_ttl
        return msgspec.structs.replace(answer, ttl=ttl), ttl


def _gravest(name: str, answers: Iterable[Answer]) -> Failure:
    """Why a host has no address: anything that may pass counts before "there is none"."""
    failures = [answer.failure for answer in answers if answer.failure is not None]
    for trouble in _GRAVITY:
        for failure in failures:
            if failure.trouble is trouble:
                return failure
    return Failure(Trouble.HOST_NOT_FOUND, f"the host {name} has no address")
