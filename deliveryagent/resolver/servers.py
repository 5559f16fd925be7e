"""Questions to name servers, over dnspython: every way an answer can come or fail is one value.

Guarantees: nothing raises but cancelling; a definite "there is none" (NXDOMAIN, no data) is never
confused with "nobody knows now" (SERVFAIL, REFUSED, silence, rubbish), for the first may bounce
mail and the second may not; at most ``RECORDS_KEPT`` records of an answer and ``PARALLEL``
questions at a time. A truncated answer is asked for again over TCP. Never remembers answers
(``resolver.cache`` does), never follows search lists.

References: RFC 1035, RFC 2308 (negative answers), RFC 2181 5.4.1, RFC 6840 5.7 (the AD bit in a
question).
"""

import asyncio
import ipaddress
import os
from enum import Enum
from pathlib import Path
from typing import Literal

import dns.asyncresolver
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.nameserver
import dns.resolver
import msgspec

from deliveryagent.mail.delivery import Failure, Trouble

RECORDS_KEPT = 100
PARALLEL = 100
SYSTEM_FILE = Path("/etc/resolv.conf")
_LOOK_AGAIN = 5.0  # seconds between two looks at the system's file
_UNSTATED_TTL = 60.0

RecordType = Literal["MX", "A", "AAAA"]


class Standing(Enum):
    """What an answer amounts to."""

    FOUND = "found"
    NO_DATA = "no data"  # the name exists, definitely without such a record
    NO_NAME = "no name"  # definitely no such name
    FAILED = "failed"  # nothing is known


class Answer(msgspec.Struct, frozen=True):
    """The answer to one question.

    ``records`` are (preference, exchange) of MX records, (0, address) of others; an exchange is
    lower case without its final dot, empty for the root. ``failure`` is set when ``standing`` is
    FAILED. ``ttl`` is in seconds as stated, or a plain guess. ``secure`` is the AD bit.
    """

    standing: Standing
    records: tuple[tuple[int, str], ...] = ()
    failure: Failure | None = None
    ttl: float = _UNSTATED_TTL
    secure: bool = False


def parse_server(text: str) -> tuple[str, int]:
    """Address and port of a name server: ``192.0.2.1``, ``192.0.2.1:53``, ``::1``, ``[::1]:53``.

    Raises ``ValueError``.

    >>> parse_server("127.0.0.1:5353"), parse_server("::1"), parse_server("[::1]:5353")
    (('127.0.0.1', 5353), ('::1', 53), ('::1', 5353))
    """
    host, port = text.strip(), "53"
    if host.startswith("["):
        host, bracket, rest = host[1:].partition("]")
        port = rest.removeprefix(":") or port if bracket else ""
    elif host.count(":") == 1:
        host, _, port = host.partition(":")
    try:
        address, number = str(ipaddress.ip_address(host)), int(port)
    except ValueError:
        number = 0
    if not 1 <= number <= 65535:
        raise ValueError(
            f'"{text}" is no name server; write "192.0.2.1", "192.0.2.1:5353" or "[2001:db8::1]:53"'
        )
    return address, number


class NameServers:
    """The name servers of one configuration; an empty list means the system's."""

    def __init__(
        self,
        servers: tuple[str, ...],
        *,
        timeout: float,
        attempts: int,
        ask_secure: bool = False,
        system_file: Path = SYSTEM_FILE,
    ) -> None:
        self._fixed = [parse_server(text) for text in servers]
        self._timeout = timeout
        self._attempts = max(1, attempts)
        self._ask_secure = ask_secure
        self._system_file = system_file
        self._stamp = 0
        self._looked = float("-inf")
        self._room = asyncio.Semaphore(PARALLEL)
        self._resolver = self._configured(self._fixed or self._of_system())

    async def ask(self, name: str, kind: RecordType) -> Answer:
        """Ask for the records of a name (any text; one that cannot exist in DNS is DNS_INVALID)."""
        try:
            question = dns.name.from_text(name, dns.name.root)
        except (dns.exception.DNSException, UnicodeError) as error:
            return _failed(Trouble.DNS_INVALID, f'"{name}" cannot be a domain name: {error}')
        async with self._room:
            self._follow_system()
            resolver = self._resolver
            try:
                answer = await resolver.resolve(
                    question, kind, raise_on_no_answer=False, lifetime=resolver.lifetime
                )
            except dns.resolver.NXDOMAIN as error:
                return _absent(error)
            except dns.resolver.YXDOMAIN:
                text = f"the alias of {name} leads to a name that is too long"
                return _failed(Trouble.DNS_INVALID, text)
            except dns.resolver.NoNameservers as error:
                return _refused(name, kind, error)
            except dns.exception.Timeout:
                text = f"{kind} lookup of {name}: no answer within {resolver.lifetime:g} s"
                return _failed(Trouble.DNS_TEMPORARY, text)
            except (dns.exception.DNSException, OSError, EOFError, ValueError) as error:
                text = f"{kind} lookup of {name} failed: {type(error).__name__}"
                return _failed(Trouble.DNS_TEMPORARY, text)
        self._prefer(resolver, answer)
        return _understood(name, kind, answer)

    def _prefer(self, resolver: dns.asyncresolver.Resolver, answer: dns.resolver.Answer) -> None:
        """Ask the server that answered first from now on; one that is down costs its limit once."""
        servers = list(resolver.nameservers)
        for server in servers[1:]:
            if (
                isinstance(server, dns.nameserver.Do53Nameserver)
                and server.address == answer.nameserver
                and server.port == answer.port
            ):
                servers.remove(server)
                resolver.nameservers = [server, *servers]
                return

    def _follow_system(self) -> None:
        """Read the system's file again when it was changed."""
        if self._fixed:
            return
        now = asyncio.get_running_loop().time()
        if now - self._looked < _LOOK_AGAIN:
            return
        self._looked = now
        if self._stamp_of_system() != self._stamp:
            self._resolver = self._configured(self._of_system())

    def _stamp_of_system(self) -> int:
        try:
            return os.stat(self._system_file).st_mtime_ns  # noqa: PTH116 - no object per look
        except OSError:
            return 0

    def _of_system(self) -> list[tuple[str, int]]:
        self._stamp = self._stamp_of_system()
        reader = dns.resolver.Resolver(configure=False)
        try:
            reader.read_resolv_conf(str(self._system_file))
        except (dns.exception.DNSException, OSError, ValueError):
            return [("127.0.0.1", 53)]  # what resolv.conf(5) says of a missing file
        return [(str(server), 53) for server in reader.nameservers]

    def _configured(self, servers: list[tuple[str, int]]) -> dns.asyncresolver.Resolver:
        resolver = dns.asyncresolver.Resolver(configure=False)
        resolver.nameservers = [dns.nameserver.Do53Nameserver(*server) for server in servers]
        resolver.timeout = self._timeout
        resolver.lifetime = self._timeout * self._attempts * len(servers)
        resolver.cache = None
        if self._ask_secure:
            resolver.flags = dns.flags.RD | dns.flags.AD
        return resolver


