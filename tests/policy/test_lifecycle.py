"""The states of a recipient."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deliveryagent.mail.envelope import FINAL_STATUSES, RecipientStatus
from deliveryagent.policy.lifecycle import STEPS, allowed

STATUSES = st.sampled_from(RecipientStatus)


@given(STATUSES)
def test_a_final_state_is_never_left(new: RecipientStatus) -> None:
    assert not any(allowed(final, new) for final in FINAL_STATUSES)


def test_every_live_state_can_be_ended_and_put_on_hold_or_deferred() -> None:
    for live in set(RecipientStatus) - FINAL_STATUSES:
        assert allowed(live, RecipientStatus.DELETED)
        assert allowed(live, RecipientStatus.BOUNCED)
        assert allowed(live, RecipientStatus.HELD)
        assert allowed(live, RecipientStatus.DEFERRED)


def test_every_state_is_reached_from_a_new_recipient() -> None:
    reached = {RecipientStatus.QUEUED}
    while True:
        further = reached.union(*(STEPS[status] for status in reached))
        if further == reached:
            break
        reached = further
    assert reached == set(RecipientStatus)


@pytest.mark.parametrize(
    "new", [RecipientStatus.EXPIRED, RecipientStatus.DELIVERED, RecipientStatus.ACTIVE]
)
def test_mail_on_hold_neither_expires_nor_leaves_without_release(new: RecipientStatus) -> None:
    assert not allowed(RecipientStatus.HELD, new)


def test_a_deferred_recipient_is_never_new_again() -> None:
    assert not allowed(RecipientStatus.DEFERRED, RecipientStatus.QUEUED)
