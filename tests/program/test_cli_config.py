"""``dagent config`` as people use it."""

import json
import tomllib
from pathlib import Path

import pytest

from deliveryagent.cli import run
from deliveryagent.config import load

TEXT = """\
hostname = "mail.example.org"

[smtp]
connect_timeout = "5s"

[[route]]
match = ["slow.example"]
nexthop = "[127.0.0.1]:2525"
destination_concurrency_limit = 2
mail_timeout = "9s"
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "agent.toml"
    path.write_text(TEXT, "utf-8")
    return str(path)


Captured = pytest.CaptureFixture[str]


def test_a_good_configuration_is_called_good(file: str, capsys: Captured) -> None:
    assert run(["-c", file, "config", "check"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"ok: {file} can be used")
    assert "error" not in err


def test_all_errors_are_told_with_their_places(file: str, capsys: Captured) -> None:
    status = run(["config", "check", "-c", file, "--set", "smtp.port=x", "--set", "smtp.prt=1"])
    out, err = capsys.readouterr()
    assert status == 1
    assert not out
    assert 'error: --set: smtp.port: expected a whole number, not "x"\n' in err
    assert 'error: --set: smtp.prt: unknown setting (did you mean "smtp.port"?)\n' in err
    assert "2 errors: this configuration cannot be used" in err


def test_the_check_speaks_json(file: str, capsys: Captured) -> None:
    assert run(["config", "check", "--json", "-c", file]) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True
    assert run(["config", "check", "--json", "-c", file, "--set", "smtp.port=x"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["ok"] is False
    (problem,) = answer["problems"]
    assert problem["severity"] == "error"
    assert problem["key"] == "smtp.port"


def test_elsewhere_a_bad_configuration_has_its_own_status(file: str, capsys: Captured) -> None:
    assert run(["-c", file, "--set", "smtp.port=x", "config", "show"]) == 78
    err = capsys.readouterr().err
    assert "dagent: --set: smtp.port: expected" in err
    assert "hint: dagent config check" in err


def test_what_is_shown_is_a_configuration_again(
    file: str, tmp_path: Path, capsys: Captured
) -> None:
    assert run(["-c", file, "config", "show"]) == 0
    shown = capsys.readouterr().out
    tomllib.loads(shown)
    again = tmp_path / "again.toml"
    again.write_text(shown, "utf-8")
    assert load(again) == load(file)


def test_origins_and_changes(file: str, capsys: Captured) -> None:
    assert (
        run(["-c", file, "--set", "log.format=json", "config", "show", "--origin", "--changed"])
        == 0
    )
    assert capsys.readouterr().out == (
        f'hostname = "mail.example.org"  # {file}:1\n'
        "\n"
        "[smtp]\n"
        f'connect_timeout = "5s"  # {file}:4\n'
        "\n"
        "[log]\n"
        'format = "json"  # --set\n'
        "\n"
        "[[route]]\n"
        'match = ["slow.example"]\n'
        'nexthop = "[127.0.0.1]:2525"\n'
        "destination_concurrency_limit = 2\n"
        'mail_timeout = "9s"\n'
    )


def test_json_has_one_setting_a_line(file: str, capsys: Captured) -> None:
    assert run(["-c", file, "config", "show", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    settings = {line["key"]: line for line in lines}
    assert settings["smtp.connect_timeout"] == {
        "key": "smtp.connect_timeout",
        "value": 5.0,
        "default": 30.0,
        "origin": f"{file}:4",
    }
    assert settings["smtp.port"]["origin"] == "default"
    assert settings["route"]["destination_concurrency_limit"] == 2


def test_a_setting_is_explained(file: str, capsys: Captured) -> None:
    assert run(["-c", file, "config", "explain", "smtp_connect_timeout"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("smtp.connect_timeout  (time)\n  Time for a connection")
    assert '  default     "30s"\n' in out
    assert f'  now         "5s"   {file}:4\n' in out
    assert "  Postfix     smtp_connect_timeout\n" in out
    assert "  route       may be narrowed in [[route]] as connect_timeout\n" in out
    assert '  written as  such as "30s"' in out


def test_choices_and_ambiguous_names(capsys: Captured) -> None:
    assert run(["config", "explain", "tls_security_level"]) == 0
    out = capsys.readouterr().out
    assert "smtp.tls_security_level  (choice)" in out
    assert "lmtp.tls_security_level  (choice)" in out
    assert '  choices     "", "none", "may", "encrypt"' in out


def test_explanations_as_json(file: str, capsys: Captured) -> None:
    assert run(["-c", file, "config", "explain", "--json", "destination_concurrency_limit"]) == 0
    assert json.loads(capsys.readouterr().out)["route"] == "destination_concurrency_limit"
    assert run(["-c", file, "config", "explain", "--json", "route.nexthop"]) == 0
    entry = json.loads(capsys.readouterr().out)
    assert entry["value"] is None
    assert run(["-c", file, "config", "explain", "--json", "hostname"]) == 0
    entry = json.loads(capsys.readouterr().out)
    assert entry["value"] == "mail.example.org"
    assert entry["postfix"] == "myhostname"


def test_an_unknown_name_gets_a_suggestion(capsys: Captured) -> None:
    assert run(["config", "explain", "smtp.conect_timeout"]) == 5
    assert "did you mean smtp.connect_timeout" in capsys.readouterr().err
    assert run(["config", "explain", "zzz"]) == 5
    assert "dagent config show lists all settings" in capsys.readouterr().err


def test_explaining_works_with_a_broken_file(file: str, capsys: Captured) -> None:
    assert run(["-c", file, "--set", "smtp.port=x", "config", "explain", "log.format"]) == 0
    out, err = capsys.readouterr()
    assert "  now " not in out
    assert "1 error in the configuration: dagent config check" in err
