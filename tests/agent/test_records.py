"""The queue as JSON: the fields programs rely on."""

import json
from typing import Any

from deliveryagent.agent.records import (
    active_places,
    attempt_record,
    message_record,
    message_status,
    rfc3339,
    shown_record,
)
from deliveryagent.mail.envelope import first_queue_id, format_queue_id
from deliveryagent.policy.retry import RetrySettings
from deliveryagent.queue.search import Found, FoundRecipient, Shown, Tried

NOW = 1762778407.25
MESSAGE = first_queue_id(NOW)
SETTINGS = RetrySettings()


def recipient(**facts: Any) -> FoundRecipient:
    defaults: dict[str, Any] = {
        "number": 1,
        "address": "kim@example.net",
        "destination": "example.net",
        "status": "deferred",
        "attempts": 2,
        "due": NOW + 300,
        "updated": NOW + 10,
        "finished": None,
        "notify": 0,
        "orcpt": "",
        "owed": "",
        "reported": None,
        "warned": None,
        "stage": "rcpt",
        "code": 450,
        "enhanced": "4.7.1",
        "text": "later",
        "host": "mx.example.net",
    }
    return FoundRecipient(**{**defaults, **facts})


def found(*recipients: FoundRecipient, **facts: Any) -> Found:
    defaults: dict[str, Any] = {
        "queue_id": MESSAGE,
        "sender": "shop@example.org",
        "size": 56,
        "recipient_count": 1,
        "origin": "uid=1000",
        "tags": "",
        "ret": "",
        "envid": "",
        "crashes": 0,
        "status": "deferred",
    }
    return Found(recipients=recipients or (recipient(),), **{**defaults, **facts})


def tried(**facts: Any) -> Tried:
    defaults: dict[str, Any] = {
        "number": 1,
        "attempt": 2,
        "started": NOW,
        "decision": "deferred",
        "stage": "rcpt",
        "code": 450,
        "enhanced": "4.7.1",
        "text": "later",
        "host": "mx.example.net",
        "ip": "192.0.2.1",
        "port": 25,
        "tls": "",
        "queue_time": 0.1,
        "connect_time": 0.2,
        "setup_time": 0.3,
        "transfer_time": 0.4,
        "trail": "",
    }
    return Tried(**{**defaults, **facts})


def test_a_message_has_its_times_and_the_most_alive_status() -> None:
    record = message_record(found(), SETTINGS)
    assert record["id"] == format_queue_id(MESSAGE)
    assert record["arrival"] == "2025-11-10T12:40:07.250Z"
    assert record["expires"] == "2025-11-15T12:40:07.250Z"
    assert record["status"] == "deferred"


def test_what_is_in_flight_is_active_whatever_the_store_says() -> None:
    places = {(MESSAGE, 2): NOW}
    message = found(recipient(), recipient(number=2))
    record = message_record(message, SETTINGS, active=places)
    assert record["status"] == "active"
    assert [one["status"] for one in record["recipients"]] == ["deferred", "active"]


def test_the_status_counts_recipients_that_are_not_shown() -> None:
    done = recipient(status="delivered", due=None, finished=NOW)
    assert message_status(found(done, status="held"), ()) == "held"


def test_a_finished_message_does_not_expire() -> None:
    done = recipient(status="bounced", due=None, finished=NOW + 11, reported=MESSAGE + 5)
    record = message_record(found(done, status="bounced"), SETTINGS)
    assert record["expires"] is None
    (one,) = record["recipients"]
    assert (one["next_attempt"], one["finished"]) == (None, "2025-11-10T12:40:18.250Z")
    assert one["reported"] == format_queue_id(MESSAGE + 5)


def test_no_answer_yet_is_null() -> None:
    new = recipient(attempts=0, stage="", code=0, enhanced="", text="", host="")
    assert message_record(found(new), SETTINGS)["recipients"][0]["last_reply"] is None


def test_an_attempt_has_reply_and_timings() -> None:
    trail = json.dumps([{"host": "mx0.example.net"}])
    record = attempt_record(tried(trail=trail))
    assert record["number"] == 2
    assert record["reply"] == {"code": 450, "enhanced": "4.7.1", "text": "later"}
    assert record["timings"] == {"queue": 0.1, "connect": 0.2, "setup": 0.3, "transfer": 0.4}
    assert record["earlier_hosts"] == [{"host": "mx0.example.net"}]


def test_a_shown_message_has_its_history() -> None:
    shown = Shown(message=found(tags='{"app":"shop"}', envid="x"), attempts={1: (tried(),)})
    record = shown_record(shown, SETTINGS)
    assert (record["tags"], record["envid"]) == ({"app": "shop"}, "x")
    assert len(record["recipients"][0]["history"]) == 1


def test_the_service_s_list_of_what_is_in_flight_is_understood() -> None:
    answer = {"recipients": [[format_queue_id(MESSAGE), 3, NOW]]}
    assert active_places(answer) == {(MESSAGE, 3): NOW}
    assert active_places(None) == {}


def test_times_are_rounded_to_milliseconds() -> None:
    assert rfc3339(0.9996) == "1970-01-01T00:00:01.000Z"
