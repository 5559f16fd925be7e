"""Networks as the configuration names them, and whether an address is in one.

Guarantees: ``10.0.0.0/8``, ``2001:db8::/32`` and single addresses are read as Postfix's ``mynetworks`` are; an
IPv4 address that came over an IPv6 socket is itself. Never looks a name up.
"""

import ipaddress
from collections.abc import Iterable
from functools import lru_cache


class Networks:
    """Some networks. Raises ``ValueError`` for a text that is none."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._networks = [ipaddress.ip_network(text, strict=False) for text in texts]
        self.hold = lru_cache(maxsize=4096)(self._hold) if self._networks else _nobody

    def __bool__(self) -> bool:
        return bool(self._networks)

    def _hold(self, address: str) -> bool:
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        mapped = getattr(parsed, "ipv4_mapped", None)
        return any((mapped or parsed) in network for network in self._networks)


def _nobody(address: str) -> bool:
    del address
    return False


def plain(address: str) -> str:
    """An address as it is shown: an IPv4 address that came over an IPv6 socket as itself, without a scope.

    >>> plain("::ffff:192.0.2.1"), plain("fe80::1%eth0")
    ('192.0.2.1', 'fe80::1')
    """
    bare = address.partition("%")[0]
    return bare[7:] if bare.startswith("::ffff:") and "." in bare else bare
