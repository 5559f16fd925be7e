"""Next hops: where a route sends mail, and the addresses that are found behind it.

Reads Postfix's next-hop syntax: ``domain``, ``domain:port`` (MX lookup), ``[host]``, ``[host]:port``,
``[192.0.2.1]``, ``[ipv6:2001:db8::1]`` (no MX lookup), each alone or in a list separated by commas or spaces;
in front of them ``smtp:`` or ``lmtp:``, which holds for the rest of the list; ``lmtp:inet:host:port``,
``lmtp:unix:/path``; and alone ``error:text``, ``hold:text``, ``discard:text``.

Guarantees: writing a next hop with ``str`` and reading it again gives an equal one; equal places have equal
keys. LMTP never looks for MX records (RFC 2033 5). Never resolves anything.
"""

import ipaddress
import re
from functools import lru_cache
from typing import Literal, get_args

import msgspec

from deliveryagent.mail.address import AddressError, domain_to_ascii
from deliveryagent.mail.delivery import Failure

Transport = Literal["smtp", "lmtp", "error", "hold", "discard"]

_FINAL = ("error", "hold", "discard")
_SCHEME = re.compile(r"([a-z]+):(?![0-9]+$)", re.IGNORECASE)
_PLACE = re.compile(r"(?:\[([^\[\]]*)\]|([^\[\]:]+))(?::([0-9]{1,5}))?")
_LONGEST_PATH = 107  # octets of a Unix socket's address


class NextHopError(ValueError):
    """A text that is no next hop; the message says what would be."""


class NextHop(msgspec.Struct, frozen=True):
    """One place mail can go to.

    ``host`` is a domain when ``mx`` is set, else a host name or an IP address, lower case and in A-labels.
    ``port`` None means the transport's own. ``path`` names a Unix socket and excludes a host. ``text`` is
    what ``error:``, ``hold:`` and ``discard:`` say.
    """

    transport: Transport
    host: str = ""
    port: int | None = None
    mx: bool = False
    path: str = ""
    text: str = ""

    @property
    def final(self) -> bool:
        """Whether the route itself decides and nobody is contacted."""
        return self.transport in _FINAL

    @property
    def key(self) -> str:
        """The canonical text; equal for equal places."""
        return str(self)

    def __str__(self) -> str:
        if self.final:
            return f"{self.transport}:{self.text}"
        if self.path:
            return f"{self.transport}:unix:{self.path}"
        place = self.host
        if not self.mx:
            place = f"[ipv6:{place}]" if ":" in place else f"[{place}]"
        port = "" if self.port is None else f":{self.port}"
        scheme = "" if self.transport == "smtp" else f"{self.transport}:"
        return f"{scheme}{place}{port}"


class Endpoint(msgspec.Struct, frozen=True):
    """One address to dial.

    ``host`` is the name it was found under. ``ip`` is empty and ``path`` is set for a Unix socket.
    ``preference`` is that of the MX record, 0 without one.
    """

    host: str
    ip: str
    port: int
    preference: int = 0
    path: str = ""
    transport: Literal["smtp", "lmtp"] = "smtp"

    def __str__(self) -> str:
        return self.path or f"{self.host}[{self.ip}]:{self.port}"


class HostAddresses(msgspec.Struct, frozen=True):
    """One host of a next hop and what the lookup of its addresses gave.

    ``trouble`` is set when there are no addresses, and then says why.
    """

    name: str
    preference: int
    addresses: tuple[str, ...]
    trouble: Failure | None = None


class MailHosts(msgspec.Struct, frozen=True):
    """All hosts of a next hop.

    ``implicit`` means that there was no MX record and the domain's own addresses stand in (RFC 5321 5.1).
    ``authenticated`` means that every answer was secured by DNSSEC. ``ttl`` says for how many seconds this
    holds.
    """

    hosts: tuple[HostAddresses, ...]
    implicit: bool = False
    authenticated: bool = False
    ttl: float = 0.0


