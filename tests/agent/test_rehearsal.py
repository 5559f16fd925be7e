"""The way of an address, tried for real against hosts on loopback."""

import asyncio
import random
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from deliveryagent.agent.rehearsal import Probe, Rehearsal
from deliveryagent.agent.worker_settings import ClientSettings, WorkerSettings
from deliveryagent.lab.certificate import self_signed
from deliveryagent.lab.nameserver import NameServer
from deliveryagent.lab.receiver import Receiver
from deliveryagent.lab.session import HostSettings
from deliveryagent.policy.routing import Router, RouteSettings
from deliveryagent.policy.targets import LoopSettings
from deliveryagent.resolver.settings import ResolverSettings
from deliveryagent.setting import Duration

MX = {"example.net": ["MX 10 mx1.example.net.", "MX 20 mx2.example.net."]}
HOSTS = {"mx1.example.net": ["A 127.0.0.21"], "mx2.example.net": ["A 127.0.0.22"]}


@dataclass(kw_only=True)
class World:
    """Names and hosts; each host listens on its address at one common port."""

    zone: Mapping[str, Sequence[str]] = field(default_factory=lambda: {**MX, **HOSTS})
    hosts: Mapping[str, HostSettings] = field(default_factory=dict)
    routes: Sequence[RouteSettings] = ()
    smtp: Mapping[str, Any] = field(default_factory=dict)
    loop: LoopSettings = field(
        default_factory=lambda: LoopSettings(loopback_mx=True, inet_interfaces=("127.0.0.1",))
    )

    def probe(self, address: str = "kim@example.net", *, rcpt: bool = False) -> Probe:
        return asyncio.run(self._probe(address, rcpt=rcpt))

    async def _probe(self, address: str, *, rcpt: bool) -> Probe:
        async with AsyncExitStack() as stack:
            names = await stack.enter_async_context(NameServer(dict(self.zone)))
            port = 0
            for ip, host in self.hosts.items():
                receiver = Receiver(host, host=ip, port=port)
                port = (await stack.enter_async_context(receiver)).port
            client = replace(
                ClientSettings(port=port or 1, connect_timeout=Duration(2.0)), **self.smtp
            )
            settings = WorkerSettings(
                hostname="mail.example.org",
                dns=ResolverSettings(nameservers=(names.address,)),
                loop=self.loop,
                smtp=client,
                routes=tuple((client, WorkerSettings(hostname="x").lmtp) for _ in self.routes),
            )
            rehearsal = Rehearsal(settings, Router(self.routes), rng=random.Random(1))
            try:
                return await rehearsal.probe(address, sender="shop@example.org", rcpt=rcpt)
            finally:
                await rehearsal.close()


def test_the_best_host_is_dialled_and_tells_what_it_offers() -> None:
    found = World(hosts={"127.0.0.21": HostSettings(name="mx1.example.net")}).probe()
    assert found.ready
    assert found.next_hop == "example.net"
    (way,) = found.ways
    assert [(host.name, host.preference, host.addresses) for host in way.hosts] == [
        ("mx1.example.net", 10, ("127.0.0.21",)),
        ("mx2.example.net", 20, ("127.0.0.22",)),
    ]
    (probe,) = way.probes
    assert (probe.host, probe.ip, probe.outcome) == ("mx1.example.net", "127.0.0.21", None)
    assert "PIPELINING" in probe.offers
    assert found.verdict.startswith("a message would be handed to mx1.example.net[127.0.0.21]:")


def test_a_dead_host_leads_to_the_next_one() -> None:
    found = World(hosts={"127.0.0.22": HostSettings(name="mx2.example.net")}).probe()
    first, second = found.ways[0].probes
    assert first.outcome is not None
    assert (first.outcome.stage, first.ready) == ("connect", False)
    assert first.verdict == "the next host is tried"
    assert second.ready
    assert found.ready


def test_when_nobody_answers_it_would_be_tried_again() -> None:
    found = World().probe()
    assert not found.ready
    assert found.verdict == "no host takes a message now; it would be tried again later"


