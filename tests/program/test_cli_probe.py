"""``dagent probe`` against the hosts of the lab: what people see, and the exit status."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deliveryagent.cli import run
from deliveryagent.lab.playground import Playground
from tests.program.whole_agent import Background


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    directory: Path = tmp_path_factory.mktemp("lab")
    with Background(lambda: Playground(directory, clock=time.time)) as lab:
        yield str(lab.config_path)


@pytest.fixture
def seen(capsys: pytest.CaptureFixture[str]) -> pytest.CaptureFixture[str]:
    return capsys


def test_a_probe_tells_the_way_and_ends_before_sending(
    config: str, seen: pytest.CaptureFixture[str]
) -> None:
    assert run(["-c", config, "probe", "kim@good.test"]) == 0
    out = seen.readouterr().out
    assert "route   good.test (no route matches)" in out
    assert "policy  TLS may (default)" in out
    assert "mx 10   mx.good.test  127.0.0.10" in out
    assert "offers SIZE 50000000, PIPELINING" in out or "offers PIPELINING" in out
    assert "would be handed to mx.good.test[127.0.0.10]" in out
    assert out.rstrip().endswith("Nothing was sent.")


def test_asking_about_the_recipient_proves_little_and_says_so(
    config: str, seen: pytest.CaptureFixture[str]
) -> None:
    assert run(["-c", config, "probe", "--rcpt", "kim@good.test"]) == 0
    out = seen.readouterr().out
    assert "RCPT TO: 250" in out
    assert "does not prove that the mailbox exists" in out


def test_a_refused_recipient_is_the_exit_status(
    config: str, seen: pytest.CaptureFixture[str]
) -> None:
    assert run(["-c", config, "probe", "--rcpt", "550@good.test"]) == 1
    out = seen.readouterr().out
    assert "RCPT TO: 550 5.1.1 No such user here" in out
    assert "so it would be returned to its sender" in out


def test_a_dead_first_host_and_its_backup_are_both_shown(
    config: str, seen: pytest.CaptureFixture[str]
) -> None:
    assert run(["-c", config, "probe", "kim@backup.test"]) == 0
    out = seen.readouterr().out
    assert "down.backup.test[127.0.0.12]" in out
    assert "so the next host is tried" in out
    assert "would be handed to mx2.backup.test[127.0.0.13]" in out


def test_tls_is_shown(config: str, seen: pytest.CaptureFixture[str]) -> None:
    run(["-c", config, "probe", "kim@secure.test"])
    out = seen.readouterr().out
    assert "TLSv1" in out or "in clear" in out


def test_an_implicit_mx_is_called_by_its_name(
    config: str, seen: pytest.CaptureFixture[str]
) -> None:
    assert run(["-c", config, "probe", "kim@nomx.test"]) == 0
    assert "A/AAAA  nomx.test  127.0.0.17" in seen.readouterr().out


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("kim@null.test", "5.1.10"),
        ("kim@sick.test", "4.4.3"),
        ("kim@missing.test", "does not exist"),
        ("kim@busy.test", "421 4.3.2"),
        ("kim@dead.test", "no host takes a message now"),
    ],
)
def test_what_would_not_go_says_why(
    config: str, seen: pytest.CaptureFixture[str], address: str, words: str
) -> None:
    assert run(["-c", config, "probe", address]) == 1
    assert words in seen.readouterr().out


def test_json_has_the_whole_way(config: str, seen: pytest.CaptureFixture[str]) -> None:
    assert run(["-c", config, "--json", "probe", "kim@good.test"]) == 0
    found = json.loads(seen.readouterr().out)
    assert found["ready"] is True
    assert found["ways"][0]["probes"][0]["ip"] == "127.0.0.10"


def test_what_is_no_address_is_a_usage_error(config: str, seen: pytest.CaptureFixture[str]) -> None:
    assert run(["-c", config, "probe", "kim"]) == 2
    assert seen.readouterr().err
