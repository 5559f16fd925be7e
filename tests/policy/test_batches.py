"""Cutting recipients into requests."""

from hypothesis import given
from hypothesis import strategies as st

from deliveryagent.policy.batches import BatchSettings, pack


@given(st.lists(st.integers(), max_size=300), st.integers(-2, 60))
def test_requests_are_a_partition_in_order_and_never_too_large(
    recipients: list[int], limit: int
) -> None:
    groups = [list(group) for group in pack(recipients, limit)]
    assert [recipient for group in groups for recipient in group] == recipients
    assert all(1 <= len(group) <= max(1, limit) for group in groups)
    assert len(groups) == -(-len(recipients) // max(1, limit))


def test_a_message_for_one_is_one_request() -> None:
    assert list(pack(["joe"], 50)) == [["joe"]]
    assert list(pack([], 50)) == []


def test_fifty_recipients_go_in_one_transaction_by_default() -> None:
    assert BatchSettings().default_destination_recipient_limit == 50
