"""The manual pages: up to date, complete, and clean in the eyes of man itself."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from deliveryagent.cli import root
from deliveryagent.cli.faults import ExitStatus
from deliveryagent.cli.sendmail import arguments
from deliveryagent.cli.sendmail.sysexits import Sysexit
from deliveryagent.config.explain import catalogue

ROOT = Path(__file__).parents[1]
MAN = ROOT / "man"
PAGES = (
    "dagent.1",
    "deliveryagent-sendmail.1",
    "deliveryagent.toml.5",
    "deliveryagent-queue.7",
    "deliveryagent.8",
)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the pages as they would be written now."""
    directory = tmp_path_factory.mktemp("man")
    subprocess.run(
        [sys.executable, str(MAN / "write.py"), str(directory)],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True, timeout=60,
    )  # fmt: skip
    return directory


def plain(page: str) -> str:
    """The text of a page without the marks of roff."""
    source = (MAN / page).read_text("utf-8")
    return re.sub(r"\\f[BIPR]", "", source).replace("\\-", "-").replace("\\(dq", '"')


@pytest.mark.parametrize("page", PAGES)
def test_a_page_says_what_the_program_does_now(fresh: Path, page: str) -> None:
    assert (MAN / page).read_text("utf-8") == (fresh / page).read_text("utf-8"), (
        f'man/{page} is out of date: run "make man"'
    )


def test_no_page_is_left_behind(fresh: Path) -> None:
    assert {path.name for path in fresh.iterdir()} == set(PAGES)
    assert {path.name for path in MAN.glob("*.[1-9]")} == set(PAGES)


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.skipif(
    shutil.which("man") is None or shutil.which("groff") is None, reason="no man or groff here"
)
def test_man_has_no_complaint(page: str) -> None:
    done = subprocess.run(
        ["man", "-l", "--warnings", "-E", "UTF-8", str(MAN / page)],
        env={**os.environ, "LC_ALL": "C.UTF-8", "MANWIDTH": "80", "MANPAGER": "cat"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    assert done.stderr == ""
    assert "NAME" in done.stdout
    assert "SEE ALSO" in done.stdout


def test_every_command_and_option_is_there() -> None:
    text = plain("dagent.1")

    def walk(node: click.Group, path: str) -> None:
        context = click.Context(node)
        for name in node.list_commands(context):
            child = node.get_command(context, name)
            if isinstance(child, click.Group):
                walk(child, f"{path} {name}")
            elif child is not None:
                assert f'.SS "{path} {name}"' in text
                for parameter in child.params:
                    if isinstance(parameter, click.Option):
                        assert parameter.opts[-1] in text, (path, name, parameter.opts)

    walk(root, "dagent")
    for heading in ("EXIT STATUS", "ENVIRONMENT", "FILES", "EXAMPLES", "SEE ALSO"):
        assert f".SH {heading}" in text
    for status in ExitStatus:
        assert f".TP\n{status.value}\n" in text


def test_every_setting_is_there() -> None:
    text = plain("deliveryagent.toml.5")
    for entry in catalogue().values():
        assert f"{entry.name.rpartition('.')[2]} ({entry.type_name}, default " in text, entry.name


def test_every_option_and_status_of_sendmail_is_there() -> None:
    text = plain("deliveryagent-sendmail.1")
    for letter in arguments.WITH_VALUE | arguments.ALONE | {"q"}:
        assert re.search(rf"(?<![\w-])-{letter}", text), letter
    statuses = {value for name, value in vars(Sysexit).items() if not name.startswith("_")}
    assert statuses == {int(found) for found in re.findall(r"^\.TP\n(\d+)$", text, re.MULTILINE)}
