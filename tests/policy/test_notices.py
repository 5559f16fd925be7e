"""Who is told what."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deliveryagent.mail.envelope import Notify, RecipientStatus
from deliveryagent.policy.notices import (
    CLASS_OF,
    Incident,
    NoticeClass,
    NoticeSettings,
    Report,
    owed,
    told,
)
from deliveryagent.policy.retry import RetrySettings
from deliveryagent.setting import Duration

HOUR = 3600.0


def report(
    status: RecipientStatus,
    *,
    sender: str = "joe@example.org",
    notify: Notify = Notify.DEFAULT,
    relayed: bool = False,
    warned: bool = False,
    age: float = 0.0,
    settings: RetrySettings | None = None,
) -> Report:
    return owed(
        status=status,
        sender=sender,
        notify=notify,
        relayed=relayed,
        warned=warned,
        arrival=1000.0,
        now=1000.0 + age,
        settings=settings or RetrySettings(),
    )


@pytest.mark.parametrize("status", [RecipientStatus.BOUNCED, RecipientStatus.EXPIRED])
@pytest.mark.parametrize(
    ("notify", "owes"),
    [
        (Notify.DEFAULT, Report.FAILURE),
        (Notify.FAILURE, Report.FAILURE),
        (Notify.FAILURE | Notify.SUCCESS, Report.FAILURE),
        (Notify.NEVER, Report.NONE),
        (Notify.SUCCESS, Report.NONE),
        (Notify.DELAY, Report.NONE),
    ],
)
def test_a_failure_is_reported_unless_the_sender_declined(
    status: RecipientStatus, notify: Notify, owes: Report
) -> None:
    assert report(status, notify=notify) is owes


def test_success_is_reported_only_where_the_next_host_cannot_do_it() -> None:
    asked = Notify.SUCCESS
    assert report(RecipientStatus.DELIVERED, notify=asked, relayed=True) is Report.SUCCESS
    assert report(RecipientStatus.DELIVERED, notify=asked, relayed=False) is Report.NONE
    assert report(RecipientStatus.DELIVERED, relayed=True) is Report.NONE


def test_a_delay_is_reported_once_after_the_warning_time() -> None:
    deferred = RecipientStatus.DEFERRED
    assert report(deferred, age=3 * HOUR) is Report.NONE
    assert report(deferred, age=4 * HOUR) is Report.DELAY
    assert report(deferred, age=9 * HOUR, warned=True) is Report.NONE
    assert report(deferred, age=9 * HOUR, notify=Notify.FAILURE) is Report.NONE
    off = RetrySettings(delay_warning_time=Duration(0.0))
    assert report(deferred, age=90 * HOUR, settings=off) is Report.NONE


@given(
    st.sampled_from(RecipientStatus),
    st.sampled_from(["", "joe@example.org"]),
    st.integers(0, 15).map(Notify),
    st.booleans(),
    st.booleans(),
    st.floats(-1e6, 1e6),
)
def test_the_null_sender_and_never_get_nothing(
    status: RecipientStatus, sender: str, notify: Notify, relayed: bool, warned: bool, age: float
) -> None:
    owes = report(status, sender=sender, notify=notify, relayed=relayed, warned=warned, age=age)
    if not sender or notify == Notify.NEVER:
        assert owes is Report.NONE
    if owes is Report.DELAY:
        assert status is RecipientStatus.DEFERRED
        assert not warned
    if status in (RecipientStatus.HELD, RecipientStatus.DELETED, RecipientStatus.QUEUED):
        assert owes is Report.NONE


def test_the_postmaster_is_told_of_crashes_and_of_a_store_that_is_gone_by_default() -> None:
    defaults = NoticeSettings()
    heard = {incident for incident in Incident if told(incident, defaults)}
    assert heard == {
        Incident.STORE_UNAVAILABLE,
        Incident.CORRUPT,
        Incident.CRASHED,
        Incident.POISON,
    }


def test_every_class_has_an_incident_and_every_incident_a_class() -> None:
    assert set(CLASS_OF) == set(Incident)
    assert set(CLASS_OF.values()) == set(NoticeClass)


def test_classes_are_chosen_by_postfix_names() -> None:
    chosen = NoticeSettings(notify_classes=(NoticeClass("2bounce"),))
    assert told(Incident.REPORT_UNDELIVERABLE, chosen)
    assert not told(Incident.CRASHED, chosen)
