"""The lab's domains, their records, their hosts and the configuration fit together."""

import asyncio
import time
import tomllib
from pathlib import Path

import dns.asyncresolver
import dns.resolver
import pytest

from deliveryagent.lab.arrivals import Arrival
from deliveryagent.lab.behaviour import ACCEPTED, reaction
from deliveryagent.lab.domains import ADDRESSES, DOMAINS
from deliveryagent.lab.playground import Playground


def test_every_host_has_an_address_and_a_name_of_its_own() -> None:
    hosts = [host for domain in DOMAINS for host in domain.hosts]
    assert (
        len({host.number for host in hosts}) == len({h.settings.name for h in hosts}) == len(hosts)
    )


def test_every_address_that_is_shown_has_an_effect() -> None:
    plain = [address for address, _ in ADDRESSES if reaction(address) is ACCEPTED]
    assert plain == ["ok@good.test", "nobody@missing.test"]


def test_names_lead_to_hosts_that_greet_as_the_table_says(tmp_path: Path) -> None:
    async def main() -> dict[str, str]:
        greetings = {}
        async with Playground(tmp_path, clock=time.time) as lab:
            resolver = dns.asyncresolver.Resolver(configure=False)
            resolver.nameservers, resolver.port = [lab.nameserver.host], lab.nameserver.port
            for domain in DOMAINS:
                for host in domain.hosts:
                    name = host.settings.name if domain.name != "nomx.test" else domain.name
                    [address] = await resolver.resolve(name, "A")
                    greetings[name] = await _greeting(str(address), lab.port)
        return greetings

    greetings = asyncio.run(main())
    assert greetings["mx.good.test"] == "220 mx.good.test ESMTP lab"
    assert greetings["nomx.test"] == "220 host.nomx.test ESMTP lab"
    assert greetings["mx.dead.test"] == greetings["down.backup.test"] == "refused"
    assert greetings["mx.silent.test"] == "silence"
    assert greetings["mx.busy.test"].startswith("421 ")
    assert greetings["mx.refuses.test"].startswith("554 ")


async def _greeting(address: str, port: int) -> str:
    try:
        reader, writer = await asyncio.open_connection(address, port)
    except ConnectionRefusedError:
        return "refused"
    try:
        return (await asyncio.wait_for(reader.readline(), 0.3)).decode().strip()
    except TimeoutError:
        return "silence"
    finally:
        writer.close()


def test_names_fail_as_the_table_says(tmp_path: Path) -> None:
    async def main() -> list[str]:
        async with Playground(tmp_path, clock=time.time) as lab:
            resolver = dns.asyncresolver.Resolver(configure=False)
            resolver.nameservers, resolver.port = [lab.nameserver.host], lab.nameserver.port
            found = []
            for name in ("sick.test", "mute.test", "missing.test"):
                with pytest.raises(dns.exception.DNSException) as failure:
                    await resolver.resolve(name, "MX", lifetime=0.3)
                found.append(failure.typename)
            return found

    assert asyncio.run(main()) == ["NoNameservers", "LifetimeTimeout", "NXDOMAIN"]


def test_its_configuration_points_at_it(tmp_path: Path) -> None:
    async def main() -> tuple[str, int, dict[str, dict[str, object]]]:
        async with Playground(tmp_path, clock=time.time) as lab:
            config = tomllib.loads(lab.config_path.read_text(encoding="utf-8"))
            return lab.nameserver.address, lab.port, config

    address, port, config = asyncio.run(main())
    assert config["dns"]["nameservers"] == [address]
    assert config["smtp"]["port"] == port
    assert str(tmp_path) in str(config["queue"]["url"])


def test_arrivals_at_any_host_are_told(tmp_path: Path) -> None:
    told: list[str] = []

    def notify(arrival: Arrival, content: bytes) -> None:
        told.append(f"{arrival.host} {content.decode()}")

    async def main() -> None:
        async with Playground(tmp_path, clock=time.time, notify=notify) as lab:
            reader, writer = await asyncio.open_connection("127.0.0.11", lab.port)
            writer.write(
                b"EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@home.test>\r\nDATA\r\nhi\r\n.\r\nQUIT\r\n"
            )
            await reader.read()
            while not writer.is_closing() and not reader.at_eof():
                await reader.read()
            writer.close()

    asyncio.run(main())
    assert told == ["mx.home.test hi\r\n"]
    assert (tmp_path / "received" / "000001.eml").read_bytes() == b"hi\r\n"


def test_a_port_that_is_taken_is_an_error_and_leaves_nothing_open(tmp_path: Path) -> None:
    async def main() -> None:
        async with Playground(tmp_path, clock=time.time) as lab:
            with pytest.raises(OSError, match="in use"):
                async with Playground(tmp_path / "other", clock=time.time, port=lab.port):
                    raise AssertionError

    asyncio.run(main())
