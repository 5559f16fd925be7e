"""The systemd units: what they promise, and that systemd understands them."""

import shutil
import subprocess
from pathlib import Path

import pytest

from deliveryagent.agent.worker_settings import ClientSettings
from deliveryagent.cli.faults import ExitStatus
from deliveryagent.config import load
from deliveryagent.config.location import SOCKET_NAME, SYSTEM_RUN_DIR, SYSTEM_STATE
from deliveryagent.intake.admission import SubmitSettings
from deliveryagent.intake.listener_settings import ListenerSettings
from deliveryagent.intake.places import InheritedPlace, parse_place
from deliveryagent.setting import parse_duration

UNITS = Path(__file__).parents[1] / "systemd"
SERVICE = UNITS / "deliveryagent.service"
SOCKET = UNITS / "deliveryagent.socket"
LISTENERS = {
    path.stem.removeprefix("deliveryagent-"): path
    for path in sorted(UNITS.glob("deliveryagent-*.socket"))
}
SYSUSERS = UNITS / "sysusers.d" / "deliveryagent.conf"

Unit = dict[str, dict[str, list[str]]]


def parsed(path: Path) -> Unit:
    """The sections of a unit; a key may be given more than once."""
    unit: Unit = {}
    section = ""
    for line in path.read_text("utf-8").splitlines():
        if line.startswith("["):
            section = line.strip("[]")
            unit[section] = {}
        elif line and not line.startswith("#"):
            name, _, value = line.partition("=")
            unit[section].setdefault(name, []).append(value)
    return unit


@pytest.fixture(scope="module")
def service() -> dict[str, str]:
    """The last value of each key of the service."""
    return {name: values[-1] for name, values in parsed(SERVICE)["Service"].items()}


def test_the_service_reports_its_state_and_is_watched(service: dict[str, str]) -> None:
    assert service["Type"] == "notify"
    assert service["NotifyAccess"] == "main"
    assert parse_duration(service["WatchdogSec"]) > 0
    assert service["ExecReload"] == "/bin/kill -HUP $MAINPID"
    assert service["ExecStart"].endswith("/dagent serve")


def test_a_bad_configuration_is_not_tried_again(service: dict[str, str]) -> None:
    assert service["Restart"] == "on-failure"
    assert service["RestartPreventExitStatus"] == str(int(ExitStatus.BAD_CONFIGURATION))


def test_a_stop_waits_longer_than_a_receiver_may_take_after_the_dot(
    service: dict[str, str],
) -> None:
    assert parse_duration(service["TimeoutStopSec"]) > ClientSettings().data_done_timeout
    assert service["KillMode"] == "mixed"


def test_directories_are_those_the_program_looks_in(service: dict[str, str]) -> None:
    assert f"/var/lib/{service['StateDirectory']}" == SYSTEM_STATE
    assert f"/run/{service['RuntimeDirectory']}" == SYSTEM_RUN_DIR
    assert parsed(SOCKET)["Socket"]["ListenStream"] == [f"{SYSTEM_RUN_DIR}/{SOCKET_NAME}"]


def test_systemd_can_hold_a_socket_for_each_kind_of_listener() -> None:
    assert set(LISTENERS) == {"submission", "submissions", "smtp", "lmtp"}
    held = {name: parsed(path)["Socket"] for name, path in LISTENERS.items()}
    for name, unit in held.items():
        assert unit["FileDescriptorName"] == [name]
        assert unit["Service"] == [SERVICE.name]
        assert f'"systemd:{name}"' in LISTENERS[name].read_text("utf-8")
        assert parse_place(f"systemd:{name}") == InheritedPlace(name)
    ports = {name: unit["ListenStream"] for name, unit in held.items()}
    assert ports == {
        "submission": ["587"],
        "submissions": ["465"],
        "smtp": ["25"],
        "lmtp": ["/run/deliveryagent-lmtp.sock"],
    }


def test_a_socket_that_is_a_file_outlives_the_service_and_lets_in_its_group_alone(
    service: dict[str, str],
) -> None:
    unit = parsed(LISTENERS["lmtp"])["Socket"]
    assert not unit["ListenStream"][0].startswith(f"/run/{service['RuntimeDirectory']}/")
    assert unit["SocketMode"] == [ListenerSettings().socket_mode]
    assert unit["SocketGroup"] == [service["Group"]]


