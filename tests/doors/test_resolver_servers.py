"""Name servers: how they are written, and what the system's file says."""

import asyncio
import os
from pathlib import Path

import pytest

from deliveryagent.lab.nameserver import NameServer
from deliveryagent.mail.delivery import Trouble
from deliveryagent.resolver import servers
from deliveryagent.resolver.servers import NameServers, Standing, parse_server, possible


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("192.0.2.1", ("192.0.2.1", 53)),
        ("192.0.2.1:5353", ("192.0.2.1", 5353)),
        ("::1", ("::1", 53)),
        ("[::1]", ("::1", 53)),
        ("[2001:DB8::1]:5353", ("2001:db8::1", 5353)),
    ],
)
def test_name_servers_are_read(text: str, expected: tuple[str, int]) -> None:
    assert parse_server(text) == expected


@pytest.mark.parametrize(
    "text", ["", "ns.example.org", "192.0.2.1:", "192.0.2.1:0", "192.0.2.1:65536", "[::1", "[::1]x"]
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no name server"):
        parse_server(text)


@pytest.mark.parametrize("name", ["a", "a-b.c_d.test", "x" * 63 + ".test", "1.2"])
def test_names_that_can_exist(name: str) -> None:
    assert possible(name)


@pytest.mark.parametrize("name", ["", ".", "a.", "a..b", "x" * 64, "A.test", "a b", "a\\b", "é"])
def test_names_that_cannot(name: str) -> None:
    assert not possible(name)


def test_the_systems_file_is_followed_when_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "_LOOK_AGAIN", 0.0)
    path = tmp_path / "resolv.conf"

    async def run() -> None:
        names = NameServers((), timeout=0.1, attempts=1, system_file=path)
        assert str(names._resolver.nameservers[0]) == "Do53:127.0.0.1@53"
        path.write_text("nameserver 127.0.0.53\nnameserver ::1\nsearch example.org\n")
        os.utime(path, ns=(1, 1))
        names._follow_system()
        assert [str(s) for s in names._resolver.nameservers] == [
            "Do53:127.0.0.53@53",
            "Do53:::1@53",
        ]

    asyncio.run(run())


def test_an_unreachable_server_is_a_failure_that_may_pass() -> None:
    async def run() -> None:
        async with NameServer({}) as server:
            port = server.port
        names = NameServers((f"127.0.0.1:{port}",), timeout=0.1, attempts=1)
        answer = await names.ask("good.test", "MX")
        assert answer.standing is Standing.FAILED
        assert answer.failure is not None
        assert answer.failure.trouble is Trouble.DNS_TEMPORARY

    asyncio.run(run())


def test_a_name_too_long_for_dns_is_invalid() -> None:
    async def run() -> None:
        names = NameServers(("127.0.0.1",), timeout=0.1, attempts=1)
        answer = await names.ask("x" * 70 + ".test", "A")
        assert answer.failure is not None
        assert answer.failure.trouble is Trouble.DNS_INVALID

    asyncio.run(run())
