"""``dagent why``: the verdict first, every try, what comes next, who else, what to do."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.doubles.dagent import Dagent
from tests.doubles.filled_queue import STATUS, Answering, FilledQueue

SLOW: dict[str, Any] = {
    "stage": "mail",
    "code": 421,
    "enhanced": "4.7.28",
    "text": "rate limited",
    "tls": "TLSv1.3 X untrusted",
}


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[FilledQueue]:
    filled = FilledQueue(tmp_path)
    yield filled
    filled.close()


@pytest.fixture
def dagent(queue: FilledQueue, capsys: pytest.CaptureFixture[str]) -> Dagent:
    return Dagent(queue.config, capsys)


def lines(dagent: Dagent, word: str) -> list[str]:
    """The lines under a word at the margin."""
    return [line[7:] for line in dagent.out.splitlines() if line.startswith(f"{word} ")]


def test_a_rate_limited_message_is_explained(queue: FilledQueue, dagent: Dagent) -> None:
    queue_id = queue.add("kim@big.example", age=4800)
    for attempt in (1, 2, 3, 4):
        queue.settle(queue_id, "kim@big.example", attempt=attempt, **SLOW)
    for number in range(3):
        other = queue.add(f"u{number}@big.example")
        queue.settle(other, "u@big.example", **SLOW)
    live = {"name": "mx.big", "window": 2.0, "busy": 1, "closed_until": None, "reason": "421"}
    with Answering(queue.socket, dest=live):
        assert dagent("why", "kim@big.example") == 0
    title, verdict, *_ = dagent.out.splitlines()
    assert title.startswith(f'{queue_id}  shop@example.org → kim@big.example  "Order 4711"')
    assert verdict == (
        "WAITING, not your message's fault: big.example wants mail more slowly. mx1.example.net "
        "answered MAIL FROM with 421 4.7.28 rate limited. 3 other recipients wait there for the "
        "same reason."
    )
    (tries,) = lines(dagent, "tries")
    assert tries.endswith("TLSv1.3 X untrusted  MAIL FROM → 421 4.7.28 rate limited")
    assert "3 more like it, the last" in dagent.out
    (coming,) = lines(dagent, "next")
    assert coming.startswith("attempt ")
    assert "then about every 1h6m" in coming
    assert "the sender is told of the delay at" in coming
    assert "given up" in coming
    assert lines(dagent, "site") == ["mx.big: 1 in flight, window 2.0"]
    (do,) = lines(dagent, "do")
    assert do.startswith(f"dagent dest show big.example | dagent queue retry {queue_id}")


def test_different_tries_are_shown_each_and_all_on_request(
    queue: FilledQueue, dagent: Dagent
) -> None:
    queue_id = queue.add("kim@example.net")
    for attempt in range(1, 11):
        queue.settle(queue_id, "kim@example.net", attempt=attempt, text=f"reason {attempt}")
    dagent("why", queue_id)
    assert "… 4 more; --tries shows them" in dagent.out
    assert "reason 5" not in dagent.out
    dagent("why", queue_id, "--tries")
    assert "reason 5" in dagent.out


def test_shut_gates_are_all_told(queue: FilledQueue, dagent: Dagent) -> None:
    queue_id = queue.add("kim@dead.example")
    queue.settle(
        queue_id, "kim@dead.example", stage="connect", code=0, enhanced="4.4.1", text="refused"
    )
    queue.site("mx.dead.example", "dead.example", closed_until=queue.now + 500, reason="refused")
    queue.pause("dead.example", until=queue.now + 7200, note="their migration")
    with Answering(queue.socket, dest={"name": ""}):
        assert dagent("why", queue_id) == 0
    assert "PAUSED: The destination dead.example is paused by anna: their migration" in dagent.out
    gates = lines(dagent, "gate")
    assert len(gates) == 3
    assert gates[0].startswith("The destination dead.example is paused by anna")
    assert any(gate.startswith("The site mx.dead.example is closed after") for gate in gates)
    (do,) = lines(dagent, "do")
    assert "dagent dest resume dead.example" in do
    assert "dagent probe kim@dead.example" in do


def test_without_a_service_that_is_said_first(queue: FilledQueue, dagent: Dagent) -> None:
    queue_id = queue.add("kim@example.net")
    assert dagent("why", queue_id) == 0
    assert "STOPPED: the service does not run" in dagent.out
    assert "systemctl start deliveryagent" in dagent.out


def test_a_held_message_says_who_has_to_act(queue: FilledQueue, dagent: Dagent) -> None:
    queue_id = queue.add("kim@example.net")
    queue.hold(queue_id, "corrupt: the content has the wrong size")
    dagent("why", queue_id)
    assert "ON HOLD until released: corrupt: the content has the wrong size" in dagent.out
    assert "nothing until somebody acts" in dagent.out
    assert "not given up while on hold" in dagent.out
    assert f"dagent queue release {queue_id}" in dagent.out


def test_an_attempt_in_flight(queue: FilledQueue, dagent: Dagent) -> None:
    queue_id = queue.add("kim@example.net")
    active = {"recipients": [[queue_id, 1, queue.now]]}
    with Answering(queue.socket, active=active, dest={"name": ""}):
        dagent("why", queue_id)
    assert "BEING DELIVERED: attempt 1 is in flight now." in dagent.out
    assert "the answer of the attempt in flight decides" in dagent.out


def test_what_ended_has_a_verdict_and_nothing_next(queue: FilledQueue, dagent: Dagent) -> None:
    queue_id = queue.add("kim@example.net")
    queue.settle(queue_id, "kim@example.net", status="bounced", code=550, enhanced="5.1.1")
    assert dagent("why", queue_id) == 0
    assert "RETURNED: mx1.example.net answered RCPT TO with 550 5.1.1" in dagent.out
    assert not lines(dagent, "next")


def test_those_that_wait_are_told_before_those_that_arrived(
    queue: FilledQueue, dagent: Dagent
) -> None:
    queue_id = queue.add(*(f"u{n}@example.net" for n in range(1, 8)))
    for number in range(1, 7):
        queue.settle(
            queue_id, "u@example.net", number=number, status="delivered", code=250, enhanced="2.0.0"
        )
    dagent("why", queue_id)
    titles = [line for line in dagent.out.splitlines() if " → " in line and queue_id in line]
    assert "u7@example.net" in titles[0]
    assert len(titles) == 5
    assert "2 more recipients" in dagent.err


def test_an_address_gets_its_latest_messages(queue: FilledQueue, dagent: Dagent) -> None:
    ids = [queue.add("kim@example.net", "lee@example.net", age=age) for age in (900, 600, 300, 60)]
    assert dagent("why", "<Kim@example.net>") == 0
    told = [line.split()[0] for line in dagent.out.splitlines() if " → " in line]
    assert told == [ids[3], ids[2], ids[1]]
    assert "lee@example.net" not in dagent.out


def test_who_was_never_written_to_is_not_found(queue: FilledQueue, dagent: Dagent) -> None:
    assert dagent("why", "nobody@example.net") == 5
    assert "no message to nobody@example.net is known" in dagent.err
    assert dagent("why", "7ZZZZZZZZZZZZ") == 5


def test_remote_text_cannot_play_tricks(queue: FilledQueue, dagent: Dagent) -> None:
    queue_id = queue.add("kim@example.net", content=b"Subject: \x1b[2Jhi\r\n\r\n")
    queue.settle(queue_id, "kim@example.net", text="\x1b[2J\u202eevil", host="mx\x07")
    dagent("why", queue_id)
    assert all(line.isprintable() for line in dagent.out.splitlines())
    assert r"\x1b[2J\u202eevil" in dagent.out


def test_json_has_the_whole_answer(queue: FilledQueue, dagent: Dagent) -> None:
    queue_id = queue.add("kim@example.net")
    queue.settle(queue_id, "kim@example.net")
    with Answering(queue.socket, dest={"name": ""}):
        (record,) = dagent.records("why", queue_id)
    assert record["id"] == queue_id
    assert record["cause"] == "refused"
    assert [gate["kind"] for gate in record["gates"]] == ["due"]
    assert record["next_attempt"] == record["recipient"]["next_attempt"]
    assert record["others"] == {"waiting": 0, "same_answer": 0}
    assert record["recipient"]["history"][0]["decision"] == "deferred"
    assert record["running"] is True
    assert record["commands"]


def test_a_service_that_may_not_be_asked_is_no_stopped_service(
    queue: FilledQueue, dagent: Dagent
) -> None:
    queue_id = queue.add("kim@example.net")

    def refuse(_: dict[str, Any]) -> dict[str, Any]:
        return {"ok": False, "code": 4, "error": "you may not look", "hint": ""}

    with Answering(queue.socket, status=refuse, active=refuse, dest=refuse):
        assert dagent("why", queue_id) == 0
    assert "STOPPED" not in dagent.out
    assert "The service could not be asked: you may not look" in dagent.err


def test_a_store_that_cannot_be_written_stops_everything(
    queue: FilledQueue, dagent: Dagent
) -> None:
    queue_id = queue.add("kim@example.net")
    broken = {**STATUS, "store": {"writable": False, "reason": "disk full"}}
    with Answering(queue.socket, status=broken, dest={"name": ""}):
        dagent("why", queue_id)
    assert "STOPPED: Outcomes cannot be recorded, so nothing is sent: disk full" in dagent.out
