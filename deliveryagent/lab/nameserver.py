"""A name server for the lab and the tests: authoritative for whatever it is told, on loopback, UDP
and TCP.

The zone is plain data: a mapping from names to lists of text records. A record is written as in a
zone file, without name and class, an own TTL in front if wanted; relative names do not exist. A
mark begins with ``!`` and makes the name misbehave, for one record type when a type follows::

    zone = {
        "good.test": ["MX 10 mx1.good.test", "MX 20 mx2.good.test", "300 TXT hello"],
        "mx1.good.test": ["A 127.0.0.2"],
        "*.many.test": ["A 127.0.0.3"],       # any name below many.test without an entry
        "alias.test": ["CNAME good.test"],    # followed inside the zone, as a resolver would
        "empty.test": [],                     # exists, has no data
        "sick.test": ["!SERVFAIL"],
        "half.test": ["A 127.0.0.4", "!SILENCE AAAA"],
        "late.test": ["!DELAY 0.2", "A 127.0.0.5"],
    }
    async with NameServer(zone) as server:
        print(server.address)    # "127.0.0.1:40123", ready for [dns] nameservers

Marks: ``SERVFAIL``, ``REFUSED``, ``FORMERR``, ``NOTIMP`` (that answer code); ``SILENCE`` (no answer
at all); ``TRUNCATE`` (UDP answers are empty with TC set, TCP answers are complete); ``GARBAGE``
(octets that are no message); ``STRANGER`` (an answer to another question, under another id);
``DELAY s`` (seconds before the answer); ``SECURE`` (the AD bit is set, as a validating resolver
would).

Guarantees: every question is kept in ``queries`` in order of arrival; a name outside the zone is
NXDOMAIN with a SOA record for negative caching (RFC 2308); answers larger than the client's UDP
size are truncated (RFC 1035 4.2.1, RFC 6891). Never asks another server, never answers from outside
its zone.
"""

import asyncio
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self, cast

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset

Zone = Mapping[str, Iterable[str]]

_RCODES = {code.name: code for code in dns.rcode.Rcode}
_BEHAVIOURS = frozenset({"SILENCE", "TRUNCATE", "GARBAGE", "STRANGER", "SECURE"})
_CHAIN_LIMIT = 32
_TCP_IDLE_LIMIT = 10.0
_NOISE = b"\xde\xad\xbe\xef not a message " * 3


class ZoneError(ValueError):
    """A record or mark of the zone cannot be understood."""


@dataclass(frozen=True)
class Query:
    """One question as it arrived: lower-case name without final dot, type such as ``MX``, ``udp``
    or ``tcp``.
    """

    name: str
    rdtype: str
    transport: str


@dataclass
class _Entry:
    """What is known of one name."""

    records: dict[dns.rdatatype.RdataType, dns.rrset.RRset] = field(default_factory=dict)
    marks: dict[str, set[str]] = field(default_factory=dict)  # mark -> types, "*" for all
    delay: float = 0.0

    def has(self, mark: str, rdtype: str) -> bool:
        types = self.marks.get(mark, ())
        return "*" in types or rdtype in types

    def rcode(self, rdtype: str) -> dns.rcode.Rcode | None:
        return next((_RCODES[m] for m in self.marks if m in _RCODES and self.has(m, rdtype)), None)