def test_the_recipient_is_asked_about_only_when_wished() -> None:
    world = World(hosts={"127.0.0.21": HostSettings(name="mx1.example.net")})
    address = "550@example.net"
    assert world.probe(address).ready
    found = world.probe(address, rcpt=True)
    assert not found.ready
    said = found.ways[0].probes[-1].outcome
    assert said is not None
    assert (said.stage, said.code) == ("rcpt", 550)
    assert found.verdict == "no host takes a message now; it would be returned to its sender"


def test_an_accepted_recipient_is_told_with_the_answer() -> None:
    world = World(hosts={"127.0.0.21": HostSettings(name="mx1.example.net")})
    found = world.probe(rcpt=True)
    said = found.ways[0].probes[0].outcome
    assert said is not None
    assert (found.ready, said.stage, said.code) == (True, "rcpt", 250)


def test_tls_is_used_when_offered() -> None:
    context = self_signed(["mx1.example.net"])
    if context is None:
        pytest.skip("no way to make a certificate here")
    host = HostSettings(name="mx1.example.net", tls=context)
    found = World(hosts={"127.0.0.21": host}).probe()
    assert found.ways[0].probes[0].tls.startswith("TLSv1")
    assert (found.tls_level, found.tls_reason) == ("may", "default")


def test_demanded_tls_that_nobody_offers_stops_the_mail() -> None:
    world = World(
        hosts={"127.0.0.21": HostSettings(name="mx1.example.net")},
        smtp={"tls_security_level": "encrypt"},
    )
    first = world.probe().ways[0].probes[0]
    assert first.outcome is not None
    assert (first.ready, first.outcome.stage) == (False, "starttls")


def test_a_null_mx_would_bounce() -> None:
    found = World(zone={"example.net": ["MX 0 ."]}).probe()
    assert not found.ready
    assert "5.1.10" in found.verdict
    assert found.verdict.endswith("it would be returned to its sender")


def test_a_name_service_in_trouble_means_later() -> None:
    found = World(zone={"example.net": ["!SERVFAIL"]}).probe()
    assert not found.ready
    assert found.verdict.endswith("it would be tried again later")


@pytest.mark.parametrize(
    ("nexthop", "ready", "verdict"),
    [
        (
            "error:5.1.1 gone",
            False,
            "a route decides: 5.1.1 gone; it would be returned to its sender",
        ),
        ("hold:wait", False, "a route decides: 4.3.0 wait; it would be put on hold"),
        ("discard:", True, "a route decides: 2.0.0 discarded by a route; it would be taken"),
    ],
)
def test_routes_that_decide_by_themselves(nexthop: str, ready: bool, verdict: str) -> None:
    route = RouteSettings(match=("example.net",), nexthop=nexthop)
    found = World(routes=[route]).probe()
    assert (found.route, found.ready, found.verdict) == (0, ready, verdict)


def test_alternatives_are_tried_in_order() -> None:
    route = RouteSettings(match=("*",), nexthop="nowhere.example, example.net")
    world = World(hosts={"127.0.0.21": HostSettings(name="mx1.example.net")}, routes=[route])
    found = world.probe("kim@elsewhere.example")
    assert [way.next_hop for way in found.ways] == ["nowhere.example", "example.net"]
    assert found.ways[0].outcome is not None
    assert found.ready


def test_mail_that_loops_back_takes_the_best_mx_transport() -> None:
    zone = {"example.net": ["MX 10 mail.example.org."], "mail.example.org": ["A 127.0.0.21"]}
    loop = LoopSettings(loopback_mx=True, inet_interfaces=("127.0.0.1",))
    lost = World(zone=zone, loop=loop, smtp={"port": 25}).probe()
    assert "5.4.6" in lost.verdict
    caught = World(
        zone=zone, loop=replace(loop, best_mx_transport="error:5.1.1 local"), smtp={"port": 25}
    ).probe()
    assert caught.verdict.startswith("a route decides: 5.1.1 local")


def test_a_greeting_that_refuses_leads_on() -> None:
    world = World(
        hosts={
            "127.0.0.21": HostSettings(name="mx1", greeting="554 go away"),
            "127.0.0.22": HostSettings(name="mx2.example.net"),
        }
    )
    found = world.probe()
    first, second = found.ways[0].probes
    assert first.outcome is not None
    assert (first.outcome.stage, first.outcome.code) == ("greeting", 554)
    assert second.ready
