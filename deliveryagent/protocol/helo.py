"""What a client may call itself (RFC 5321 4.1.1.1): names that no honest host has are told apart here.

Guarantees: pure and total; an address literal is always fine; case and a final dot make no difference. Never
looks a name up.
"""

import ipaddress
import re
from collections.abc import Collection
from functools import lru_cache

_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?")
_LONGEST = 255
RESERVED = ("test", "example", "invalid", "localhost", "example.com", "example.net", "example.org")
"""Domains nobody has (RFC 2606), and all below them."""


def is_literal(name: str) -> bool:
    """Whether it is an address in brackets (RFC 5321 4.1.3)."""
    if not (name.startswith("[") and name.endswith("]")):
        return False
    inside = name[1:-1]
    try:
        if inside[:5].lower() == "ipv6:":
            ipaddress.IPv6Address(inside[5:])
        else:
            ipaddress.IPv4Address(inside)
    except ValueError:
        return False
    return True


def is_name(name: str) -> bool:
    """Whether it is written like a host name."""
    labels = name.removesuffix(".").split(".")
    return len(name) <= _LONGEST and all(len(one) <= 63 and _LABEL.fullmatch(one) for one in labels)


def is_bare(name: str) -> bool:
    """Whether it is a name without a dot inside."""
    return "." not in name.removesuffix(".")


def is_reserved(name: str) -> bool:
    """Whether it is one of the names that RFC 2606 keeps for examples and tests, or below one.

    >>> is_reserved("Mail.Example.COM."), is_reserved("example.dev")
    (True, False)
    """
    lowered = name.removesuffix(".").lower()
    return any(lowered == domain or lowered.endswith(f".{domain}") for domain in RESERVED)


def is_one_of(name: str, own_names: Collection[str]) -> bool:
    """Whether it is one of these names, which are in lower case."""
    return name.removesuffix(".").lower() in own_names


@lru_cache(maxsize=1024)
def shown(name: str) -> str:
    """The name as a Received field may carry it: whatever could end a comment or a field becomes "?".

    >>> shown("mx(1) a\\r\\nb")
    'mx?1??a??b'
    """
    return re.sub(r"[^A-Za-z0-9.:_\[\]-]", "?", name[:_LONGEST])
