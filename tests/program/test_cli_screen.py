"""What commands print."""

import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deliveryagent.cli.screen import (
    Cell,
    Column,
    Screen,
    clean,
    clock,
    count,
    cut,
    size,
    span,
    until,
    utc,
    width,
)


def test_a_long_table_appears_as_it_comes() -> None:
    out, seen = io.StringIO(), []

    def rows() -> Iterator[list[str]]:
        for number in range(1000):
            seen.append(len(out.getvalue()))
            yield [str(number)]

    Screen(out=out).table([Column("N")], rows())
    assert seen[199] == 0
    assert seen[250] > 200
    assert out.getvalue().splitlines() == ["N", *map(str, range(1000))]


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@given(st.text())
def test_whatever_a_stranger_wrote_is_one_line_without_control(text: str) -> None:
    shown = clean(text)
    assert shown.isprintable()
    assert clean(shown) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("550 no", "550 no"),
        ("a\r\nb", "a b"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("\x9b31m", "\\x9b31m"),
        ("admin\u202efdp.exe", "admin\\u202efdp.exe"),
        ("über", "über"),
    ],
)
def test_escapes_become_visible(text: str, shown: str) -> None:
    assert clean(text) == shown


@given(st.floats(0, 4e9))
def test_times_are_utc(seconds: float) -> None:
    assert utc(seconds).endswith("Z")
    assert clock(seconds, now=seconds).endswith("Z")


@pytest.mark.parametrize(
    ("moment", "now", "shown"),
    [
        (1762778407, 1762778000, "12:40:07Z"),
        (1762732801, 1762732799, "10 Nov 00:00Z"),
        (1700000000, 1762778000, "14 Nov 2023 22:13Z"),
    ],
)
def test_the_clock_says_as_much_as_is_needed(moment: float, now: float, shown: str) -> None:
    assert clock(moment, now) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0s"),
        (-3, "0s"),
        (0.04, "0.0s"),
        (3.27, "3.2s"),
        (3600, "1h"),
        (86399, "23h59m"),
        (86460, "1d"),
    ],
)
def test_spans_have_at_most_two_units(seconds: float, shown: str) -> None:
    assert span(seconds) == shown


def test_moments_ahead() -> None:
    assert until(100.4, now=100) == "now"
    assert until(160, now=100) == "in 1m"


@pytest.mark.parametrize(
    ("octets", "shown"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1.0K"),
        (9949, "9.9K"),
        (9990, "10K"),
        (999_600, "1.0M"),
        (5 * 10**12, "5000G"),
    ],
)
def test_sizes_are_short(octets: int, shown: str) -> None:
    assert size(octets) == shown


@given(st.text(), st.integers(0, 20))
def test_cutting_keeps_to_the_width(text: str, columns: int) -> None:
    assert width(cut(text, columns)) <= columns


def test_wide_characters_take_two_columns() -> None:
    assert width("日本") == 4
    assert cut("日本語", 5) == "日本…"


def test_numbers_agree_with_their_nouns() -> None:
    assert count(0, "message") == "0 messages"
    assert count(1_000_000, "message") == "1 000 000 messages"


COLUMNS = [Column("ID"), Column("SIZE", right=True), Column("LAST ANSWER")]


def test_a_table_is_aligned_and_never_cut_off_a_terminal() -> None:
    out = io.StringIO()
    answer = "421 " + "slow down " * 20
    Screen(out=out).table(
        COLUMNS, [("A", "14K", answer), ("LONGER", "9K", Cell("held\x1b", "warn"))]
    )
    assert out.getvalue().split("\n") == [
        "ID      SIZE  LAST ANSWER",
        f"A        14K  {answer.strip()}",
        "LONGER    9K  held\\x1b",
        "",
    ]


def test_on_a_terminal_the_last_column_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    out = Terminal()
    Screen(out=out).table(COLUMNS, [("A", "14K", "421 4.7.28 rate limited, come back later")])
    assert out.getvalue().split("\n")[1] == "A    14K  421 4.7.28 rate lim…"


def test_colour_repeats_what_a_word_says() -> None:
    for color in (True, False):
        out = io.StringIO()
        Screen(color=color, out=out).table([Column("STATE")], [[Cell("bounced", "bad")]])
        assert "bounced" in out.getvalue()
        assert ("\x1b[31m" in out.getvalue()) is color
    assert Screen(color=True).paint("", "bad") == ""
    assert Screen(color=True).paint("word", "plain") == "word"


_VALUES = st.text() | st.integers() | st.none()


@given(_VALUES | st.dictionaries(st.text(), _VALUES | st.dictionaries(st.text(), _VALUES)))
def test_json_is_one_ascii_line(value: Any) -> None:
    out = io.StringIO()
    Screen(out=out).record(value)
    line, end, rest = out.getvalue().partition("\n")
    assert (end, rest) == ("\n", "")
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line) == value


def test_messages_go_to_the_other_stream(capsys: pytest.CaptureFixture[str]) -> None:
    Screen().line("data")
    Screen().note("message")
    assert capsys.readouterr() == ("data\n", "message\n")
