"""This host's own addresses, as the Linux kernel lists them in /proc.

Guarantees: never raises and never looks a name up; where the kernel does not tell, the answer is
empty, and a loop is then found by name or by hop count. Loopback addresses are left out:
``policy.targets`` knows them.
"""

import ipaddress
from itertools import pairwise
from pathlib import Path

_ROUTES = Path("/proc/net/fib_trie")
_SIXES = Path("/proc/net/if_inet6")


def own_addresses(routes: Path = _ROUTES, sixes: Path = _SIXES) -> frozenset[str]:
    """All addresses of all interfaces, in their shortest writing."""
    found: list[ipaddress.IPv4Address | ipaddress.IPv6Address] = []
    found += _version4(_lines(routes))
    found += _version6(_lines(sixes))
    return frozenset(str(address) for address in found if not address.is_loopback)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return []


def _version4(lines: list[str]) -> list[ipaddress.IPv4Address]:
    """The leaves ``|-- 192.0.2.1`` of the routing trie that are followed by ``/32 host LOCAL``."""
    found = []
    for leaf, kind in pairwise(lines):
        if "/32 host LOCAL" in kind and "|--" in leaf:
            found.append(ipaddress.IPv4Address(leaf.rpartition(" ")[2]))
    return found


def _version6(lines: list[str]) -> list[ipaddress.IPv6Address]:
    """Lines that begin with an address of 32 hexadecimal digits."""
    return [ipaddress.IPv6Address(int(line[:32], 16)) for line in lines if len(line.split()) == 6]
