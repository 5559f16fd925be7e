"""The quick reader of ``dagent send``: what click would read, or nothing."""

from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deliveryagent.cli import run
from deliveryagent.cli.grammar import COMMON, SEND, read
from deliveryagent.cli.quick import quick

SPELLINGS = [spelling for word in (*COMMON, *SEND) for spelling in word.spellings]
VALUES = ["", "-", "--", "a@b.example", "kim", "k=v", "full", "hdrs", "5s", "-x", "send", "\udcff"]
WORDS = st.sampled_from(
    [
        *("send", "send", "queue", "-h", "--help", "--no-color", "--debug", "--sett"),
        *SPELLINGS,
        *(f"{spelling}={value}" for spelling in SPELLINGS for value in VALUES),
        *(f"{spelling}{value}" for spelling in SPELLINGS for value in ("x", "-", "@")),
        *VALUES,
    ]
)


class Nobody:
    """An order that is not carried out."""

    def carry_out(self) -> None:
        """Do nothing."""


def by_click(words: list[str]) -> tuple[int, dict[str, Any] | None]:
    """The exit status, and what the command got."""
    found: list[dict[str, Any]] = []

    def note(given: dict[str, Any]) -> Nobody:
        found.append(given)
        return Nobody()

    with patch("deliveryagent.cli.send.understood", note):
        status = run(words)
    return status, found[0] if found else None


@given(st.lists(WORDS, max_size=8), st.lists(WORDS, max_size=3))
def test_click_reads_the_same(words: list[str], before: list[str]) -> None:
    for line in (["send", *words], [*before, "send", *words]):
        quickly = read(line)
        if quickly is not None:
            assert by_click(line) == (0, quickly)


@pytest.mark.parametrize(
    "line",
    [
        "send kim@example.net",
        "-c a.toml send -f a@b.example kim@example.net lee@example.net",
        "--set run_dir=/x --set a=b send -t --file=letter --json --config b.toml",
        "send -f <> --at 2026-01-31T08:00:00Z --hold --dsn never --ret full --envid e",
        "send --tag a=b --tag c=d --key k --patience 5s -- -odd@example.net send",
        "send --priority=-9 kim@example.net",
    ],
)
def test_plain_lines_are_read(line: str) -> None:
    quickly = read(line.split())
    assert quickly is not None
    assert by_click(line.split()) == (0, quickly)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "send --help",
        "send --wait kim@example.net",
        "send --key",
        "send --key --hold kim@example.net",
        "send --ret some kim@example.net",
        "send --hold=yes",
        "send -fx",
        "-- send",
        "queue list",
        "--version",
    ],
)
def test_the_rest_is_left_to_click(line: str) -> None:
    assert read(line.split()) is None
    assert quick(line.split()) is None


@pytest.mark.parametrize("line", ["send", "send --tag x a@b.example", "send --at noon a@b.example"])
def test_what_makes_no_sense_is_left_to_click(line: str) -> None:
    assert quick(line.split()) is None


def test_completion_is_left_to_click(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_DAGENT_COMPLETE", "bash_complete")
    assert quick(["send", "kim@example.net"]) is None
