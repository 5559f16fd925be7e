"""Does a value make sense beyond its type: names, addresses, next hops, ports, and pairs of
settings.

Every check raises ``ValueError`` (or returns a text, for pairs) with a sentence for people. Nothing
is looked up anywhere: a name that does not resolve today may do so tomorrow.
"""

import ipaddress
import os
import re
from collections.abc import Callable
from typing import Any

from deliveryagent.agent.debug_peers import DebugPeers, DebugSettings
from deliveryagent.config.listeners import VALUE_CHECKS
from deliveryagent.config.location import SOCKET_NAME, queue_file
from deliveryagent.config.sections import Config
from deliveryagent.mail.address import domain_to_ascii, parse_mailbox
from deliveryagent.mail.nexthop import parse_next_hops
from deliveryagent.policy.routing import Router, RouteSettings
from deliveryagent.setting import format_duration

_PLACEHOLDER = "localhost"
_LONGEST_SOCKET_PATH = 107  # octets, sun_path in unix(7) less its end


def check_value(name: str, value: Any) -> None:
    """Check one setting, named as in ``[smtp]`` for ``[lmtp]`` too; raises ``ValueError``."""
    section, _, key = name.rpartition(".")
    check = _CHECKS.get(name) or _CHECKS.get(f"smtp.{key}" if section in {"lmtp", "route"} else "")
    if check is None or value == "":
        return
    for item in value if isinstance(value, tuple) else (value,):
        check(item)


def _hostname(value: str) -> None:
    domain_to_ascii(value)
    if "." not in value:
        raise ValueError(f'"{value}" is not fully qualified: write it like "mail.example.org"')


def _address(value: str) -> None:
    parse_mailbox(value, default_domain=_PLACEHOLDER)


def _own_address(value: str) -> None:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        raise ValueError(f'"{value}" is not an IP address') from None


def _ipv4(value: str) -> None:
    try:
        ipaddress.IPv4Address(value)
    except ValueError:
        raise ValueError(f'"{value}" is not an IPv4 address') from None


def _ipv6(value: str) -> None:
    try:
        ipaddress.IPv6Address(value)
    except ValueError:
        raise ValueError(f'"{value}" is not an IPv6 address') from None


def _nameserver(value: str) -> None:
    from deliveryagent.resolver.servers import parse_server  # late: it imports dnspython

    parse_server(value)


def _port(value: int) -> None:
    if not 1 <= value <= 65535:
        raise ValueError("a port is a number from 1 to 65535")


def _match(value: str) -> None:
    """Whatever the router takes: one grammar, in one place."""
    if not value:
        raise ValueError('an empty text matches nothing; everything is matched by "*"')
    Router([RouteSettings(match=(value,))])


def _peer(value: str) -> None:
    DebugPeers(DebugSettings(debug_peer_list=(value,)))


_USUAL_POSTGRESQL = re.compile(
    r"postgres(?:ql)?(?:\+psycopg)?://(?:[^/@\s]*@)?[A-Za-z0-9._-]*(?::[0-9]+)?/[A-Za-z0-9_-]+(?:\?\S*)?",
    re.ASCII,
)


def _store(value: str) -> None:
    usual = queue_file(value) is not None and value.startswith("sqlite:///")
    if usual or _USUAL_POSTGRESQL.fullmatch(value):
        return  # known without the import of SQLAlchemy
    from deliveryagent.queue.engine import StoreError, store_url

    try:
        store_url(value)
    except StoreError as error:
        raise ValueError(f"{error}: {error.hint}") from None


def _positive(value: float) -> None:
    if value <= 0:
        raise ValueError("must be more than 0")


_CHECKS: dict[str, Callable[[Any], object]] = {
    "hostname": _hostname,
    "origin": _hostname,
    "postmaster": _address,
    "queue.url": _store,
    "queue.minimal_backoff_time": _positive,
    "queue.maximal_backoff_time": _positive,
    "delivery.initial_destination_concurrency": _positive,
    "delivery.default_destination_recipient_limit": _positive,
    "route.destination_recipient_limit": _positive,
    "delivery.best_mx_transport": parse_next_hops,
    "delivery.inet_interfaces": _own_address,
    "delivery.proxy_interfaces": _own_address,
    "delivery.error_notice_recipient": _address,
    "dns.nameservers": _nameserver,
    "smtp.port": _port,
    "smtp.helo_name": domain_to_ascii,
    "smtp.bind_address": _ipv4,
    "smtp.bind_address6": _ipv6,
    "smtp.fallback_relay": parse_next_hops,
    "smtp.debug_peer_list": _peer,
    "relay.host": parse_next_hops,
    "route.match": _match,
    "route.nexthop": parse_next_hops,
    **VALUE_CHECKS,
}


def _backoff_order(config: Config) -> str:
    queue = config.queue
    if queue.minimal_backoff_time <= queue.maximal_backoff_time:
        return ""
    return (
        f"{format_duration(queue.minimal_backoff_time)} is longer than queue.maximal_backoff_time, "
        f"{format_duration(queue.maximal_backoff_time)}"
    )


def _socket_length(config: Config) -> str:
    path = os.path.join(config.run_dir, SOCKET_NAME)
    if len(os.fsencode(path)) <= _LONGEST_SOCKET_PATH:
        return ""
    return f"the path of the socket, {path}, is longer than {_LONGEST_SOCKET_PATH} octets"


CROSS_CHECKS: tuple[tuple[tuple[str, ...], Callable[[Config], str]], ...] = (
    (("queue.minimal_backoff_time", "queue.maximal_backoff_time"), _backoff_order),
    (("run_dir", "queue.url"), _socket_length),
)
"""Settings that must fit each other: their names, and a check that returns what is wrong, or
nothing."""
