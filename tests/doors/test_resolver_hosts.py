"""The system's name service instead of DNS."""

import asyncio
import socket
import time

import pytest

from deliveryagent.mail.delivery import Failure, Trouble
from deliveryagent.mail.nexthop import MailHosts, NextHop
from deliveryagent.resolver.lookup import Resolver
from deliveryagent.resolver.settings import ResolverSettings
from deliveryagent.setting import parse_duration

NATIVE = ResolverSettings(disable_dns_lookups=True, timeout=parse_duration(0.1), attempts=1)

Info = list[tuple[int, int, int, str, tuple[str, int]]]


def resolve(domain: str) -> MailHosts | Failure:
    async def run() -> MailHosts | Failure:
        resolver = Resolver(NATIVE)
        found = await resolver.next_hop(NextHop("smtp", domain, mx=True))
        await resolver.close()
        return found

    return asyncio.run(run())


def pretend(monkeypatch: pytest.MonkeyPatch, error: Exception | None) -> None:
    def getaddrinfo(_: str, __: None, family: int, ___: int) -> Info:
        if error is not None:
            raise error
        address = "192.0.2.7" if family == socket.AF_INET else "fe80::1%eth0"
        return [(family, 1, 6, "", (address, 0))] * 2

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def test_addresses_come_from_the_system_without_mx(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, None)
    found = resolve("mail.test")
    assert isinstance(found, MailHosts)
    assert found.hosts[0].addresses == ("192.0.2.7", "fe80::1")
    assert not found.authenticated


@pytest.mark.parametrize(
    ("error", "trouble"),
    [
        (socket.gaierror(socket.EAI_NONAME, "not known"), Trouble.HOST_NOT_FOUND),
        (socket.gaierror(socket.EAI_AGAIN, "try again"), Trouble.DNS_TEMPORARY),
        (socket.gaierror(socket.EAI_FAIL, "failed"), Trouble.DNS_TEMPORARY),
        (OSError("odd"), Trouble.DNS_TEMPORARY),
    ],
)
def test_what_the_system_says_is_told_apart(
    monkeypatch: pytest.MonkeyPatch, error: Exception, trouble: Trouble
) -> None:
    pretend(monkeypatch, error)
    found = resolve("mail.test")
    assert isinstance(found, Failure)
    assert found.trouble is trouble


def test_a_system_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def getaddrinfo(*_: object) -> Info:
        time.sleep(0.3)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    found = resolve("mail.test")
    assert isinstance(found, Failure)
    assert found.trouble is Trouble.DNS_TEMPORARY
