"""What may be said of the recipients that are meant."""

from typing import Any

import click
import pytest
from click.testing import CliRunner

from deliveryagent.cli.filters import filter_options, is_whole, selection
from deliveryagent.queue.search import Filter

NOW = 1_000_000.0


def read(*words: str, order: bool = False, stdin: str = "") -> Filter:
    found: list[Filter] = []

    @click.command()
    @filter_options
    def command(**given: Any) -> None:
        found.append(selection(given, now=NOW, order=order))
        assert not given

    result = CliRunner().invoke(command, list(words), input=stdin, catch_exceptions=False)
    if result.exit_code:
        raise click.UsageError(result.output)
    return found[0]


def test_no_condition_means_all_that_lives() -> None:
    assert read() == Filter()


def test_every_condition_is_read() -> None:
    people = ["--to", "kim@example.net", "--from", "@example.org", "--domain", "Example.NET"]
    states = ["--status", "held", "--status", "deferred", "--tries", ">3", "--code", "4XX"]
    words = ["0c7qk", *people, *states, "--older", "1h", "--newer", "2d"]
    assert read(*words) == Filter(
        ids=("0C7QK",),
        to="kim@example.net",
        from_="@example.org",
        domain="example.net",
        status=("held", "deferred"),
        older=NOW - 3600,
        newer=NOW - 172800,
        tries=">3",
        code="4xx",
    )


def test_brackets_around_addresses_are_forgiven() -> None:
    assert read("--to", "<kim@example.net>").to == "kim@example.net"


def test_the_null_sender_can_be_meant() -> None:
    assert read("--from", "<>").from_ == "<>"


def test_ids_come_from_standard_input_too() -> None:
    assert read("-", stdin="0C7QK4M2V9XTB\n0C7QK51RA3HNW\n").ids == (
        "0C7QK4M2V9XTB",
        "0C7QK51RA3HNW",
    )


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["0C7QK!"], "is not a queue id"),
        (["--to", "kim"], 'neither an address nor "@domain"'),
        (["--to", "<>"], "neither"),
        (["--older", "soon"], "is not a time"),
        (["--tries", "many"], "write it like"),
        (["--code", "9xx"], "write it like"),
        (["--status", "lost"], "is not one of"),
        (["--all", "--domain", "example.net"], "--all means everything"),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(words: list[str], complaint: str) -> None:
    with pytest.raises(click.UsageError, match=complaint):
        read(*words)


def test_an_order_for_everything_must_say_so() -> None:
    with pytest.raises(click.UsageError, match="--all"):
        read(order=True)
    assert read("--all", order=True).all


def test_a_whole_id_is_known_by_its_length() -> None:
    assert is_whole("0C7QK4M2V9XTB")
    assert not is_whole("0C7QK")
