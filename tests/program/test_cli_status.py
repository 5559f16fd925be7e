"""``dagent status`` and ``dagent drain``: one screen for people, one line for monitoring."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deliveryagent.queue import leases
from tests.doubles.dagent import Dagent
from tests.doubles.filled_queue import STATUS, Answering, FilledQueue


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[FilledQueue]:
    filled = FilledQueue(tmp_path)
    yield filled
    filled.close()


@pytest.fixture
def dagent(queue: FilledQueue, capsys: pytest.CaptureFixture[str]) -> Dagent:
    return Dagent(queue.config, capsys)


def test_without_a_service_the_queue_is_still_shown(queue: FilledQueue, dagent: Dagent) -> None:
    queue.add("a@example.net", age=7200)
    queue.hold(queue.add("b@example.net"), "why")
    assert dagent("status") == 0
    assert "mail.example.org  not running" in dagent.out
    assert "1 recipient waiting, 1 due now, 1 held" in dagent.out
    assert "oldest 2h, next due now" in dagent.out
    assert "dagent serve" in dagent.out


def test_a_healthy_service_on_one_screen(queue: FilledQueue, dagent: Dagent) -> None:
    live = {**STATUS, "started": queue.now - 3000, "active": 1}
    with Answering(queue.socket, status=live):
        assert dagent("status") == 0
    first, second, third = dagent.out.splitlines()
    assert first.startswith("mail.example.org  deliveryagent 0.1.0  accepting, delivering  up 50m")
    assert second == "queue   0 recipients waiting, 0 due now"
    assert third == "workers 1 of 1 running, 1 recipient in flight, 3 sessions"


def test_trouble_stands_out(queue: FilledQueue, dagent: Dagent) -> None:
    queue.pause("slow.example", until=queue.now + 3600, note="migration\x1b")
    sites = [
        {"name": f"mx{n}", "window": 2, "closed_until": queue.now + 60, "reason": "refused\x1b[m"}
        for n in range(6)
    ]
    sites.append({"name": "good", "window": 20, "closed_until": None, "reason": ""})
    workers = [{"pid": 0, "sessions": 0, "lag": 4.0, "restarts": 7}]
    live = {**STATUS, "sites": sites, "workers": workers, "draining": True}
    with Answering(queue.socket, status=live):
        dagent("status")
    assert "draining: takes mail, starts no delivery" in dagent.out
    assert "!!      mx0  closed until " in dagent.out
    assert r"refused\x1b[m" in dagent.out
    assert "1 more site in trouble: dagent dest list" in dagent.out
    assert "good" not in dagent.out
    assert "workers 0 of 1 running" in dagent.out
    assert "7 restarts, up to 4s behind" in dagent.out
    assert r"slow.example paused by anna until" in dagent.out
    assert "dagent dest resume slow.example" in dagent.out
    assert all(line.isprintable() for line in dagent.out.splitlines())


def test_a_store_in_trouble_is_the_headline(queue: FilledQueue, dagent: Dagent) -> None:
    live = {**STATUS, "store": {"writable": False, "reason": "disk full"}}
    with Answering(queue.socket, status=live):
        dagent("status")
        assert "stopped, the store cannot be written: disk full" in dagent.out
        assert dagent("status", "--check") == 2
    assert dagent.out.startswith("DELIVERYAGENT CRITICAL - the store cannot be written: disk full")


def test_json_tells_the_same(queue: FilledQueue, dagent: Dagent) -> None:
    queue.add("a@example.net")
    queue.pause("example.com")
    with Answering(queue.socket):
        (record,) = dagent.records("status")
    assert record["running"] is True
    assert record["queue"]["waiting"] == 1
    assert record["queue"]["oldest"].endswith("Z")
    assert record["pauses"][0]["until"] is None
    assert record["service"]["pid"] == 4711
    (record,) = dagent.records("status")
    assert (record["running"], record["service"]) == (False, None)


def test_a_check_of_a_healthy_service_is_ok(queue: FilledQueue, dagent: Dagent) -> None:
    queue.add("a@example.net", age=1)
    with Answering(queue.socket):
        assert dagent("status", "--check") == 0
    text, _, figures = dagent.out.rstrip("\n").partition(" | ")
    assert text == "DELIVERYAGENT OK - 1 recipient waiting, 1 due, 0 held"
    names = [figure.partition("=")[0] for figure in figures.split(" ")]
    assert names == ["waiting", "due", "held", "active", "oldest", "overdue"]
    assert figures.endswith(";300;1800;0")


@pytest.mark.parametrize(
    ("words", "status", "reason"),
    [
        (["--warning-waiting", "1"], 1, "WARNING - 2 recipients waiting"),
        (["--warning-waiting", "0", "--critical-waiting", "1"], 2, "CRITICAL - 2 recipients wait"),
        (["--warning-overdue", "30s"], 1, "WARNING - due mail waits for 1m"),
        (["--critical-overdue", "30s"], 2, "CRITICAL - due mail waits for 1m"),
    ],
)
def test_limits_raise_the_level(
    queue: FilledQueue, dagent: Dagent, words: list[str], status: int, reason: str
) -> None:
    queue.add("a@example.net", "b@example.net", age=65)
    with Answering(queue.socket):
        assert dagent("status", "--check", *words) == status
    assert reason in dagent.out


def test_mail_that_is_paused_is_not_overdue(queue: FilledQueue, dagent: Dagent) -> None:
    queue.add("a@example.net", age=7200)
    queue.pause("example.net")
    with Answering(queue.socket):
        assert dagent("status", "--check") == 0


def test_no_service_is_critical(queue: FilledQueue, dagent: Dagent) -> None:
    assert dagent("status", "--check") == 2
    assert "no service runs" in dagent.out


def test_no_worker_is_critical_and_draining_a_warning(queue: FilledQueue, dagent: Dagent) -> None:
    live = {**STATUS, "workers": [{**STATUS["workers"][0], "pid": 0}], "draining": True}
    with Answering(queue.socket, status=live):
        assert dagent("status", "--check") == 2
        assert "no delivery worker runs; draining" in dagent.out
    with Answering(queue.socket, status={**STATUS, "draining": True}):
        assert dagent("status", "--check") == 1


def listener(**facts: Any) -> dict[str, Any]:
    usual = {"address": "*:587", "kind": "submission", "ready": True, "pid": 7, "sessions": 2}
    return {**usual, "taken": 31, "restarts": 0, "leaving": 0, **facts}


def test_every_listener_has_a_line(queue: FilledQueue, dagent: Dagent) -> None:
    broken = listener(address="unix:/run/x\x1b", kind="lmtp", ready=False, restarts=3, taken=1)
    with Answering(queue.socket, status={**STATUS, "listeners": [listener(), broken]}):
        dagent("status")
    one, other = dagent.out.splitlines()[3:5]
    assert one == "doors   submission *:587, 2 sessions, 31 messages taken"
    assert other == (
        r"        lmtp unix:/run/x\x1b, 2 sessions, 1 message taken, 3 restarts, does not run"
    )


def test_a_listener_that_is_down_is_critical(queue: FilledQueue, dagent: Dagent) -> None:
    with Answering(queue.socket, status={**STATUS, "listeners": [listener(ready=False)]}):
        assert dagent("status", "--check") == 2
        assert "the listener *:587 does not run" in dagent.out
    with Answering(queue.socket, status={**STATUS, "listeners": [listener()]}):
        assert dagent("status", "--check") == 0


def test_no_queue_is_unknown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "c.toml"
    config.write_text(f'[queue]\nurl = "sqlite:///{tmp_path}/none.sqlite3"\n')
    dagent = Dagent(str(config), capsys)
    assert dagent("status", "--check") == 3
    assert dagent.out.startswith("DELIVERYAGENT UNKNOWN - there is no queue")
    assert dagent("status") not in {0, 3}


def test_a_check_in_json(queue: FilledQueue, dagent: Dagent) -> None:
    with Answering(queue.socket):
        (record,) = dagent.records("status", "--check")
    assert (record["status"], record["reasons"]) == ("OK", [])


# -- several agents ---


def agent(queue: FilledQueue, number: int, *, length: float = 20.0, draining: bool = False) -> None:
    """An agent of the queue, on a host of its own."""
    one = leases.Registration(
        agent=number,
        host=f"host{number}",
        pid=100 + number,
        started=queue.now - 3700,
        length=length,
        version="0.1.0",
    )
    queue.change(leases.register, one)
    renewal = leases.Renewal(
        agent=number, length=length, draining=draining, destinations=12, waiting=40, in_flight=3
    )
    queue.change(leases.renew, renewal)


def test_all_agents_of_a_queue_are_shown(queue: FilledQueue, dagent: Dagent) -> None:
    agent(queue, 1)
    agent(queue, 2, draining=True)
    with Answering(queue.socket):
        assert dagent("status") == 0
        lines = [line for line in dagent.out.splitlines() if line.startswith("agent ")]
        assert lines == [
            "agent   host1 process 101, 0.1.0 up 1h1m, owns 12 destinations, 3 requests in flight",
            "agent   host2 process 102, 0.1.0 up 1h1m, owns 12 destinations, 3 requests in flight, draining",
        ]
        (record,) = dagent.records("status")
        assert dagent("status", "--check") == 0
    first, second = record["agents"]
    assert (first["host"], first["pid"], first["version"]) == ("host1", 101, "0.1.0")
    assert (first["destinations"], first["waiting"], first["in_flight"]) == (12, 40, 3)
    assert 0 < first["lease"] <= 20
    assert first["started"].endswith("Z")
    assert (first["draining"], second["draining"]) == (False, True)


def test_one_agent_alone_needs_no_line(queue: FilledQueue, dagent: Dagent) -> None:
    agent(queue, 1, length=leases.FOREVER)
    with Answering(queue.socket):
        dagent("status")
        assert not any(line.startswith("agent ") for line in dagent.out.splitlines())
        (record,) = dagent.records("status")
    assert record["agents"][0]["lease"] is None


@pytest.mark.parametrize(("silent", "level"), [(5.0, 1), (90.0, 2)])
def test_a_silent_agent_is_complained_about(
    queue: FilledQueue, dagent: Dagent, silent: float, level: int
) -> None:
    agent(queue, 1)
    agent(queue, 2, length=-silent)
    with Answering(queue.socket):
        assert dagent("status", "--check") == level
        assert "the agent on host2 (process 102) has not renewed its lease for" in dagent.out
        dagent("status")
    assert "silent: lease over for" in dagent.out


# -- drain -----------------------------------------------------------------------------------------


def test_a_drain_needs_a_service(queue: FilledQueue, dagent: Dagent) -> None:
    assert dagent("drain") == 3
    assert "no service is running" in dagent.err


def test_a_drain_waits_for_what_is_in_flight(queue: FilledQueue, dagent: Dagent) -> None:
    left = iter([2, 1, 0])

    def status(_: dict[str, Any]) -> dict[str, Any]:
        return {**STATUS, "active": next(left)}

    with Answering(queue.socket, drain={"draining": True}, status=status):
        assert dagent("drain", "--wait") == 0
    assert dagent.out == "Drained: nothing is in flight.\n"


def test_a_drain_gives_up_waiting_in_time(queue: FilledQueue, dagent: Dagent) -> None:
    live = {**STATUS, "active": 2}
    with Answering(queue.socket, drain={"draining": True}, status=live):
        assert dagent("drain") == 0
        assert dagent("drain", "--wait", "--timeout", "0.1") == 6
        assert dagent.out == "Draining: 2 deliveries still in flight.\n"
        (record,) = dagent.records("drain")
    assert record == {"draining": True, "active": 2, "destinations": 0}
