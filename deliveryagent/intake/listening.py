"""Listening sockets: put in place, found again after a crash, inherited, taken away at the end.

Guarantees: a client finds either no socket file or one that listens, never a half-made one; what is not
a socket is never removed. Whoever makes the service's own socket holds the lock of the queue, so one that is
in its way belongs to nobody; for others :func:`in_use` tells.
"""

import errno
import grp
import os
import socket
import stat
from collections.abc import Iterable
from pathlib import Path

from deliveryagent.intake.places import (
    ANY,
    InheritedPlace,
    Place,
    TcpPlace,
    UnixPlace,
    parse_place,
)

MODE = 0o666  # everybody may connect; who may do what is decided by credentials
BACKLOG = 1024
_LONGEST_PATH = 107  # octets, sun_path without its NUL


def listen(path: Path, mode: int = MODE, group: str = "") -> socket.socket:
    """A listening socket at this path, in place of one left by a dead service.

    It is for those whom ``mode`` lets in; ``group`` is the name of its group, empty for our own. Raises
    ``OSError`` with a sentence for people when the path cannot be used.
    """
    if len(os.fsencode(path)) + len(".new") > _LONGEST_PATH:
        raise OSError(f"{path}: the path is too long for a socket; set a shorter run_dir")
    if path.exists() and not stat.S_ISSOCK(path.stat().st_mode):
        raise OSError(f"{path}: this is not a socket, and is left alone")
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listening.bind(str(fresh))
        if group:
            os.chown(fresh, -1, _group_id(group))
        fresh.chmod(mode)
        listening.listen(BACKLOG)
        fresh.replace(path)
    except BaseException as error:
        if isinstance(error, OSError) and error.errno and not error.filename:
            error.filename = str(path)  # the system does not say of what it speaks
        listening.close()
        fresh.unlink(missing_ok=True)
        raise
    return listening


def listen_tcp(place: TcpPlace) -> socket.socket:
    """A listening socket at this port; raises ``OSError`` with a sentence for people.

    ``*`` is one socket for both kinds of addresses, where IPv4 ones look like ``::ffff:192.0.2.1``; on a
    system without IPv6 it is one for IPv4. Any other address is exactly itself.
    """
    host, both = place.host, place.host == ANY
    if both:
        host = "::" if socket.has_dualstack_ipv6() else "0.0.0.0"
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if both else 1)
        listening.bind((host, place.port))
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise OSError(error.errno, _reason(error, place.port)) from error
    return listening


def _reason(error: OSError, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return "another program listens there"
    if error.errno in {errno.EACCES, errno.EPERM}:
        return f"this user may not use port {port}; let systemd hold the socket (systemd:NAME)"
    return error.strerror or str(error)


def _group_id(name: str) -> int:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise OSError(f'there is no group "{name}" on this host') from None


def in_use(path: Path) -> bool:
    """Whether somebody answers at this socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as caller:
        caller.setblocking(False)
        try:
            caller.connect(str(path))
        except BlockingIOError:  # its backlog is full
            return True
        except OSError:
            return False
        return True


def inherited_for(place: Place, inherited: Iterable[tuple[str, int]]) -> int | None:
    """The descriptor of the inherited socket that is meant by a place, by its name or its own address.

    Raises ``OSError`` when several have the name.
    """
    if isinstance(place, InheritedPlace):
        found = [descriptor for name, descriptor in inherited if name == place.name]
        if len(found) > 1:
            text = (
                f'systemd holds {len(found)} sockets of the name "{place.name}": give each its own'
            )
            raise OSError(text)
        return found[0] if found else None
    return next((fd for _, fd in inherited if _stands_at(fd, place)), None)


def _stands_at(descriptor: int, place: TcpPlace | UnixPlace) -> bool:
    with socket.socket(fileno=os.dup(descriptor)) as listening:
        name = listening.getsockname()
        if isinstance(place, UnixPlace):
            return listening.family == socket.AF_UNIX and name == place.path
        if listening.family == socket.AF_INET6:
            only = listening.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
            host = ANY if name[0] == "::" and not only else name[0]
        elif listening.family == socket.AF_INET:
            host = name[0]
        else:
            return False
    return bool((host, name[1]) == (place.host, place.port))


def adopt(descriptor: int) -> socket.socket:
    """A listening socket inherited from the service manager; it stays when the service ends."""
    return socket.socket(fileno=descriptor)


def remove(path: Path, made: os.stat_result) -> None:
    """Take the socket file away, unless another service has put its own there since."""
    try:
        present = path.stat()
    except OSError:
        return
    if (present.st_dev, present.st_ino) == (made.st_dev, made.st_ino):
        path.unlink(missing_ok=True)


class Opened:
    """The socket of a listener, ours or inherited, and what has to go with it."""

    def __init__(self, listening: socket.socket, path: Path | None = None) -> None:
        self._listening = listening
        self._path = path
        self._made = path.stat() if path is not None else None

    @property
    def descriptor(self) -> int:
        """To be handed to the process that accepts connections."""
        return self._listening.fileno()

    def close(self) -> None:
        """Let go of it; a socket file that we made is taken away."""
        if self._path is not None and self._made is not None:
            remove(self._path, self._made)
        self._listening.close()


def open_place(
    address: str, *, mode: int, group: str, inherited: Iterable[tuple[str, int]]
) -> Opened:
    """The socket for an address as ``places.parse_place`` reads it; of inherited ones a copy.

    ``mode`` and ``group`` are for a Unix socket that is made here. Raises ``OSError`` with a sentence for
    people, and ``ValueError`` for what is no address.
    """
    place = parse_place(address)
    found = inherited_for(place, inherited)
    if found is not None:
        return Opened(adopt(os.dup(found)))
    match place:
        case InheritedPlace(name):
            raise OSError(f'systemd holds no socket of the name "{name}" for this service')
        case TcpPlace():
            return Opened(listen_tcp(place))
        case UnixPlace(path):
            if in_use(Path(path)):
                raise OSError(errno.EADDRINUSE, "another program listens there")
            return Opened(listen(Path(path), mode, group), Path(path))
