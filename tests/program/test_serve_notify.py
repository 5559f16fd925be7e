"""``dagent serve`` and its service manager: readiness, watchdog, reload, stop, an inherited socket."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deliveryagent.cli.faults import ExitStatus

ROOT = Path(__file__).parents[2]
PATIENCE = 30  # seconds; a busy machine may take some to start a process


# Puts the descriptor in place, names the process, and becomes the program: what systemd does.
_ACTIVATE = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ['LISTEN_PID'] = str(os.getpid()); "
    "os.execv(sys.argv[2], sys.argv[2:])"
)


class Manager:
    """A service manager that listens, and starts the agent the way systemd does."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.line = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.line.bind(str(directory / "notify"))
        self.line.settimeout(PATIENCE)
        self.config = directory / "agent.toml"
        self.config.write_text('hostname = "agent.example"\n[delivery]\nworkers = 1\n', "utf-8")
        self.environ = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "NOTIFY_SOCKET": str(directory / "notify"),
            "STATE_DIRECTORY": str(directory),
            "RUNTIME_DIRECTORY": str(directory),
            "DELIVERYAGENT_CONFIG": str(self.config),
        }
        self.process: subprocess.Popen[str] | None = None

    def start(self, inherited: socket.socket | None = None) -> None:
        """Start ``dagent serve``, with a socket where socket activation would put it."""
        words = [sys.executable, "-m", "deliveryagent", "serve"]
        if inherited is not None:
            words = [sys.executable, "-c", _ACTIVATE, str(inherited.fileno()), *words]
        self.process = subprocess.Popen(
            words,
            env=self.environ,
            stderr=subprocess.PIPE,
            text=True,
            pass_fds=(inherited.fileno(),) if inherited else (),
        )

    def told(self, field: str) -> list[str]:
        """The next message that has this field, as lines; others are skipped."""
        while True:
            lines = self.line.recv(4096).decode().split("\n")
            if any(line.startswith(f"{field}=") for line in lines):
                return lines

    def stop(self) -> tuple[int, str]:
        """End the agent as systemd does; its exit status and what it wrote."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        _, log = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, log

    def close(self) -> None:
        self.line.close()
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(tmp_path)
    yield manager
    manager.close()


def test_the_service_says_what_it_is_doing(manager: Manager) -> None:
    manager.environ["WATCHDOG_USEC"] = "400000"
    manager.start()
    assert manager.process is not None
    assert f"MAINPID={manager.process.pid}" in manager.told("READY")
    assert manager.told("WATCHDOG") == ["WATCHDOG=1"]
    assert (manager.directory / "queue.sqlite3").exists()

    manager.process.send_signal(signal.SIGHUP)
    assert manager.told("RELOADING")[1].startswith("MONOTONIC_USEC=")
    manager.told("READY")

    manager.config.write_text("[smtp]\nprot = 1\n", "utf-8")
    manager.process.send_signal(signal.SIGHUP)
    manager.told("READY")

    status, log = manager.stop()
    manager.told("STOPPING")
    assert status == 0
    assert "unknown setting" in log


def test_a_bad_configuration_ends_the_start_with_a_status_of_its_own(manager: Manager) -> None:
    manager.config.write_text("[smtp]\nprot = 1\n", "utf-8")
    manager.start()
    assert manager.process is not None
    _, log = manager.process.communicate(timeout=PATIENCE)
    assert manager.process.returncode == ExitStatus.BAD_CONFIGURATION
    assert f"{manager.config}:2: smtp.prot: unknown setting" in log


def test_callers_of_an_inherited_socket_wait_for_the_service(manager: Manager) -> None:
    path = manager.directory / "deliveryagent.sock"
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as caller:
        listening.bind(str(path))
        listening.listen(8)
        caller.connect(str(path))
        caller.sendall(b'{"op": "ping"}\n')
        manager.environ |= {"LISTEN_FDS": "1", "LISTEN_FDNAMES": "local"}
        manager.start(inherited=listening)
        caller.settimeout(PATIENCE)
        assert json.loads(caller.makefile().readline())["ok"] is True
        assert manager.stop()[0] == 0
        assert path.exists()
