"""What goes wrong on the command line, and the exit status that says so.

Everything a command raises ends here, in :func:`describe`: an error becomes what happened, why, and
how to repair it, never a traceback (that takes ``--debug``). Commands raise :class:`CommandError`
for their own complaints. Lower rooms need not know about exit statuses: the table below knows their
exceptions.
"""

import errno
from dataclasses import dataclass
from enum import IntEnum


class ExitStatus(IntEnum):
    """The exit statuses of every command; ``sendmail``-like callers know 75 and 78 from
    sysexits.h."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    NOT_PERMITTED = 4
    NOT_FOUND = 5
    PARTLY_DONE = 6
    BAD_DATA = 65
    TRY_LATER = 75
    BAD_CONFIGURATION = 78
    STOPPED = 130
    BROKEN_PIPE = 141


EXIT_MEANINGS: dict[ExitStatus, str] = {
    ExitStatus.DONE: "Done.",
    ExitStatus.FAILED: "Failed, or a check found errors.",
    ExitStatus.USAGE: "The command line was not understood.",
    ExitStatus.UNREACHABLE: "The service is not reachable.",
    ExitStatus.NOT_PERMITTED: "Not permitted.",
    ExitStatus.NOT_FOUND: "A message, recipient or destination named on the command line does not exist.",
    ExitStatus.PARTLY_DONE: "Partly done; the messages say what is left.",
    ExitStatus.BAD_DATA: "An address or the content of a message is not acceptable.",
    ExitStatus.TRY_LATER: "A temporary failure: nothing was taken, try again later.",
    ExitStatus.BAD_CONFIGURATION: "The configuration is bad.",
    ExitStatus.STOPPED: "Stopped by Ctrl-C.",
    ExitStatus.BROKEN_PIPE: "The reader of the output went away.",
}
"""Shown by ``dagent help exit-codes`` and in the manual pages."""


class CommandError(Exception):
    """A command cannot do what was asked: one sentence why, and a hint how to get further."""

    def __init__(self, text: str, *, code: int = ExitStatus.FAILED, hint: str = "") -> None:
        super().__init__(text)
        self.code = code
        self.hint = hint


@dataclass(frozen=True, kw_only=True)
class Fault:
    """An error as people see it: ``lines`` to print, and the exit status."""

    lines: tuple[str, ...]
    code: int
    hint: str = ""


def describe(error: Exception) -> Fault:
    """How an exception is shown and what exit status it means.

    An exception may carry its own ``code`` (an exit status) and ``hint``, as the replies of the
    service and the errors of the lower rooms do; anything else unknown is a fault of this program
    and says where.
    """
    # Imported here: most runs never fail, and the light commands must not pay for this.
    from deliveryagent.config.problems import ConfigError

    if isinstance(error, ConfigError):
        lines = tuple(str(problem) for problem in error.problems)
        return Fault(lines=lines, code=ExitStatus.BAD_CONFIGURATION, hint="dagent config check")
    code = getattr(error, "code", None)
    if isinstance(code, int) and str(error):
        return Fault(lines=(str(error),), code=code, hint=str(getattr(error, "hint", "")))
    if isinstance(error, OSError):
        return _system_fault(error)
    return _store_fault(error) or Fault(
        lines=(f"internal error: {type(error).__name__}: {error}{_place(error)}",),
        code=ExitStatus.FAILED,
        hint="This is a fault of the program. --debug shows the traceback for a report.",
    )


def _system_fault(error: OSError) -> Fault:
    reason = error.strerror or str(error)
    line = f"{error.filename}: {reason}" if error.filename else reason
    if isinstance(error, PermissionError):
        return Fault(lines=(line,), code=ExitStatus.NOT_PERMITTED)
    if isinstance(error, ConnectionRefusedError):
        return Fault(lines=(line,), code=ExitStatus.UNREACHABLE, hint="Is the service running?")
    full = error.errno in {errno.ENOSPC, errno.EDQUOT}
    return Fault(lines=(line,), code=ExitStatus.TRY_LATER if full else ExitStatus.FAILED)


def _store_fault(error: Exception) -> Fault | None:
    """What the queue's own errors mean; None for an error that is none of them."""
    from deliveryagent.queue.engine import StoreError
    from deliveryagent.queue.faults import trouble
    from deliveryagent.queue.lock import LockHeld
    from deliveryagent.queue.thread import StoreUnavailable

    line = str(error)
    if isinstance(error, LockHeld):
        hint = "Only one process writes to a queue; is that the service, with another run_dir?"
        return Fault(lines=(line,), code=ExitStatus.TRY_LATER, hint=hint)
    if isinstance(error, StoreUnavailable):
        return Fault(lines=(line,), code=ExitStatus.TRY_LATER)
    if isinstance(error, StoreError):
        if isinstance(error.__cause__, PermissionError):
            hint = "This needs the service's user, or a queue of your own: --set queue.url=sqlite:///FILE"
            return Fault(lines=(line,), code=ExitStatus.NOT_PERMITTED, hint=hint)
        return Fault(lines=(line,), code=ExitStatus.FAILED, hint=error.hint)
    reason = trouble(error)
    return Fault(lines=(reason,), code=ExitStatus.TRY_LATER) if reason else None


def _place(error: Exception) -> str:
    from traceback import extract_tb

    frames = extract_tb(error.__traceback__)
    if not frames:
        return ""
    file = "/".join(frames[-1].filename.split("/")[-2:])
    return f" ({file}:{frames[-1].lineno})"