class NameServer:
    """The server, an asynchronous context manager; see the module's description.

    ``port`` 0 takes a free one, the same for UDP and TCP. ``ttl`` in seconds is for records without
    their own, ``negative_ttl`` for names and data that do not exist. Raises ``ZoneError`` for a
    zone it cannot read and ``OSError`` when the address is taken.
    """

    def __init__(
        self,
        zone: Zone,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        ttl: int = 300,
        negative_ttl: int = 60,
    ) -> None:
        self.host = host
        self.port = port
        self.queries: list[Query] = []
        self._ttl = ttl
        self._negative_ttl = negative_ttl
        self._entries: dict[dns.name.Name, _Entry] = {}
        self._udp: asyncio.DatagramTransport | None = None
        self._tcp: asyncio.Server | None = None
        self._connections: set[asyncio.Transport] = set()
        self._timers: list[asyncio.TimerHandle] = []
        for name, records in zone.items():
            self.publish(name, records)

    @property
    def address(self) -> str:
        """``host:port``, as the setting ``nameservers`` takes it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def publish(self, name: str, records: Iterable[str]) -> None:
        """Set all records and marks of one name, replacing what it had. Raises ``ZoneError``."""
        owner = _name(name)
        entry = _Entry()
        for text in records:
            if text.startswith("!"):
                _add_mark(entry, text)
            else:
                _add_record(entry, owner, text, self._ttl)
        self._entries[owner] = entry

    def withdraw(self, name: str) -> None:
        """Forget a name: from now on it does not exist."""
        self._entries.pop(_name(name), None)

    def count(self, name: str = "", rdtype: str = "") -> int:
        """How many questions came in, narrowed to a name and a type when these are given."""
        wanted = name.lower().rstrip(".")
        return sum(
            (not wanted or query.name == wanted) and (not rdtype or query.rdtype == rdtype)
            for query in self.queries
        )

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        stream, datagram = _bound_pair(self.host, self.port)
        self.port = stream.getsockname()[1]
        self._tcp = await loop.create_server(lambda: _Stream(self), sock=stream)
        udp, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self), sock=datagram)
        self._udp = udp
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for timer in self._timers:
            timer.cancel()
        for connection in self._connections:
            connection.abort()
        if self._udp is not None:
            self._udp.close()
        if self._tcp is not None:
            self._tcp.close()
            await self._tcp.wait_closed()
        await asyncio.sleep(0)

    def respond(self, wire: bytes, transport: str, write: Callable[[bytes], None]) -> None:
        """Answer one message by calling ``write`` once, now or after the name's delay, or never."""
        try:
            query = dns.message.from_wire(wire)
        except dns.exception.DNSException:
            return
        if query.flags & dns.flags.QR or len(query.question) != 1:
            return
        question = query.question[0]
        rdtype = dns.rdatatype.to_text(question.rdtype)
        name = question.name.to_text(omit_final_dot=True).lower()
        self.queries.append(Query(name, rdtype, transport))
        entry = self._find(question.name)
        if entry is not None and entry.has("SILENCE", rdtype):
            return
        answer = self._compose(query, entry, transport)
        if entry is None or not entry.delay:
            write(answer)
            return
        loop = asyncio.get_running_loop()
        self._timers.append(loop.call_later(entry.delay, write, answer))

    def _find(self, name: dns.name.Name) -> _Entry | None:
        """The entry of a name, or of the closest ``*`` above it."""
        entry = self._entries.get(name)
        while entry is None and name != dns.name.root:
            name = name.parent()
            entry = self._entries.get(dns.name.Name((b"*", *name.labels)))
        return entry

    def _compose(self, query: dns.message.Message, entry: _Entry | None, transport: str) -> bytes:
        """The octets of the answer to a well-formed question."""
        question = query.question[0]
        rdtype = dns.rdatatype.to_text(question.rdtype)
        response = dns.message.make_response(query, recursion_available=True)
        response.flags |= dns.flags.AA
        limit = max(query.payload, 512) if transport == "udp" else 65535
        if entry is not None:
            if entry.has("GARBAGE", rdtype):
                return _NOISE
            if entry.has("STRANGER", rdtype):
                return _stranger(query)
            code = entry.rcode(rdtype)
            if code is not None:
                response.set_rcode(code)
                return response.to_wire()
            if entry.has("SECURE", rdtype):
                response.flags |= dns.flags.AD
            if entry.has("TRUNCATE", rdtype) and transport == "udp":
                limit = 0
        self._fill(response, question.name, question.rdtype)
        try:
            if limit:
                return response.to_wire(max_size=limit)
        except dns.exception.TooBig:
            pass
        response.answer.clear()
        response.authority.clear()
        response.flags |= dns.flags.TC
        return response.to_wire()

    def _fill(
        self, response: dns.message.Message, name: dns.name.Name, rdtype: dns.rdatatype.RdataType
    ) -> None:
        """Put the records in, following aliases inside the zone; a SOA where there are none."""
        seen: set[dns.name.Name] = set()
        while name not in seen and len(seen) < _CHAIN_LIMIT:
            seen.add(name)
            entry = self._find(name)
            if entry is None:
                response.set_rcode(dns.rcode.NXDOMAIN)
                break
            found = entry.records.get(rdtype)
            if found is not None:
                response.answer.append(_owned(found, name))
                return
            alias = entry.records.get(dns.rdatatype.CNAME)
            if alias is None:
                break
            response.answer.append(_owned(alias, name))
            name = alias[0].target
        else:
            return
        zone = dns.name.Name(name.labels[-2:]) if len(name.labels) > 2 else name
        text = f"ns.invalid. nobody.invalid. 1 3600 600 86400 {self._negative_ttl}"
        response.authority.append(dns.rrset.from_text(zone, self._negative_ttl, "IN", "SOA", text))


