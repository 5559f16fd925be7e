"""kill -9 at random moments under load: nothing that was accepted is lost, and little comes twice.

A receiving host notes when each final dot came in and when it was answered. A recipient may get a
message again only when the kill fell between the two, as far as the sender could know; nothing else
repeats.
"""

import contextlib
import os
import random
import signal
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from deliveryagent import Client
from deliveryagent.lab.arrivals import Arrival, Ledger
from deliveryagent.lab.receiver import Receiver
from deliveryagent.lab.session import HostSettings
from deliveryagent.protocol.local import ServiceError
from tests.program.whole_agent import Background, WholeAgent, eventually, letter, workers_of

WORKERS = 2
LIMIT = 20  # sessions to the one site
BACKLOG = 300
SLACK = 0.25  # from the receiver's write until the sender, on a busy machine, has taken note of it

CONFIGURATION = """
hostname = "agent.test"
run_dir = "{directory}/run"
[queue]
url = "{url}"
minimal_backoff_time = "1s"
maximal_backoff_time = "2s"
[delivery]
workers = {workers}
default_destination_concurrency_limit = {limit}
[relay]
host = "[127.0.0.1]:{port}"
"""


@dataclass
class Feeder:
    """Hands over messages all the time, and knows which were accepted."""

    socket: Path
    arrived: Ledger
    accepted: set[str] = field(default_factory=set)
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        number = 0
        with Client(socket=self.socket, patience=0.5) as client:
            while not self.stop.is_set():
                if len(self.accepted) - len(self.arrived.arrivals) > BACKLOG:
                    time.sleep(0.01)
                    continue
                name = f"{number}@crash.test"
                # The key makes another try after a failure the same message.
                with contextlib.suppress(ServiceError, OSError):
                    client.enqueue("s@home.test", [f"r{name}"], letter(name), key=name)
                    self.accepted.add(f"<{name}>")
                    number += 1


@dataclass
class Trial:
    """One agent, one receiver, kills."""

    agent: WholeAgent
    ledger: Ledger
    rng: random.Random
    kills: list[float] = field(default_factory=list)
    service: subprocess.Popen[bytes] | None = None

    def under_load(self) -> subprocess.Popen[bytes]:
        """A running service that has delivered something since now."""
        if self.service is None or self.service.poll() is not None:
            self.service = self.agent.start()
        service, before = self.service, len(self.ledger.arrivals)
        eventually(lambda: len(self.ledger.arrivals) > before or service.poll() is not None)
        assert service.poll() is None, self.agent.log.read_text()[-3000:]
        time.sleep(self.rng.uniform(0, 0.3))
        return service

    def kill(self, victim: str) -> None:
        service = self.under_load()
        self.kills.append(time.monotonic())
        match victim:
            case "everything":
                os.killpg(service.pid, signal.SIGKILL)
                service.wait()
            case "manager":
                service.kill()
                service.wait()
            case _:
                workers = workers_of(service)
                if workers:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(self.rng.choice(workers), signal.SIGKILL)
                if len(self.kills) % 7 == 0:  # the pauses before a restart have become long
                    self.end()

    def end(self) -> None:
        """Stop the service in the proper way."""
        if self.service is not None and self.service.poll() is None:
            self.service.terminate()
            assert self.service.wait(30) == 0, self.agent.log.read_text()[-3000:]

    def drain(self) -> None:
        """Let the rest be delivered."""
        self.end()
        until = time.monotonic() + 60
        while live := self._live():
            assert time.monotonic() < until, f"{len(live)} still waiting: {list(live.values())[:3]}"
            if any(message["status"] == "held" for message in live.values()):
                self.agent.run("queue", "release", "--status", "held", "--yes")
            done = self.agent.start("--until-idle").wait(60)
            assert done == 0, self.agent.log.read_text()[-3000:]

    def _live(self) -> dict[str, dict[str, object]]:
        ended = {"delivered", "bounced", "expired", "deleted"}
        return {
            queue_id: message
            for queue_id, message in self.agent.messages().items()
            if message["status"] not in ended
        }


def repeated(ledger: Ledger) -> list[Arrival]:
    """The arrivals that were followed by another of the same message to the same recipient."""
    last = {(a.message_id, r): a for a in ledger.arrivals for r in a.accepted}
    return [a for a in ledger.arrivals for r in a.accepted if last[a.message_id, r] is not a]


def in_doubt(arrival: Arrival, kills: list[float]) -> bool:
    """Whether a kill kept the sender from knowing of this arrival."""
    answered = arrival.replied or float("inf")
    return any(arrival.dotted - SLACK <= kill <= answered + SLACK for kill in kills)


def run_trial(directory: Path, url: str, victim: str, kills: int) -> None:
    ledger = Ledger(clock=time.monotonic)
    settings = HostSettings(name="mx.crash.test", dot_delay=(0.0, 0.04))
    seed = random.randrange(2**32)
    (directory / "run").mkdir()
    with Background(lambda: Receiver(settings, ledger=ledger)) as receiver:
        text = CONFIGURATION.format(
            directory=directory, url=url, workers=WORKERS, limit=LIMIT, port=receiver.port
        )
        with WholeAgent(directory, text) as agent:
            trial = Trial(agent, ledger, random.Random(seed))
            feeder = Feeder(directory / "run" / "deliveryagent.sock", ledger)
            feeding = threading.Thread(target=feeder.run)
            feeding.start()
            try:
                for _ in range(kills):
                    trial.kill(victim)
                    time.sleep(trial.rng.choice((0, 0, 0.1)))
            finally:
                feeder.stop.set()
                feeding.join()
            trial.drain()
    judge(trial, feeder, victim=f"{victim}, seed {seed}")


def judge(trial: Trial, feeder: Feeder, *, victim: str) -> None:
    """Hold what arrived against what was accepted."""
    deliveries = trial.ledger.deliveries()
    arrived = {message_id for message_id, _ in deliveries}
    lost = feeder.accepted - arrived
    assert not lost, f"{victim}: lost {len(lost)} of {len(feeder.accepted)}: {sorted(lost)[:5]}"
    again = repeated(trial.ledger)
    unexplained = [arrival for arrival in again if not in_doubt(arrival, trial.kills)]
    assert not unexplained, f"{victim}: repeated without need: {unexplained[:3]}"
    most = LIMIT * len(trial.kills)
    assert len(again) <= most, f"{victim}: {len(again)} repetitions, {most} were in flight"
    digests = {(a.message_id, a.digest) for a in trial.ledger.arrivals}
    assert len(digests) == len(arrived), "a repetition differs from the original"


@pytest.mark.parametrize("victim", ["everything", "manager", "one worker"])
def test_kill_9_loses_nothing_and_repeats_only_what_was_in_doubt(
    tmp_path: Path, queue_url: str, victim: str
) -> None:
    run_trial(tmp_path, queue_url, victim, kills=5)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("victim", ["everything", "manager", "one worker"])
def test_200_kills_lose_nothing(tmp_path: Path, queue_url: str, victim: str) -> None:
    run_trial(tmp_path, queue_url, victim, kills=200)
