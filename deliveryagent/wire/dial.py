"""A connection to one address: TCP over IPv4 or IPv6, or a Unix socket.

Guarantees: gives a ``Connection`` or a ``Failure`` within ``connect_timeout``; never resolves a name, never
reads the greeting, never leaves a socket open behind a failure.
"""

import asyncio
import socket
import sys
from collections.abc import Callable

from deliveryagent.mail.delivery import Failure, Trouble
from deliveryagent.mail.nexthop import Endpoint
from deliveryagent.setting import format_duration
from deliveryagent.wire.connection import Connection
from deliveryagent.wire.limits import StageLimits
from deliveryagent.wire.stream import reason
from deliveryagent.wire.transcript import Transcript

_BIND_ADDRESS_NO_PORT = (
    24  # Linux: choose the source port at connect, so that it is unique per peer only
)


async def dial(
    endpoint: Endpoint,
    *,
    limits: StageLimits,
    bind_address: str = "",
    bind_address6: str = "",
    listener: Callable[[str], None] | None = None,
) -> Connection | Failure:
    """Connect to ``endpoint``.

    ``bind_address`` and ``bind_address6`` are the source addresses for each family, empty for the system's
    choice. ``listener`` receives the lines of the dialogue as it goes on (``wire.transcript``). Failures:
    BIND_FAILED for a source address that cannot be used, CONNECT_FAILED for all else.
    """
    source = bind_address6 if ":" in endpoint.ip else bind_address
    try:
        sock = _socket(endpoint, source)
    except OSError as error:
        text = f"cannot use the source address {source}: {reason(error)}"
        return Failure(Trouble.BIND_FAILED, text)
    loop = asyncio.get_running_loop()
    label = str(endpoint)
    try:
        async with asyncio.timeout(limits.connect_timeout or None):
            address = endpoint.path or (endpoint.ip, endpoint.port)
            await loop.sock_connect(sock, address)
        connection = Connection(label, limits, transcript=Transcript(listener), sock=sock)
        if endpoint.path:
            await loop.create_unix_connection(lambda: connection, sock=sock)
        else:
            await loop.create_connection(lambda: connection, sock=sock)
    except TimeoutError:
        sock.close()
        limit = format_duration(limits.connect_timeout)
        return Failure(Trouble.CONNECT_FAILED, f"connect to {label}: timed out after {limit}")
    except OSError as error:
        sock.close()
        text = f"connect to {label}: {reason(error)}"
        return Failure(Trouble.CONNECT_FAILED, text)
    except BaseException:
        sock.close()
        raise
    return connection


def _socket(endpoint: Endpoint, source: str) -> socket.socket:
    """A socket of the right family, bound to the source address if there is one."""
    sock = socket.socket(_family(endpoint), socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if not endpoint.path:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if source:
                if sys.platform == "linux":
                    sock.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
                sock.bind((source, 0))
    except BaseException:
        sock.close()
        raise
    return sock


def _family(endpoint: Endpoint) -> socket.AddressFamily:
    if endpoint.path:
        return socket.AF_UNIX
    return socket.AF_INET6 if ":" in endpoint.ip else socket.AF_INET
