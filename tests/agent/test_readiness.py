"""The line to the service manager, with a service manager made of one socket."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from deliveryagent.agent.readiness import Readiness, inherited_sockets


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """A listening socket and its name as NOTIFY_SOCKET has it."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@deliveryagent/{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.bind("\0" + name[1:] if name.startswith("@") else name)
        line.setblocking(False)
        yield line, name


def test_every_message_arrives_in_a_datagram_of_its_own(manager: tuple[socket.socket, str]) -> None:
    line, name = manager
    readiness = Readiness({"NOTIFY_SOCKET": name}, monotonic=lambda: 12.5)
    readiness.ready("3 queued")
    readiness.status("one\nREADY=1 two")
    readiness.reloading()
    readiness.alive()
    readiness.stopping("draining")
    received = [line.recv(4096).decode() for _ in range(5)]
    assert received == [
        f"READY=1\nSTATUS=3 queued\nMAINPID={os.getpid()}",
        "STATUS=one READY=1 two",
        "RELOADING=1\nMONOTONIC_USEC=12500000",
        "WATCHDOG=1",
        "STOPPING=1\nSTATUS=draining",
    ]


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "relative"}])
def test_without_a_service_manager_nothing_happens(environ: dict[str, str]) -> None:
    Readiness(environ).ready("")


def test_a_service_manager_that_does_not_listen_stops_nothing(tmp_path: Path) -> None:
    Readiness({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready("")


def test_a_full_line_does_not_block(manager: tuple[socket.socket, str]) -> None:
    _, name = manager
    readiness = Readiness({"NOTIFY_SOCKET": name})
    for _ in range(2000):  # more than the line holds; blocking would never end
        readiness.alive()


def test_the_watchdog_is_fed_twice_as_often_as_asked() -> None:
    own = str(os.getpid())
    assert Readiness({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": own}).watchdog_interval == 30
    assert Readiness({"WATCHDOG_USEC": "60000000"}).watchdog_interval == 30
    assert Readiness({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}).watchdog_interval is None
    for odd in ("", "soon", "0"):
        assert Readiness({"WATCHDOG_USEC": odd}).watchdog_interval is None


def test_sockets_are_inherited_by_name() -> None:
    environ = {"LISTEN_PID": "7", "LISTEN_FDS": "3", "LISTEN_FDNAMES": "submit::control"}
    assert inherited_sockets(environ, 7) == [("submit", 3), ("unknown", 4), ("control", 5)]
    assert inherited_sockets({"LISTEN_PID": "7", "LISTEN_FDS": "1"}, 7) == [("unknown", 3)]


@pytest.mark.parametrize(
    "environ",
    [{}, {"LISTEN_PID": "8", "LISTEN_FDS": "1"}, {"LISTEN_PID": "7", "LISTEN_FDS": "many"}],
)
def test_sockets_for_another_process_are_not_ours(environ: dict[str, str]) -> None:
    assert inherited_sockets(environ, 7) == []
