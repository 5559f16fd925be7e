"""The main job through the whole program: hand over, deliver, retry, report, look, act."""

import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from email import message_from_bytes
from pathlib import Path

import pytest
from flufl.bounce import scan_message

from deliveryagent import Client
from deliveryagent.lab.arrivals import Arrival
from deliveryagent.lab.playground import Playground
from tests.doubles.stores import PostgresServer
from tests.program.whole_agent import ROOT, Background, WholeAgent, eventually, letter

SENDER = "you@home.test"
AWAY = """
hostname = "agent.test"
run_dir = "{directory}/run"
[queue]
url = "sqlite:///{directory}/queue.sqlite3"
[[route]]
match = ["*"]
nexthop = "discard:"
"""


@dataclass
class World:
    """The lab, an agent that runs in it, and the reports that came home."""

    lab: Playground
    agent: WholeAgent
    reports: dict[str, bytes]

    def arrivals(self, recipient: str) -> list[Arrival]:
        return [a for a in self.lab.ledger.arrivals if recipient in a.accepted]

    def send(
        self, *recipients: str, text: str | bytes = "Subject: x\n\nhello\n", **options: str
    ) -> str:
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        done = self.agent.run("send", "-f", SENDER, *words, *recipients, text=text)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def settled(self, queue_id: str) -> dict[str, dict[str, object]]:
        """The recipients of a message, once none of them waits any more, by address."""
        with Client(config=self.agent.config) as client:
            message = client.wait(queue_id, timeout=20)
        return {recipient["address"]: recipient for recipient in message["recipients"]}


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("lab")
    reports: dict[str, bytes] = {}

    def notify(arrival: Arrival, content: bytes) -> None:
        if b"report-type=delivery-status" in content:
            reports[arrival.message_id] = content

    def open_lab() -> Playground:
        return Playground(directory, clock=time.monotonic, notify=notify, backoff="1s")

    with Background(open_lab) as lab:
        if request.param == "postgresql":
            server: PostgresServer = request.getfixturevalue("postgres_server")
            text = lab.config_path.read_text("utf-8")
            (url,) = re.findall(r'url = "(sqlite:.*)"', text)
            lab.config_path.write_text(text.replace(url, server.fresh()), "utf-8")
        with WholeAgent(directory, lab.config_path) as agent, agent.serving():
            yield World(lab, agent, reports)


def test_a_message_is_delivered_at_once_with_what_it_needs(world: World) -> None:
    queue_id = world.send("ok+once@good.test", text="Subject: hello\n\n.dot\nbare\n")
    assert world.settled(queue_id)["ok+once@good.test"]["status"] == "delivered"
    [arrival] = world.arrivals("ok+once@good.test")
    assert (arrival.sender, arrival.subject, arrival.crlf_only) == (SENDER, "hello", True)
    assert arrival.helo == "agent.lab.test"
    [path] = [
        p for p in (world.lab.directory / "received").glob("*.eml") if b".dot" in p.read_bytes()
    ]
    content = path.read_bytes()
    message = message_from_bytes(content)
    assert content.endswith(b"\r\n\r\n.dot\r\nbare\r\n")
    assert queue_id in message["Received"]
    assert message["Date"]
    assert message["Message-ID"]


def test_recipients_share_a_transaction(world: World) -> None:
    queue_id = world.send("ok+a@good.test", "ok+b@good.test")
    assert {r["status"] for r in world.settled(queue_id).values()} == {"delivered"}
    assert world.arrivals("ok+a@good.test") == world.arrivals("ok+b@good.test")


def test_a_greylisted_message_is_delivered_later(world: World) -> None:
    recipient = "greylist+1@good.test"
    found = world.settled(world.send(recipient))[recipient]
    assert found["status"] == "delivered"
    assert found["attempts"] == 2
    assert len(world.arrivals(recipient)) == 1


def test_a_dead_mx_host_does_not_delay(world: World) -> None:
    found = world.settled(world.send("ok@backup.test"))["ok@backup.test"]
    assert (found["status"], found["attempts"]) == ("delivered", 1)
    assert "mx2.backup.test" in str(found["host"])


@pytest.mark.parametrize(
    ("recipient", "enhanced"),
    [
        ("550+r@good.test", "5.1.1"),
        ("dot-554@good.test", "5.7.1"),
        ("info@null.test", "5.1.10"),
        ("nobody@missing.test", "5.1.2"),
    ],
)
def test_a_final_refusal_comes_back_as_a_report(
    world: World, recipient: str, enhanced: str
) -> None:
    found = world.settled(world.send(recipient))[recipient]
    assert found["status"] == "bounced"
    eventually(lambda: any(recipient.encode() in report for report in list(world.reports.values())))
    [report] = [r for r in world.reports.values() if recipient.encode() in r]
    message = message_from_bytes(report)
    assert message.get_content_type() == "multipart/report"
    assert scan_message(message) == {recipient.encode()}
    assert f"Status: {enhanced}".encode() in report
    [arrival] = [a for a in world.lab.ledger.arrivals if a.message_id == message["Message-ID"]]
    assert (arrival.sender, arrival.accepted) == ("", (SENDER,))


