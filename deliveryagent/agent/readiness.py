"""How the service tells systemd where it stands, and what systemd hands to it.

Speaks the notification protocol of sd_notify(3) itself: one datagram to ``$NOTIFY_SOCKET``, which
may be a path or an abstract name. Without systemd every message is a no-op, so nothing else needs
to ask whether it runs as a service. Never raises and never blocks: a service manager that does not
listen must not stop mail.
"""

import os
import socket
import time
from collections.abc import Callable, Mapping

_FIRST_INHERITED = 3  # SD_LISTEN_FDS_START


class Readiness:
    """The line to the service manager; all messages are sent at once and forgotten."""

    def __init__(
        self,
        environ: Mapping[str, str] = os.environ,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        self._monotonic = monotonic
        self.watchdog_interval = _watchdog_interval(environ)

    def ready(self, status: str) -> None:
        """The service can take and deliver mail; also the end of a reload."""
        self._send(f"READY=1\nSTATUS={_line(status)}\nMAINPID={os.getpid()}")

    def status(self, text: str) -> None:
        """One line about the present state, shown by ``systemctl status``."""
        self._send(f"STATUS={_line(text)}")

    def reloading(self) -> None:
        """The configuration is being read again; ``ready`` must follow.

        The time stamp lets systemd tell this reload from an earlier one (Type=notify-reload needs
        it).
        """
        self._send(f"RELOADING=1\nMONOTONIC_USEC={int(self._monotonic() * 1_000_000)}")

    def stopping(self, status: str) -> None:
        """The service ends."""
        self._send(f"STOPPING=1\nSTATUS={_line(status)}")

    def alive(self) -> None:
        """Feed the watchdog. To be called for progress made, never from a mere timer."""
        self._send("WATCHDOG=1")

    def _send(self, message: str) -> None:
        if self._address[:1] not in {"/", "@"}:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as line:
                line.setblocking(False)
                line.connect(address)
                line.send(message.encode())
        except OSError:
            return


def inherited_sockets(environ: Mapping[str, str], pid: int) -> list[tuple[str, int]]:
    """The names that socket units give to sockets passed by socket activation, and their descriptors.

    See sd_listen_fds(3). Empty when the variables are meant for another process. A descriptor
    without a name is called ``unknown``, as by systemd; several may have one name.
    """
    if environ.get("LISTEN_PID") != str(pid):
        return []
    try:
        count = int(environ.get("LISTEN_FDS", ""))
    except ValueError:
        return []
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    return [
        ((names[place] if place < len(names) else "") or "unknown", _FIRST_INHERITED + place)
        for place in range(max(0, count))
    ]


def inherited_copy(environ: Mapping[str, str], pid: int, name: str) -> int | None:
    """A copy of one of these descriptors, None when there is none by that name.

    Of several with one name the last counts. A copy, because an agent that begins anew in the same
    process needs the original again.
    """
    descriptor = dict(inherited_sockets(environ, pid)).get(name)
    return None if descriptor is None else os.dup(descriptor)


def _watchdog_interval(environ: Mapping[str, str]) -> float | None:
    """Seconds between signs of life: half of what systemd allows, None when it does not watch
    us."""
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    try:
        limit = int(environ.get("WATCHDOG_USEC", ""))
    except ValueError:
        return None
    return limit / 2_000_000 if limit > 0 else None


def _line(text: str) -> str:
    return " ".join(text.split())
