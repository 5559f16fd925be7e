"""The domains of the lab: what each is for, its records, and the hosts behind it.

One table feeds the name server's zone, the hosts that are started and the text people read. Every
host has a loopback address of its own, ``127.0.0.N``, so that all can listen on the same port, as
real ones do on 25.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from deliveryagent.lab.session import KEYWORDS, HostSettings


@dataclass(frozen=True, kw_only=True)
class LabHost:
    """A host: its place ``N`` in 127.0.0.N and its manners. Nothing listens where a host is
    ``dead``.

    ``tls`` hosts offer STARTTLS where a certificate could be made.
    """

    number: int
    settings: HostSettings
    dead: bool = False
    tls: bool = False

    @property
    def address(self) -> str:
        """Its address on loopback."""
        return f"127.0.0.{self.number}"


@dataclass(frozen=True, kw_only=True)
class LabDomain:
    """A recipient domain: ``records`` as ``lab.nameserver`` takes them, for the domain itself."""

    name: str
    meaning: str
    records: tuple[str, ...]
    hosts: tuple[LabHost, ...] = ()

    def zone(self) -> dict[str, Sequence[str]]:
        """The records of the domain and of its hosts."""
        hosts = {host.settings.name: (f"A {host.address}",) for host in self.hosts}
        return {**hosts, self.name: self.records}


DOMAINS: tuple[LabDomain, ...] = (
    LabDomain(
        name="good.test",
        meaning="takes everything, and fails where the address says so",
        records=("MX 10 mx.good.test",),
        hosts=(LabHost(number=10, settings=HostSettings(name="mx.good.test")),),
    ),
    LabDomain(
        name="home.test",
        meaning="where the lab's own people live; reports come back here",
        records=("MX 10 mx.home.test",),
        hosts=(LabHost(number=11, settings=HostSettings(name="mx.home.test")),),
    ),
    LabDomain(
        name="backup.test",
        meaning="first MX is dead, the second takes everything",
        records=("MX 10 down.backup.test", "MX 20 mx2.backup.test"),
        hosts=(
            LabHost(number=12, settings=HostSettings(name="down.backup.test"), dead=True),
            LabHost(number=13, settings=HostSettings(name="mx2.backup.test")),
        ),
    ),
    LabDomain(
        name="secure.test",
        meaning="offers STARTTLS, with a certificate nobody vouches for",
        records=("MX 10 mx.secure.test",),
        hosts=(LabHost(number=14, settings=HostSettings(name="mx.secure.test"), tls=True),),
    ),
    LabDomain(
        name="plain.test",
        meaning="a host without any extension",
        records=("MX 10 mx.plain.test",),
        hosts=(LabHost(number=15, settings=HostSettings(name="mx.plain.test", keywords=())),),
    ),
    LabDomain(
        name="urgent.test",
        meaning="knows priorities, and deadlines from 5 seconds on",
        records=("MX 10 mx.urgent.test",),
        hosts=(
            LabHost(
                number=22,
                settings=HostSettings(
                    name="mx.urgent.test", keywords=(*KEYWORDS, "MT-PRIORITY", "DELIVERBY 5")
                ),
            ),
        ),
    ),
    LabDomain(
        name="small.test",
        meaning="takes messages up to 10 kB",
        records=("MX 10 mx.small.test",),
        hosts=(LabHost(number=16, settings=HostSettings(name="mx.small.test", size_limit=10_000)),),
    ),
    LabDomain(
        name="nomx.test",
        meaning="no MX record: its own address is used",
        records=("A 127.0.0.17",),
        hosts=(LabHost(number=17, settings=HostSettings(name="host.nomx.test")),),
    ),
    LabDomain(
        name="busy.test",
        meaning="greets with 421, too busy",
        records=("MX 10 mx.busy.test",),
        hosts=(
            LabHost(
                number=18,
                settings=HostSettings(
                    name="mx.busy.test", greeting="421 4.3.2 {name} is too busy, come back later"
                ),
            ),
        ),
    ),
    LabDomain(
        name="refuses.test",
        meaning="greets with 554, talks to nobody",
        records=("MX 10 mx.refuses.test",),
        hosts=(
            LabHost(
                number=19,
                settings=HostSettings(
                    name="mx.refuses.test", greeting="554 5.7.1 {name} has no business with you"
                ),
            ),
        ),
    ),
    LabDomain(
        name="silent.test",
        meaning="accepts connections and never says a word",
        records=("MX 10 mx.silent.test",),
        hosts=(LabHost(number=20, settings=HostSettings(name="mx.silent.test", greeting="")),),
    ),
    LabDomain(
        name="dead.test",
        meaning="nothing listens behind its only MX",
        records=("MX 10 mx.dead.test",),
        hosts=(LabHost(number=21, settings=HostSettings(name="mx.dead.test"), dead=True),),
    ),
    LabDomain(
        name="null.test",
        meaning="null MX: wants no mail at all (RFC 7505)",
        records=("MX 0 .",),
    ),
    LabDomain(
        name="sick.test",
        meaning="its name server answers SERVFAIL",
        records=("!SERVFAIL",),
    ),
    LabDomain(
        name="mute.test",
        meaning="its name server never answers",
        records=("!SILENCE",),
    ),
)

ADDRESSES: tuple[tuple[str, str], ...] = (
    ("ok@good.test", "delivered, as is any name not below"),
    ("greylist@good.test", "450 at first, taken on the second try; greylist-20s@ after 20 seconds"),
    ("550@good.test", "refused at RCPT: any 4xx or 5xx, also 452@, 550-5.7.1@"),
    ("421@good.test", "421 at RCPT, then the connection is closed"),
    ("data-451@good.test", "refused at DATA, with any code"),
    ("dot-554@good.test", "refused after the content, with any code"),
    ("slow@good.test", "takes a second for RCPT and for the final dot; slow-3s@ takes three"),
    ("timeout@good.test", "no answer to RCPT; timeout-dot@ none to the final dot"),
    ("drop@good.test", "connection lost at RCPT; drop-dot@ after the final dot"),
    ("nobody@missing.test", "a domain that does not exist"),
)
"""Addresses with their effect; every domain with a talking host has them."""
