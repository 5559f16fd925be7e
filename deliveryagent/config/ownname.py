"""The name of this host, for when the configuration does not give one.

Never waits longer than its time limit, however slow the name service is.
"""

import socket
import threading
from collections.abc import Callable
from functools import lru_cache

from deliveryagent.mail.address import domain_to_ascii

_LIMIT = 1.0


@lru_cache(maxsize=1)
def own_hostname() -> str:
    """This host's fully qualified name: as the kernel has it, else as the name service completes
    it.

    A host without any domain becomes ``name.localdomain``, as with Postfix.
    """
    return qualify(socket.gethostname(), socket.getfqdn)


def mail_name(file: str = "/etc/mailname") -> str:
    """The domain of this host's mail as Debian keeps it for all mail programs; empty when it does not."""
    try:
        with open(file, encoding="ascii") as stream:
            name = stream.readline().strip().rstrip(".")
        return domain_to_ascii(name) if name else ""
    except (OSError, ValueError):
        return ""


def qualify(name: str, ask: Callable[[], str], *, limit: float = _LIMIT) -> str:
    """Complete a host name by asking for at most ``limit`` seconds."""
    name = name.rstrip(".").lower()
    if "." in name:
        return name
    answers: list[str] = []
    # A daemon thread: a name service that never answers must not keep the process from ending.
    thread = threading.Thread(target=lambda: answers.append(ask()), daemon=True)
    thread.start()
    thread.join(limit)
    found = answers[0].rstrip(".").lower() if answers else ""
    if "." in found and not found.startswith("localhost"):
        return found
    return f"{name or 'localhost'}.localdomain"
