"""Commands run inside the test's own process, with what they printed."""

import json
from typing import Any

import pytest

from deliveryagent.cli import run


class Dagent:
    """``dagent`` with a configuration file; ``out`` and ``err`` are what the last command printed."""

    def __init__(self, config: str, capsys: pytest.CaptureFixture[str]) -> None:
        self._config = config
        self._capsys = capsys
        self.out = self.err = ""

    def __call__(self, *words: str) -> int:
        """Run one command; returns its exit status."""
        status = run(["-c", self._config, *words])
        self.out, self.err = self._capsys.readouterr()
        return status

    def records(self, *words: str) -> list[dict[str, Any]]:
        """The JSON lines of a command that must succeed."""
        assert self("--json", *words) == 0, self.err
        return [json.loads(line) for line in self.out.splitlines()]
