"""``dagent serve`` with listeners: its start, a reload, its status, sockets that systemd holds."""

import json
import shutil
import signal
import smtplib
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deliveryagent.cli.faults import ExitStatus
from tests.program.test_serve_notify import PATIENCE, Manager
from tests.program.whole_agent import eventually, workers_of

TRUSTED = 'trusted_networks = ["127.0.0.0/8", "::1"]\ncheck_sender_domain = false\n'
LETTER = "Subject: test\r\n\r\nhello\r\n"
ACTIVATE = shutil.which("systemd-socket-activate")


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(tmp_path)
    yield manager
    manager.close()


def configure(manager: Manager, *listeners: str) -> None:
    tables = "".join(f"[[listener]]\n{lines}\n" for lines in listeners)
    manager.config.write_text(
        'hostname = "agent.example"\n[delivery]\nworkers = 1\n'
        f'[relay]\nhost = "hold:not now"\n{tables}',
        "utf-8",
    )


def at_port(port: int, more: str = "") -> str:
    return f'kind = "smtp"\naddress = "127.0.0.1:{port}"\n{TRUSTED}{more}'


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def send(port: int) -> None:
    with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE) as client:
        assert client.sendmail("joe@example.org", ["kim@example.net"], LETTER) == {}


def listeners(manager: Manager) -> list[dict[str, Any]]:
    """What the service says of them."""
    done = subprocess.run(
        [sys.executable, "-m", "deliveryagent", "--json", "status"],
        env=manager.environ,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    shown: list[dict[str, Any]] = json.loads(done.stdout)["service"]["listeners"]
    return shown


def test_who_is_told_that_the_service_is_ready_can_send(manager: Manager) -> None:
    port = free_port()
    configure(manager, at_port(port))
    manager.start()
    manager.told("READY")
    send(port)
    send(port)

    def counted() -> bool:
        (one,) = listeners(manager)
        assert one["address"] == f"127.0.0.1:{port}"
        return bool(one["taken"] == 2 and one["ready"])

    eventually(counted, limit=PATIENCE)
    code, log = manager.stop()
    assert code == 0
    assert "listener_started" in log
    assert "listener_ended" in log


def test_a_reload_opens_and_closes_listeners_and_lets_sessions_go_on(manager: Manager) -> None:
    stays, goes, comes = free_port(), free_port(), free_port()
    configure(manager, at_port(stays), at_port(goes))
    manager.start()
    assert manager.process is not None
    manager.told("READY")
    with smtplib.SMTP("127.0.0.1", stays, timeout=PATIENCE) as client:
        client.ehlo()
        configure(manager, at_port(stays, 'banner = "new"\n'), at_port(comes))
        manager.process.send_signal(signal.SIGHUP)
        manager.told("RELOADING")
        manager.told("READY")
        assert client.sendmail("joe@example.org", ["kim@example.net"], LETTER) == {}
    send(comes)
    with smtplib.SMTP(timeout=PATIENCE) as client:
        assert client.connect("127.0.0.1", stays)[1].endswith(b"new")

    def closed() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", goes)) != 0

    eventually(closed, limit=PATIENCE)
    assert manager.stop()[0] == 0


def test_an_address_that_is_taken_ends_the_start_with_a_sentence(manager: Manager) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        configure(manager, at_port(port))
        manager.start()
        assert manager.process is not None
        _, log = manager.process.communicate(timeout=PATIENCE)
    assert manager.process.returncode == ExitStatus.FAILED
    assert f"dagent: listener 127.0.0.1:{port}: another program listens there\n" in log
    assert "Traceback" not in log


def test_a_certificate_that_is_missing_is_bad_configuration(manager: Manager) -> None:
    configure(manager, at_port(free_port(), 'tls_certificate = "/nonexistent/cert.pem"\n'))
    manager.start()
    assert manager.process is not None
    _, log = manager.process.communicate(timeout=PATIENCE)
    assert manager.process.returncode == ExitStatus.BAD_CONFIGURATION
    assert "listener.tls_certificate: cannot read /nonexistent/cert.pem" in log


def test_a_reload_with_a_bad_certificate_changes_nothing(manager: Manager) -> None:
    port = free_port()
    configure(manager, at_port(port))
    manager.start()
    assert manager.process is not None
    manager.told("READY")
    configure(manager, at_port(port, 'tls_certificate = "/nonexistent/cert.pem"\n'))
    manager.process.send_signal(signal.SIGHUP)
    manager.told("READY")
    send(port)
    code, log = manager.stop()
    assert code == 0
    assert "reload_refused" in log


def test_no_process_is_left_when_the_service_is_killed(manager: Manager) -> None:
    configure(manager, at_port(free_port()))
    manager.start()
    assert manager.process is not None
    manager.told("READY")
    below = workers_of(manager.process)  # type: ignore[arg-type] # of text, which is all the same
    assert len(below) == 2
    manager.process.kill()
    manager.process.communicate(timeout=PATIENCE)
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in below), limit=PATIENCE)


def test_clients_of_a_socket_that_is_held_wait_while_the_service_restarts(
    manager: Manager,
) -> None:
    configure(manager, f'kind = "smtp"\naddress = "systemd:smtp"\n{TRUSTED}')
    with socket.create_server(("127.0.0.1", 0), backlog=16) as held:
        port = held.getsockname()[1]
        manager.environ |= {"LISTEN_FDS": "1", "LISTEN_FDNAMES": "smtp"}
        for _ in range(2):
            with socket.create_connection(("127.0.0.1", port), PATIENCE) as early:
                manager.start(inherited=held)
                assert early.makefile("rb").readline().startswith(b"220 agent.example")
            send(port)
            assert manager.stop()[0] == 0
        with socket.create_connection(("127.0.0.1", port), PATIENCE):
            pass  # it is still open


@pytest.mark.skipif(ACTIVATE is None, reason="systemd-socket-activate is not installed")
def test_systemd_itself_hands_over_a_socket(manager: Manager) -> None:
    port = free_port()
    configure(manager, f'kind = "smtp"\naddress = "systemd:smtp"\n{TRUSTED}')
    environ = [f"--setenv={name}={value}" for name, value in manager.environ.items()]
    command = [
        *(ACTIVATE or "", f"--listen=127.0.0.1:{port}", "--fdname=smtp", *environ),
        *(sys.executable, "-m", "deliveryagent", "serve"),
    ]
    manager.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    def sent() -> bool:
        try:
            send(port)
        except ConnectionRefusedError:  # it does not listen yet
            return False
        return True

    eventually(sent, limit=PATIENCE)
    assert manager.stop()[0] == 0