def test_one_message_many_fates(world: World) -> None:
    recipients = [
        "ok+mix@good.test",
        "550+mix@good.test",
        "greylist+mix@good.test",
        "ok+mix@nomx.test",
    ]
    found = world.settled(world.send(*recipients))
    assert [found[r]["status"] for r in recipients] == [
        "delivered",
        "bounced",
        "delivered",
        "delivered",
    ]
    assert [len(world.arrivals(r)) for r in recipients] == [1, 0, 1, 1]


@pytest.mark.parametrize(
    "recipient", ["ok@plain.test", "ok@secure.test", "ok@nomx.test", "slow-0.2s@good.test"]
)
def test_hosts_of_all_kinds_are_served(world: World, recipient: str) -> None:
    assert world.settled(world.send(recipient))[recipient]["status"] == "delivered"
    assert world.arrivals(recipient)[-1].tls is ("secure" in recipient)


def test_a_message_too_large_for_every_host_is_returned(world: World) -> None:
    text = "Subject: big\n\n" + "x" * 70 * 1000
    found = world.settled(world.send("ok@small.test", text=text))["ok@small.test"]
    assert found["status"] == "bounced"
    assert "5.3.4" in json.dumps(found)


def test_what_waits_is_listed_and_explained(world: World) -> None:
    recipient = "450+why@good.test"
    queue_id = world.send(recipient)
    eventually(lambda: world.agent.messages(queue_id)[queue_id]["status"] == "deferred")
    listed = world.agent.run("queue", "list")
    assert recipient in listed.stdout
    why = world.agent.run("why", recipient)
    assert why.returncode == 0, why.stderr
    assert "4.2.1 Mailbox busy" in why.stdout
    assert queue_id in why.stdout
    deleted = world.agent.run("queue", "delete", queue_id)
    assert deleted.returncode == 0, deleted.stderr
    assert world.settled(queue_id)[recipient]["status"] == "deleted"


def test_held_mail_waits_until_it_is_released(world: World) -> None:
    done = world.agent.run(
        "send", "-f", SENDER, "--hold", "ok+held@good.test", text="Subject: x\n\n"
    )
    queue_id = done.stdout.strip()
    assert world.agent.messages(queue_id)[queue_id]["status"] == "held"
    assert world.agent.run("queue", "release", queue_id).returncode == 0
    assert world.settled(queue_id)["ok+held@good.test"]["status"] == "delivered"


def test_a_paused_destination_gets_nothing_until_resumed(world: World) -> None:
    assert world.agent.run("dest", "pause", "secure.test").returncode == 0
    queue_id = world.send("ok+paused@secure.test")
    assert "paused" in world.agent.run("why", queue_id).stdout
    assert world.arrivals("ok+paused@secure.test") == []
    assert world.agent.run("dest", "resume", "secure.test").returncode == 0
    assert world.settled(queue_id)["ok+paused@secure.test"]["status"] == "delivered"


def test_waiting_for_the_outcome(world: World) -> None:
    done = world.agent.run(
        "send", "-f", SENDER, "--wait", "10", "ok@good.test", text="Subject: x\n\n"
    )
    assert done.returncode == 0, done.stderr


def test_the_null_sender_gets_no_report(world: World) -> None:
    done = world.agent.run("send", "-f", "<>", "550+null@good.test", text="Subject: x\n\n")
    queue_id = done.stdout.strip()
    assert world.settled(queue_id)["550+null@good.test"]["status"] == "bounced"
    time.sleep(0.3)
    assert not [r for r in world.reports.values() if b"550+null@good.test" in r]


def test_a_second_agent_on_the_same_queue_refuses(world: World) -> None:
    done = world.agent.run("serve")
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 3, done.stderr


def test_the_books_balance(world: World) -> None:
    done = world.agent.run("db", "check")
    assert done.returncode == 0, done.stdout + done.stderr


