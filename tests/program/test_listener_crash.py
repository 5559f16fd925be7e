"""kill -9 at random moments while clients hand over mail by SMTP: what was answered 250 is there, once.

Every message has a recipient of its own, so the queue itself says how often it was taken. A client that was
not answered may find its message taken or not, but never twice. A receiving host tells what arrived.
"""

import contextlib
import os
import random
import re
import signal
import smtplib
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from deliveryagent.lab.arrivals import Ledger
from deliveryagent.lab.receiver import Receiver
from deliveryagent.lab.session import HostSettings
from tests.program.doors import Doors, listeners_of
from tests.program.whole_agent import Background, WholeAgent, eventually

CLIENTS = 6
BACKLOG = 200
PATIENCE = 30
QUEUED = re.compile(rb"Ok: queued as ([0-9A-Z]+)")


@dataclass
class Feeders:
    """Clients that hand over one message after another, a few in each session, and keep account.

    ``yes`` are the recipients of messages that were answered 250, with the queue id; ``unknown`` those whose
    session ended between the dot and its reply; ``troubles`` is whatever else went wrong. ``refused`` counts
    connections that nobody accepted after the first message was taken.
    """

    port: int
    ledger: Ledger
    yes: dict[str, str] = field(default_factory=dict)
    unknown: set[str] = field(default_factory=set)
    troubles: list[str] = field(default_factory=list)
    refused: int = 0
    stop: threading.Event = field(default_factory=threading.Event)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        threads = [threading.Thread(target=self._run, args=(n,)) for n in range(CLIENTS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.stop.set()
            for thread in threads:
                thread.join()

    def _run(self, client: int) -> None:
        number = 0
        while not self.stop.is_set():
            try:
                with smtplib.SMTP("127.0.0.1", self.port, "pc", timeout=PATIENCE) as smtp:
                    smtp.ehlo()
                    for _ in range(10):
                        if self.stop.is_set():
                            break
                        number += 1
                        self._send(smtp, f"r{client}x{number}@crash.test")
            except (OSError, smtplib.SMTPException) as error:
                self.refused += bool(self.yes) and isinstance(error, ConnectionRefusedError)
                self.troubles.append(f"{type(error).__name__}: {error}")
                time.sleep(0.05)

    def _send(self, smtp: smtplib.SMTP, to: str) -> None:
        while len(self.yes) - len(self.ledger.arrivals) > BACKLOG and not self.stop.is_set():
            time.sleep(0.01)
        for code, text in (smtp.mail("s@home.test"), smtp.rcpt(to), smtp.docmd("DATA")):
            if code not in {250, 354}:
                raise smtplib.SMTPResponseException(code, text)
        smtp.send(f"From: s@home.test\r\nMessage-ID: <{to}>\r\n\r\nhello\r\n.\r\n".encode())
        self.unknown.add(to)
        code, text = smtp.getreply()
        self.unknown.discard(to)
        found = QUEUED.search(text)
        if code != 250 or found is None:
            raise smtplib.SMTPResponseException(code, text)
        self.yes[to] = found[1].decode()


@dataclass
class Trial:
    """An agent with one SMTP listener under load."""

    agent: WholeAgent
    feeders: Feeders
    rng: random.Random
    kills: int = 0
    service: subprocess.Popen[bytes] | None = None

    def under_load(self) -> subprocess.Popen[bytes]:
        """A running service that has taken something since now."""
        if self.service is None or self.service.poll() is not None:
            self.service = self.agent.start()
        service, before = self.service, len(self.feeders.yes)
        eventually(lambda: len(self.feeders.yes) > before + 5 or service.poll() is not None)
        assert service.poll() is None, self.agent.log.read_text()[-3000:]
        time.sleep(self.rng.uniform(0, 0.2))
        return service

    def kill(self, victim: str) -> None:
        service = self.under_load()
        self.kills += 1
        match victim:
            case "everything":
                os.killpg(service.pid, signal.SIGKILL)
                service.wait()
            case "manager":
                service.kill()
                service.wait()
            case _:
                for listener in listeners_of(service):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(listener, signal.SIGKILL)
                if self.kills % 7 == 0:  # the pauses before a restart have become long
                    self.end()

    def end(self) -> None:
        """Stop the service in the proper way."""
        if self.service is not None and self.service.poll() is None:
            self.service.terminate()
            assert self.service.wait(PATIENCE) == 0, self.agent.log.read_text()[-3000:]

    def queued(self) -> Counter[str]:
        """How often each recipient is in the queue, in whatever state."""
        return Counter(
            recipient["address"]
            for message in self.agent.messages().values()
            for recipient in message["recipients"]
        )

    def judge(self) -> str:
        """Hold the queue and the arrivals against what was answered; some figures."""
        self.end()
        feeders, queued = self.feeders, self.queued()
        messages = self.agent.messages()
        wrong = [to for to, queue_id in feeders.yes.items() if queued[to] != 1]
        assert not wrong, f"answered 250 but not there once: {[(w, queued[w]) for w in wrong[:5]]}"
        for to, queue_id in feeders.yes.items():
            (recipient,) = messages[queue_id]["recipients"]
            assert recipient["address"] == to
        twice = [to for to, count in queued.items() if count > 1]
        assert not twice, f"taken more than once: {twice[:5]}"
        assert set(queued) <= set(feeders.yes) | feeders.unknown
        self._drain()
        arrived = {to for arrival in feeders.ledger.arrivals for to in arrival.accepted}
        assert set(queued) == arrived
        kept = sum(queued[to] for to in feeders.unknown)
        return (
            f"{self.kills} kills, {len(feeders.yes)} answered, {len(feeders.unknown)} unanswered of which "
            f"{kept} were taken, {len(feeders.troubles)} sessions broken"
        )

    def _drain(self) -> None:
        until = time.monotonic() + 60
        while self.agent.messages("--status", "held", "--status", "queued", "--status", "deferred"):
            assert time.monotonic() < until
            if self.agent.messages("--status", "held"):
                self.agent.run("queue", "release", "--status", "held", "--yes")
            done = self.agent.start("--until-idle").wait(PATIENCE)
            assert done == 0, self.agent.log.read_text()[-3000:]


@contextlib.contextmanager
def trial(directory: Path, url: str) -> Iterator[Trial]:
    ledger = Ledger(clock=time.monotonic)
    settings = HostSettings(name="mx.crash.test")
    seed = random.randrange(2**32)
    with Background(lambda: Receiver(settings, ledger=ledger)) as receiver:
        doors = Doors(directory, receiver.port, url)
        doors.add_trusted("relay")
        with doors.agent() as agent:
            feeders = Feeders(doors.ports["relay"], ledger)
            print(f"seed {seed}")  # noqa: T201 - shown when the test fails
            yield Trial(agent, feeders, random.Random(seed))


def run_trial(directory: Path, url: str, victim: str, kills: int) -> None:
    with trial(directory, url) as running:
        with running.feeders.running():
            for _ in range(kills):
                running.kill(victim)
                time.sleep(running.rng.choice((0, 0, 0.1)))
            running.under_load()
        figures = running.judge()
        print(figures)  # noqa: T201 - shown with -s, or when the test fails
        if victim == "listener" and kills < 7:  # its socket is the service's
            assert not running.feeders.refused


VICTIMS = ["everything", "manager", "listener"]


@pytest.mark.parametrize("victim", VICTIMS)
def test_kill_9_loses_nothing_that_was_answered(
    tmp_path: Path, queue_url: str, victim: str
) -> None:
    run_trial(tmp_path, queue_url, victim, kills=3)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("victim", VICTIMS)
def test_200_kills_lose_nothing_that_was_answered(
    tmp_path: Path, queue_url: str, victim: str
) -> None:
    run_trial(tmp_path, queue_url, victim, kills=200)


def test_a_reload_under_load_ends_no_session_and_loses_nothing(
    tmp_path: Path, queue_url: str
) -> None:
    with trial(tmp_path, queue_url) as running:
        service = running.service = running.agent.start()
        running.agent.ready(service)
        with running.feeders.running():
            for _ in range(3):
                before = set(listeners_of(service))
                running.under_load().send_signal(signal.SIGHUP)
                eventually(lambda before=before: _replaced(service, before))  # type: ignore[misc]
                running.under_load()
        assert not running.feeders.troubles
        assert not running.feeders.unknown
        running.judge()


def _replaced(service: subprocess.Popen[bytes], before: set[int]) -> bool:
    return not before & set(listeners_of(service))


def test_a_stop_says_goodbye_to_who_is_idle_and_lets_a_message_end(tmp_path: Path) -> None:
    with trial(tmp_path, "") as running:
        service = running.agent.start()
        running.agent.ready(service)
        port = running.feeders.port
        idle = [socket.create_connection(("127.0.0.1", port), PATIENCE) for _ in range(5)]
        for one in idle:
            assert one.recv(1000).startswith(b"220 ")
        with smtplib.SMTP("127.0.0.1", port, "pc", timeout=PATIENCE) as smtp:
            smtp.ehlo()
            smtp.mail("s@home.test")
            smtp.rcpt("late@crash.test")
            assert smtp.docmd("DATA")[0] == 354
            service.terminate()
            for one in idle:
                with one, one.makefile("rb") as file:
                    assert file.read().startswith(b"421 4.3.2 ")
            smtp.send(b"Subject: late\r\n\r\nhello\r\n.\r\n")
            assert smtp.getreply()[0] == 250
        assert service.wait(PATIENCE) == 0
        assert running.queued() == {"late@crash.test": 1}
