"""Gathers, reads and explains settings; each setting is declared beside the code that uses it.

``load(path, overrides)`` gives the whole :class:`Config` or raises :class:`ConfigError` with every
problem at once, each with its place. Modules: ``sources`` (file, environment, ``--set``),
``positions`` (lines of a TOML text), ``values`` (what a written value means), ``sections`` (which
settings make up which section), ``references`` (does what is named exist and make sense),
``explain`` (for people and the manual pages), and ``location`` for commands that need only the
socket.

This package itself imports nothing: ``Config`` and ``load`` pull in every room that declares a
setting, and commands that must start fast use ``location`` alone.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from deliveryagent.config.problems import ConfigError, Problem
    from deliveryagent.config.read import load
    from deliveryagent.config.sections import Config, Route

__all__ = ["Config", "ConfigError", "Problem", "Route", "load"]


def __getattr__(name: str) -> Any:
    if name == "load":
        from deliveryagent.config.read import load

        return load
    if name in {"Config", "Route"}:
        from deliveryagent.config import sections

        return getattr(sections, name)
    if name in {"ConfigError", "Problem"}:
        from deliveryagent.config import problems

        return getattr(problems, name)
    raise AttributeError(name)