def test_mail_waits_for_the_service(tmp_path: Path) -> None:
    """Handed over while nothing runs, delivered by the next service; a stop in between loses nothing."""

    def open_lab() -> Playground:
        return Playground(tmp_path, clock=time.monotonic, backoff="1s")

    with Background(open_lab) as lab, WholeAgent(tmp_path, lab.config_path) as agent:
        with Client(config=agent.config) as client:
            items = [(SENDER, [f"slow-0.1s+{n}@good.test"], letter(f"{n}@x")) for n in range(60)]
            client.enqueue_many(items)
        with agent.serving():
            eventually(lambda: bool(lab.ledger.arrivals))
        assert len(lab.ledger.arrivals) < 60
        assert agent.start("--until-idle").wait(30) == 0, agent.log.read_text()
        counts = lab.ledger.deliveries()
        assert (len(counts), set(counts.values())) == (60, {1})


def test_a_service_starts_although_others_write_to_the_queue(tmp_path: Path) -> None:
    """Who hands over without a service holds the lock for moments only, and uses the socket later."""
    stop = threading.Event()
    ids: list[str] = []

    def hand_over(agent: WholeAgent) -> None:
        with Client(config=agent.config) as client:
            while not stop.is_set():
                ids.append(client.enqueue(SENDER, ["x@away.test"], letter(f"{len(ids)}@x")))

    (tmp_path / "run").mkdir()
    with WholeAgent(tmp_path, AWAY.format(directory=tmp_path)) as agent:
        writer = threading.Thread(target=hand_over, args=(agent,))
        writer.start()
        try:
            eventually(lambda: len(ids) > 3)
            with agent.serving():
                before = len(ids)
                eventually(lambda: len(ids) > before + 3)
                stop.set()
                writer.join()
        finally:
            stop.set()
        assert len(agent.messages("--all")) == len(ids)


def test_the_lab_command_ends_on_ctrl_c(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "deliveryagent", "lab", "--port", "0", "--dns-port", "0"]
    with subprocess.Popen(
        [*command, "--dir", str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        assert b"Name server on 127.0.0.1:" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        out = process.stdout.read()  # not communicate(): it loses what readline() read ahead
        process.wait(timeout=10)
    assert process.returncode == 0
    assert b"greylist@good.test" in out
    assert (tmp_path / "lab.toml").exists()


def test_the_demonstration_comes_out_as_told() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "deliveryagent.lab.demo"],
        capture_output=True, text=True, check=False, cwd=ROOT, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\x1b" not in done.stdout


def asked(world: World, recipient: str, **wishes: object) -> str:
    """A message that asks something of its way."""
    with Client(config=world.agent.config) as client:
        return client.enqueue(SENDER, recipient, b"Subject: x\n\nhello\n", **wishes)  # type: ignore[arg-type]


def test_the_next_hop_hears_how_urgent_a_message_is(world: World) -> None:
    queue_id = asked(
        world, "ok+soon@urgent.test", priority=7, deliver_by=time.time() + 60, by_mode="return"
    )
    assert world.settled(queue_id)["ok+soon@urgent.test"]["status"] == "delivered"
    [arrival] = world.arrivals("ok+soon@urgent.test")
    words = arrival.parameters.split()
    assert "MT-PRIORITY=7" in words
    [by] = [word for word in words if word.startswith("BY=")]
    seconds, mode = by[3:].split(";")
    assert 30 <= int(seconds) <= 60
    assert mode == "R"
    shown = json.loads(world.agent.run("--json", "queue", "show", queue_id).stdout)
    assert (shown["priority"], shown["by_mode"]) == (7, "R")
    assert shown["deliver_by"].endswith("Z")
    assert "wants" in world.agent.run("queue", "show", queue_id).stdout
    assert "wants" in world.agent.run("why", queue_id).stdout


def test_a_host_without_deadlines_gets_no_mail_that_is_to_be_returned(world: World) -> None:
    recipient = "ok+strict@good.test"
    queue_id = asked(world, recipient, deliver_by=time.time() + 600, by_mode="return")
    found = world.settled(queue_id)[recipient]
    assert found["status"] == "bounced"
    assert found["last_reply"]["enhanced"] == "5.3.3"  # type: ignore[index]
    assert world.arrivals(recipient) == []


def test_a_message_whose_time_is_over_comes_back_untried(world: World) -> None:
    recipient = "ok+late@urgent.test"
    assert world.agent.run("dest", "pause", "urgent.test").returncode == 0
    over = time.time() + 1
    queue_id = asked(world, recipient, deliver_by=over, by_mode="return")
    eventually(lambda: time.time() > over)
    assert world.agent.run("dest", "resume", "urgent.test").returncode == 0
    found = world.settled(queue_id)[recipient]
    assert (found["status"], found["attempts"]) == ("expired", 0)
    eventually(lambda: any(b"Status: 5.4.7" in content for content in world.reports.values()))
    assert world.arrivals(recipient) == []
