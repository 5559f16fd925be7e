"""How every command line ends: what was raised becomes messages and an exit status.

Light: nothing is imported until something goes wrong.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_COMPLETING = ("_DAGENT_COMPLETE", "_DELIVERYAGENT_COMPLETE")


def completing(environ: Mapping[str, str]) -> bool:
    """Whether a shell asks what could stand here, instead of wanting it done."""
    return any(name in environ for name in _COMPLETING)


def ended(action: Callable[[], int | None], *, debug: Callable[[], bool]) -> int:
    """Do it, and return the exit status; the one place that turns errors into messages.

    ``debug`` is asked, when something went wrong, whether to show the traceback.
    """
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:  # an ASCII terminal gets escapes, not a crash
            reconfigure(errors="backslashreplace")
    try:
        status = action()
        sys.stdout.flush()
    except KeyboardInterrupt:
        from deliveryagent.cli.faults import ExitStatus

        print(file=sys.stderr)
        return ExitStatus.STOPPED
    except BrokenPipeError:
        from deliveryagent.cli.faults import ExitStatus

        # The interpreter flushes standard output once more at exit: let it succeed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitStatus.BROKEN_PIPE
    except Exception as error:  # noqa: BLE001 - this is the place
        return _report(error, debug=debug())
    return status or 0


def _report(error: Exception, *, debug: bool) -> int:
    from deliveryagent.cli.faults import describe
    from deliveryagent.cli.screen import Screen, clean

    if debug:
        import traceback

        traceback.print_exception(error)
    fault = describe(error)
    screen = Screen()
    for line in fault.lines:
        screen.note(f"dagent: {clean(line)}")
    if fault.hint:
        screen.note(f"hint: {clean(fault.hint)}")
    return fault.code
