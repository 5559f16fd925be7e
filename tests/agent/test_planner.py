"""Plans: where to dial, which idle sessions will do, and when to plan anew."""

import asyncio
import random
from collections.abc import Awaitable, Callable

from deliveryagent.agent.clients import Clients
from deliveryagent.agent.planner import Plan, Planner
from deliveryagent.agent.worker_settings import WorkerSettings
from deliveryagent.lab.nameserver import NameServer
from deliveryagent.mail.delivery import Failure, Trouble
from deliveryagent.mail.nexthop import parse_next_hops
from deliveryagent.policy.targets import LoopSettings
from deliveryagent.resolver.lookup import Resolver
from deliveryagent.resolver.settings import ResolverSettings

ZONE = {
    "example.net": ["MX 10 a.test", "MX 10 b.test", "MX 20 c.test"],
    "other.test": ["MX 5 b.test", "MX 5 a.test", "MX 9 c.test"],
    "a.test": ["A 192.0.2.1"],
    "b.test": ["A 192.0.2.2"],
    "c.test": ["A 192.0.2.3"],
    "mine.test": ["MX 10 a.test", "MX 20 me.example"],
    "me.example": ["A 192.0.2.9"],
}


def run(story: Callable[[Planner, Clients], Awaitable[None]]) -> None:
    async def go() -> None:
        async with NameServer(ZONE) as names:
            resolver = Resolver(ResolverSettings(nameservers=(names.address,)))
            loop = LoopSettings(inet_interfaces=("192.0.2.250",))
            clients = Clients(WorkerSettings(hostname="me.example", loop=loop))
            await story(Planner(resolver, random.Random(3)), clients)
            await resolver.close()

    asyncio.run(go())


async def planned(planner: Planner, clients: Clients, text: str) -> Plan | Failure:
    (hop,) = parse_next_hops(text)
    return await planner.plan(hop, clients.of(-1, hop.transport))


def test_a_plan_leads_to_every_host_and_reuses_sessions_to_the_best() -> None:
    async def story(planner: Planner, clients: Clients) -> None:
        plan = await planned(planner, clients, "example.net")
        assert isinstance(plan, Plan)
        ips = [endpoint.ip for endpoint in plan.endpoints()]
        assert set(ips[:2]) == {"192.0.2.1", "192.0.2.2"}
        assert ips[2] == "192.0.2.3"
        assert (plan.best, plan.are_mx) == (10, False)
        firsts = {plan.keys()[0] for _ in range(4)}
        assert firsts == set(plan.keys())
        assert len(firsts) == 2

    run(story)


def test_a_plan_is_made_once_per_answer() -> None:
    async def story(planner: Planner, clients: Clients) -> None:
        first = await planned(planner, clients, "example.net")
        assert await planned(planner, clients, "example.net") is first
        assert await planned(planner, clients, "example.net:26") is not first

    run(story)


def test_our_own_place_among_the_hosts_is_known() -> None:
    async def story(planner: Planner, clients: Clients) -> None:
        plan = await planned(planner, clients, "mine.test")
        assert isinstance(plan, Plan)
        assert plan.are_mx
        assert [endpoint.ip for endpoint in plan.endpoints()] == ["192.0.2.1"]
        chosen = await planned(planner, clients, "[me.example]")
        assert isinstance(chosen, Plan)
        assert not chosen.are_mx

    run(story)


def test_a_next_hop_without_hosts_is_a_failure() -> None:
    async def story(planner: Planner, clients: Clients) -> None:
        failure = await planned(planner, clients, "nowhere.test")
        assert isinstance(failure, Failure)
        assert failure.trouble is Trouble.HOST_NOT_FOUND

    run(story)


def test_a_socket_is_a_plan_of_its_own() -> None:
    async def story(planner: Planner, clients: Clients) -> None:
        plan = await planned(planner, clients, "lmtp:unix:/run/lmtp")
        assert isinstance(plan, Plan)
        (endpoint,) = plan.endpoints()
        assert (endpoint.path, endpoint.ip) == ("/run/lmtp", "")
        assert len(plan.keys()) == 1

    run(story)


def test_domains_with_the_same_hosts_are_one_site() -> None:
    async def story(planner: Planner, clients: Clients) -> None:
        client = clients.of(-1, "smtp")
        names = set()
        for domain in ("example.net", "other.test"):
            name, ttl, _ = await planner.site(parse_next_hops(domain)[0], client)
            names.add(name)
            assert 0 < ttl <= 3600
        assert names == {"a.test,b.test,c.test"}
        assert (await planner.site(parse_next_hops("nowhere.test")[0], client))[0] == ""

    run(story)


def test_a_plan_is_known_as_long_as_the_answer_holds() -> None:
    async def story(planner: Planner, clients: Clients) -> None:
        (hop,) = parse_next_hops("example.net")
        client = clients.of(-1, "smtp")
        assert planner.known(hop, client) is None
        plan = await planner.plan(hop, client)
        assert isinstance(plan, Plan)
        assert planner.known(hop, client) is plan
        assert all(map(plan.leads_to, plan.keys()))
        assert not plan.leads_to("elsewhere")
        planner.clock = lambda: plan.until
        assert planner.known(hop, client) is None
        (nowhere,) = parse_next_hops("nowhere.test")
        assert isinstance(await planner.plan(nowhere, client), Failure)
        assert planner.known(nowhere, client) is None
        (path,) = parse_next_hops("lmtp:unix:/run/x")
        await planner.plan(path, clients.of(-1, "lmtp"))
        assert planner.known(path, clients.of(-1, "lmtp")) is not None

    run(story)
