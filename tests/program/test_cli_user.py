"""``dagent user``: accounts are added, changed, listed and taken away."""

import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import click
import pytest

from deliveryagent.cli import root
from deliveryagent.cli.command import Group
from deliveryagent.intake import passwords, users_file
from deliveryagent.intake.users_file import Account
from tests.doubles.dagent import Dagent


@pytest.fixture(autouse=True)
def _cheap_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords.hashed, "__kwdefaults__", {"log_n": 4})


@pytest.fixture
def users(tmp_path: Path) -> Path:
    return tmp_path / "users"


@pytest.fixture
def dagent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Dagent:
    config = tmp_path / "deliveryagent.toml"
    config.write_text("")
    return Dagent(str(config), capsys)


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A password comes on standard input."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("pencil\n"))


def accounts(path: Path) -> dict[str, Account]:
    return users_file.load(path).accounts()


@pytest.mark.usefixtures("typed")
def test_an_account_is_added_with_a_password_from_standard_input(
    dagent: Dagent, users: Path
) -> None:
    words = ("--sender", "Kim@Example.org", "--sender", "@lists.example.org")
    assert dagent("user", "add", "kim", "--file", str(users), *words) == 0
    assert dagent.out == f"Added kim to {users}. See: dagent user list\n"
    assert "see that the service's user may read it" in dagent.err
    kim = accounts(users)["kim"]
    assert kim.password.fits("pencil")
    assert kim.senders == ("kim@example.org", "@lists.example.org")
    assert not kim.cram
    assert "pencil" not in users.read_text()


def test_a_password_comes_from_the_line_of_a_file(
    dagent: Dagent, users: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("crayon and pencil\r\n")
    words = ("--file", str(users), "--password-file", str(secret))
    assert dagent("user", "add", "old", "--cram-md5", *words) == 0
    assert accounts(users)["old"].password.fits("crayon and pencil")
    assert accounts(users)["old"].cram == b"crayon and pencil"
    secret.write_text("one\ntwo\n")
    assert dagent("user", "add", "kim", *words) == 65
    assert "one line" in dagent.err
    secret.write_text("\n")
    assert dagent("user", "add", "kim", *words) == 65
    assert dagent.err == "dagent: there is no password\n"
    assert list(accounts(users)) == ["old"]


def test_on_a_terminal_a_password_is_asked_for_twice_and_not_shown(users: Path) -> None:
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "deliveryagent", "user", "add", "kim", "--file", str(users)]
    with subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True
    ) as process:
        os.close(slave)
        shown = b""
        for prompt in (b"Password for kim: ", b"Repeat for confirmation: "):
            while prompt not in shown:
                shown += os.read(master, 1000)
            os.write(master, b"pencil\n")
        while b"Added kim" not in shown:
            shown += os.read(master, 1000)
        assert process.wait(60) == 0
    os.close(master)
    assert b"pencil" not in shown
    assert accounts(users)["kim"].password.fits("pencil")


@pytest.mark.usefixtures("typed")
def test_a_name_is_given_only_once(dagent: Dagent, users: Path) -> None:
    assert dagent("user", "add", "kim", "--file", str(users)) == 0
    before = users.read_bytes()
    assert dagent("user", "add", "kim", "--file", str(users)) == 1
    assert "there is an account kim already" in dagent.err
    assert "hint: dagent user passwd kim" in dagent.err
    assert users.read_bytes() == before


def test_a_name_that_cannot_be_one_or_a_wrong_sender_is_refused_before_anything_is_asked(
    dagent: Dagent, users: Path
) -> None:
    assert dagent("user", "add", "k m", "--file", str(users)) == 1
    assert "Names have no blanks" in dagent.err
    assert dagent("user", "add", "kim", "--sender", "nobody", "--file", str(users)) == 1
    assert 'neither an address nor "@domain"' in dagent.err
    assert not users.exists()


def test_a_new_password_replaces_the_old_one_and_nothing_else(
    dagent: Dagent, users: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("pencil"))
    dagent("user", "add", "kim", "--cram-md5", "--sender", "@example.org", "--file", str(users))
    monkeypatch.setattr(sys, "stdin", io.StringIO("crayon"))
    assert dagent("user", "passwd", "kim", "--file", str(users)) == 0
    kim = accounts(users)["kim"]
    assert kim.password.fits("crayon")
    assert kim.cram == b"crayon"
    assert kim.senders == ("@example.org",)


@pytest.mark.usefixtures("typed")
def test_an_account_is_disabled_and_enabled_and_sends_as_others(
    dagent: Dagent, users: Path
) -> None:
    file = ("--file", str(users))
    dagent("user", "add", "kim", *file)
    before = accounts(users)["kim"]
    assert dagent("user", "change", "kim", "--disable", *file) == 0
    assert dagent.out == "kim may not log in. See: dagent user list\n"
    assert accounts(users)["kim"].disabled
    assert dagent("user", "change", "kim", "--enable", "--sender", "@example.org", *file) == 0
    assert dagent.out == "kim may send as @example.org. See: dagent user list\n"
    assert dagent("user", "change", "kim", "--any-sender", *file) == 0
    assert accounts(users)["kim"] == before
    assert dagent("user", "change", "kim", *file) == 2
    assert dagent("user", "change", "kim", "--any-sender", "--sender", "@a.example", *file) == 2


