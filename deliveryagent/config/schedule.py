"""The schedule of attempts alone, for commands that show it and must start fast.

Guarantees: what ``load`` would read. Where anything about it is wrong, ``load`` tells what; other
settings are not looked at, as with ``locate``.
"""

import os
from collections.abc import Iterable, Mapping
from typing import Any, get_type_hints

from deliveryagent.config.sources import gather
from deliveryagent.config.values import read
from deliveryagent.policy.retry import RetrySettings


def retry_settings(
    path: str | os.PathLike[str] | None = None,
    overrides: Iterable[str] = (),
    environ: Mapping[str, str] = os.environ,
) -> RetrySettings:
    """When attempts are made and for how long, of ``[queue]``; raises ``ConfigError``."""
    overrides = tuple(overrides)
    gathered = gather(path, overrides, environ)
    values: dict[str, Any] = {}
    try:
        for name, kind in get_type_hints(RetrySettings).items():
            given = gathered.given.get(f"queue.{name}")
            if given is not None:
                values[name] = read(kind, given.value, textual=given.textual)
    except ValueError:
        return _checked(path, overrides, environ)
    found = RetrySettings(**values)
    if gathered.problems or not 0 < found.minimal_backoff_time <= found.maximal_backoff_time:
        return _checked(path, overrides, environ)
    return found


def _checked(
    path: str | os.PathLike[str] | None, overrides: Iterable[str], environ: Mapping[str, str]
) -> RetrySettings:
    from deliveryagent.config.read import load

    return load(path, overrides, environ=environ).queue
