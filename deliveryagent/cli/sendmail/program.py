"""``deliveryagent-sendmail``, ``deliveryagent-mailq`` and ``deliveryagent-newaliases``, as programs.

Each console script is one of the three functions at the end. Guarantees: every command line ends with an exit
status of sysexits.h and, unless it is 0, one line on standard error that says why; never with a traceback.
Loads only what the mode that is asked for takes.
"""

from __future__ import annotations

import os
import sys

from deliveryagent.cli.sendmail.arguments import Arguments, read
from deliveryagent.cli.sendmail.sysexits import SendmailError, Sysexit, sysexit_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

    from deliveryagent.cli.sendmail.arguments import Mode

_BY_NAME: dict[str, Mode] = {"mailq": "list", "newaliases": "aliases"}
_BROKEN_PIPE = 141
_STOPPED = 130


def run(name: str, words: Sequence[str]) -> int:
    """Carry out a command line; ``name`` is what the program was called as. Returns the exit status."""
    name = name.rpartition("/")[2]
    mode = _BY_NAME.get(name.removeprefix("deliveryagent-"), "send")
    try:
        status = _carry_out(read(words, mode), name)
    except SendmailError as error:
        return _fatal(name, str(error), error.status)
    except KeyboardInterrupt:
        return _STOPPED
    except BrokenPipeError:  # whoever reads the list has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return _BROKEN_PIPE
    except OSError as error:
        from errno import EDQUOT, ENOSPC

        full = error.errno in (ENOSPC, EDQUOT)
        text = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        return _fatal(name, text, Sysexit.TRY_LATER if full else Sysexit.OS)
    except Exception as error:  # noqa: BLE001 - the one place that turns what is left into words
        return _fatal(name, *_described(error))
    return status


def _carry_out(arguments: Arguments, name: str) -> int:
    for warning in arguments.warnings:
        _say(name, f"warning: {warning}")
    match arguments.mode:
        case "send":
            from deliveryagent.cli.sendmail.submission import submit

            submit(arguments)
        case "list":
            from deliveryagent.cli.sendmail.mailq import print_queue

            sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr] # a file
            print_queue(sys.stdout)
            sys.stdout.flush()
        case "flush":
            from deliveryagent.cli.sendmail.flush import flush

            for remark in flush(arguments):
                _say(name, remark)
        case "probe":
            from deliveryagent.cli.sendmail.flush import probe

            return probe(arguments)
        case "smtp":
            from deliveryagent.cli.sendmail.standard_input import serve_smtp

            serve_smtp()
        case "aliases":
            pass  # there are no aliases here, so they are up to date
    return Sysexit.OK


def _described(error: Exception) -> tuple[str, int]:
    """What is said of an error that other rooms raised, and its status."""
    from deliveryagent.cli.faults import describe

    try:
        fault = describe(error)
    except ImportError:  # what the program stands on is not all there
        return f"{type(error).__name__}: {error}", Sysexit.SOFTWARE
    text = "; ".join(fault.lines)
    return f"{text} ({fault.hint})" if fault.hint else text, sysexit_of(fault.code)


def _fatal(name: str, text: str, status: int) -> int:
    _say(name, f"fatal: {text}")
    return status


def _say(name: str, text: str) -> None:
    """A line on standard error, whatever is in it; nobody has to be there to read it."""
    line = f"{name}: {text}"
    if not line.isprintable():
        line = "".join(letter if letter.isprintable() else "?" for letter in line)
    try:  # noqa: SIM105 - contextlib would be one more thing to load
        os.write(2, line.encode("utf-8", "replace") + b"\n")
    except OSError:
        pass


def _end(status: int) -> NoReturn:
    """End at once: taking the interpreter apart piece by piece takes longer than handing over a message."""
    os._exit(status)


def sendmail() -> NoReturn:
    """Run ``sendmail`` for this process."""
    _end(run(sys.argv[0], sys.argv[1:]))


def mailq() -> NoReturn:
    """Run ``mailq`` for this process."""
    _end(run("mailq", sys.argv[1:]))


def newaliases() -> NoReturn:
    """Run ``newaliases`` for this process."""
    _end(run("newaliases", sys.argv[1:]))