def _name(text: str) -> dns.name.Name:
    try:
        return dns.name.from_text(text.lower())
    except dns.exception.DNSException as error:
        raise ZoneError(f'"{text}" is no name: {error}') from error


def _add_mark(entry: _Entry, text: str) -> None:
    word, *rest = text[1:].split()
    if word == "DELAY" and len(rest) == 1:
        entry.delay = float(rest[0])
    elif word in _BEHAVIOURS or word in _RCODES:
        entry.marks.setdefault(word, set()).update(rest or ["*"])
    else:
        raise ZoneError(f'"{text}" is no mark')


def _add_record(entry: _Entry, owner: dns.name.Name, text: str, ttl: int) -> None:
    """Parse ``[ttl] TYPE data``; names inside the data are absolute with or without their final
    dot.
    """
    first, _, rest = text.partition(" ")
    if first.isdigit():
        ttl = int(first)
        first, _, rest = rest.partition(" ")
    try:
        rdtype = dns.rdatatype.from_text(first)
        rdata = dns.rdata.from_text(
            dns.rdataclass.IN, rdtype, rest, origin=dns.name.root, relativize=False
        )
    except dns.exception.DNSException as error:
        raise ZoneError(f'"{text}" of {owner} is no record: {error}') from error
    if rdtype not in entry.records:
        entry.records[rdtype] = dns.rrset.RRset(owner, dns.rdataclass.IN, rdtype)
    entry.records[rdtype].add(rdata, ttl)


def _owned(records: dns.rrset.RRset, name: dns.name.Name) -> dns.rrset.RRset:
    """The same records under the name that was asked for (they differ below a ``*``)."""
    if records.name == name:
        return records
    return dns.rrset.from_rdata_list(name, records.ttl, list(records))


def _stranger(query: dns.message.Message) -> bytes:
    other = dns.message.make_query("stranger.invalid.", "A", id=(query.id + 1) & 0xFFFF)
    response = dns.message.make_response(other)
    response.answer.append(dns.rrset.from_text("stranger.invalid.", 60, "IN", "A", "127.0.0.66"))
    return response.to_wire()


def _bound_pair(host: str, port: int) -> tuple[socket.socket, socket.socket]:
    """A TCP and a UDP socket on the same port; a free port is tried again when only one of them was
    free.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for last in (False,) * 9 + (True,):
        stream = socket.socket(family, socket.SOCK_STREAM)
        datagram = socket.socket(family, socket.SOCK_DGRAM)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            stream.bind((host, port))
            datagram.bind((host, stream.getsockname()[1]))
        except OSError:
            stream.close()
            datagram.close()
            if port or last:
                raise
        else:
            stream.setblocking(False)
            datagram.setblocking(False)
            return stream, datagram
    raise AssertionError


class _Datagrams(asyncio.DatagramProtocol):
    """The UDP side."""

    def __init__(self, server: NameServer) -> None:
        self._server = server
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        transport = self._transport
        if transport is not None:
            self._server.respond(data, "udp", lambda answer: transport.sendto(answer, addr))


class _Stream(asyncio.Protocol):
    """The TCP side: messages behind their length (RFC 7766), each answered when it is ready."""

    def __init__(self, server: NameServer) -> None:
        self._server = server
        self._buffer = b""
        self._idle: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._server._connections.add(self._transport)  # noqa: SLF001 - the two halves of one server
        loop = asyncio.get_running_loop()
        self._idle = loop.call_later(_TCP_IDLE_LIMIT, self._transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's name
        self._server._connections.discard(self._transport)  # noqa: SLF001
        if self._idle is not None:
            self._idle.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= 2:
            end = 2 + int.from_bytes(self._buffer[:2], "big")
            if len(self._buffer) < end:
                return
            message, self._buffer = self._buffer[2:end], self._buffer[end:]
            self._server.respond(message, "tcp", self._write)

    def _write(self, answer: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(len(answer).to_bytes(2, "big") + answer)
