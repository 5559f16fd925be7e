"""``dagent queue``: what is listed and shown, and what orders change, with and without a service."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deliveryagent.cli import run
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


# -- list ------------------------------------------------------------------------------------------


def test_a_line_tells_state_tries_next_and_last_answer(queue: FilledQueue, dagent: Dagent) -> None:
    queue_id = queue.add("kim@example.net")
    queue.settle(queue_id, "kim@example.net", text="rate\nlimited \x1b[31m")
    assert dagent("queue", "list") == 0
    title, line = dagent.out.splitlines()
    assert title.split() == [
        "ID",
        "AGE",
        "SIZE",
        "STATE",
        "TRIES",
        "NEXT",
        "FROM",
        "TO",
        "LAST",
        "ANSWER",
    ]
    assert line.split()[:5] == [queue_id, "1h", "56", "deferred", "1"]
    assert "in 10m" in line or "in 11m" in line
    assert line.endswith(r"shop@example.org  kim@example.net  450 4.7.1 rate limited \x1b[31m")


def test_recipients_that_are_alike_share_a_line(queue: FilledQueue, dagent: Dagent) -> None:
    queue.add("a@example.net", "b@example.net", "c@example.com")
    dagent("queue", "list")
    lines = dagent.out.splitlines()[1:]
    assert ["a@example.net +1" in lines[0], "c@example.com" in lines[1], len(lines)] == [
        True,
        True,
        2,
    ]


def test_an_empty_list_is_no_error(queue: FilledQueue, dagent: Dagent) -> None:
    assert dagent("queue", "list") == 0
    assert (dagent.out, dagent.err) == ("", "Nothing matches.\n")


def test_lists_are_cut_at_the_limit_and_say_so(queue: FilledQueue, dagent: Dagent) -> None:
    for number in range(4):
        queue.add(f"u{number}@example.net")
    dagent("queue", "list", "--limit", "3")
    assert len(dagent.out.splitlines()) == 4
    assert "--limit 0 shows all" in dagent.err
    dagent("queue", "list", "--limit", "0")
    assert len(dagent.out.splitlines()) == 5
    assert not dagent.err


def test_json_has_the_fields_of_the_contract(queue: FilledQueue, dagent: Dagent) -> None:
    queue_id = queue.add("kim@example.net")
    queue.settle(queue_id, "kim@example.net")
    (message,) = dagent.records("queue", "list")
    assert {"id", "sender", "size", "arrival", "expires", "status", "recipients"} <= message.keys()
    (recipient,) = message["recipients"]
    assert recipient["last_reply"] == {
        "code": 450,
        "enhanced": "4.7.1",
        "text": "try again",
        "stage": "rcpt",
    }
    assert (recipient["status"], recipient["attempts"], recipient["host"]) == (
        "deferred",
        1,
        "mx1.example.net",
    )
    assert recipient["next_attempt"].endswith("Z")


def test_a_recipient_without_an_answer_has_none(queue: FilledQueue, dagent: Dagent) -> None:
    queue.add("kim@example.net")
    assert dagent.records("queue", "list")[0]["recipients"][0]["last_reply"] is None


def test_long_lists_cross_pages_without_losing_or_doubling(
    queue: FilledQueue, dagent: Dagent
) -> None:
    queue.add(*(f"u{n}@example.net" for n in range(700)))
    queue.add(*(f"v{n}@example.net" for n in range(700)))
    messages = dagent.records("queue", "list")
    addresses = [r["address"] for m in messages for r in m["recipients"]]
    assert len(messages) == 2
    assert len(addresses) == len(set(addresses)) == 1400


def test_what_ended_is_listed_only_when_asked_for(queue: FilledQueue, dagent: Dagent) -> None:
    queue_id = queue.add("kim@example.net")
    queue.settle(queue_id, "kim@example.net", status="delivered", code=250, enhanced="2.0.0")
    assert dagent.records("queue", "list") == []
    for words in (["--all"], [queue_id], ["--status", "delivered"], [queue_id[:9]]):
        (message,) = dagent.records("queue", "list", *words)
        assert (message["status"], message["expires"]) == ("delivered", None)


def test_filters_narrow(queue: FilledQueue, dagent: Dagent) -> None:
    old = queue.add("a@example.net", age=7200)
    queue.add("b@example.com", age=60, sender="")
    assert [m["id"] for m in dagent.records("queue", "list", "--older", "1h")] == [old]
    assert [m["id"] for m in dagent.records("queue", "list", "--domain", "example.net")] == [old]
    assert [m["sender"] for m in dagent.records("queue", "list", "--from", "<>")] == [""]
    dagent("queue", "list", "--from", "<>")
    assert " <> " in dagent.out


def test_what_is_in_flight_comes_from_the_service(queue: FilledQueue, dagent: Dagent) -> None:
    first, second = queue.add("a@example.net"), queue.add("b@example.net")
    active = {"recipients": [[first, 1, queue.now]]}
    with Answering(queue.socket, active=active):
        states = {m["id"]: m["status"] for m in dagent.records("queue", "list")}
        assert states == {first: "active", second: "queued"}
        assert [m["id"] for m in dagent.records("queue", "list", "--status", "active")] == [first]
        assert [m["id"] for m in dagent.records("queue", "list", "--status", "queued")] == [second]
        both = dagent.records("queue", "list", "--status", "active", "--status", "queued")
        assert len(both) == 2
        only = dagent.records("queue", "list", second, "--status", "active")
        assert only == []


def test_without_a_queue_there_is_a_clear_word(tmp_path: Path, capsys: Any) -> None:
    config = tmp_path / "c.toml"
    config.write_text(f'[queue]\nurl = "sqlite:///{tmp_path}/none.sqlite3"\n')
    assert run(["-c", str(config), "queue", "list"]) != 0
    assert "there is no queue" in capsys.readouterr().err


# -- show and shape --------------------------------------------------------------------------------


def test_a_message_is_shown_with_every_attempt(queue: FilledQueue, dagent: Dagent) -> None:
    queue_id = queue.add("kim@example.net", envid="order-1", tags={"app": "shop"})
    queue.settle(queue_id, "kim@example.net", tls="TLSv1.3 X untrusted")
    queue.settle(queue_id, "kim@example.net", attempt=2, code=0, enhanced="4.4.1", text="refused")
    assert dagent("queue", "show", queue_id[:10]) == 0
    for words in (
        "from shop@example.org",
        "by uid=1000",
        "envid   order-1",
        "kim@example.net  deferred, next try in",
        "deferred  mx1.example.net[192.0.2.10]:25  rcpt  0.05s  TLSv1.3 X untrusted",
        "450 4.7.1 try again",
        "refused",
    ):
        assert words in dagent.out
    assert "Subject" not in dagent.out


def test_header_fields_are_shown_on_request(queue: FilledQueue, dagent: Dagent) -> None:
    queue_id = queue.add("kim@example.net", content=b"Subject: \x1b[31mred\r\n\tx\r\n\r\nbody\r\n")
    dagent("queue", "show", queue_id, "--headers")
    assert r"Subject: \x1b[31mred" in dagent.out
    assert "body" not in dagent.out
    (record,) = dagent.records("queue", "show", queue_id, "--headers")
    assert record["headers"].startswith("Subject: ")


def test_json_of_a_message_carries_the_history(queue: FilledQueue, dagent: Dagent) -> None:
    queue_id = queue.add("kim@example.net", tags={"app": "shop"})
    trail = json.dumps([{"host": "mx0.example.net", "ip": "192.0.2.9", "text": "refused"}])
    queue.settle(queue_id, "kim@example.net", trail=trail)
    dagent("queue", "show", queue_id)
    assert "after mx0.example.net: refused" in dagent.out
    dagent("why", queue_id)
    assert "after mx0.example.net 192.0.2.9" in dagent.out
    (record,) = dagent.records("queue", "show", queue_id)
    assert record["tags"] == {"app": "shop"}
    (attempt,) = record["recipients"][0]["history"]
    assert set(attempt) >= {
        *("number", "started", "host", "ip", "port", "stage"),
        *("reply", "tls", "timings", "decision"),
    }
    assert set(attempt["timings"]) == {"queue", "connect", "setup", "transfer"}
    assert attempt["earlier_hosts"][0]["host"] == "mx0.example.net"


def test_a_message_with_many_recipients_is_cut_for_people_only(
    queue: FilledQueue, dagent: Dagent
) -> None:
    queue_id = queue.add(*(f"u{n}@example.net" for n in range(1100)))
    dagent("queue", "show", queue_id)
    assert "1 050 more recipients" in dagent.err
    (record,) = dagent.records("queue", "show", queue_id)
    assert len(record["recipients"]) == 1100


def test_an_unknown_id_has_its_own_exit_status(queue: FilledQueue, dagent: Dagent) -> None:
    assert dagent("queue", "show", "7ZZZZZZZZZZZZ") == 5
    assert "no message has the id" in dagent.err


def test_the_beginning_of_several_ids_is_not_enough(queue: FilledQueue, dagent: Dagent) -> None:
    first, _ = queue.add("a@example.net"), queue.add("b@example.net")
    assert dagent("queue", "show", first[:3]) == 2
    assert "several ids begin with" in dagent.err


def test_the_shape_counts_by_age(queue: FilledQueue, dagent: Dagent) -> None:
    queue.add("a@example.net", "b@example.net", age=60)
    queue.add("c@example.com", age=8 * 60)
    assert dagent("queue", "shape") == 0
    title, total, first, second = [line.split() for line in dagent.out.splitlines()]
    assert title[:4] == ["DESTINATION", "T", "5", "10"]
    assert total[:4] == ["TOTAL", "3", "2", "1"]
    assert first[:3] == ["example.net", "2", "2"]
    assert second[:4] == ["example.com", "1", "0", "1"]
    rows = dagent.records("queue", "shape", "--by", "sender")
    assert rows[0]["name"] == "shop@example.org"
    assert (rows[0]["total"], rows[0]["buckets"]["5"], rows[0]["buckets"]["1280+"]) == (3, 2, 0)


def test_an_empty_shape(queue: FilledQueue, dagent: Dagent) -> None:
    assert dagent("queue", "shape") == 0
    assert dagent.err == "Nothing waits.\n"


# -- orders ----------------------------------------------------------------------------------------


def states(dagent: Dagent) -> dict[str, str]:
    found = dagent.records("queue", "list", "--all")
    return {r["address"]: r["status"] for m in found for r in m["recipients"]}


def test_one_named_message_is_changed_without_a_question(
    queue: FilledQueue, dagent: Dagent
) -> None:
    queue_id = queue.add("kim@example.net")
    assert dagent("queue", "hold", queue_id, "--note", "wait for anna") == 0
    assert dagent.out == "Held 1 recipient of 1 message, 56B.\n"
    assert states(dagent) == {"kim@example.net": "held"}
    dagent("queue", "list")
    assert "wait for anna" in dagent.out
    assert dagent("queue", "release", queue_id[:10]) == 0
    assert states(dagent) == {"kim@example.net": "queued"}


def test_several_need_a_yes_where_nobody_can_be_asked(queue: FilledQueue, dagent: Dagent) -> None:
    queue.add("a@example.net")
    queue.add("b@example.net")
    assert dagent("queue", "delete", "--domain", "example.net") == 1
    assert "nothing was changed" in dagent.err
    assert "--yes" in dagent.err
    assert set(states(dagent).values()) == {"queued"}
    assert dagent("queue", "delete", "--domain", "example.net", "--yes") == 0
    assert dagent.out == "Deleted 2 recipients of 2 messages, 112B.\n"
    assert set(states(dagent).values()) == {"deleted"}


def test_a_condition_that_means_one_message_needs_no_yes(
    queue: FilledQueue, dagent: Dagent
) -> None:
    queue.add("a@example.net", "b@example.net")
    assert dagent("queue", "bounce", "--domain", "example.net") == 0
    assert states(dagent) == {"a@example.net": "bounced", "b@example.net": "bounced"}


def test_a_person_types_the_number(
    queue: FilledQueue, dagent: Dagent, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue.add("a@example.net")
    queue.add("b@example.net")
    monkeypatch.setattr("deliveryagent.cli.ordering.at_terminal", lambda: True)
    for typed, status, state in (("no", 1, "queued"), ("2", 0, "held")):
        monkeypatch.setattr("click.prompt", lambda *_, typed=typed, **__: typed)
        assert dagent("queue", "hold", "--all") == status
        assert set(states(dagent).values()) == {state}


def test_a_dry_run_counts_and_changes_nothing(queue: FilledQueue, dagent: Dagent) -> None:
    queue.add("a@example.net", "b@example.net")
    assert dagent("queue", "delete", "--all", "-n") == 0
    assert dagent.out.startswith("Will delete, without a report, 2 recipients of 1 message")
    (counted,) = dagent.records("queue", "delete", "--all", "-n")
    assert (counted["messages"], counted["recipients"], counted["dry_run"]) == (1, 2, True)
    assert set(states(dagent).values()) == {"queued"}


def test_an_order_for_everything_must_say_so(queue: FilledQueue, dagent: Dagent) -> None:
    assert dagent("queue", "retry") == 2
    assert "--all" in dagent.err


def test_nothing_to_do_is_said(queue: FilledQueue, dagent: Dagent) -> None:
    assert dagent("queue", "release", "--all") == 0
    assert dagent.out == "There is nothing to release.\n"


def test_unknown_ids_are_not_found_and_some_are_partly_done(
    queue: FilledQueue, dagent: Dagent
) -> None:
    queue_id = queue.add("a@example.net")
    assert dagent("queue", "retry", "7ZZZZZZZZZZZZ") == 5
    assert dagent("queue", "retry", "7ZZZZZZZZZZZZ", queue_id) == 6
    assert "No message has the id 7ZZZZZZZZZZZZ." in dagent.err


def test_a_retry_is_due_at_once(queue: FilledQueue, dagent: Dagent) -> None:
    queue_id = queue.add("kim@example.net")
    queue.settle(queue_id, "kim@example.net")
    assert dagent("queue", "retry", queue_id) == 0
    dagent("queue", "list")
    assert " now " in dagent.out


def test_a_running_service_carries_orders_out(queue: FilledQueue, dagent: Dagent) -> None:
    queue_id = queue.add("kim@example.net")
    tally = {"messages": 1, "recipients": 2, "skipped_active": 1, "bytes": 58, "sample": [queue_id]}
    with Answering(queue.socket, hold=tally) as service:
        assert dagent("queue", "hold", queue_id, "--note", "why") == 6
    assert "Held 2 recipients of 1 message" in dagent.out
    assert "1 recipient in flight just now: left alone" in dagent.out
    (order,) = [asked for asked in service.asked if asked["op"] == "hold"]
    assert (order["filter"]["ids"], order["note"], order["dry_run"]) == ([queue_id], "why", False)
    assert states(dagent) == {"kim@example.net": "queued"}


def test_a_service_that_refuses_is_told(queue: FilledQueue, dagent: Dagent) -> None:
    queue_id = queue.add("kim@example.net")
    with Answering(queue.socket, status=STATUS):
        assert dagent("queue", "delete", queue_id) == 2
    assert "no delete" in dagent.err