def _failed(trouble: Trouble, text: str) -> Answer:
    return Answer(Standing.FAILED, failure=Failure(trouble, text))


def _absent(error: dns.resolver.NXDOMAIN) -> Answer:
    ttl, secure = _UNSTATED_TTL, False
    responses: dict[dns.name.Name, dns.message.QueryMessage] = error.kwargs["responses"]
    for response in responses.values():
        secure = bool(response.flags & dns.flags.AD)
        try:
            ttl = float(response.resolve_chaining().minimum_ttl)
        except dns.exception.DNSException:
            continue
    return Answer(Standing.NO_NAME, ttl=ttl, secure=secure)


def _refused(name: str, kind: RecordType, error: dns.resolver.NoNameservers) -> Answer:
    """No server gave an answer that can be used; why decides whether one ever will.

    Only FORMERR and NOTIMP say something about the question. REFUSED, like SERVFAIL, says something
    about the server, usually about our own.
    """
    reasons: list[str] = []
    for server, _, _, problem, response in error.kwargs["errors"]:
        if response is not None and isinstance(problem, str):
            reason = problem
        elif isinstance(problem, OSError) and problem.strerror:
            reason = problem.strerror.lower()
        else:
            reason = "unusable answer"
        reasons.append(f"{reason} ({str(server).removeprefix('Do53:').replace('@', ' port ')})")
    hopeless = bool(reasons) and all(r.startswith(("FORMERR ", "NOTIMP ")) for r in reasons)
    text = f"{kind} lookup of {name}: {', '.join(dict.fromkeys(reasons)) or 'no name server'}"
    return _failed(Trouble.DNS_FAILED if hopeless else Trouble.DNS_TEMPORARY, text)


def _understood(name: str, kind: RecordType, answer: dns.resolver.Answer) -> Answer:
    secure = bool(answer.response.flags & dns.flags.AD)
    ttl = float(answer.chaining_result.minimum_ttl)
    if answer.rrset is None:
        return Answer(Standing.NO_DATA, ttl=ttl, secure=secure)
    if kind == "MX":
        found = sorted((data.preference, _exchange(data.exchange)) for data in answer.rrset)
        records = [(preference, host) for preference, host in found if host is not None]
        if not records:
            text = f"no MX record of {name} has a possible host name"
            return _failed(Trouble.DNS_INVALID, text)
    else:
        records = [(0, str(data.address)) for data in answer.rrset]
    return Answer(Standing.FOUND, tuple(records[:RECORDS_KEPT]), ttl=ttl, secure=secure)


def _exchange(target: dns.name.Name) -> str | None:
    """The target of an MX record as text; None when no host can have that name."""
    if target == dns.name.root:
        return ""
    text = target.to_text(omit_final_dot=True).lower()
    return text if possible(text) else None


_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_")


def possible(name: str) -> bool:
    """Whether a lower-case name can be a host or mail domain: labels of letters, digits, ``-``,
    ``_``.
    """
    labels = name.split(".")
    return len(name) <= 253 and all(0 < len(x) <= 63 and _LETTERS.issuperset(x) for x in labels)
