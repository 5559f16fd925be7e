"""Which addresses are dialled for a next hop, and in what order.

Takes the hosts a lookup found and follows Postfix's algorithm: cut the list at ourselves, shuffle, sort by
preference, keep both address families among the first ``mx_address_limit``. RFC 5321 5.1.

Guarantees: the result is part of the input, in order of preference, no address twice; the same seed gives
the same order; mail never goes to a host that is not better than ourselves. When there is nobody to dial it
says why, and says so temporarily whenever a lookup failed temporarily. Never asks the DNS.
"""

import hashlib
import ipaddress
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec

from deliveryagent.mail.delivery import Failure, Trouble
from deliveryagent.mail.nexthop import Endpoint, HostAddresses, MailHosts, NextHop
from deliveryagent.setting import key

_LONGEST_NAME = 200
_LONGEST_LIST = 80
_MOST_BALANCED = 100


@dataclass(frozen=True, kw_only=True)
class TargetSettings:
    """Which addresses of a next hop are tried."""

    port: Annotated[int, key("The port when a next hop names none.", postfix="smtp_tcp_port")] = 25
    mx_address_limit: Annotated[
        int,
        key(
            "Most addresses tried for a next hop in one attempt; 0 means all.",
            postfix="smtp_mx_address_limit",
        ),
    ] = 5
    mx_session_limit: Annotated[
        int,
        key(
            "Most sessions that get past EHLO for a next hop in one attempt; 0 means no limit.",
            postfix="smtp_mx_session_limit",
        ),
    ] = 2
    randomize_addresses: Annotated[
        bool,
        key("Shuffle addresses of equal preference.", postfix="smtp_randomize_addresses"),
    ] = True
    address_preference: Annotated[
        Literal["any", "ipv4", "ipv6"],
        key(
            "The address family tried first among equal preferences.",
            postfix="smtp_address_preference",
        ),
    ] = "any"
    balance_inet_protocols: Annotated[
        bool,
        key(
            "Keep addresses of both families within mx_address_limit.",
            postfix="smtp_balance_inet_protocols",
        ),
    ] = True
    inet_protocols: Annotated[
        Literal["all", "ipv4", "ipv6"], key("The address families used.", postfix="inet_protocols")
    ] = "all"
    defer_if_no_mx_address_found: Annotated[
        bool,
        key(
            "Defer instead of bouncing when there are MX records but none of their hosts has an address.",
            postfix="smtp_defer_if_no_mx_address_found",
        ),
    ] = False
    fallback_relay: Annotated[
        tuple[str, ...],
        key(
            "Next hops for mail whose own next hops are not found or all fail for now.",
            postfix="smtp_fallback_relay",
        ),
    ] = ()


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """How this host finds itself among the MX hosts of a domain."""

    best_mx_transport: Annotated[
        str,
        key(
            "Next hop for domains whose best MX host is this one; empty bounces their mail with 5.4.6.",
            postfix="best_mx_transport",
        ),
    ] = ""
    inet_interfaces: Annotated[
        tuple[str, ...],
        key(
            "This host's own addresses; empty means those of its interfaces.",
            postfix="inet_interfaces",
        ),
    ] = ()
    proxy_interfaces: Annotated[
        tuple[str, ...],
        key(
            "Further addresses under which this host receives mail, such as a translator's.",
            postfix="proxy_interfaces",
        ),
    ] = ()
    loopback_mx: Annotated[
        bool,
        key(
            "Accept MX hosts on loopback addresses. True only in a lab: whoever owns a domain could otherwise "
            "send mail to this machine's private services."
        ),
    ] = False


class OwnNames(msgspec.Struct, frozen=True):
    """Who we are: host names in lower case, addresses in their shortest writing."""

    names: frozenset[str] = frozenset()
    addresses: frozenset[str] = frozenset()
    allow_loopback: bool = False


def order(
    hosts: MailHosts,
    *,
    port: int,
    settings: TargetSettings,
    own: OwnNames,
    rng: random.Random,
    transport: Literal["smtp", "lmtp"] = "smtp",
    mx: bool = True,
) -> tuple[Endpoint, ...] | Failure:
    """The addresses to dial, in order; a failure when there are none.

    ``port`` is where they are dialled; only on our own port (``settings.port``) can a host be ourselves.
    ``mx`` is false for a next hop in brackets, which somebody chose on purpose: it is taken as it is.
    """
    ranked = sorted(hosts.hosts, key=lambda host: host.preference)
    kept = ranked
    ourselves = next((host for host in ranked if _is_ourselves(host, own)), None)
    if ourselves is not None and mx and port == settings.port:
        # RFC 5321 5.1: mail must not be passed on to a host that is not better.
        kept = [host for host in ranked if host.preference < ourselves.preference]
        if not kept:
            text = f"mail for this domain loops back to this host, as {ourselves.name}"
            return Failure(Trouble.LOOP, text)
    found = [
        Endpoint(host.name, address, port, host.preference, transport=transport)
        for host in kept
        for address in dict.fromkeys(host.addresses)
    ]
    if not found:
        return _nobody(hosts, kept, ranked, settings)
    usable = [
        endpoint
        for endpoint in _without_repeats(found)
        if settings.inet_protocols in ("all", _family(endpoint.ip))
    ]
    if not usable:
        families = ", ".join(sorted({_family(endpoint.ip) for endpoint in found}))
        return Failure(
            Trouble.NO_ADDRESS_FAMILY,
            f"its hosts have {families} addresses only, and inet_protocols leaves these out",
        )
    if settings.randomize_addresses:
        rng.shuffle(usable)
    usable.sort(
        key=lambda endpoint: (
            endpoint.preference,
            settings.address_preference not in ("any", _family(endpoint.ip)),
        )
    )
    return tuple(_limited(usable, settings))


