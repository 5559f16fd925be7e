"""Hints in the text of refusals."""

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deliveryagent.mail.status import SmtpReply
from deliveryagent.policy import hints


def test_the_examples_hold() -> None:
    assert doctest.testmod(hints).failed == 0


@pytest.mark.parametrize(
    "reply",
    [
        SmtpReply(421, "4.7.28", "unusual rate of unsolicited mail"),
        SmtpReply(450, "4.2.1", "The user you are trying to contact is receiving mail too quickly"),
        SmtpReply(451, "4.7.500", "Server busy. Please try again later"),
        SmtpReply(452, "4.3.2", "Please try again"),
        SmtpReply(421, "", "Too many concurrent SMTP connections"),
        SmtpReply(454, "4.4.5", ""),
        SmtpReply(450, "", "connection throttled"),
        SmtpReply(451, "4.7.0", "temporarily deferred due to unexpected volume"),
    ],
)
def test_a_peer_that_wants_less_is_understood(reply: SmtpReply) -> None:
    assert hints.asks_for_less(reply)


@pytest.mark.parametrize(
    "reply",
    [
        SmtpReply(450, "4.7.1", "Greylisted for 300 seconds, too many new senders"),
        SmtpReply(450, "4.1.1", "separate generation of corporate accurate content"),
        SmtpReply(452, "4.5.3", "too many recipients"),
        SmtpReply(550, "5.7.1", "rate limited for ever"),
        SmtpReply(250, "2.0.0", "throttling nobody"),
        SmtpReply(451, "4.3.0", "temporary lookup failure"),
    ],
)
def test_other_refusals_are_no_wish_for_less(reply: SmtpReply) -> None:
    assert not hints.asks_for_less(reply)


@given(st.integers(200, 599), st.text(alphabet="gray listotomnyrcpheu ", max_size=5000))
def test_no_text_means_two_things_at_once(code: int, text: str) -> None:
    reply = SmtpReply(code, "", text)
    said = [hints.asks_for_less(reply), hints.is_one_too_many(reply), hints.is_greylisting(reply)]
    if not (said[1] and said[2]):  # a greylister may well use 452
        assert sum(said) <= 1
