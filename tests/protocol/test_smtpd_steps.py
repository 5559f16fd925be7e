"""The words between a conversation and its player."""

import pytest

from deliveryagent.protocol.smtpd_steps import (
    LINE_LIMIT,
    RESPONSE_LIMIT,
    HeloChecks,
    Kept,
    Line,
    Outcome,
    Over,
    Terms,
)


def test_a_line_has_room_for_what_the_rfcs_add() -> None:
    # RFC 5321 4.5.3.1.4, and what SIZE, DSN, AUTH, SMTPUTF8, FUTURERELEASE and DELIVERBY add to MAIL and RCPT.
    assert Line().limit == LINE_LIMIT >= 1036
    assert RESPONSE_LIMIT == 12288


def test_terms_are_careful_when_nothing_is_said() -> None:
    terms = Terms(kind="smtp", hostname="mx.host.dev")
    assert not terms.mechanisms
    assert not terms.auth_without_tls
    assert not terms.normalise
    assert terms.check_sender_domain
    assert terms.helo_checks == HeloChecks(own=True, reserved=True, bare=True)


def test_an_outcome_is_for_all_unless_it_names_some() -> None:
    assert Outcome(Kept("Ok")).refused == {}


def test_the_end_says_why() -> None:
    with pytest.raises(Over, match="Shutting down") as caught:
        raise Over("4.3.2", "Shutting down")
    assert caught.value.enhanced == "4.3.2"
