"""Where the queue and the service's socket are: the two facts every command needs first.

``locate`` reads nothing else, so that ``dagent send`` starts in a few milliseconds; ``load`` uses
the same functions. Defaults: the queue is ``queue.sqlite3`` under ``$STATE_DIRECTORY`` (set by
systemd), else under ``/var/lib/deliveryagent``; ``run_dir`` is ``$RUNTIME_DIRECTORY``, else
``/run/deliveryagent`` for the system's queue, else the directory of the queue file. Relative paths
in the configuration file count from its own directory, so that service and commands agree wherever
they are started.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from deliveryagent.config.problems import ConfigError, Problem
from deliveryagent.config.sources import Given, gather

SYSTEM_STATE = "/var/lib/deliveryagent"
SYSTEM_RUN_DIR = "/run/deliveryagent"
SOCKET_NAME = "deliveryagent.sock"


@dataclass(frozen=True, kw_only=True)
class Location:
    """Absolute: the directory of the socket, and the URL of the queue."""

    run_dir: str
    queue_url: str

    @property
    def socket(self) -> str:
        """The service's socket."""
        return os.path.join(self.run_dir, SOCKET_NAME)


def locate(
    path: str | os.PathLike[str] | None = None,
    overrides: Iterable[str] = (),
    environ: Mapping[str, str] = os.environ,
) -> Location:
    """Find the socket and the queue; raises ``ConfigError`` when the file cannot be read."""
    gathered = gather(path, overrides, environ)
    if gathered.problems:
        raise ConfigError(gathered.problems)
    found = {}
    for key in ("queue.url", "run_dir"):
        given = gathered.given.get(key)
        if given is not None and not isinstance(given.value, str):
            raise ConfigError([Problem(where=given.where, key=key, text="expected a text")])
        found[key] = given
    return resolve(found["queue.url"], found["run_dir"], path=gathered.path, environ=environ)


def resolve(
    url: Given | None, run_dir: Given | None, *, path: str | None, environ: Mapping[str, str]
) -> Location:
    """Fill in the defaults and make both absolute. The values have been checked to be texts."""
    queue_url = absolute_url(url.value, _base(url, path)) if url and url.value else ""
    queue_url = queue_url or f"sqlite:///{_state(environ)}/queue.sqlite3"
    if run_dir is not None and run_dir.value:
        directory = os.path.join(_base(run_dir, path), run_dir.value)
    else:
        directory = _default_run_dir(queue_url, environ)
    return Location(run_dir=os.path.normpath(directory), queue_url=queue_url)


def queue_file(url: str) -> str | None:
    """The file of an SQLite queue; None for any other store.

    >>> queue_file("sqlite:////var/lib/deliveryagent/queue.sqlite3")
    '/var/lib/deliveryagent/queue.sqlite3'
    """
    scheme, separator, rest = url.partition(":///")
    if not separator or scheme.partition("+")[0] != "sqlite":
        return None
    return rest.partition("?")[0] or None


def absolute_url(url: str, base: str) -> str:
    """The URL with a relative SQLite file made absolute."""
    file = queue_file(url)
    if file is None:
        return url
    head, _, rest = url.partition(":///")
    query = rest[len(file) :]
    return f"{head}:///{os.path.normpath(os.path.join(base, file))}{query}"


def _base(given: Given, path: str | None) -> str:
    if given.source == "file" and path is not None:
        return os.path.dirname(os.path.abspath(path))
    return os.getcwd()


def _state(environ: Mapping[str, str]) -> str:
    return environ.get("STATE_DIRECTORY", "").partition(":")[0] or SYSTEM_STATE


def _default_run_dir(queue_url: str, environ: Mapping[str, str]) -> str:
    runtime = environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    if runtime:
        return runtime
    file = queue_file(queue_url)
    if file is None or os.path.dirname(file) == SYSTEM_STATE:
        return SYSTEM_RUN_DIR
    return os.path.dirname(file)
