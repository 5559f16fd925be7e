"""The socket file of the service: put in place, found again after a crash, taken away at the end.

Guarantees: a client finds either no socket or one that listens, never a half-made one; what is not
a socket is never removed. The caller holds the lock of the queue, so a socket that is in the way
belongs to nobody.
"""

import os
import socket
import stat
from pathlib import Path

MODE = 0o666  # everybody may connect; who may do what is decided by credentials
BACKLOG = 1024
_LONGEST_PATH = 107  # octets, sun_path without its NUL


def listen(path: Path) -> socket.socket:
    """A listening socket at this path, in place of one left by a dead service.

    Raises ``OSError`` with a sentence for people when the path cannot be used.
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
        fresh.chmod(MODE)
        listening.listen(BACKLOG)
        fresh.replace(path)
    except BaseException:
        listening.close()
        fresh.unlink(missing_ok=True)
        raise
    return listening


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
