"""``dagent dest``: what is known of destinations and sites, pauses, resets."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.doubles.dagent import Dagent
from tests.doubles.filled_queue import STATUS, Answering, FilledQueue


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[FilledQueue]:
    filled = FilledQueue(tmp_path)
    yield filled
    filled.close()


@pytest.fixture
def dagent(queue: FilledQueue, capsys: pytest.CaptureFixture[str]) -> Dagent:
    return Dagent(queue.config, capsys)


def test_paused_destinations_are_listed_first_then_the_fullest(
    queue: FilledQueue, dagent: Dagent
) -> None:
    queue.add("a@big.example", "b@big.example")
    queue.add("c@dead.example")
    queue.site("mx.dead.example", "dead.example", closed_until=queue.now + 500, reason="refused")
    queue.pause("slow.example")
    assert dagent("dest", "list") == 0
    rows = [line.split() for line in dagent.out.splitlines()[1:]]
    assert [row[:3] for row in rows] == [
        ["slow.example", "0", "paused"],
        ["big.example", "2", "open"],
        ["dead.example", "1", "closed"],
    ]
    assert rows[2][-1] == "mx.dead.example"
    assert "in 8m" in dagent.out
    records = dagent.records("dest", "list", "--limit", "2")
    assert [record["name"] for record in records] == ["slow.example", "big.example"]
    assert records[0]["paused"] is True


def test_nothing_to_list(queue: FilledQueue, dagent: Dagent) -> None:
    assert dagent("dest", "list") == 0
    assert dagent.err == "Nothing waits and nothing is paused.\n"


def test_the_live_state_of_a_site_counts_more_than_the_recorded_one(
    queue: FilledQueue, dagent: Dagent
) -> None:
    queue.add("c@dead.example")
    queue.site("mx.dead.example", "dead.example", closed_until=queue.now + 500, reason="refused")
    site = {"name": "mx.dead.example", "window": 3, "busy": 1, "closed_until": None, "reason": ""}
    with Answering(queue.socket, status={**STATUS, "sites": [site]}, dest=site):
        dagent("dest", "list")
        assert " open " in dagent.out
        dagent("dest", "show", "Dead.Example")
        assert "window  3, 1 in flight" in dagent.out
        assert "closed" not in dagent.out


def test_one_destination_is_shown_with_its_site(queue: FilledQueue, dagent: Dagent) -> None:
    queue.add("c@dead.example")
    reason = "mx: \x1b[31mrefused"
    queue.site("mx.dead.example", "dead.example", closed_until=queue.now + 500, reason=reason)
    queue.pause("dead.example", note="their migration")
    assert dagent("dest", "show", "dead.example") == 0
    for words in (
        "dead.example  1 recipient waiting",
        "paused  by anna: their migration",
        "site    mx.dead.example",
        "window  5",
        "closed  until ",
        r"reason  mx: \x1b[31mrefused",
        "dagent dest reset dead.example",
        "dagent dest resume dead.example",
    ):
        assert words in dagent.out
    (record,) = dagent.records("dest", "show", "dead.example")
    assert record["site"]["reason"] == reason
    assert (record["paused"], record["paused_until"]) == (True, None)


def test_an_unresolved_and_an_unknown_destination(queue: FilledQueue, dagent: Dagent) -> None:
    queue.add("c@new.example")
    dagent("dest", "show", "new.example")
    assert "not known yet" in dagent.out
    assert dagent("dest", "show", "other.example") == 5
    assert "dagent probe postmaster@other.example" in dagent.err


def test_what_only_the_service_knows_is_shown(queue: FilledQueue, dagent: Dagent) -> None:
    live = {"name": "mx", "window": 5.5, "busy": 0, "closed_until": queue.now + 60, "reason": "x"}
    with Answering(queue.socket, dest=live):
        assert dagent("dest", "show", "fresh.example") == 0
    assert "site    mx" in dagent.out
    assert "closed  until" in dagent.out


@pytest.mark.parametrize("word", ["no domain", "", "exa$mple"])
def test_what_is_no_domain_is_a_usage_error(queue: FilledQueue, dagent: Dagent, word: str) -> None:
    assert dagent("dest", "pause", word) == 2


def test_pauses_without_a_service_are_recorded_in_the_queue(
    queue: FilledQueue, dagent: Dagent
) -> None:
    queue.add("c@example.net")
    assert dagent("dest", "pause", "@Example.NET", "--for", "2h", "--note", "migration") == 0
    assert dagent.out == ("Paused example.net for 2h. To end it: dagent dest resume example.net\n")
    dagent("dest", "show", "example.net")
    assert "migration" in dagent.out
    assert dagent("dest", "resume", "example.net") == 0
    assert dagent("dest", "resume", "example.net") == 5
    assert dagent.out == "example.net was not paused.\n"
    dagent("dest", "show", "example.net")
    assert "paused" not in dagent.out


def test_a_destination_in_national_letters_is_found(queue: FilledQueue, dagent: Dagent) -> None:
    assert dagent("dest", "pause", "Bücher.example") == 0
    assert "xn--bcher-kva.example" in dagent.out


def test_a_running_service_pauses_resumes_and_resets(queue: FilledQueue, dagent: Dagent) -> None:
    answers: dict[str, Any] = {
        "dest_pause": {"name": "example.net", "until": None, "known": True},
        "dest_resume": {"name": "example.net", "resumed": True},
        "dest_reset": {"name": "example.net", "site": "mx.example.net"},
    }
    with Answering(queue.socket, **answers) as service:
        assert dagent("dest", "pause", "example.net", "--for", "90s", "--note", "n") == 0
        assert dagent("dest", "resume", "example.net") == 0
        assert dagent("dest", "reset", "example.net") == 0
        assert dagent.out.startswith("Reset example.net (site mx.example.net).")
        assert dagent.records("dest", "pause", "example.net") == [
            {"name": "example.net", "paused": True, "for": None}
        ]
        assert dagent.records("dest", "resume", "example.net")[0]["resumed"] is True
        assert dagent.records("dest", "reset", "example.net")[0]["site"] == "mx.example.net"
    assert service.asked[0] == {"op": "dest_pause", "name": "example.net", "note": "n", "for": 90.0}


def test_a_reset_needs_a_service(queue: FilledQueue, dagent: Dagent) -> None:
    assert dagent("dest", "reset", "example.net") == 3
