"""What a trusted proxy says of its client: XCLIENT (Postfix XCLIENT_README) and the PROXY header (haproxy).

Guarantees: what cannot be read raises ``CommandError`` or ``ValueError`` and changes nothing; any octets are
judged in bounded time. Never decides who is trusted to say so.
"""

import ipaddress
import re
import struct

from deliveryagent.protocol.esmtp import CommandError
from deliveryagent.protocol.session import Client

_HEXCHAR = re.compile(r"\+([0-9A-Fa-f]{2})")
_KNOWN = frozenset({"NAME", "ADDR", "PORT", "PROTO", "HELO", "LOGIN", "DESTADDR", "DESTPORT"})
_UNSAID = ("[UNAVAILABLE]", "[TEMPUNAVAIL]")

PROXY_LONGEST = 536
"""Octets of a PROXY header that are read: version 1 has 107, version 2 its 16 and what it announces."""

_V1_LONGEST = 107
_V2 = b"\r\n\r\n\0\r\nQUIT\n"
_V2_HEAD = struct.Struct("!12sBBH")


def read_xclient(argument: str, client: Client) -> tuple[Client, str]:
    """The client as the proxy describes it, and the name it has logged in with there, or none.

    Raises ``CommandError``.
    """
    address, port, name, user = client.address, client.port, client.name, ""
    words = argument.split()
    if not words:
        raise CommandError(501, "5.5.4", "Syntax: XCLIENT ATTRIBUTE=value …")
    for word in words:
        attribute, equals, text = word.partition("=")
        attribute = attribute.upper()
        if not equals or attribute not in _KNOWN:
            raise CommandError(501, "5.5.4", f"Bad XCLIENT attribute {attribute[:20]}")
        value = _decoded(text)
        if attribute == "ADDR":
            address = _address(value)
        elif attribute == "PORT":
            port = int(value) if value.isascii() and value.isdigit() and int(value) < 65536 else 0
        elif attribute == "NAME":
            name = value
        elif attribute == "LOGIN":
            user = value
    return Client(address=address, port=port, name=name, proxied=True), user


def _decoded(text: str) -> str:
    octets = _HEXCHAR.sub(lambda match: chr(int(match[1], 16)), text).encode("latin-1", "replace")
    value = octets.decode("utf-8", "replace")
    if not value.isprintable() or "\ufffd" in value or len(value) > 255:
        raise CommandError(501, "5.5.4", "Bad XCLIENT value")
    return "" if value.upper() in _UNSAID else value


def _address(value: str) -> str:
    bare = value[5:] if value[:5].upper() == "IPV6:" else value
    try:
        return _plain(ipaddress.ip_address(bare)) if bare else ""
    except ValueError:
        raise CommandError(501, "5.5.4", "Bad XCLIENT address") from None


def _plain(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """An IPv4 address within an IPv6 address is itself."""
    return str(getattr(address, "ipv4_mapped", None) or address)


def read_proxy(data: bytes) -> tuple[Client | None, int]:
    """Who is behind a proxy, from the beginning of a connection; and how long the header is.

    (None, 0) while more has to come; (None, n) when the proxy speaks for itself (a health check). Raises
    ``ValueError`` for what is no header of version 1 or 2.
    """
    if data[: len(_V2)] == _V2[: len(data)]:
        return _version_2(data) if len(data) >= _V2_HEAD.size else (None, 0)
    if data[:6] != b"PROXY "[: len(data)]:
        raise ValueError("the connection does not begin with a PROXY header")
    end = data.find(b"\r\n", 0, _V1_LONGEST)
    if end < 0:
        if len(data) >= _V1_LONGEST:
            raise ValueError("a PROXY header without end")
        return None, 0
    words = data[:end].decode("ascii", "replace").split(" ")
    if words[1:2] == ["UNKNOWN"]:
        return None, end + 2
    if len(words) != 6 or words[1] not in {"TCP4", "TCP6"} or not words[4].isdigit():
        raise ValueError("a PROXY header that cannot be read")
    address = ipaddress.ip_address(words[2])
    return Client(address=_plain(address), port=int(words[4]) % 65536, proxied=True), end + 2


def _version_2(data: bytes) -> tuple[Client | None, int]:
    _, version, family, length = _V2_HEAD.unpack_from(data)
    size = _V2_HEAD.size + length
    if version >> 4 != 2 or size > PROXY_LONGEST:
        raise ValueError("a PROXY header that cannot be read")
    if len(data) < size:
        return None, 0
    if version & 15 == 0:  # LOCAL: the proxy itself
        return None, size
    if version & 15 != 1:
        raise ValueError("a PROXY header with an unknown command")
    octets = {1: 4, 2: 16}.get(family >> 4)
    if octets is None:
        return None, size
    if length < 2 * octets + 4:
        raise ValueError("a PROXY header that is too short")
    at = _V2_HEAD.size
    address = ipaddress.ip_address(data[at : at + octets])
    (port,) = struct.unpack_from("!H", data, at + 2 * octets)
    return Client(address=_plain(address), port=port, proxied=True), size
