"""Peers that others wrote: Postfix's smtp-sink with its faults, and a real Postfix as the MX host."""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from deliveryagent import Client
from deliveryagent.lab.nameserver import NameServer
from deliveryagent.lab.postfix import Postfix
from tests.doubles.courier import free_port
from tests.doubles.maildir_postfix import maildir_postfix
from tests.program.whole_agent import Background, WholeAgent, eventually, letter

SENDER = "s@home.test"

CONFIGURATION = """
hostname = "agent.test"
run_dir = "{directory}/run"
[queue]
url = "sqlite:///{directory}/queue.sqlite3"
minimal_backoff_time = "1h"
[delivery]
workers = 1
[smtp]
data_init_timeout = "2s"
data_done_timeout = "2s"
"""

# What smtp-sink is told to do, and what must become of a message: status, reply code, words of the reply.
FAULTS: dict[str, tuple[list[str], str, int, str]] = {
    "friendly": ([], "delivered", 250, ""),
    "bare": (["-e", "-8", "-p"], "delivered", 250, ""),
    "pix": (["-P"], "delivered", 250, ""),
    "hard-rcpt": (["-f", "RCPT"], "bounced", 500, "5.3.0"),
    "hard-data": (["-f", "DATA"], "bounced", 500, "5.3.0"),
    "hard-dot": (["-f", "."], "bounced", 500, "5.3.0"),
    "hard-mail": (["-f", "MAIL"], "bounced", 500, "5.3.0"),
    "own-text": (["-B", "554 5.7.1 we do not like you", "-f", "RCPT"], "bounced", 554, "5.7.1"),
    "soft-rcpt": (["-r", "RCPT"], "deferred", 450, "4.3.0"),
    "soft-data": (["-r", "DATA"], "deferred", 450, "4.3.0"),
    "soft-dot": (["-r", "."], "deferred", 450, "4.3.0"),
    "soft-mail": (["-r", "MAIL"], "deferred", 450, "4.3.0"),
    "soft-hello": (["-r", "EHLO,HELO"], "deferred", 450, "4.3.0"),
    "no-ehlo": (["-f", "EHLO"], "delivered", 250, ""),
    "no-greeting": (["-f", "CONNECT"], "deferred", 500, ""),
    "soft-greeting": (["-r", "CONNECT"], "deferred", 450, ""),
    "drop-connect": (["-q", "CONNECT"], "deferred", 0, "4.4.2"),
    "drop-ehlo": (["-q", "EHLO"], "deferred", 0, "4.4.2"),
    "drop-mail": (["-q", "MAIL"], "deferred", 0, "4.4.2"),
    "drop-rcpt": (["-q", "RCPT"], "deferred", 0, "4.4.2"),
    "drop-data": (["-q", "DATA"], "deferred", 0, "4.4.2"),
    "drop-dot": (["-q", "."], "deferred", 0, "4.4.2"),
    "shut-mail": (["-Q", "MAIL"], "deferred", 421, ""),
    "shut-rcpt": (["-Q", "RCPT"], "deferred", 421, ""),
    "shut-dot": (["-Q", "."], "deferred", 421, ""),
    "bad-quit": (["-f", "QUIT"], "delivered", 250, ""),
    "abort-data": (["-A", "1"], "bounced", 550, ""),
    "slow-data": (["-w", "1"], "delivered", 250, ""),
    "too-slow": (["-W", ".:4"], "deferred", 0, "4.4.2"),
    "lmtp": (["-L"], "delivered", 250, ""),
}


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WholeAgent]:
    """An agent that has tried once to deliver one message to each kind of smtp-sink."""
    program = shutil.which("smtp-sink")
    if program is None:
        pytest.skip("smtp-sink is not installed")
    user = ["-u", "nobody"] if os.geteuid() == 0 else []
    directory = tmp_path_factory.mktemp("sinks")
    (directory / "run").mkdir()
    configuration = CONFIGURATION.format(directory=directory)
    with ExitStack() as stack:
        ports = {}
        for name, (options, *_) in FAULTS.items():
            ports[name] = free_port()
            command = [program, *user, *options, f"127.0.0.1:{ports[name]}", "10"]
            sink = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            stack.callback(sink.wait)
            stack.callback(sink.terminate)
            way = "lmtp:inet:" if "-L" in options else ""
            configuration += f'[[route]]\nmatch = ["{name}.test"]\n'
            configuration += f'nexthop = "{way}[127.0.0.1]:{ports[name]}"\n'
        for port in ports.values():
            eventually(lambda port=port: _listens(port))  # type: ignore[misc]
        agent = stack.enter_context(WholeAgent(directory, configuration))
        with Client(config=agent.config) as client:
            client.enqueue_many([("", [f"r@{name}.test"], letter(f"{name}@x")) for name in FAULTS])
        assert agent.start("--until-idle").wait(30) == 0, agent.log.read_text()
        yield agent