def includes_ourselves(hosts: MailHosts, own: OwnNames) -> bool:
    """Whether this host is among them; such mail must not go to a fallback relay (Postfix R5)."""
    return any(_is_ourselves(host, own) for host in hosts.hosts)


def site_name(hosts: MailHosts, next_hop: NextHop) -> str:
    """The name of the site behind a next hop: equal for all next hops with the same hosts and port.

    At most 200 characters, made to be read: the host, the hosts, or what their names have in common and a
    digest.
    """
    if next_hop.path or next_hop.final:
        name = str(next_hop)
        return name if len(name) <= _LONGEST_NAME else f"{name[:180]}~{_digest([name])}"
    names = sorted({host.name.lower() for host in hosts.hosts})
    scheme = "" if next_hop.transport == "smtp" else f"{next_hop.transport}:"
    port = "" if next_hop.port is None else f":{next_hop.port}"
    return f"{scheme}{_set_name(names)}{port}"


def _is_ourselves(host: HostAddresses, own: OwnNames) -> bool:
    if host.name.lower().rstrip(".") in own.names:
        return True
    for address in host.addresses:
        if address in own.addresses:
            return True
        if not own.allow_loopback and _is_this_machine(address):
            return True
    return False


def _is_this_machine(address: str) -> bool:
    if not address.startswith("::"):
        # All of 0.0.0.0/8 means this host to one system or another.
        return address.startswith(("127.", "0."))
    parsed = ipaddress.IPv6Address(address)
    if parsed.ipv4_mapped is not None:
        return _is_this_machine(str(parsed.ipv4_mapped))
    return parsed.is_loopback or parsed.is_unspecified


def _nobody(
    hosts: MailHosts,
    kept: Sequence[HostAddresses],
    ranked: Sequence[HostAddresses],
    settings: TargetSettings,
) -> Failure:
    """Why no address is left; the most hopeful of the reasons counts."""
    troubles = [host.trouble for host in kept if host.trouble is not None]
    for wanted in (Trouble.DNS_TEMPORARY, Trouble.DNS_INVALID, Trouble.DNS_FAILED):
        for trouble in troubles:
            if trouble.trouble is wanted and (
                wanted is Trouble.DNS_TEMPORARY or len(kept) == len(ranked)
            ):
                return trouble
    if len(kept) < len(ranked):
        names = ", ".join(host.name for host in kept)
        return Failure(
            Trouble.PRIMARY_UNREACHABLE,
            f"this host is an MX host, and the better ones have no address: {names}",
        )
    text = troubles[0].text if troubles else "no host was found"
    if hosts.implicit or not ranked:
        return troubles[0] if troubles else Failure(Trouble.HOST_NOT_FOUND, text)
    text = f"none of its MX hosts has an address: {text}"
    return Failure(
        Trouble.HOST_NOT_FOUND, text, "4.4.4" if settings.defer_if_no_mx_address_found else ""
    )


def _without_repeats(endpoints: Iterable[Endpoint]) -> list[Endpoint]:
    """Each address once, where it is best."""
    seen: dict[str, Endpoint] = {}
    for endpoint in endpoints:
        seen.setdefault(endpoint.ip, endpoint)
    return list(seen.values())


def _family(address: str) -> str:
    return "ipv6" if ":" in address else "ipv4"


def _limited(endpoints: list[Endpoint], settings: TargetSettings) -> list[Endpoint]:
    """The first of the list up to the limit, with both families among them when both exist."""
    limit = settings.mx_address_limit
    if limit <= 0 or len(endpoints) <= limit:
        return endpoints
    sixes = sum(_family(endpoint.ip) == "ipv6" for endpoint in endpoints)
    fours = len(endpoints) - sixes
    if not settings.balance_inet_protocols or not sixes or not fours or limit > _MOST_BALANCED:
        return endpoints[:limit]
    half = limit // 2
    if sixes <= half:
        room = {"ipv6": sixes, "ipv4": limit - sixes}
    elif fours <= half:
        room = {"ipv4": fours, "ipv6": limit - fours}
    else:
        first = _family(endpoints[0].ip)
        other = "ipv4" if first == "ipv6" else "ipv6"
        room = {first: limit - half, other: half}
    kept: list[Endpoint] = []
    for endpoint in endpoints:
        family = _family(endpoint.ip)
        if room[family]:
            room[family] -= 1
            kept.append(endpoint)
    return kept


def _set_name(names: Sequence[str]) -> str:
    joined = ",".join(names)
    if len(joined) <= _LONGEST_LIST or (len(names) == 1 and len(joined) <= 180):
        return joined
    common = _common_domain(names)
    return f"{common[:150]}~{_digest(names)}"


def _common_domain(names: Sequence[str]) -> str:
    """The longest domain all names lie in, if it has at least two labels, else the first name."""
    labels = [name.split(".")[::-1] for name in names]
    shared: list[str] = []
    for column in zip(*labels, strict=False):
        if len(set(column)) > 1:
            break
        shared.append(column[0])
    return ".".join(reversed(shared)) if len(shared) > 1 else names[0]


def _digest(names: Iterable[str]) -> str:
    return hashlib.sha256(",".join(names).encode()).hexdigest()[:10]
