"""The tree of commands: help, global options on both sides, errors without tracebacks."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from deliveryagent import __version__
from deliveryagent.cli import COMMANDS, program, root, run
from deliveryagent.cli.command import (
    Command,
    Group,
    Invocation,
    Lazy,
    LazyGroup,
    colored,
    command,
    is_global,
)
from deliveryagent.cli.faults import EXIT_MEANINGS, CommandError, ExitStatus, describe
from deliveryagent.config.problems import ConfigError, Problem
from deliveryagent.protocol.local import ExitCode, ServiceError
from deliveryagent.queue.engine import StoreError
from deliveryagent.queue.lock import LockHeld
from deliveryagent.queue.thread import StoreUnavailable


def commands(
    node: click.Command = root, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command with the words that lead to it."""
    yield path, node
    if isinstance(node, click.Group):
        context = click.Context(node)
        for name in node.list_commands(context):
            child = node.get_command(context, name)
            assert child is not None
            yield from commands(child, (*path, name))


@command("probe", examples=["dagent probe kim@example.org"])
@click.argument("outcome", default="fine")
@click.pass_obj
def probing(invocation: Invocation, outcome: str) -> int | None:
    """Fail in the way that is asked for.

    For tests.
    """
    match outcome:
        case "fine":
            screen = invocation.screen()
            screen.record([invocation.config_path, invocation.overrides, screen.json, screen.color])
            return None
        case "partly":
            return ExitStatus.PARTLY_DONE
        case "bug":
            return fall_over()
        case "stop":
            raise KeyboardInterrupt
        case "exit":
            return click.get_current_context().exit(5)
        case _:
            raise CommandError(f"no {outcome}", code=ExitStatus.NOT_FOUND, hint="another\x1b")


def fall_over() -> int:
    """A bug."""
    empty: list[int] = []
    return empty.pop()


@pytest.fixture
def tree(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program with one command and nothing else."""
    table = {
        "probe": Lazy(__name__, "probing", "Probe."),
        "gone": Lazy("deliveryagent.cli.gone", "gone", "Gone."),
    }
    table["broken"] = Lazy(__name__, "ENV", "Broken.")
    monkeypatch.setattr(
        program, "root", LazyGroup("dagent", commands=table, examples=["dagent probe"])
    )


ENV = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}


def dagent(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """The program as a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "deliveryagent", *words],
        env=ENV | environ, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_every_command_explains_itself_with_examples_first() -> None:
    for path, node in commands():
        assert isinstance(node, Command | Group), path
        assert node.examples, path
        for example in node.examples:
            assert "dagent" in example
        for word in ("-h", "--help"):
            context = click.Context(node, info_name=" ".join(("dagent", *path)))
            assert word in context.help_option_names or word in str(node.context_settings)
        text = node.get_help(click.Context(node, info_name="dagent"))
        assert text.index("Examples:") < text.index("Options:") < text.index("Global options:")


def test_the_summaries_of_the_root_name_existing_commands() -> None:
    for name, lazy in COMMANDS.items():
        node = root.get_command(click.Context(root), name)
        assert node is not None
        assert node.name == name
        assert lazy.summary.endswith(".")
        assert len(lazy.summary) <= 50


def test_options_are_called_alike_everywhere() -> None:
    short: dict[str, str] = {}
    for path, node in commands():
        for parameter in node.params:
            if not isinstance(parameter, click.Option):
                continue
            names = [*parameter.opts, *parameter.secondary_opts]
            long = [name for name in names if name.startswith("--")]
            assert long, f"{path}: {names} has no long form"
            assert parameter.help, f"{path}: {names} has no help"
            for name in names:
                if not name.startswith("--"):
                    assert short.setdefault(name, long[0]) == long[0], f"{path}: {name}"
            secret = any(word in long[0] for word in ("password", "secret", "token"))
            assert not secret or long[0].endswith("-file"), f"{path}: a secret on the command line"


def test_every_command_takes_the_global_options() -> None:
    for path, node in commands():
        names = {name for p in node.params if is_global(p) for name in p.opts}
        assert names >= {"--config", "--set", "--json", "--color", "--debug", "--version"}, path