@lru_cache(maxsize=4096)
def parse_next_hops(text: str) -> tuple[NextHop, ...]:
    """All next hops of a text, in the order they are to be tried; at least one.

    Raises :class:`NextHopError`.

    >>> [str(hop) for hop in parse_next_hops("Example.ORG, [Mail.Example.NET]:587")]
    ['example.org', '[mail.example.net]:587']
    >>> parse_next_hops("lmtp:unix:/run/lmtp.sock")[0].path
    '/run/lmtp.sock'
    """
    whole = text.strip()
    if not whole.isprintable():
        raise NextHopError("a next hop cannot contain control characters")
    head, colon, rest = whole.partition(":")
    if colon and head.lower() in _FINAL:
        return (NextHop(_transport(head), text=rest.strip()),)
    hops: list[NextHop] = []
    transport: Transport = "smtp"
    for item in re.split(r"[,\s]+", whole):
        if not item:
            continue
        scheme = _SCHEME.match(item)
        place = item
        if scheme is not None and scheme[1].lower() not in ("inet", "unix"):
            transport = _transport(scheme[1])
            if transport in _FINAL:
                raise NextHopError(f'"{transport}:" stands alone, not in a list: "{whole}"')
            place = item[scheme.end() :]
        hops.append(_parse_place(transport, place, item))
    if not hops:
        raise NextHopError("an empty next hop")
    return tuple(hops)


def format_next_hops(hops: tuple[NextHop, ...]) -> str:
    """The list in one text, which :func:`parse_next_hops` reads back unchanged.

    >>> format_next_hops(parse_next_hops("lmtp:inet:a.example smtp:b.example"))
    'lmtp:[a.example], smtp:b.example'
    """
    parts: list[str] = []
    current: Transport = "smtp"
    for hop in hops:
        parts.append(f"smtp:{hop}" if hop.transport == "smtp" != current else str(hop))
        current = hop.transport
    return ", ".join(parts)


def _transport(text: str) -> Transport:
    for known in get_args(Transport):
        if text.lower() == known:
            return known  # type: ignore[no-any-return]  # get_args forgets the literal type
    raise NextHopError(
        f'"{text}:" is no transport; there are smtp:, lmtp:, error:, hold: and discard:, '
        f'and a port is a number: "[host]:port"'
    )


def _parse_place(transport: Transport, place: str, item: str) -> NextHop:
    if place[:5].lower() == "unix:":
        path = place[5:]
        if transport != "lmtp":
            raise NextHopError(f'a Unix socket is spoken to in LMTP: write "lmtp:unix:{path}"')
        if not path.startswith("/") or len(path.encode()) > _LONGEST_PATH:
            raise NextHopError(f'"{path}" is no absolute path of at most {_LONGEST_PATH} octets')
        return NextHop(transport, path=path)
    if place[:5].lower() == "inet:":
        place = place[5:]
    match = _PLACE.fullmatch(place)
    if match is None:
        raise NextHopError(
            f'"{item}" is no next hop; write domain, domain:port, [host] or [host]:port'
        )
    port = int(match[3]) if match[3] else None
    if port is not None and not 1 <= port <= 65535:
        raise NextHopError(f'"{item}" has an impossible port')
    inside = match[1] if match[1] is not None else match[2]
    address = _ip_address(inside, item, bracketed=match[1] is not None)
    if address:
        return NextHop(transport, address, port)
    try:
        host = domain_to_ascii(inside).lower()
    except AddressError as error:
        raise NextHopError(f'"{item}" is no next hop: {error}') from error
    return NextHop(transport, host, port, mx=match[1] is None and transport == "smtp")


def _ip_address(text: str, item: str, *, bracketed: bool) -> str:
    """The IP address in its shortest writing, or nothing when the text is a name."""
    version6 = text[:5].lower() == "ipv6:"
    bare = text[5:] if version6 else text
    if not version6 and not (bracketed and ":" in bare) and not bare.rpartition(".")[2].isdigit():
        return ""
    try:
        if "%" in bare:
            raise NextHopError(f'"{item}" has an IP address with a scope')
        return str(ipaddress.IPv6Address(bare) if ":" in bare else ipaddress.IPv4Address(bare))
    except ipaddress.AddressValueError as error:
        raise NextHopError(f'"{item}" has no valid IP address: {error}') from error
