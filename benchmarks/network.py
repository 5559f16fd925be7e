"""A machine within the machine: network, processes and name service of a run's own.

Real MX lookups need port 25 on many addresses and a resolver that knows the measured domains, for
Postfix as for the agent. Started by root where the kernel allows it, a run therefore happens in its
own network, process and mount namespaces: only loopback exists, ``/etc/resolv.conf`` names the
run's own server, and whatever was started ends with the run, even if that is killed. Elsewhere the
run uses free ports of the ordinary loopback, and Postfix, which cannot be told another resolver or
port, gets the way to every domain in a table instead of looking it up (which favours Postfix).
"""

import contextlib
import ctypes
import fcntl
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.programs import free_port, place

_OWN = "BENCHMARKS_OWN_NETWORK"
_UNSHARE = ("unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child")
_RESOLVER = "/etc/resolv.conf"
_LAST = 'mount --bind "$1" "$2" && shift 2 && "$@"; exit $?'  # its shell collects the orphans
_FAREWELL = 60.0
_SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG
_GET_FLAGS, _SET_FLAGS, _UP = 0x8913, 0x8914, 0x1  # netdevice(7)


@dataclass(frozen=True)
class Network:
    """Where things listen. ``own``: nobody else is in this network."""

    own: bool
    mail_port: int = 25
    dns_port: int = 53

    def host(self, number: int) -> str:
        """The address of a receiving host.

        >>> Network(own=True).host(0), Network(own=True).host(250)
        ('127.1.0.1', '127.1.1.1')
        """
        return f"127.1.{number // 250}.{number % 250 + 1}" if self.own else "127.0.0.1"

    @property
    def everywhere(self) -> str:
        """The address a sink for all hosts listens on."""
        return "0.0.0.0" if self.own else "127.0.0.1"


def here() -> Network:
    """The network of this process: its own if ``enclosed`` started it in one."""
    if os.environ.get(_OWN):
        return Network(own=True)
    return Network(own=False, mail_port=free_port(), dns_port=free_port())


def obstacle() -> str:
    """Why a run cannot have a network of its own; empty when it can."""
    if os.geteuid() != 0:
        return "only root can make one"
    if shutil.which("unshare") is None or shutil.which("mount") is None:
        return "there is no unshare command"
    trial = subprocess.run(
        [*_UNSHARE, "mount", "--bind", os.devnull, _RESOLVER],
        capture_output=True,
        text=True,
        check=False,
    )
    return trial.stderr.strip()


def enclosed(arguments: Sequence[str]) -> int:
    """Run ``python -m benchmarks`` again, enclosed if possible; its exit status.

    Whatever it leaves in temporary directories is removed.
    """
    with place("benchmarks") as directory:
        command = [sys.executable, "-m", "benchmarks", *arguments]
        environment = {**os.environ, "TMPDIR": str(directory)}
        if not obstacle():
            resolver = directory / "resolv.conf"
            resolver.write_text("nameserver 127.0.0.1\n", encoding="ascii")
            wrapped = [*_UNSHARE, "sh", "-c", _LAST, "sh", str(resolver), _RESOLVER, *command]
            return _run(wrapped, environment | {_OWN: "1"}, kill=True)
        return _run(command, environment | {_OWN: ""}, kill=False)


def _run(command: Sequence[str], environment: dict[str, str], *, kill: bool) -> int:
    """Run it; ended early it is told so, or, with ``kill``, killed with all it has started."""
    before = _die_with_us if kill else None
    process = subprocess.Popen(command, env=environment, preexec_fn=before)  # noqa: PLW1509 - no threads yet
    try:
        return process.wait()
    except KeyboardInterrupt:  # it got the same signal
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(_FAREWELL)
        return 130
    finally:
        if process.poll() is None and not kill:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_FAREWELL)
        process.kill()
        process.wait()


def _die_with_us() -> None:
    """Be killed when the process that waits for us is (prctl(2))."""
    ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)


def inside() -> bool:
    """Whether this is the process that ``enclosed`` started."""
    return _OWN in os.environ


def raise_loopback() -> None:
    """Bring up the loopback of a new network; raises ``OSError``."""
    with socket.socket(type=socket.SOCK_DGRAM) as door:
        asked = fcntl.ioctl(door, _GET_FLAGS, struct.pack("16sh14x", b"lo", 0))
        flags = struct.unpack("16sh14x", asked)[1]
        fcntl.ioctl(door, _SET_FLAGS, struct.pack("16sh14x", b"lo", flags | _UP))


def names_address(network: Network) -> str:
    """What the agent's ``[dns] nameservers`` needs to be told, empty for the system's own."""
    return "" if network.own else f"127.0.0.1:{network.dns_port}"
