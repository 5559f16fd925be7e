"""The examples of docs/python.md, run as they stand there."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from tests.program.whole_agent import ROOT, WholeAgent

_BLOCK = re.compile(r"^```python ?(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
BLOCKS = _BLOCK.findall((ROOT / "docs" / "python.md").read_text("utf-8"))
NEEDS = ("django", "flask_mail")


def programs() -> list[str]:
    """Whole programs: the one for Django with the settings before it."""
    found = [text for kind, text in BLOCKS if not kind]
    settings = [text for kind, text in BLOCKS if kind == "settings"]
    newest = "import django\nif django.VERSION >= (6, 1):\n" + "\n".join(
        f"    {line}" for line in settings[1].splitlines()
    )
    older = "else:\n" + "\n".join(f"    {line}" for line in settings[0].splitlines())
    configured = (
        "from django.conf import settings\n"
        "settings.configure(**{k: v for k, v in globals().items() if k.isupper()})\n"
    )
    used = [text for kind, text in BLOCKS if kind == "django"]
    return [*found, "\n".join([newest, older, configured, *used])]


def run(agent: WholeAgent, program: str) -> None:
    environ = {**os.environ, "DELIVERYAGENT_CONFIG": str(agent.config), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env=environ,
        cwd=agent.directory,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{program}\n{done.stderr}"


def test_every_example_runs(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    agent = WholeAgent(
        tmp_path,
        f'hostname = "mail.example.org"\nrun_dir = "{tmp_path}/run"\n'
        f'[queue]\nurl = "sqlite:///{tmp_path}/queue.sqlite3"\n[relay]\nhost = "[127.0.0.1]:1"\n',
    )
    with agent, agent.serving():
        for program in programs():
            if all(find_spec(name) for name in NEEDS if f"import {name}" in program):
                run(agent, program)
        assert len(agent.messages()) > 1000
