"""User names and passwords are compared in one form (RFC 4013)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deliveryagent.protocol.saslprep import PreparationError, prepare


@pytest.mark.parametrize(
    ("given_", "prepared"),
    [
        ("I\u00adX", "IX"),
        ("user", "user"),
        ("USER", "USER"),
        ("\u00aa", "a"),
        ("\u2168", "IX"),
    ],
)
def test_the_examples_of_the_standard(given_: str, prepared: str) -> None:
    assert prepare(given_) == prepared


@pytest.mark.parametrize(
    "text", ["", "\u00ad", "\x07", "a\nb", "\u0627\u0031", "a\u202eb", "\ue000"]
)
def test_what_cannot_be_a_name_or_password_is_refused(text: str) -> None:
    with pytest.raises(PreparationError):
        prepare(text)


def test_what_is_kept_has_only_characters_every_program_knows() -> None:
    assert prepare("\U0001f980") == "\U0001f980"
    with pytest.raises(PreparationError):
        prepare("\U0001f980", stored=True)


@given(st.text())
def test_preparing_twice_changes_nothing(text: str) -> None:
    try:
        once = prepare(text)
    except PreparationError:
        return
    assert once
    assert prepare(once) == once


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1))
def test_printable_ascii_stays_as_it_is(text: str) -> None:
    assert prepare(text, stored=True) == text
