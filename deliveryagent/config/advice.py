"""What is allowed but worth a word: the warnings of ``dagent config check``.

Looks at files of this host, never at the network.
"""

import grp
import ipaddress
import os
import pwd
import stat
from collections.abc import Iterator

from deliveryagent.config.location import queue_file
from deliveryagent.config.problems import Problem
from deliveryagent.config.read import Loaded
from deliveryagent.intake.listener_settings import ListenerSettings
from deliveryagent.intake.places import InheritedPlace, TcpPlace, parse_place
from deliveryagent.setting import format_duration


def advise(loaded: Loaded) -> list[Problem]:
    """Every warning about a configuration that is sound in itself."""
    return [
        *_file_warnings(loaded),
        *_name_warnings(loaded),
        *_queue_warnings(loaded),
        *_time_warnings(loaded),
        *_submit_warnings(loaded),
        *_route_warnings(loaded),
        *_listener_warnings(loaded),
    ]


def _warning(loaded: Loaded, key: str, text: str, hint: str = "") -> Problem:
    return Problem(where=loaded.origins.get(key, ""), key=key, text=text, hint=hint)


def _file_warnings(loaded: Loaded) -> Iterator[Problem]:
    if loaded.path is None:
        yield Problem(
            where="default", key="", text="there is no configuration file; defaults apply"
        )
        return
    if os.stat(loaded.path).st_mode & stat.S_IWOTH:
        text = "everybody may write this file, and so decide where mail goes"
        yield Problem(where=loaded.path, key="", text=text, hint=f"chmod o-w {loaded.path}")


def _name_warnings(loaded: Loaded) -> Iterator[Problem]:
    name = loaded.config.hostname
    if name.endswith((".localdomain", ".local")) and "hostname" not in loaded.origins:
        yield _warning(
            loaded,
            "hostname",
            f'this host calls itself "{name}"; many receivers refuse such a name in EHLO',
            hint='set hostname = "mail.example.org", a name that resolves to this host',
        )


def _queue_warnings(loaded: Loaded) -> Iterator[Problem]:
    file = queue_file(loaded.config.queue.url)
    if file is None:
        return
    from deliveryagent.queue.engine import sqlite_version_warning  # late: it imports SQLAlchemy

    warning = sqlite_version_warning()
    if warning:
        yield _warning(loaded, "queue.url", warning)
    directory = os.path.dirname(file)
    if not os.path.isdir(directory):
        yield _warning(
            loaded,
            "queue.url",
            f"the directory {directory} does not exist",
            hint="systemd makes it for the service; elsewhere make it, or set queue.url",
        )
    elif not os.access(directory, os.W_OK):
        yield _warning(
            loaded,
            "queue.url",
            f"this user cannot write in {directory}",
            hint="as it should be if the service runs as another user; else set queue.url",
        )


def _time_warnings(loaded: Loaded) -> Iterator[Problem]:
    queue = loaded.config.queue
    longest = queue.maximal_queue_lifetime
    for key in ("delay_warning_time", "bounce_queue_lifetime"):
        value = getattr(queue, key)
        if value > longest:
            yield _warning(
                loaded,
                f"queue.{key}",
                f"{format_duration(value)} is never reached: everything ends after "
                f"queue.maximal_queue_lifetime, {format_duration(longest)}",
            )


def _submit_warnings(loaded: Loaded) -> Iterator[Problem]:
    groups = {entry.gr_name for entry in grp.getgrall()}
    users = {entry.pw_name for entry in pwd.getpwall()}
    submit = loaded.config.submit
    if "submit.admin_group" in loaded.origins and submit.admin_group not in {"", *groups}:
        text = f'there is no group "{submit.admin_group}" on this host'
        yield _warning(loaded, "submit.admin_group", text)
    for name in submit.allow:
        if name not in {"*", *users, *groups}:
            text = f'there is no user or group "{name}" on this host'
            yield _warning(loaded, "submit.allow", text)


def _route_warnings(loaded: Loaded) -> Iterator[Problem]:
    taken: set[str] = set()
    for number, route in enumerate(loaded.config.route, 1):
        match = [pattern.lower() for pattern in route.match]
        lost = match if "*" in taken else [pattern for pattern in match if pattern in taken]
        if lost:
            text = f"an earlier route already takes {', '.join(lost)}"
            yield Problem(where=f"[[route]] {number}", key="route.match", text=text)
        taken.update(match)


def _listener_warnings(loaded: Loaded) -> Iterator[Problem]:
    for number, listener in enumerate(loaded.config.listener):
        for key, text in _doubts(listener):
            names = (f"listener.{number}.{key}", f"listener.{number}.")
            where = next(loaded.origins[name] for name in names if name in loaded.origins)
            yield Problem(where=where, key=f"listener.{key}", text=text)


def _doubts(listener: ListenerSettings) -> Iterator[tuple[str, str]]:
    place = parse_place(listener.address)
    near = not isinstance(place, TcpPlace) or _is_loopback(place.host)
    users = listener.users or listener.hooks
    for network in listener.trusted_networks:
        if ipaddress.ip_network(network).prefixlen == 0:
            yield "trusted_networks", f"{network} is the whole Internet: this is an open relay"
    if listener.auth_without_tls and not near:
        yield "auth_without_tls", "passwords can be read on the way"
    if listener.users and not listener.tls_certificate and not listener.auth_without_tls:
        text = "without a tls_certificate PLAIN and LOGIN are not offered, and many programs know no other"
        yield "users", text
    if isinstance(place, InheritedPlace) and not users and not listener.trusted_networks:
        text = "unless this is a Unix socket nobody can send anything here: there are no users"
        yield "address", text


def _is_loopback(host: str) -> bool:
    return host != "*" and ipaddress.ip_address(host).is_loopback
