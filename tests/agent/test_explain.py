"""Why a recipient waits: the verdict, the next attempt and the advice, from facts alone."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deliveryagent.agent.explain import Answer, Cause, Explanation, Known, cause_of, explain
from deliveryagent.mail.delivery import Stage
from deliveryagent.mail.envelope import FINAL_STATUSES, Notify, RecipientStatus
from deliveryagent.policy import gates
from deliveryagent.policy.gates import GateKind, Pause, Situation
from deliveryagent.policy.retry import RetrySettings

NOW = 1762783200.0
ARRIVAL = NOW - 4800
SETTINGS = RetrySettings()
REFUSED = Answer(
    stage="mail", code=450, enhanced="4.7.0", text="not now, please", host="mx1.example.net"
)


def known(answer: Answer = REFUSED, /, **facts: Any) -> Known:
    names = set(Situation.__struct_fields__)
    situation = Situation(
        **{
            "now": NOW,
            "status": RecipientStatus.DEFERRED,
            "due": NOW + 700,
            "destination": "example.net",
            **{name: value for name, value in facts.items() if name in names},
        }
    )
    defaults: dict[str, Any] = {
        "queue_id": "0C7QK4M2V9XTB",
        "number": 1,
        "address": "kim@example.net",
        "sender": "shop@example.org",
        "arrival": ARRIVAL,
        "attempts": 5,
    }
    rest = {name: value for name, value in facts.items() if name not in names}
    return Known(answer=answer, situation=situation, **{**defaults, **rest})


def told(answer: Answer = REFUSED, /, **facts: Any) -> Explanation:
    return explain(known(answer, **facts), SETTINGS)


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (Answer(), Cause.NONE),
        (Answer(code=421, enhanced="4.7.28", text="rate limited"), Cause.RATE),
        (Answer(code=421, text="closing"), Cause.RATE),
        (Answer(code=450, enhanced="4.2.1", text="mail arrives at a rate"), Cause.RATE),
        (Answer(code=450, enhanced="4.7.1", text="Greylisted"), Cause.GREYLISTED),
        (Answer(code=452, enhanced="4.2.2", text="mailbox full"), Cause.MAILBOX),
        (REFUSED, Cause.REFUSED),
        (Answer(enhanced="4.4.3", text="SERVFAIL", stage="resolve"), Cause.NAMES),
        (Answer(enhanced="5.4.4", text="no such domain"), Cause.NAMES),
        (Answer(enhanced="4.4.1", text="mx[192.0.2.1]:25: refused"), Cause.UNREACHABLE),
        (Answer(enhanced="4.4.2", text="timed out"), Cause.UNREACHABLE),
        (
            Answer(enhanced="4.4.2", text="lost -- message may be sent more than once"),
            Cause.IN_DOUBT,
        ),
        (Answer(enhanced="4.7.4", text="no STARTTLS"), Cause.SECURITY),
        (Answer(enhanced="4.3.5", text="configuration problem"), Cause.LOCAL),
    ],
)
def test_causes_are_told_apart(answer: Answer, cause: Cause) -> None:
    assert cause_of(answer) is cause


@pytest.mark.parametrize(
    ("answer", "beginning"),
    [
        (
            Answer(code=421, enhanced="4.7.28", text="rate", stage="mail", host="mx1"),
            (
                "WAITING, not your message's fault: example.net wants mail more slowly. "
                "mx1 answered MAIL FROM with 421 4.7.28 rate."
            ),
        ),
        (Answer(code=450, text="greylisted"), "WAITING, nothing is wrong: example.net turns away"),
        (Answer(code=452, enhanced="4.2.2", text="full"), "WAITING: the mailbox does not take"),
        (REFUSED, "WAITING: it was refused for now. mx1.example.net answered MAIL FROM with 450"),
        (Answer(enhanced="4.4.3", text="SERVFAIL"), "WAITING: the mail servers of example.net"),
        (Answer(enhanced="4.4.1", text="refused"), "WAITING: no mail server of example.net"),
        (Answer(enhanced="4.7.4", text="none"), "WAITING: example.net did not offer"),
        (
            Answer(enhanced="4.4.2", text="x -- message may be sent more than once"),
            "IN DOUBT: the whole message was sent but no answer came",
        ),
        (Answer(enhanced="4.3.0", text="oops!"), "WAITING because of this system"),
    ],
)
def test_the_verdict_says_whose_turn_it_is(answer: Answer, beginning: str) -> None:
    assert told(answer).verdict.startswith(beginning)


def test_what_only_people_can_change_comes_first() -> None:
    pause = Pause(gates.FOR_EVER, "their migration", "anna")
    facts: dict[str, Any] = {"destination_pause": pause, "closed_until": NOW + 60}
    assert told(**facts).verdict == (
        "PAUSED: The destination example.net is paused by anna: their migration"
    )
    held = told(status=RecipientStatus.HELD, due=None, note="corrupt", **facts)
    assert held.verdict == "ON HOLD until released: corrupt"
    assert held.commands[0] == "dagent queue release 0C7QK4M2V9XTB"
    assert told(running=False, **facts).verdict.startswith("STOPPED: the service does not run")


def test_a_held_recipient_without_a_reason() -> None:
    assert told(status=RecipientStatus.HELD, due=None).verdict == "ON HOLD until released."


def test_a_stopped_store() -> None:
    stopped = told(store_writable=False, store_trouble="disk full")
    assert stopped.verdict.startswith("STOPPED: Outcomes cannot be recorded")
    assert stopped.next_attempt is None


def test_in_flight() -> None:
    found = told(active=True)
    assert found.verdict == "BEING DELIVERED: attempt 6 is in flight now."
    assert found.next_attempt is None


def test_never_tried() -> None:
    new: dict[str, Any] = {"status": RecipientStatus.QUEUED, "attempts": 0}
    about = told(Answer(), due=NOW, **new)
    assert about.verdict.startswith("ABOUT TO BE TRIED")
    assert about.next_attempt == NOW
    later = told(Answer(), due=NOW + 900, **new)
    assert later.verdict.startswith("WAITING for its time")
    assert later.next_attempt == NOW + 900
    behind = told(Answer(), due=NOW, site="mx", room=0, in_flight=20, **new)
    assert behind.verdict.startswith("WAITING for its first attempt. The site mx is busy")


def test_what_happens_next_and_when() -> None:
    found = told(closed_until=NOW + 1200)
    assert found.next_attempt == NOW + 1200
    assert found.interval == 4000
    assert found.warning == ARRIVAL + 4 * 3600
    assert found.expires == ARRIVAL + 5 * 86400


@pytest.mark.parametrize(
    "facts",
    [{"sender": ""}, {"warned": True}, {"notify": Notify.NEVER}, {"notify": Notify.SUCCESS}],
)
def test_no_delay_is_announced_to_whom_does_not_get_it(facts: dict[str, Any]) -> None:
    assert told(**facts).warning is None


def test_an_overdue_warning_comes_now() -> None:
    assert told(arrival=NOW - 5 * 3600).warning == NOW


@pytest.mark.parametrize(
    ("facts", "command"),
    [
        ({"destination_pause": Pause(NOW + 60)}, "dagent dest resume example.net"),
        ({"closed_until": NOW + 60}, "dagent dest reset example.net"),
        ({}, "dagent dest show example.net"),
        ({"due": NOW + 60}, "dagent queue retry 0C7QK4M2V9XTB"),
        ({"running": False}, "systemctl start deliveryagent"),
        ({"status": RecipientStatus.BOUNCED}, "dagent queue show 0C7QK4M2V9XTB"),
    ],
)
def test_the_advice_fits_the_gate(facts: dict[str, Any], command: str) -> None:
    assert command in told(**facts).commands


def test_unreachable_hosts_are_worth_a_probe_with_the_address_safe_for_the_shell() -> None:
    found = told(Answer(enhanced="4.4.1", text="refused"), address='"a b"@example.net')
    assert "dagent probe '\"a b\"@example.net'" in found.commands


@pytest.mark.parametrize(
    ("facts", "verdict"),
    [
        (
            {"status": RecipientStatus.BOUNCED, "reported": "0C7QK51RA3HNW"},
            (
                "RETURNED: mx1.example.net answered MAIL FROM with 450 4.7.0 not now, please. "
                "The sender was told by 0C7QK51RA3HNW."
            ),
        ),
        (
            {"status": RecipientStatus.EXPIRED, "notify": Notify.NEVER, "attempts": 1},
            (
                "GIVEN UP after 1 attempt because its time was over. mx1.example.net answered "
                "MAIL FROM with 450 4.7.0 not now, please. The sender did not want to be told."
            ),
        ),
        (
            {"status": RecipientStatus.DELETED},
            "DELETED by an operator; the sender was not told.",
        ),
        (
            {"status": RecipientStatus.DELIVERED},
            "DELIVERED: mx1.example.net answered MAIL FROM with 450 4.7.0 not now, please.",
        ),
    ],
)
def test_final_states_say_who_knows(facts: dict[str, Any], verdict: str) -> None:
    found = told(due=None, **facts)
    assert found.verdict == verdict
    assert found.gates == ()
    assert found.next_attempt is found.warning is found.expires is None


def test_without_a_sender_nobody_is_told() -> None:
    found = told(status=RecipientStatus.BOUNCED, sender="", due=None)
    assert found.verdict.endswith("It has no sender who could be told.")


def test_a_report_may_still_be_on_its_way() -> None:
    found = told(status=RecipientStatus.BOUNCED, due=None)
    assert found.verdict.endswith("The report to the sender is being written.")


moments = st.floats(min_value=NOW - 1e6, max_value=NOW + 1e6)
answers = st.builds(
    Answer,
    stage=st.sampled_from([stage.value for stage in Stage]),
    code=st.sampled_from([0, 250, 421, 450, 452, 550]),
    enhanced=st.sampled_from(["", "4.2.2", "4.3.0", "4.4.1", "4.4.3", "4.7.4", "4.7.1", "5.1.1"]),
    text=st.text(),
    host=st.text(),
)


@given(
    answers,
    st.sampled_from(RecipientStatus),
    st.booleans(),
    st.fixed_dictionaries(
        {},
        optional={
            "destination_pause": st.builds(Pause, moments | st.just(1e12), st.text(), st.text()),
            "closed_until": moments,
            "room": st.integers(0, 3),
            "active": st.booleans(),
            "draining": st.booleans(),
            "store_writable": st.booleans(),
            "note": st.text(),
            "arrival": moments,
        },
    ),
    moments,
)
def test_every_situation_has_a_verdict_that_agrees_with_the_gates(
    answer: Answer,
    status: RecipientStatus,
    running: bool,
    facts: dict[str, Any],
    due: float,
) -> None:
    waits = status in {RecipientStatus.QUEUED, RecipientStatus.DEFERRED}
    subject = known(answer, status=status, due=due if waits else None, running=running, **facts)
    found = explain(subject, SETTINGS)
    assert found.verdict.isprintable()
    assert found.verdict[0].isupper()
    assert found.commands
    if status in FINAL_STATUSES:
        assert found.next_attempt is None
        return
    assert found.gates == gates.waiting(subject.situation)
    if running and not found.gates:
        assert found.next_attempt == NOW
    if found.next_attempt is not None:
        assert found.next_attempt >= NOW
    if {gate.kind for gate in found.gates} == {GateKind.DUE} and running:
        assert found.next_attempt == due
