"""Where a listener stands: its address as the configuration writes it.

Guarantees: what :func:`parse_place` returns can be listened on, as far as the text can tell. Never opens
anything.
"""

import ipaddress
import os
from dataclasses import dataclass

ANY = "*"
"""All addresses of this host, of both kinds."""

_LONGEST_PATH = (
    103  # octets, sun_path in unix(7) less its end and the ".new" of a socket being made
)


@dataclass(frozen=True)
class TcpPlace:
    """A port of one address, or of all. ``host`` is ``"*"`` or an IP address."""

    host: str
    port: int


@dataclass(frozen=True)
class UnixPlace:
    """A socket in the file system."""

    path: str


@dataclass(frozen=True)
class InheritedPlace:
    """A socket the service manager holds, by the name its unit gives it (``FileDescriptorName=``)."""

    name: str


Place = TcpPlace | UnixPlace | InheritedPlace


def parse_place(text: str) -> Place:
    """Read an address; raises ``ValueError``.

    >>> parse_place("[::1]:587"), parse_place("*:25")
    (TcpPlace(host='::1', port=587), TcpPlace(host='*', port=25))
    """
    if text.startswith("unix:"):
        return _unix(text.removeprefix("unix:"))
    if text.startswith("systemd:"):
        name = text.removeprefix("systemd:")
        if not name or ":" in name or not name.isascii():
            raise ValueError(f'"{text}" names no socket; write it like "systemd:submission"')
        return InheritedPlace(name)
    host, colon, port = text.rpartition(":")
    number = int(port) if port.isascii() and port.isdigit() else 0
    if not colon or not host or not 1 <= number <= 65535:
        raise ValueError(
            f'"{text}" is no address; write it like "127.0.0.1:587", "[::1]:587", "*:587", '
            '"unix:/run/name.sock" or "systemd:NAME"'
        )
    return TcpPlace(_host(host), number)


def conflict(one: Place, other: Place) -> bool:
    """Whether two listeners cannot stand at these places at the same time."""
    if isinstance(one, TcpPlace) and isinstance(other, TcpPlace) and one.port == other.port:
        return (
            one.host == other.host or _covers(one.host, other.host) or _covers(other.host, one.host)
        )
    return one == other


def _covers(wide: str, host: str) -> bool:
    if wide == ANY:
        return True
    address = ipaddress.ip_address(wide)
    return (
        address.is_unspecified
        and host != ANY
        and address.version == ipaddress.ip_address(host).version
    )


def _host(host: str) -> str:
    if host == ANY:
        return ANY
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        address = ipaddress.ip_address(host[1:-1] if bracketed else host)
    except ValueError:
        raise ValueError(f'"{host}" is not an IP address, nor "*" for all of them') from None
    if bracketed != (address.version == 6):
        raise ValueError(
            f'"{host}": an IPv6 address, and no other, stands in brackets: "[::1]:587"'
        )
    return str(address)


def _unix(path: str) -> UnixPlace:
    if not path.startswith("/"):
        raise ValueError(f'"unix:{path}": the path of a socket begins with "/"')
    if len(os.fsencode(path)) > _LONGEST_PATH:
        raise ValueError(f'"unix:{path}": the path is longer than {_LONGEST_PATH} octets')
    return UnixPlace(os.path.normpath(path))