@pytest.fixture(scope="module")
def found(outcomes: WholeAgent) -> dict[str, dict[str, object]]:
    return outcomes.recipients()


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_of_smtp_sink_has_its_outcome(
    found: dict[str, dict[str, object]], name: str
) -> None:
    _, status, code, words = FAULTS[name]
    recipient = found[f"r@{name}.test"]
    reply = recipient["last_reply"]
    assert recipient["status"] == status, recipient
    assert recipient["attempts"] == 1
    assert isinstance(reply, dict)
    assert reply["code"] == code, reply
    assert words in f"{reply['enhanced']} {reply['text']}"


@pytest.fixture(scope="module")
def postfix() -> Iterator[Postfix]:
    """A real Postfix that knows ok@real.test and keeps its mail in a Maildir."""
    with maildir_postfix({"message_size_limit": "100000"}) as postfix:
        yield postfix


def test_a_real_postfix_takes_refuses_and_keeps_mail_octet_by_octet(
    postfix: Postfix, tmp_path: Path
) -> None:
    zone = {"real.test": ["MX 10 mx.real.test"], "mx.real.test": ["A 127.0.0.1"]}
    odd = b"..leading dots\r\n.\r\n" + "grüße\r\n".encode() + b"x" * 998 + b"\r\n\r\n"
    recipients = ["ok+1@real.test", "ok+2@real.test", "unknown@real.test"]
    (tmp_path / "run").mkdir()
    with Background(lambda: NameServer(zone)) as dns:
        configuration = CONFIGURATION.format(directory=tmp_path).replace(
            "workers = 1", "workers = 1\nloopback_mx = true"
        )
        configuration += f'port = {postfix.port}\n[dns]\nnameservers = ["{dns.address}"]\n'
        with WholeAgent(tmp_path, configuration) as agent:
            with Client(config=agent.config) as client:
                client.enqueue("", recipients, letter("odd@x", body=odd))
                client.enqueue("", ["ok+3@real.test"], letter("big@x", body=b"x" * 70 * 2000))
                many = [("", [f"ok+m{n}@real.test"], letter(f"{n}@many")) for n in range(50)]
                client.enqueue_many(many)
            assert agent.start("--until-idle").wait(30) == 0, agent.log.read_text()
            outcome = agent.recipients()
    assert outcome["ok+1@real.test"]["status"] == outcome["ok+2@real.test"]["status"] == "delivered"
    assert outcome["unknown@real.test"]["status"] == "bounced"
    assert outcome["unknown@real.test"]["last_reply"]["enhanced"] == "5.1.1"
    assert outcome["ok+3@real.test"]["last_reply"]["enhanced"] == "5.3.4"
    inbox = postfix.directory / "mail/inbox/new"
    eventually(lambda: inbox.exists() and len(list(inbox.iterdir())) >= 52)
    kept = [path.read_bytes() for path in inbox.iterdir()]
    assert len(kept) == 52
    bodies = [content.partition(b"\n\n")[2] for content in kept if b"<odd@x>" in content]
    assert bodies == [odd.replace(b"\r\n", b"\n")] * 2
    assert sum(b"@many>" in content for content in kept) == 50
