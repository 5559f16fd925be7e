"""The local part of an address decides what a receiving host of the lab does."""

import pytest

from deliveryagent.lab.behaviour import ACCEPTED, Manner, Reaction, greylisted, reaction


@pytest.mark.parametrize(
    "local", ["ok", "jane.doe", "5500", "x550", "650", "greylistx", "dot-", "data-200"]
)
def test_ordinary_names_are_accepted(local: str) -> None:
    assert reaction(f"{local}@mx.test") is ACCEPTED


@pytest.mark.parametrize(
    ("local", "expected"),
    [
        ("550", Reaction(rcpt="550 5.1.1 No such user here")),
        ("459", Reaction(rcpt="459 4.0.0 As you wish")),
        ("550-5.7.1", Reaction(rcpt="550 5.7.1 As you wish")),
        ("421", Reaction(rcpt="421 4.3.2 Service shutting down", rcpt_manner=Manner.FAREWELL)),
        ("data-451", Reaction(data="451 4.3.0 Local trouble, try again later")),
        ("dot-554-5.6.0", Reaction(dot="554 5.6.0 As you wish")),
        ("slow", Reaction(delay=1.0)),
        ("slow-0.2s", Reaction(delay=0.2)),
        ("greylist", Reaction(greylist=0.0)),
        ("greylist-2s", Reaction(greylist=2.0)),
        ("timeout", Reaction(rcpt_manner=Manner.SILENCE)),
        ("timeout-dot", Reaction(dot_manner=Manner.SILENCE)),
        ("drop", Reaction(rcpt_manner=Manner.CLOSE)),
        ("drop-dot+tag", Reaction(dot_manner=Manner.CLOSE)),
    ],
)
def test_names_of_faults_have_their_effect(local: str, expected: Reaction) -> None:
    assert reaction(f"{local}@mx.test") == expected


def test_dot_421_closes_after_its_reply() -> None:
    assert reaction("dot-421@mx.test").dot_manner is Manner.FAREWELL


def test_greylisting_lets_the_second_try_pass() -> None:
    seen: dict[str, float] = {}
    assert greylisted(seen, "a", 0.0, now=1.0).startswith("450 4.7.1")
    assert greylisted(seen, "a", 0.0, now=1.1) == ""
    assert greylisted(seen, "b", 0.0, now=1.1) != ""


def test_greylisting_with_a_time_says_how_long_to_wait() -> None:
    seen: dict[str, float] = {}
    assert "in 10 seconds" in greylisted(seen, "a", 10.0, now=0.0)
    assert "in 4 seconds" in greylisted(seen, "a", 10.0, now=6.0)
    assert greylisted(seen, "a", 10.0, now=10.0) == ""
