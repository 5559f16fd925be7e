"""A Postfix of one's own, as a real peer to deliver to and to measure against.

Uses the installed Postfix's programs with a configuration, spool and log in a directory of its own;
the machine's own Postfix, if there is one, is neither read nor disturbed. Needs root, as Postfix
does.

Guarantees: nothing listens but 127.0.0.1 on the given port; ``stop`` waits until the last daemon is
gone.
"""

import os
import pwd
import re
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

_PROGRAMS = ("postfix", "postqueue", "postsuper", "postconf", "postcat")
_START_LIMIT = 20.0

_SERVICES = """\
127.0.0.1:{port} inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
proxywrite unix - - n - 1 proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
lmtp unix - - n - - lmtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
"""


def unavailable() -> str:
    """Why no Postfix can be started here; empty when one can.

    >>> isinstance(unavailable(), str)
    True
    """
    missing = [name for name in _PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"Postfix is not installed ({', '.join(missing)} not found)"
    if os.geteuid() != 0:
        return "a Postfix of one's own takes root to start"
    try:
        pwd.getpwnam("postfix")
    except KeyError:
        return "there is no user postfix"
    return ""


class Postfix:
    """One instance, a context manager. ``settings`` are its ``main.cf`` on top of what isolation
    needs.

    ``directory`` must be reachable for the user postfix. Raises ``RuntimeError`` with Postfix's own
    words when it does not start.
    """

    def __init__(self, directory: Path, *, port: int, settings: Mapping[str, str]) -> None:
        self.directory = directory
        self.port = port
        self._settings = {
            "compatibility_level": "3.6",
            "queue_directory": f"{directory}/spool",
            "data_directory": f"{directory}/data",
            "maillog_file": f"{directory}/maillog",
            "maillog_file_prefixes": str(directory),
            "inet_interfaces": "127.0.0.1",
            "inet_protocols": "ipv4",
            "myhostname": "postfix.lab.test",
            "mydestination": "",
            "mynetworks": "127.0.0.0/8",
            "alias_maps": "",
            "alias_database": "",
            "local_recipient_maps": "",
            "local_transport": "error:nobody is local here",
            "append_dot_mydomain": "no",
            **settings,
        }

    @property
    def log(self) -> str:
        """Everything it logged so far."""
        path = self.directory / "maillog"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    @property
    def pid(self) -> int:
        """The process id of its master."""
        return int((self.directory / "spool/pid/master.pid").read_text().strip())

    def __enter__(self) -> Self:
        account = pwd.getpwnam("postfix")
        for name in ("etc", "spool", "data"):
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        os.chown(self.directory / "data", account.pw_uid, account.pw_gid)
        lines = [f"{name} = {value}\n" for name, value in self._settings.items()]
        (self.directory / "etc/main.cf").write_text("".join(lines), encoding="utf-8")
        services = _SERVICES.format(port=self.port)
        (self.directory / "etc/master.cf").write_text(services, encoding="utf-8")
        started = self.run("postfix", "start")
        if started.returncode or not self._answers():
            self.stop()
            raise RuntimeError(f"Postfix did not start: {started.stderr.strip()}\n{self.log}")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run one of Postfix's commands on this instance, whatever its exit status."""
        command = [program, "-c", str(self.directory / "etc"), *arguments]
        environment = {**os.environ, "MAIL_CONFIG": str(self.directory / "etc")}
        return subprocess.run(  # noqa: S603 - our words
            command, capture_output=True, text=True, check=False, timeout=600, env=environment
        )

    def stop(self) -> None:
        """Stop every daemon and wait for them."""
        self.run("postfix", "stop")

    def queued(self) -> int:
        """How many messages are in its queue, in whatever state."""
        spool = self.directory / "spool"
        names = ("maildrop", "incoming", "active", "deferred", "hold")
        return sum(1 for name in names for path in (spool / name).rglob("*") if path.is_file())

    def _answers(self) -> bool:
        until = time.monotonic() + _START_LIMIT
        while time.monotonic() < until:
            if re.search(r"daemon started", self.log):
                return True
            time.sleep(0.05)
        return False
