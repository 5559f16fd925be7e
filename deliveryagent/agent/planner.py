"""Where a request may go: the hosts behind its next hops, made ready for dialling and for reuse.

Joins ``resolver`` (which hosts there are) and ``policy.targets`` (which addresses to dial, in what
order), and remembers what need not be computed for each message. Guarantees: a plan is never older
than the answer of the name service it was made from. Never dials.
"""

import random
import time
from collections.abc import Callable, Hashable
from dataclasses import replace
from itertools import islice

from deliveryagent.agent.clients import Client
from deliveryagent.agent.session import session_key
from deliveryagent.mail.delivery import Failure
from deliveryagent.mail.nexthop import Endpoint, MailHosts, NextHop
from deliveryagent.policy import targets
from deliveryagent.resolver.lookup import Resolver

_PLANS_KEPT = 10_000
_KEYS = 32  # best addresses among which an idle session is looked for
_NO_HOSTS = MailHosts(())


class Plan:
    """The way to one next hop.

    ``best`` is the preference of the best hosts. ``are_mx`` says that this host is itself among the
    hosts. ``until`` is when it is too old, by the resolver's clock.
    """

    __slots__ = ("_client", "_hop", "_hosts", "_keys", "_rng", "_turn", "are_mx", "best", "until")

    def __init__(
        self,
        hop: NextHop,
        client: Client,
        hosts: MailHosts,
        best: tuple[Endpoint, ...],
        rng: random.Random,
    ) -> None:
        self._hop = hop
        self._client = client
        self._hosts = hosts
        self._rng = rng
        self._turn = 0
        self._keys = [session_key(endpoint, client.profile) for endpoint in islice(best, _KEYS)]
        self.best = best[0].preference
        self.until = float("inf")
        self.are_mx = hop.mx and targets.includes_ourselves(hosts, client.own)

    def keys(self) -> list[Hashable]:
        """The keys of sessions to the best hosts, beginning with another one each time."""
        keys = self._keys
        if len(keys) > 1:
            self._turn = turn = (self._turn + 1) % len(keys)
            return keys[turn:] + keys[:turn]
        return keys

    def leads_to(self, key: Hashable) -> bool:
        """Whether sessions with this key go to one of the best hosts."""
        return key in self._keys

    def endpoints(self) -> tuple[Endpoint, ...]:
        """The addresses to dial, in order; another order among equals each time."""
        if self._hop.path:
            return (_socket(self._hop, self._client),)
        found = _ordered(self._hop, self._client, self._hosts, self._rng)
        return () if isinstance(found, Failure) else found


class Planner:
    """Makes the plans of one worker; ``clock`` is the resolver's."""

    def __init__(
        self,
        resolver: Resolver,
        rng: random.Random,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._resolver = resolver
        self.clock = clock
        self._rng = rng
        self._plans: dict[tuple[NextHop, Client], tuple[MailHosts, Plan | Failure]] = {}

    async def plan(self, hop: NextHop, client: Client) -> Plan | Failure:
        """How to get to a next hop that has a host or a socket; the failure when there is no way."""
        hosts = _NO_HOSTS
        if not hop.path:
            found = await self._resolver.next_hop(hop, protocols=client.settings.inet_protocols)
            if isinstance(found, Failure):
                return found
            hosts = found
        known = self._plans.get((hop, client))
        if known is not None and known[0] is hosts:
            return known[1]
        plan = self._make(hop, client, hosts)
        if isinstance(plan, Plan) and not hop.path:
            left = self._resolver.holds(hop, protocols=client.settings.inet_protocols)
            plan.until = self.clock() + left
        if len(self._plans) >= _PLANS_KEPT:
            del self._plans[next(iter(self._plans))]
        self._plans[hop, client] = (hosts, plan)
        return plan

    def known(self, hop: NextHop, client: Client) -> Plan | None:
        """The plan :meth:`plan` would give, if that is known without asking anybody."""
        known = self._plans.get((hop, client))
        if known is None or isinstance(known[1], Failure) or known[1].until <= self.clock():
            return None
        return known[1]

    async def site(self, hop: NextHop, client: Client) -> tuple[str, float, MailHosts | None]:
        """The name of the site behind a next hop, for how long it holds, and the hosts that were found.

        The name is empty when it is unknown now.
        """
        if hop.path or hop.final:
            return targets.site_name(_NO_HOSTS, hop), _FOREVER, None
        protocols = client.settings.inet_protocols
        hosts = await self._resolver.next_hop(hop, protocols=protocols)
        left = self._resolver.holds(hop, protocols=protocols)
        if isinstance(hosts, Failure):
            return "", left, None
        return targets.site_name(hosts, hop), left, hosts

    def learn(self, hop: NextHop, client: Client, hosts: MailHosts, ttl: float) -> None:
        """Somebody who asked the name service a moment ago tells what is behind a next hop."""
        self._resolver.learn(hop, hosts, ttl, protocols=client.settings.inet_protocols)

    def _make(self, hop: NextHop, client: Client, hosts: MailHosts) -> Plan | Failure:
        if hop.path:
            return Plan(hop, client, hosts, (_socket(hop, client),), self._rng)
        everybody = _ordered(hop, client, hosts, self._rng, unlimited=True)
        if isinstance(everybody, Failure):
            return everybody
        best = tuple(e for e in everybody if e.preference == everybody[0].preference)
        return Plan(hop, client, hosts, best, self._rng)


_FOREVER = 86400.0


def _socket(hop: NextHop, client: Client) -> Endpoint:
    return Endpoint(client.profile.name, "", 0, path=hop.path, transport=client.transport)


def _ordered(
    hop: NextHop, client: Client, hosts: MailHosts, rng: random.Random, *, unlimited: bool = False
) -> tuple[Endpoint, ...] | Failure:
    settings = replace(client.settings, mx_address_limit=0) if unlimited else client.settings
    return targets.order(
        hosts,
        port=hop.port if hop.port is not None else settings.port,
        settings=settings,
        own=client.own,
        rng=rng,
        transport=client.transport,
        mx=hop.mx,
    )
