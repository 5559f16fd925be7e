"""By when a message is to be delivered, and what becomes of it then."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deliveryagent.policy import deadline, retry
from deliveryagent.policy.retry import RetrySettings
from deliveryagent.setting import Duration

NOW = 1_800_000_000.0
SETTINGS = RetrySettings()
NEVER = RetrySettings(delay_warning_time=Duration(0.0))
MOMENTS = st.floats(NOW, NOW + 30 * 86400)


@pytest.mark.parametrize("mode", ["R", "RT"])
@given(by=MOMENTS, now=MOMENTS)
def test_returned_mail_is_not_tried_from_that_moment_on(mode: str, by: float, now: float) -> None:
    assert deadline.over(by, mode, now) is (now >= by)
    assert deadline.ends(NOW, by, mode) <= NOW


@pytest.mark.parametrize("mode", ["N", "NT", ""])
@given(by=MOMENTS, now=MOMENTS)
def test_other_mail_is_tried_as_long_as_any(mode: str, by: float, now: float) -> None:
    assert not deadline.over(by, mode, now)
    assert deadline.ends(NOW, by, mode) == NOW


@pytest.mark.parametrize("mode", ["N", "NT"])
def test_the_time_the_sender_named_takes_the_place_of_the_usual_one(mode: str) -> None:
    for settings in (SETTINGS, NEVER):
        due = deadline.warning_due(arrival=NOW, deliver_by=NOW + 5, by_mode=mode, settings=settings)
        assert due == NOW + 5


@pytest.mark.parametrize(("by", "mode"), [(0.0, ""), (NOW + 5, "R"), (NOW + 5, "RT")])
def test_without_such_a_wish_the_usual_time_holds(by: float, mode: str) -> None:
    for settings in (SETTINGS, NEVER):
        due = deadline.warning_due(arrival=NOW, deliver_by=by, by_mode=mode, settings=settings)
        assert due == retry.warning_due(arrival=NOW, settings=settings)
