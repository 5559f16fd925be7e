"""Outcomes in words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deliveryagent.mail.delivery import Stage
from deliveryagent.protocol.diagnosis import (
    TEXT_LIMIT,
    ascii_only,
    asked,
    command_name,
    plain,
    quoted,
    sentence,
)


@given(st.text())
def test_plain_text_is_one_printable_line(text: str) -> None:
    assert plain(text).isprintable()
    assert len(plain(text)) <= TEXT_LIMIT


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126)))
def test_plain_leaves_harmless_text_alone(text: str) -> None:
    assert plain(text) == text


@given(st.text())
def test_ascii_only_is_printable_ascii(text: str) -> None:
    written = ascii_only(text)
    assert written.isascii()
    assert written.isprintable()


def test_text_that_could_reorder_or_hide_is_shown_as_escapes() -> None:
    assert plain("a\u202eb\u200bc\x9b1m") == r"a\u202eb\u200bc\x9b1m"


def test_lone_surrogates_do_not_survive() -> None:
    plain("\udcff").encode()


def test_text_beyond_the_limit_shows_that_it_was_cut() -> None:
    assert plain("x" * 2000) == "x" * (TEXT_LIMIT - 1) + "…"


@pytest.mark.parametrize("stage", Stage)
def test_every_stage_has_words_or_asked_nobody(stage: Stage) -> None:
    nobody = stage in {Stage.ROUTE, Stage.RESOLVE}
    assert bool(asked(stage)) is not nobody
    no_command = nobody or stage in {Stage.CONNECT, Stage.GREETING}
    assert bool(command_name(stage)) is not no_command


def test_an_unknown_stage_asked_nobody() -> None:
    assert asked("") == command_name("future") == ""


def test_a_reply_without_an_enhanced_code_is_quoted_without_one() -> None:
    assert quoted(550, "", "go away") == "550 go away"


def test_a_sentence_names_the_peer_and_the_command() -> None:
    assert sentence("mail", 421, "4.7.28", "slow\ndown", "mx.example") == (
        "mx.example answered MAIL FROM with 421 4.7.28 slow down"
    )


def test_a_reply_to_no_command_is_merely_said() -> None:
    assert sentence("route", 550, "5.1.1", "unknown here", "") == (
        "the peer said 550 5.1.1 unknown here"
    )


def test_trouble_explains_itself() -> None:
    assert (
        sentence("connect", 0, "4.4.1", "mx[192.0.2.1]:25: refused", "mx")
        == "mx[192.0.2.1]:25: refused"
    )
    assert sentence("", 0, "", "", "") == "no explanation is recorded"