def test_alone_the_program_prints_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 0
    assert "Commands:\n  send " in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        ["-c", "a.toml", "--set", "x=1", "--json", "--no-color", "probe"],
        ["probe", "-c", "a.toml", "--set", "x=1", "--json", "--no-color"],
        [
            "-c",
            "b.toml",
            "--set",
            "x=1",
            "--color",
            "probe",
            "-c",
            "a.toml",
            "--json",
            "--no-color",
        ],
    ],
)
@pytest.mark.usefixtures("tree")
def test_global_options_stand_on_either_side(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(words) == 0
    assert json.loads(capsys.readouterr().out) == ["a.toml", ["x=1"], True, False]


@pytest.mark.usefixtures("tree")
def test_overrides_of_both_sides_add_up(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--set", "a=1", "--color", "probe", "--set", "b=2", "--set", "a=3"]) == 0
    assert json.loads(capsys.readouterr().out) == [None, ["a=1", "b=2", "a=3"], False, True]


@pytest.mark.usefixtures("tree")
@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["probe", "partly"], 6, ""),
        (["probe", "exit"], 5, ""),
        (["probe", "luck"], 5, "dagent: no luck\nhint: another\\x1b\n"),
        (["probe", "stop"], 130, "\n"),
        (["prob"], 2, 'Did you mean "probe"?'),
        (["probe", "--outcom"], 2, "No such option"),
        (["gone"], 1, 'the command "gone" is not part of this installation'),
        (["broken"], 1, "internal error: TypeError"),
        (["--json"], 2, "Missing command"),
    ],
)
def test_errors_are_messages_and_statuses(
    words: list[str], status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(words) == status
    out, err = capsys.readouterr()
    assert not out
    assert message in err
    assert "Traceback" not in err


@pytest.mark.usefixtures("tree")
def test_a_fault_of_the_program_says_where_and_shows_more_when_asked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["probe", "bug"]) == 1
    quiet = capsys.readouterr().err
    assert "internal error: IndexError: pop from empty list (program/test_cli_root.py:" in quiet
    assert "Traceback" not in quiet
    assert run(["--debug", "probe", "bug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def problem(text: str) -> Problem:
    return Problem(where="agent.toml:3", key="smtp.port", text=text)


def permission() -> StoreError:
    error = StoreError("cannot open /q", "chmod")
    error.__cause__ = PermissionError(errno.EACCES, "Permission denied", "/q")
    return error


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ConfigError([problem("bad"), problem("worse")]), 78, "agent.toml:3: smtp.port: bad"),
        (ServiceError(4, "not for you", "ask"), 4, "not for you"),
        (StoreError("no file", "make one"), 1, "no file"),
        (permission(), 4, "cannot open /q"),
        (LockHeld(12, Path("/q")), 75, "the queue /q is in use by process 12"),
        (StoreUnavailable("the disk is full"), 75, "the disk is full"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 4, "/x: Permission denied"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), 3, "Connection refused"),
        (OSError(errno.ENOSPC, "No space left on device", "/x"), 75, "/x: No space left on device"),
        (OSError("odd"), 1, "odd"),
        (ValueError("odd"), 1, "internal error: ValueError: odd"),
    ],
)
def test_every_kind_of_error_has_its_status(error: Exception, code: int, line: str) -> None:
    fault = describe(error)
    assert fault.code == code
    assert fault.lines[0] == line


def test_the_service_and_the_commands_mean_the_same_by_a_status() -> None:
    codes = {name: value for name, value in vars(ExitCode).items() if name.isupper()}
    assert codes
    for name, value in codes.items():
        assert ExitStatus[name].value == value
    assert set(EXIT_MEANINGS) == set(ExitStatus)


@pytest.mark.parametrize(
    ("wish", "environ", "terminal", "expected"),
    [
        (None, {}, True, True),
        (None, {}, False, False),
        (None, {"NO_COLOR": "1"}, True, False),
        (None, {"NO_COLOR": ""}, True, True),
        (None, {"TERM": "dumb"}, True, False),
        (True, {"NO_COLOR": "1", "TERM": "dumb"}, False, True),
        (False, {}, True, False),
    ],
)
def test_when_to_use_colour(
    wish: bool | None, environ: dict[str, str], terminal: bool, expected: bool
) -> None:
    assert colored(wish, environ, terminal) is expected


def test_help_on_commands_and_topics(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["help"]) == 0
    assert run(["help", "config", "explain"]) == 0
    assert "Usage: dagent config explain" in capsys.readouterr().out
    assert run(["help", "exit-codes"]) == 0
    assert " 130  Stopped by Ctrl-C." in capsys.readouterr().out
    assert run(["help", "nothing"]) == 2


def test_versions(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert run(["config", "check", "--version"]) == 0
    assert capsys.readouterr().out == f"deliveryagent {__version__}\n" * 2
    assert run(["version", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["deliveryagent"] == __version__
    assert run(["version"]) == 0
    assert "sqlite" in capsys.readouterr().out


def test_help_costs_click_and_nothing_else() -> None:
    code = (
        "import sys; from deliveryagent.cli import run; run(['--help']); "
        "heavy = {'sqlalchemy', 'dns', 'asyncio', 'aiosmtplib', 'ssl', 'msgspec'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=ENV,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_reader_that_goes_away_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as gone:
        done = subprocess.run(
            [sys.executable, "-m", "deliveryagent", "help", "exit-codes"],
            env=ENV, stdout=gone, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == ExitStatus.BROKEN_PIPE
    assert done.stderr == ""


def test_an_ascii_terminal_gets_escapes() -> None:
    done = dagent("config", "explain", "\u00fcber", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert done.returncode == ExitStatus.NOT_FOUND
    assert 'no setting "\\xfcber"' in done.stderr


def test_shell_completion_knows_the_commands() -> None:
    done = dagent(_DAGENT_COMPLETE="bash_complete", COMP_WORDS="dagent ver", COMP_CWORD="1")
    assert "version" in done.stdout
