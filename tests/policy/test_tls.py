"""TLS demands and what follows when TLS cannot be had."""

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deliveryagent.mail.delivery import Stage, Trouble
from deliveryagent.mail.security import TlsDemand, TlsLevel
from deliveryagent.policy.tls import TlsSettings, demand, goes_on_in_clear, redials_in_clear

MAY = TlsDemand(TlsLevel.MAY)
ENCRYPT = TlsDemand(TlsLevel.ENCRYPT)
Level = Literal["", "none", "may", "encrypt"]


@pytest.mark.parametrize(
    ("configured", "unix", "level"),
    [
        ("", False, TlsLevel.MAY),
        ("", True, TlsLevel.NONE),
        ("may", True, TlsLevel.NONE),
        ("none", False, TlsLevel.NONE),
        ("encrypt", False, TlsLevel.ENCRYPT),
        ("encrypt", True, TlsLevel.ENCRYPT),
    ],
)
def test_the_level_comes_from_the_configuration_or_the_kind_of_next_hop(
    configured: Level, unix: bool, level: TlsLevel
) -> None:
    demanded = demand(TlsSettings(tls_security_level=configured), unix=unix)
    assert demanded.level is level
    assert demanded.provenance


def test_a_refusal_to_start_tls_is_accepted_unless_tls_is_demanded() -> None:
    assert goes_on_in_clear(MAY)
    assert goes_on_in_clear(TlsDemand(TlsLevel.NONE))
    assert not goes_on_in_clear(ENCRYPT)


def redials(
    demanded: TlsDemand = MAY,
    *,
    stage: Stage = Stage.STARTTLS,
    trouble: Trouble = Trouble.TLS_FAILED,
    undecided: int = 1,
    age: float = 301.0,
) -> bool:
    return redials_in_clear(
        demanded,
        stage=stage,
        trouble=trouble,
        undecided=undecided,
        age=age,
        minimal_backoff=300.0,
    )


def test_a_broken_handshake_leads_to_clear_text_only_after_a_backoff() -> None:
    assert redials()
    assert not redials(age=10.0)


def test_a_tls_session_that_breaks_later_is_tried_in_clear_as_well() -> None:
    assert redials(stage=Stage.MAIL, trouble=Trouble.LOST)
    assert redials(stage=Stage.CONTENT, trouble=Trouble.TIMEOUT)
    assert not redials(stage=Stage.MAIL, trouble=Trouble.PROTOCOL)


def test_nothing_is_sent_twice_to_avoid_tls() -> None:
    assert not redials(stage=Stage.DOT, trouble=Trouble.LOST)
    assert not redials(undecided=0)


@given(st.sampled_from(Stage), st.sampled_from(Trouble), st.integers(0, 9), st.floats(0, 1e9))
def test_demanded_encryption_is_never_given_up(
    stage: Stage, trouble: Trouble, undecided: int, age: float
) -> None:
    assert not redials(ENCRYPT, stage=stage, trouble=trouble, undecided=undecided, age=age)
