"""Where settings come from: the file, the environment, the command line; the later wins.

Order: built-in default < file < environment (``DELIVERYAGENT_SECTION__KEY``) < ``--set
SECTION.KEY=VALUE``. The file is the one named, else ``DELIVERYAGENT_CONFIG``, else
``/etc/deliveryagent/deliveryagent.toml`` if it exists. Values are gathered as they stand, with
their place; ``values`` knows what they mean. Light: this module is on the path of the commands that
must start fast.
"""

import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from deliveryagent.config.location import ENVIRONMENT_PREFIX, which_file
from deliveryagent.config.positions import Path as KeyPath
from deliveryagent.config.positions import positions
from deliveryagent.config.problems import ConfigError, Problem

TOP_LEVEL = ("hostname", "origin", "postmaster", "run_dir")
"""Settings that stand in no section. Only these are looked for in the environment without ``__``:
an orchestrator may set other ``DELIVERYAGENT_…`` variables for a service of this name."""


@dataclass(frozen=True, kw_only=True)
class Given:
    """A value as someone wrote it. ``textual`` values come from outside TOML and are text in any
    case."""

    value: Any
    source: str
    where: str
    textual: bool = False


@dataclass(kw_only=True)
class Gathered:
    """Everything that was set, by dotted key; ``routes`` has one such table per ``[[route]]``, ``listeners``
    one per ``[[listener]]``.

    In these the empty key stands for the heading.
    """

    path: str | None
    given: dict[str, Given] = field(default_factory=dict)
    routes: list[dict[str, Given]] = field(default_factory=list)
    listeners: list[dict[str, Given]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def gather(
    path: str | os.PathLike[str] | None, overrides: Iterable[str], environ: Mapping[str, str]
) -> Gathered:
    """Read all sources. Raises ``ConfigError`` when the file cannot be read or is not TOML."""
    gathered = Gathered(path=which_file(path, environ))
    if gathered.path is not None:
        _read_file(gathered, gathered.path)
    _read_environment(gathered, environ)
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key.strip():
            text = "expected SECTION.KEY=VALUE"
            gathered.problems.append(Problem(where=f"--set {override}", key="", text=text))
        else:
            gathered.given[key.strip()] = Given(
                value=value.strip(), source="--set", where="--set", textual=True
            )
    return gathered


def _read_file(gathered: Gathered, path: str) -> None:
    try:
        with open(path, "rb") as file:
            octets = file.read()
    except OSError as error:
        text = f"cannot read the configuration file: {error.strerror}"
        raise ConfigError([Problem(where=path, key="", text=text)]) from error
    try:
        text = octets.decode()
        tree = tomllib.loads(text)
    except UnicodeDecodeError as error:
        line = octets.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            [Problem(where=f"{path}:{line}", key="", text="not UTF-8 text")]
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([_syntax_problem(path, text, error)]) from error
    _flatten(gathered, path, tree, positions(text.replace("\r\n", "\n")))


def _syntax_problem(path: str, text: str, error: tomllib.TOMLDecodeError) -> Problem:
    match = re.search(r" \(at (?:line (\d+), column (\d+)|end of document)\)$", str(error))
    if match is None:
        return Problem(where=path, key="", text=f"not TOML: {error}")
    line = match[1] or str(text.count("\n") + 1)
    column = f":{match[2]}" if match[2] else ""
    reason = str(error)[: match.start()]
    return Problem(where=f"{path}:{line}{column}", key="", text=f"not TOML: {reason}")


def _flatten(
    gathered: Gathered, path: str, tree: dict[str, Any], lines: dict[KeyPath, int]
) -> None:
    def given(value: Any, *key: str | int) -> Given:
        return Given(value=value, source="file", where=f"{path}:{lines.get(key, 1)}")

    many = {"route": gathered.routes, "listener": gathered.listeners}
    for name, value in tree.items():
        if name in many and isinstance(value, list) and all(isinstance(t, dict) for t in value):
            for index, table in enumerate(value):
                many[name].append({k: given(v, name, index, k) for k, v in table.items()})
                many[name][-1].setdefault("", given(None, name, index))
        elif isinstance(value, dict):
            gathered.given |= {f"{name}.{k}": given(v, name, k) for k, v in value.items()}
            if not value:
                gathered.given[f"{name}."] = given(None, name)
        else:
            gathered.given[name] = given(value, name)


def _read_environment(gathered: Gathered, environ: Mapping[str, str]) -> None:
    for name in sorted(environ):
        if not name.startswith(ENVIRONMENT_PREFIX):
            continue
        section, two, key = name.removeprefix(ENVIRONMENT_PREFIX).lower().partition("__")
        if two or section in TOP_LEVEL:
            gathered.given[f"{section}.{key}" if two else section] = Given(
                value=environ[name], source="environment", where=f"environment {name}", textual=True
            )