@pytest.mark.parametrize("name", LISTENERS)
def test_what_a_unit_says_to_configure_is_a_configuration(name: str, tmp_path: Path) -> None:
    lines = LISTENERS[name].read_text("utf-8").splitlines()
    start = lines.index("#   [[listener]]")
    said = [line.removeprefix("#   ") for line in lines[start:] if line.startswith("#   ")]
    text = "\n".join(line for line in said if not line.startswith("systemctl"))
    file = tmp_path / "agent.toml"
    file.write_text(f'{text}\ntls_certificate = "/etc/cert.pem"\n', "utf-8")
    (listener,) = load(file).listener
    assert listener.address == f"systemd:{name}"
    assert listener.tls_only == (name == "submissions")


def test_the_sandbox_is_closed(service: dict[str, str]) -> None:
    every = parsed(SERVICE)["Service"]
    for name in (
        "NoNewPrivileges",
        "ProtectHome",
        "PrivateTmp",
        "PrivateDevices",
        "ProtectKernelTunables",
        "ProtectKernelModules",
        "ProtectKernelLogs",
        "ProtectClock",
        "ProtectHostname",
        "ProtectControlGroups",
        "RestrictNamespaces",
        "RestrictRealtime",
        "RestrictSUIDSGID",
        "LockPersonality",
        "MemoryDenyWriteExecute",
    ):
        assert service[name] == "yes", name
    assert service["ProtectSystem"] == "strict"
    assert service["CapabilityBoundingSet"] == ""
    assert set(service["RestrictAddressFamilies"].split()) == {
        "AF_UNIX",
        "AF_INET",
        "AF_INET6",
        "AF_NETLINK",
    }
    assert every["SystemCallFilter"] == ["@system-service", "~@privileged @resources"]
    assert "PrivateUsers" not in service  # callers on the socket would all look alike


def test_the_user_of_the_service_is_the_one_that_is_made(service: dict[str, str]) -> None:
    line = next(
        text for text in SYSUSERS.read_text("utf-8").splitlines() if not text.startswith("#")
    )
    assert line.split()[:2] == ["u", service["User"]]
    assert service["Group"] == service["User"] == SubmitSettings().admin_group


def test_the_unit_works_without_its_user(service: dict[str, str]) -> None:
    """DynamicUser= needs directories that systemd makes itself, and no fixed owner elsewhere."""
    assert "ReadWritePaths" not in service
    assert {"StateDirectory", "RuntimeDirectory"} <= service.keys()


ANALYZE = shutil.which("systemd-analyze")


@pytest.fixture
def runnable(tmp_path: Path) -> list[str]:
    """Copies of the units whose programs exist here."""
    text = SERVICE.read_text("utf-8").replace("/usr/bin/dagent serve", "/bin/true")
    (tmp_path / SERVICE.name).write_text(text, "utf-8")
    sockets = [SOCKET, *LISTENERS.values()]
    copies = [str(shutil.copy(unit, tmp_path)) for unit in sockets]
    return [str(tmp_path / SERVICE.name), *copies]


@pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("dynamic", [False, True])
def test_systemd_finds_nothing_to_say(runnable: list[str], dynamic: bool) -> None:
    if dynamic:
        unit = Path(runnable[0])
        text = unit.read_text("utf-8").replace("[Service]\n", "[Service]\nDynamicUser=yes\n")
        unit.write_text(text, "utf-8")
    done = subprocess.run(
        [ANALYZE or "", "verify", "--man=no", *runnable],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    own = [line for line in done.stderr.splitlines() if "deliveryagent" in line]
    assert not own
    assert done.returncode == 0 or "Failed to initialize" in done.stderr


@pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed")
def test_systemd_rates_the_sandbox_as_good(runnable: list[str]) -> None:
    done = subprocess.run(
        [ANALYZE or "", "security", "--offline=true", "--threshold=20", "--no-pager", runnable[0]],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    if "unrecognized option" in done.stderr or "Unknown" in done.stderr:
        pytest.skip("this systemd-analyze cannot rate a unit that is not loaded")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr


@pytest.mark.skipif(shutil.which("systemd-sysusers") is None, reason="no systemd-sysusers")
def test_systemd_would_make_the_user() -> None:
    done = subprocess.run(
        ["systemd-sysusers", "--dry-run", str(SYSUSERS)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd-sysusers has no --dry-run")
    assert done.returncode == 0, done.stderr
