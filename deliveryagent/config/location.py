"""Where the queue and the service's socket are: the two facts every command needs first.

``locate`` reads nothing else, ``glimpse`` not even that much, so that ``dagent send`` starts in a
few milliseconds; ``load`` uses the same functions. Defaults: the queue is ``queue.sqlite3`` under
``$STATE_DIRECTORY`` (set by systemd), else under ``/var/lib/deliveryagent``; ``run_dir`` is
``$RUNTIME_DIRECTORY``, else ``/run/deliveryagent`` for the system's queue, else the directory of the
queue file. Relative paths in the configuration file count from its own directory, so that service
and commands agree wherever they are started.
"""

from __future__ import annotations

import os

from deliveryagent.config.glance import glance

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Protocol

    class Written(Protocol):
        """A text as someone wrote it, and where: ``file`` or anything else."""

        @property
        def value(self) -> str: ...
        @property
        def source(self) -> str: ...


SYSTEM_STATE = "/var/lib/deliveryagent"
SYSTEM_RUN_DIR = "/run/deliveryagent"
SOCKET_NAME = "deliveryagent.sock"
DEFAULT_FILE = "/etc/deliveryagent/deliveryagent.toml"
ENVIRONMENT_PREFIX = "DELIVERYAGENT_"
_KEYS = {"queue.url": "queue__url", "run_dir": "run_dir"}  # and their names in the environment


class Location:
    """Absolute: the directory of the socket, and the URL of the queue."""

    __slots__ = ("queue_url", "run_dir")

    def __init__(self, *, run_dir: str, queue_url: str) -> None:
        self.run_dir = run_dir
        self.queue_url = queue_url

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
    from deliveryagent.config.problems import ConfigError, Problem
    from deliveryagent.config.sources import gather

    gathered = gather(path, overrides, environ)
    if gathered.problems:
        raise ConfigError(gathered.problems)
    found = {}
    for key in _KEYS:
        given = gathered.given.get(key)
        if given is not None and not isinstance(given.value, str):
            raise ConfigError([Problem(where=given.where, key=key, text="expected a text")])
        found[key] = given
    return resolve(found["queue.url"], found["run_dir"], path=gathered.path, environ=environ)


def own_name(
    path: str | os.PathLike[str] | None = None,
    overrides: Iterable[str] = (),
    environ: Mapping[str, str] = os.environ,
) -> str:
    """The ``hostname`` of the configuration, or of this host; raises ``ConfigError`` as ``locate`` does."""
    from deliveryagent.config.ownname import own_hostname
    from deliveryagent.config.sources import gather

    given = gather(path, overrides, environ).given.get("hostname")
    return str(given.value) if given is not None and given.value else own_hostname()


def glimpse(
    path: str | os.PathLike[str] | None = None,
    overrides: Iterable[str] = (),
    environ: Mapping[str, str] = os.environ,
) -> Location | None:
    """What :func:`locate` finds, without a look at anything else in the file, whether good or bad.

    None when that takes the whole parser. For those who are in a hurry and can ask ``locate`` when
    nobody is where this says.
    """
    file = which_file(path, environ)
    found: dict[str, Written] = {}
    try:
        if file is not None:
            with open(file, "rb") as octets:
                texts = glance(octets.read().decode())
            if texts is None:
                return None
            found = {key: _Glimpsed(value, "file") for key, value in texts.items()}
    except (OSError, UnicodeDecodeError):
        return None
    for name in sorted(environ):
        if name.startswith(ENVIRONMENT_PREFIX):
            for key, variable in _KEYS.items():
                if name.removeprefix(ENVIRONMENT_PREFIX).lower() == variable:
                    found[key] = _Glimpsed(environ[name], "environment")
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            return None
        found[key.strip()] = _Glimpsed(value.strip(), "--set")
    return resolve(found.get("queue.url"), found.get("run_dir"), path=file, environ=environ)


class _Glimpsed:
    __slots__ = ("source", "value")

    def __init__(self, value: str, source: str) -> None:
        self.value = value
        self.source = source


def which_file(path: str | os.PathLike[str] | None, environ: Mapping[str, str]) -> str | None:
    """The configuration file: the one named, else ``DELIVERYAGENT_CONFIG``, else the system's, if it exists."""
    chosen = os.fspath(path) if path is not None else environ.get(f"{ENVIRONMENT_PREFIX}CONFIG", "")
    if chosen:
        return chosen
    return DEFAULT_FILE if os.path.exists(DEFAULT_FILE) else None


def resolve(
    url: Written | None, run_dir: Written | None, *, path: str | None, environ: Mapping[str, str]
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


def _base(given: Written, path: str | None) -> str:
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
