"""Replies and enhanced status codes."""

import doctest

from hypothesis import given
from hypothesis import strategies as st

from deliveryagent.mail import status
from deliveryagent.mail.status import SmtpReply, is_enhanced, split_enhanced


def test_the_examples_hold() -> None:
    assert doctest.testmod(status).failed == 0


@given(st.integers(200, 599))
def test_a_reply_is_of_one_class_told_by_its_first_digit(code: int) -> None:
    reply = SmtpReply(code, "", "whatever it says")
    classes = [reply.positive, reply.intermediate, reply.transient, reply.permanent]
    assert classes.index(True) == code // 100 - 2
    assert sum(classes) == 1


def test_the_peers_own_code_is_preferred_to_the_generic_one() -> None:
    assert SmtpReply(450, "4.7.1", "later").status() == "4.7.1"
    assert SmtpReply(450, "", "later").status() == "4.0.0"


def test_a_reply_is_quoted_on_one_line() -> None:
    assert str(SmtpReply(550, "5.1.1", "no\nsuch user")) == "550 5.1.1 no such user"
    assert str(SmtpReply(250, "", "")) == "250"


@given(st.integers(200, 599), st.text(max_size=30))
def test_an_enhanced_code_is_taken_only_when_its_class_fits(code: int, text: str) -> None:
    for digit in "245":
        enhanced, rest = split_enhanced(code, f"{digit}.1.10 {text}")
        if int(digit) == code // 100:
            assert enhanced == f"{digit}.1.10"
            assert is_enhanced(enhanced)
        else:
            assert (enhanced, rest) == ("", f"{digit}.1.10 {text}")


def test_an_address_is_no_enhanced_code() -> None:
    assert split_enhanced(550, "5.1.1.1 is listed") == ("", "5.1.1.1 is listed")
    assert split_enhanced(550, "5.1.1111") == ("", "5.1.1111")