@pytest.mark.usefixtures("typed")
def test_an_account_is_taken_away(dagent: Dagent, users: Path) -> None:
    dagent("user", "add", "kim", "--file", str(users))
    assert dagent("user", "delete", "kim", "--file", str(users)) == 0
    assert accounts(users) == {}


@pytest.mark.usefixtures("typed")
@pytest.mark.parametrize("words", [["passwd"], ["change", "--disable"], ["delete"]])
def test_an_account_that_is_not_there_is_said_to_be_so(
    dagent: Dagent, users: Path, words: list[str]
) -> None:
    dagent("user", "add", "kim", "--file", str(users))
    before = users.read_bytes()
    assert dagent("user", *words, "alex", "--file", str(users)) == 5
    assert f"{users} has no account alex" in dagent.err
    assert users.read_bytes() == before


def test_accounts_are_listed_for_people_and_programs(
    dagent: Dagent, users: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = ("--file", str(users))
    for name, *more in (["kim", "--sender", "@example.org"], ["old", "--cram-md5"]):
        monkeypatch.setattr(sys, "stdin", io.StringIO("pencil"))
        dagent("user", "add", name, *more, *file)
    dagent("user", "change", "old", "--disable", *file)
    assert dagent("user", "list", *file) == 0
    assert [line.split() for line in dagent.out.splitlines()[1:]] == [
        ["kim", "open", "PLAIN", "LOGIN", "SCRAM-SHA-256", "@example.org"],
        ["old", "disabled", "PLAIN", "LOGIN", "SCRAM-SHA-256", "CRAM-MD5", "any", "address"],
    ]
    mechanisms = ["PLAIN", "LOGIN", "SCRAM-SHA-256"]
    assert dagent.records("user", "list", *file) == [
        {"name": "kim", "disabled": False, "mechanisms": mechanisms, "senders": ["@example.org"]},
        {"name": "old", "disabled": True, "mechanisms": [*mechanisms, "CRAM-MD5"], "senders": []},
    ]


@pytest.mark.usefixtures("typed")
def test_what_was_changed_is_said_in_json_too(dagent: Dagent, users: Path) -> None:
    file = ("--file", str(users))
    (added,) = dagent.records("user", "add", "kim", *file)
    assert added["name"] == "kim"
    assert added["file"] == str(users)
    assert json.loads(dagent.out) == added
    (deleted,) = dagent.records("user", "delete", "kim", *file)
    assert deleted == {"name": "kim", "deleted": True, "file": str(users)}


def test_a_file_that_is_open_to_others_is_not_touched(dagent: Dagent, users: Path) -> None:
    users.write_text("")
    users.chmod(0o644)
    assert dagent("user", "list", "--file", str(users)) == 1
    assert f"{users} is open to others (mode 0644)" in dagent.err
    assert f"hint: chmod 0640 {users}" in dagent.err


def listeners(tmp_path: Path, *files: str) -> None:
    tables = (
        f'[[listener]]\naddress = "127.0.0.1:{2500 + place}"\n'
        f'trusted_networks = ["127.0.0.1"]\nusers = "{file}"\n'
        for place, file in enumerate(files)
    )
    (tmp_path / "deliveryagent.toml").write_text("".join(tables))


@pytest.mark.usefixtures("typed")
def test_the_file_is_the_one_the_listeners_name(
    dagent: Dagent, users: Path, tmp_path: Path
) -> None:
    listeners(tmp_path, str(users), "", str(users))
    assert dagent("user", "add", "kim") == 0
    assert list(accounts(users)) == ["kim"]
    assert "in the configuration" not in dagent.err
    assert dagent.records("user", "list")[0]["name"] == "kim"


def test_when_the_listeners_name_several_files_one_has_to_be_said(
    dagent: Dagent, tmp_path: Path
) -> None:
    listeners(tmp_path, "/tmp/one", "/tmp/two")
    assert dagent("user", "list") == 2
    assert "the listeners name several users files: /tmp/one, /tmp/two" in dagent.err
    assert "--file /tmp/one" in dagent.err


@pytest.mark.usefixtures("typed")
def test_when_no_listener_names_a_file_it_is_said_what_to_configure(
    dagent: Dagent, users: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deliveryagent.cli.accounts.DEFAULT_FILE", str(users))
    assert dagent("user", "list") == 0
    assert "There are no accounts" in dagent.err
    assert dagent("user", "add", "kim") == 0
    assert f'users = "{users}"' in dagent.err
    assert list(accounts(users)) == ["kim"]


def test_no_option_takes_a_secret_as_its_value() -> None:
    def options(command: click.Command) -> list[click.Option]:
        found = [p for p in command.params if isinstance(p, click.Option) and not p.is_flag]
        if isinstance(command, Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                child = command.get_command(context, name)
                assert child is not None
                found += options(child)
        return found

    names = [name for option in options(root) for name in option.opts]
    secret = [
        n for n in names if any(w in n for w in ("password", "secret", "token", "passphrase"))
    ]
    assert {name for name in secret if not name.endswith("-file")} == set()
