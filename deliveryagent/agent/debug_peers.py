"""Which peers' whole dialogue is logged (Postfix ``debug_peer_list``).

A pattern is a host name, a domain (its hosts are meant as well), an IP address or a network.
Guarantees: matching never looks anything up; a pattern that is none of these raises ``ValueError``
when it is read.
"""

import ipaddress
from dataclasses import dataclass
from typing import Annotated

from deliveryagent.mail.nexthop import Endpoint
from deliveryagent.setting import key

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, kw_only=True)
class DebugSettings:
    """Peers under observation."""

    debug_peer_list: Annotated[
        tuple[str, ...],
        key(
            "Peers whose whole dialogue is logged: host names, domains, addresses, networks.",
            postfix="debug_peer_list",
        ),
    ] = ()
    debug_peer_level: Annotated[
        int,
        key(
            "How much of such a dialogue: 1 commands and replies, 2 also what happened to the "
            "connection; 0 nothing.",
            postfix="debug_peer_level",
        ),
    ] = 2


class DebugPeers:
    """The patterns of one set of settings. Raises ``ValueError``."""

    def __init__(self, settings: DebugSettings) -> None:
        self.level = settings.debug_peer_level
        self._names: set[str] = set()
        self._networks: list[Network] = []
        for pattern in settings.debug_peer_list if self.level > 0 else ():
            network = _network(pattern)
            if network is not None:
                self._networks.append(network)
            else:
                self._names.add(pattern.lower().strip(".").removeprefix("*."))

    def watches(self, endpoint: Endpoint, domain: str) -> bool:
        """Whether a session to this address, with mail for this domain, is to be logged."""
        if not self._names and not self._networks:
            return False
        if any(self._named(name) for name in (endpoint.host, domain)):
            return True
        if not endpoint.ip:
            return False
        address = ipaddress.ip_address(endpoint.ip)
        return any(address in network for network in self._networks)

    def shows(self, line: str) -> bool:
        """Whether a line of the dialogue is detailed enough for the level, not too much so."""
        return self.level > 1 or not line.startswith("*")

    def _named(self, name: str) -> bool:
        labels = name.lower().split(".")
        return any(".".join(labels[start:]) in self._names for start in range(len(labels)))


def _network(pattern: str) -> Network | None:
    """The network a pattern means, None for a name."""
    text = pattern.strip().strip("[]")
    if ":" not in text and not text.replace("/", ".").rpartition(".")[2].isdigit():
        return None
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f'"{pattern}" is no host, domain, address or network') from None
