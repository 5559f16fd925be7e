"""Does a ``[[listener]]`` make sense: each value, those that belong together, and one listener beside another.

Every check raises ``ValueError``, or returns a text, with a sentence for people. Looks at no file: that is
``listener_files``.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable

from deliveryagent.config.location import SOCKET_NAME
from deliveryagent.config.secrets import check_source
from deliveryagent.intake.listener_settings import ListenerSettings
from deliveryagent.intake.places import Place, TcpPlace, UnixPlace, conflict, parse_place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from deliveryagent.config.sections import Config

_HOOK = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*:[^\W\d]\w*(?:\.[^\W\d]\w*)*")
_MILTER = re.compile(r"inet:(?:\[[^\]\s]+\]|[^:\s\[\]]+):[0-9]{1,5}|unix:/\S+")
_FIELD_NAME = re.compile(r"[!-9;-~]+")
_MODE = re.compile(r"0?[0-7]{3}")
_SMTP_PORT = 25
_USUAL = ListenerSettings()


def _network(value: str) -> None:
    try:
        ipaddress.ip_network(value)
    except ValueError:
        pass
    else:
        return
    try:
        exact = ipaddress.ip_network(value, strict=False)
    except ValueError:
        raise ValueError(
            f'"{value}" is no network; write it like "192.0.2.0/24", "2001:db8::/32" or "::1"'
        ) from None
    raise ValueError(f'"{value}" is an address inside a network: write "{exact}"')


def _matches(pattern: re.Pattern[str], wanted: str) -> Callable[[str], None]:
    def check(value: str) -> None:
        if not pattern.fullmatch(value):
            raise ValueError(f'"{value}" is not {wanted}')

    return check


def _at_least(least: float) -> Callable[[float], None]:
    def check(value: float) -> None:
        if value < least:
            raise ValueError(f"must be at least {least:g}" if least >= 1 else "must be more than 0")

    return check


def _priority(value: int) -> None:
    if value > 9:
        raise ValueError("a priority is a number from 0 to 9")


_MORE_THAN_NOTHING = _at_least(1e-9)

VALUE_CHECKS: dict[str, Callable[..., object]] = {
    "listener.address": parse_place,
    "listener.socket_mode": _matches(_MODE, 'a mode; write it like "0660"'),
    "listener.trusted_networks": _network,
    "listener.xclient_networks": _network,
    "listener.proxy_networks": _network,
    "listener.tls_key_passphrase": check_source,
    "listener.auth_error_limit": _at_least(1),
    "listener.line_length_limit": _at_least(1000),
    "listener.mime_nesting_limit": _at_least(1),
    "listener.recipient_limit": _at_least(1),
    "listener.priority_limit": _priority,
    "listener.idempotency_key_header": _matches(_FIELD_NAME, "the name of a header field"),
    "listener.connection_limit": _at_least(1),
    "listener.timeout": _MORE_THAN_NOTHING,
    "listener.session_timeout": _MORE_THAN_NOTHING,
    "listener.hard_error_limit": _at_least(1),
    "listener.hooks": _matches(_HOOK, 'a Python object; write it like "package.module:object"'),
    "listener.hook_timeout": _MORE_THAN_NOTHING,
    "listener.milters": _matches(
        _MILTER, 'a milter; write it like "inet:host:port" or "unix:/path"'
    ),
    "listener.milter_timeout": _MORE_THAN_NOTHING,
}
"""What a single value, or each element of a list, must be beyond its type."""


def _needs_certificate(name: str) -> Callable[[ListenerSettings], str]:
    def check(listener: ListenerSettings) -> str:
        wanted = getattr(listener, name) and not listener.tls_certificate
        return "needs a tls_certificate" if wanted else ""

    return check


def _keys(listener: ListenerSettings) -> str:
    keys, certificates = len(listener.tls_key), len(listener.tls_certificate)
    if keys in {0, certificates}:
        return ""
    if not certificates:
        return "needs a tls_certificate"
    return f"{keys} keys for {certificates} certificates: each has its own, in the same order"


def _mechanisms(listener: ListenerSettings) -> str:
    offered = listener.auth_mechanisms
    if offered == _USUAL.auth_mechanisms:  # what cannot be offered is not
        return ""
    open_ones = [name for name in ("PLAIN", "LOGIN") if name in offered]
    if open_ones and not listener.tls_certificate and not listener.auth_without_tls:
        return (
            f"{' and '.join(open_ones)} would never be offered: without a tls_certificate passwords could be "
            "read on the way (auth_without_tls allows it)"
        )
    by_token = [name for name in ("XOAUTH2", "OAUTHBEARER") if name in offered]
    if by_token and not listener.hooks:
        return f"{by_token[0]} needs a hook that knows the tokens"
    if offered and not _knows_users(listener):
        return "nobody can log in: there is neither a file of users nor a hook"
    return ""


def _login_possible(listener: ListenerSettings) -> str:
    if not listener.require_auth or (_knows_users(listener) and listener.auth_mechanisms):
        return ""
    if not listener.auth_mechanisms:
        return "nobody can log in: auth_mechanisms is empty"
    return "nobody can log in: there is neither a file of users nor a hook"


def _lmtp_port(listener: ListenerSettings) -> str:
    place = parse_place(listener.address)
    if listener.kind == "lmtp" and isinstance(place, TcpPlace) and place.port == _SMTP_PORT:
        return "LMTP is not spoken on port 25 (RFC 2033, section 5): take another, such as 24"
    return ""


def _somebody(listener: ListenerSettings) -> str:
    tcp = isinstance(parse_place(listener.address), TcpPlace)
    if tcp and not listener.trusted_networks and not _knows_users(listener):
        return "nobody could send anything here: set users, trusted_networks or hooks"
    return ""


def _unix_only(name: str) -> Callable[[ListenerSettings], str]:
    def check(listener: ListenerSettings) -> str:
        unix = isinstance(parse_place(listener.address), UnixPlace)
        usual = getattr(listener, name) == getattr(_USUAL, name)
        return "" if unix or usual else 'is for an address "unix:/path" only'

    return check


def _knows_users(listener: ListenerSettings) -> bool:
    return bool(listener.users or listener.hooks)


CHECKS: tuple[tuple[tuple[str, ...], Callable[[ListenerSettings], str]], ...] = (
    (("address", "kind"), _lmtp_port),
    (("address",), _somebody),
    (("socket_mode",), _unix_only("socket_mode")),
    (("socket_group",), _unix_only("socket_group")),
    (("require_tls",), _needs_certificate("require_tls")),
    (("tls_only",), _needs_certificate("tls_only")),
    (("tls_key_passphrase",), _needs_certificate("tls_key_passphrase")),
    (("tls_key",), _keys),
    (("auth_mechanisms",), _mechanisms),
    (("require_auth",), _login_possible),
)
"""Settings of one listener that must fit each other: their names, and a check that returns what is wrong, or
nothing."""


def overlaps(config: Config, number: int) -> str:
    """Who else stands where this listener would, or nothing."""
    place = parse_place(config.listener[number].address)
    own = os.path.join(config.run_dir, SOCKET_NAME)
    if isinstance(place, UnixPlace) and place.path == os.path.normpath(own):
        return "this is the service's own socket"
    for earlier in config.listener[:number]:
        if conflict(_place(earlier), place):
            return f'an earlier listener stands there already, at "{earlier.address}"'
    return ""


def _place(listener: ListenerSettings) -> Place:
    return parse_place(listener.address)
