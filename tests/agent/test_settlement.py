"""From a worker's answer to the rows that are recorded."""

import json
import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deliveryagent.agent import settlement
from deliveryagent.mail.delivery import (
    DeliveryResult,
    HostTry,
    Pressure,
    RecipientResult,
    Stage,
    Trouble,
    Verdict,
)
from deliveryagent.mail.envelope import Notify, RecipientStatus, first_queue_id
from deliveryagent.policy.retry import RetrySettings
from deliveryagent.queue.claims import Claimed
from deliveryagent.queue.outcomes import Settlement

NOW = 1_800_000_000.0
SETTINGS = RetrySettings()


def claimed(number: int = 1, **changes: object) -> Claimed:
    fields: dict[str, object] = {
        "message_id": first_queue_id(NOW - 60),
        "number": number,
        "address": f"u{number}@a.test",
        "destination": "a.test",
        "bulk": False,
        "attempts": 0,
        "due": NOW - 1,
        "notify": 0,
        "orcpt": "",
        "warned": None,
        "sender": "s@example.test",
        "size": 100,
        "dotted": False,
        "eightbit": False,
        "utf8": False,
        "long_lines": False,
        "ret": "",
        "envid": "",
        "recipient_count": 1,
        "crashes": 0,
    }
    return Claimed(**(fields | changes))  # type: ignore[arg-type] # fields of one type each


def host(name: str = "mx1.a.test", **changes: object) -> HostTry:
    base = HostTry(name, "127.0.0.2", 25, "", 1, 0.1, 0.2, 0.3, "dot", 250, "2.0.0", "ok")
    return msgspec.structs.replace(base, **changes)


def result(*recipients: RecipientResult, tries: tuple[HostTry, ...] = ()) -> DeliveryResult:
    return DeliveryResult(
        1, first_queue_id(NOW - 60), recipients, tries, Pressure.UP, "", NOW - 0.5
    )


def settle(answer: DeliveryResult, *of: Claimed) -> list[Settlement]:
    rows = settlement.settlements(answer, of, now=NOW, settings=SETTINGS, rng=random.Random(1))
    return [row for _, _, row in rows]


def outcome(verdict: Verdict, number: int = 1, **changes: object) -> RecipientResult:
    fields: dict[str, object] = {
        "number": number,
        "verdict": verdict,
        "stage": Stage.DOT,
        "code": 250,
        "enhanced": "2.0.0",
        "text": "taken",
    }
    return RecipientResult(**(fields | changes))  # type: ignore[arg-type] # as above


@pytest.mark.parametrize(
    ("verdict", "status", "decision", "owed"),
    [
        (Verdict.DELIVERED, RecipientStatus.DELIVERED, "delivered", ""),
        (Verdict.DEFERRED, RecipientStatus.DEFERRED, "deferred", ""),
        (Verdict.BOUNCED, RecipientStatus.BOUNCED, "bounced", "failure"),
        (Verdict.IN_DOUBT, RecipientStatus.DEFERRED, "in_doubt", ""),
        (Verdict.HELD, RecipientStatus.HELD, "held", ""),
    ],
)
def test_each_verdict_has_its_state(
    verdict: Verdict, status: RecipientStatus, decision: str, owed: str
) -> None:
    (row,) = settle(result(outcome(verdict)), claimed())
    assert (row.status, row.decision, row.owed) == (status, decision, owed)
    assert (row.due is not None) == (status is RecipientStatus.DEFERRED)
    assert row.attempt == 1


def test_an_untried_recipient_is_not_settled() -> None:
    assert settle(result(outcome(Verdict.RETURNED)), claimed()) == []


def test_a_deferral_beyond_the_lifetime_expires_and_owes_a_report() -> None:
    old = claimed(message_id=first_queue_id(NOW - SETTINGS.maximal_queue_lifetime - 1))
    (row,) = settle(result(outcome(Verdict.DEFERRED)), old)
    assert (row.status, row.due, row.owed) == (RecipientStatus.EXPIRED, None, "failure")


def test_the_null_sender_and_never_are_owed_nothing() -> None:
    for silent in (claimed(sender=""), claimed(notify=int(Notify.NEVER))):
        (row,) = settle(result(outcome(Verdict.BOUNCED)), silent)
        assert row.owed == ""


def test_success_is_reported_only_when_asked_for_and_the_next_hop_cannot() -> None:
    asked = claimed(notify=int(Notify.SUCCESS))
    (row,) = settle(result(outcome(Verdict.DELIVERED, relayed=True)), asked)
    assert row.owed == "success"
    (row,) = settle(result(outcome(Verdict.DELIVERED)), asked)
    assert row.owed == ""


def test_the_trail_names_the_hosts_before_the_deciding_one() -> None:
    tries = (host("mx1.a.test", code=421, text="busy"), host("mx2.a.test"))
    (row,) = settle(result(outcome(Verdict.DELIVERED, host=1), tries=tries), claimed())
    assert row.host == "mx2.a.test"
    (earlier,) = json.loads(row.trail)
    assert (earlier["host"], earlier["code"]) == ("mx1.a.test", 421)


@given(st.lists(st.sampled_from(list(Verdict)), min_size=1, max_size=8))
def test_every_attempted_recipient_gets_exactly_one_row(verdicts: list[Verdict]) -> None:
    verdicts = [v for v in verdicts if v is not Verdict.NEXT_HOST]
    of = [claimed(n) for n in range(1, len(verdicts) + 1)]
    answer = result(*(outcome(v, n) for n, v in enumerate(verdicts, 1)))
    rows = settle(answer, *of)
    attempted = [n for n, v in enumerate(verdicts, 1) if v is not Verdict.RETURNED]
    assert [row.number for row in rows] == attempted


def test_a_crash_after_the_dot_is_in_doubt() -> None:
    answer = settlement.verdict_for_all(
        [claimed()], verdict=Verdict.IN_DOUBT, trouble=Trouble.CRASHED, text="died", now=NOW
    )
    (row,) = settle(answer, claimed())
    assert (row.status, row.decision, row.enhanced) == ("deferred", "in_doubt", "4.4.2")
