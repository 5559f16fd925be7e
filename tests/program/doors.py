"""A whole agent whose doors are open, and what its clients need: ports, accounts, certificates."""

import contextlib
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import trustme

from tests.doubles.courier import free_port
from tests.program.whole_agent import WholeAgent, workers_of

PASSWORD = "open sesame"

_CONFIGURATION = """
hostname = "mx.lab.test"
run_dir = "{directory}/run"
[queue]
url = "{url}"
minimal_backoff_time = "1s"
maximal_backoff_time = "2s"
[delivery]
workers = 1
[[route]]
match = ["*"]
nexthop = "[127.0.0.1]:{nexthop}"
"""


@cache
def authority() -> trustme.CA:
    """Who vouches for the listeners' certificates."""
    return trustme.CA()


@dataclass
class Doors:
    """An agent with listeners; ``ports`` are theirs, by the names the test gave them."""

    directory: Path
    nexthop: int
    url: str = ""
    more: str = ""
    tables: list[str] = field(default_factory=list)
    ports: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.url = self.url or f"sqlite:///{self.directory}/queue.sqlite3"
        (self.directory / "run").mkdir()
        self.users = self.directory / "users"
        self.certificate = self.directory / "mx.pem"
        self.trust = self.directory / "ca.pem"

    def add(self, name: str, kind: str, *lines: str, address: str = "") -> None:
        """Another listener, with these settings."""
        if not address:
            self.ports[name] = free_port()
            address = f"127.0.0.1:{self.ports[name]}"
        self.tables.append("\n".join([f'kind = "{kind}"', f'address = "{address}"', *lines]))

    def add_trusted(self, name: str, *lines: str, kind: str = "smtp", address: str = "") -> None:
        """Another listener that lets this machine send."""
        trust = 'trusted_networks = ["127.0.0.0/8"]'
        self.add(name, kind, trust, "check_sender_domain = false", *lines, address=address)

    def certify(self, *names: str) -> str:
        """Issue a certificate for ``mx.lab.test``, or other names; the setting that uses it."""
        issued = authority().issue_cert(*(names or ("mx.lab.test",)))
        issued.private_key_and_cert_chain_pem.write_to_path(str(self.certificate))
        authority().cert_pem.write_to_path(str(self.trust))
        self.certificate.chmod(0o600)
        return f'tls_certificate = ["{self.certificate}"]'

    def configuration(self) -> str:
        """The whole text of the configuration file."""
        head = _CONFIGURATION.format(directory=self.directory, url=self.url, nexthop=self.nexthop)
        return head + self.more + "".join(f"\n[[listener]]\n{one}\n" for one in self.tables)

    @contextlib.contextmanager
    def agent(self) -> Iterator[WholeAgent]:
        """The agent, not running yet."""
        with WholeAgent(self.directory, self.configuration()) as agent:
            yield agent

    @contextlib.contextmanager
    def serving(self) -> Iterator[WholeAgent]:
        """The running agent; it must end with exit status 0."""
        with self.agent() as agent, agent.serving():
            yield agent


def trusting() -> ssl.SSLContext:
    """TLS of a client that believes the listeners' certificates."""
    context = ssl.create_default_context()
    authority().configure_trust(context)
    return context


def add_user(agent: WholeAgent, name: str, *options: str) -> None:
    """``dagent user add``."""
    done = agent.run("user", "add", name, *options, text=PASSWORD + "\n")
    assert done.returncode == 0, done.stderr


def listeners_of(service: subprocess.Popen[bytes]) -> list[int]:
    """The process ids of the listeners below a service."""
    found = []
    for pid in workers_of(service):
        with contextlib.suppress(OSError):  # it may have ended
            if b"deliveryagent.intake.listener" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found
