"""Where an application finds the service and the queue, and what to say when it finds neither.

For the clients, whichever way they wait. Guarantees: the queue is opened only under the lock that a service
would hold, and not even looked at more closely while a service has it. Never connects to a socket.
"""

from __future__ import annotations

import os

from deliveryagent.protocol.local import ExitCode, ServiceError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from deliveryagent.config.problems import ConfigError
    from deliveryagent.intake.direct import DirectQueue


def socket_and_queue(
    config: str | os.PathLike[str] | None, overrides: Sequence[str]
) -> tuple[str, str]:
    """The path of the service's socket and the URL of the queue; raises ``ServiceError``."""
    from deliveryagent.config.location import locate
    from deliveryagent.config.problems import ConfigError

    try:
        location = locate(config, overrides)
    except ConfigError as error:
        raise _bad_configuration(error) from None
    return location.socket, location.queue_url


def open_queue(
    url: str, config: str | os.PathLike[str] | None, overrides: Sequence[str]
) -> DirectQueue | None:
    """The queue itself; None when a service has it, or this user may not write it.

    Raises ``ServiceError``. What it opens belongs to the thread that calls.
    """
    if not _seems_free(url):
        return None
    from deliveryagent.config import ConfigError, load
    from deliveryagent.intake.direct import DirectQueue, LockHeld, StoreError, Terms

    try:
        settings = load(config, overrides)
        terms = Terms(
            hostname=settings.hostname,
            origin=settings.origin,
            limits=settings.queue,
            bulk_after=settings.delivery.default_destination_recipient_limit,
        )
        return DirectQueue(url, terms=terms)
    except LockHeld:
        return None
    except ConfigError as error:
        raise _bad_configuration(error) from None
    except StoreError as error:
        raise ServiceError(ExitCode.TRY_LATER, str(error), error.hint) from None


def not_allowed(path: str) -> ServiceError:
    """The socket belongs to others."""
    return ServiceError(ExitCode.NOT_PERMITTED, f"{path}: you may not use the service's socket")


def not_reached(path: str, error: OSError) -> ServiceError:
    """Nobody is behind the socket, and the queue cannot be had either."""
    return ServiceError(
        ExitCode.TRY_LATER,
        f"{path}: the service cannot be reached: {error.strerror or error}",
        "Is it running? Try: systemctl status deliveryagent",
    )


def none_runs() -> ServiceError:
    """An order was given, and the queue is free: nobody is there who would carry it out."""
    return ServiceError(ExitCode.UNREACHABLE, "no service is running", "dagent serve")


def _seems_free(url: str) -> bool:
    """Whether it is worth the time to load everything that writing the queue takes."""
    from deliveryagent.config.location import queue_file

    file = queue_file(url)
    if file is None:
        return True
    if os.path.exists(file) and not os.access(file, os.W_OK):
        return False
    try:
        with open(f"{file}.lock", "rb") as lock:
            holder = lock.read(20).strip()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return not (holder.isdigit() and os.path.exists(f"/proc/{int(holder)}"))


def _bad_configuration(error: ConfigError) -> ServiceError:
    text = "; ".join(str(problem) for problem in error.problems)
    return ServiceError(ExitCode.BAD_CONFIGURATION, text, "dagent config check")
