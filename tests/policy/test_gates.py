"""The gates between a recipient and its next attempt."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deliveryagent.mail.envelope import FINAL_STATUSES, RecipientStatus
from deliveryagent.policy.gates import FOR_EVER, GateKind, Pause, Situation, waiting

NOW = 1_800_000_000.0
SUSPECT_TEXT = (
    "A process died while this message was delivered; such messages are tried one at a time."
)


def situation(**facts: object) -> Situation:
    """A recipient that may be tried now, but for the facts given."""
    plain: dict[str, object] = {
        "now": NOW,
        "status": RecipientStatus.DEFERRED,
        "due": NOW - 1,
        "destination": "example.org",
        "site": "mx.example.org",
        "room": 3,
    }
    return Situation(**{**plain, **facts})  # type: ignore[arg-type]


def test_nothing_keeps_a_due_recipient_of_an_open_site() -> None:
    assert waiting(situation()) == ()
    assert waiting(situation(status=RecipientStatus.QUEUED, due=NOW, room=None)) == ()


@pytest.mark.parametrize(
    ("facts", "kind", "until", "text"),
    [
        ({"due": NOW + 60}, GateKind.DUE, NOW + 60, "Its next attempt is not due yet."),
        ({"due": None}, GateKind.DUE, None, "Its next attempt is not due yet."),
        (
            {"status": RecipientStatus.HELD, "due": None, "note": "looks odd"},
            GateKind.HELD,
            None,
            "It is on hold: looks odd",
        ),
        ({"status": RecipientStatus.ACTIVE}, GateKind.ACTIVE, None, "An attempt is in flight."),
        ({"active": True, "due": NOW + 9}, GateKind.ACTIVE, None, "An attempt is in flight."),
        (
            {"status": RecipientStatus.DELIVERED, "due": None},
            GateKind.FINISHED,
            None,
            "It is delivered; nothing more is tried.",
        ),
        (
            {"destination_pause": Pause(NOW + 5, "a migration", "joe")},
            GateKind.PAUSED_DESTINATION,
            NOW + 5,
            "The destination example.org is paused by joe: a migration",
        ),
        (
            {"keeper": "the agent on b (process 7)", "draining": True, "room": 0},
            GateKind.ELSEWHERE,
            None,
            "The agent on b (process 7) has example.org in hand.",
        ),
        (
            {"slots_elsewhere": True, "room": 1},
            GateKind.WINDOW_FULL,
            None,
            "The site mx.example.org gets all the deliveries it takes at once from other agents just now.",
        ),
        (
            {"destination_pause": Pause(FOR_EVER)},
            GateKind.PAUSED_DESTINATION,
            None,
            "The destination example.org is paused.",
        ),
        (
            {"closed_until": NOW + 30, "closed_reason": "connection\nrefused"},
            GateKind.CLOSED_SITE,
            NOW + 30,
            "The site mx.example.org is closed after failures: connection refused",
        ),
        (
            {"room": 0, "in_flight": 20},
            GateKind.WINDOW_FULL,
            None,
            "The site mx.example.org is busy with all 20 deliveries it gets at once.",
        ),
        (
            {"room": 0, "in_flight": 1, "site": ""},
            GateKind.WINDOW_FULL,
            None,
            "The site gets one delivery at a time just now.",
        ),
        (
            {"draining": True},
            GateKind.DRAINING,
            None,
            "The agent is draining and starts nothing new.",
        ),
        (
            {"store_writable": False, "store_trouble": "disk full"},
            GateKind.STORE_PAUSED,
            None,
            "Outcomes cannot be recorded, so nothing is sent: disk full",
        ),
        (
            {"suspect_waiting": True},
            GateKind.SUSPECT,
            None,
            SUSPECT_TEXT,
        ),
    ],
)
def test_each_fact_shuts_its_gate(
    facts: dict[str, object], kind: GateKind, until: float | None, text: str
) -> None:
    (gate,) = waiting(situation(**facts))
    assert (gate.kind, gate.until, gate.text) == (kind, until, text)


def test_a_pause_that_is_over_keeps_nothing() -> None:
    over = Pause(NOW - 1)
    assert waiting(situation(destination_pause=over)) == ()


def test_all_shut_gates_are_named_what_a_person_must_change_first() -> None:
    gates = waiting(
        situation(
            status=RecipientStatus.HELD,
            due=None,
            store_writable=False,
            draining=True,
            destination_pause=Pause(FOR_EVER),
            closed_until=NOW + 1,
            suspect_waiting=True,
        )
    )
    assert [gate.kind for gate in gates] == [
        GateKind.HELD,
        GateKind.STORE_PAUSED,
        GateKind.DRAINING,
        GateKind.PAUSED_DESTINATION,
        GateKind.CLOSED_SITE,
        GateKind.SUSPECT,
    ]


PAUSES = st.none() | st.builds(Pause, st.sampled_from([NOW - 1, NOW + 1, FOR_EVER]))
SITUATIONS = st.builds(
    Situation,
    now=st.just(NOW),
    status=st.sampled_from(RecipientStatus),
    due=st.sampled_from([None, NOW - 1, NOW, NOW + 1]),
    note=st.text(max_size=5),
    destination_pause=PAUSES,
    closed_until=st.sampled_from([0.0, NOW - 1, NOW + 1]),
    closed_reason=st.text(max_size=5),
    room=st.none() | st.integers(-1, 2),
    suspect_waiting=st.booleans(),
    active=st.booleans(),
    draining=st.booleans(),
    store_writable=st.booleans(),
    keeper=st.sampled_from(["", "the agent on b"]),
    slots_elsewhere=st.booleans(),
)


@given(SITUATIONS)
def test_a_recipient_is_sent_exactly_when_no_gate_is_shut(facts: Situation) -> None:
    gates = waiting(facts)
    free = (
        facts.status in (RecipientStatus.QUEUED, RecipientStatus.DEFERRED)
        and facts.due is not None
        and facts.due <= NOW
        and not (facts.active or facts.draining or facts.suspect_waiting)
        and facts.store_writable
        and (facts.destination_pause is None or facts.destination_pause.until <= NOW)
        and facts.closed_until <= NOW
        and (facts.room is None or facts.room > 0)
        and not (facts.keeper or facts.slots_elsewhere)
    )
    assert (gates == ()) is free
    assert len({gate.kind for gate in gates}) == len(gates)
    for gate in gates:
        assert gate.until is None or NOW < gate.until < FOR_EVER
        assert gate.text
        assert "\n" not in gate.text
    if facts.status in FINAL_STATUSES:
        assert [gate.kind for gate in gates] == [GateKind.FINISHED]
