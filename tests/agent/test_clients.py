"""Settings made ready for use, per route and transport."""

import pytest

from deliveryagent.agent.clients import Clients
from deliveryagent.agent.worker_settings import ClientSettings, LmtpSettings, WorkerSettings
from deliveryagent.mail.nexthop import Endpoint
from deliveryagent.mail.security import TlsLevel
from deliveryagent.policy.targets import LoopSettings


def settings(**smtp: object) -> WorkerSettings:
    return WorkerSettings(
        hostname="Mail.Example.Org",
        smtp=ClientSettings(**smtp),  # type: ignore[arg-type]
        routes=((ClientSettings(helo_name="route.example"), LmtpSettings(port=2424)),),
    )


def test_a_route_has_its_own_clients_and_others_share() -> None:
    clients = Clients(settings())
    assert clients.of(0, "smtp").profile.name == "route.example"
    assert clients.of(0, "lmtp").settings.port == 2424
    assert clients.of(-1, "smtp").profile.name == "Mail.Example.Org"
    assert clients.of(7, "smtp") is clients.of(-1, "smtp")


def test_lmtp_has_defaults_of_its_own() -> None:
    lmtp = Clients(settings()).of(-1, "lmtp")
    assert lmtp.settings.port == 24
    assert not lmtp.settings.connect_timeout
    assert not lmtp.settings.skip_quit_response
    assert lmtp.demand.level is TlsLevel.NONE
    assert lmtp.profile.lmtp


def test_only_an_smtp_host_on_our_own_port_can_be_ourselves() -> None:
    clients = Clients(settings())
    smtp = clients.of(-1, "smtp")
    assert "mail.example.org" in smtp.own_names(Endpoint("mx", "192.0.2.1", 25))
    assert not smtp.own_names(Endpoint("mx", "192.0.2.1", 2525))
    assert not clients.of(-1, "lmtp").own_names(Endpoint("mx", "192.0.2.1", 24))


def test_sessions_are_shared_where_they_are_interchangeable() -> None:
    same = Clients(settings()).of(-1, "smtp").profile.policy
    assert Clients(settings()).of(-1, "smtp").profile.policy == same
    for change in (
        {"tls_security_level": "none"},
        {"bind_address": "192.0.2.1"},
        {"helo_name": "x"},
    ):
        assert Clients(settings(**change)).of(-1, "smtp").profile.policy != same


@pytest.mark.parametrize(
    "bad",
    [
        {"debug_peer_list": ("1.2.3.400",)},
        {"fallback_relay": ("[unfinished",)},
        {"line_length_limit": 10},
    ],
)
def test_settings_that_make_no_sense_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"no host|no next hop|cannot be limited"):
        Clients(settings(**bad))


def test_interfaces_can_be_told() -> None:
    loop = LoopSettings(inet_interfaces=("192.0.2.5",), proxy_interfaces=("192.0.2.6",))
    clients = Clients(WorkerSettings(hostname="x", loop=loop))
    assert clients.of(-1, "smtp").own.addresses == {"192.0.2.5", "192.0.2.6"}
    assert clients.best_mx_transport == ()


def test_settings_survive_the_way_to_the_worker() -> None:
    whole = settings(connect_timeout=0.5, debug_peer_list=("example.net",))
    assert WorkerSettings.decode(whole.encode()) == whole
