"""The command line: one module a command group.

``root`` is the whole tree; ``run`` executes one command line and is the one place where errors
become messages and exit statuses. Importing this package costs click and nothing else: a command's
module, and the rooms it needs, are loaded when the command is used.
"""

import os
import sys
from collections.abc import Sequence

import click

from deliveryagent.cli.command import Invocation, Lazy, LazyGroup
from deliveryagent.cli.faults import ExitStatus, describe

COMMANDS = {
    name: Lazy(f"deliveryagent.cli.{module}", attribute, summary)
    for name, module, attribute, summary in (
        ("send", "send", "send", "Enqueue one message from standard input."),
        ("queue", "queue", "queue", "List, show and change what waits."),
        ("why", "why", "why", "Why a message waits, and what happens next."),
        ("status", "status", "status", "The state of the agent on one screen."),
        ("dest", "dest", "dest", "Destinations and sites: look, pause, resume."),
        ("probe", "probe", "probe", "Try the way to an address without sending."),
        ("serve", "serve", "serve", "Run the agent in the foreground."),
        ("drain", "drain", "drain", "Stop claiming here and finish what runs."),
        ("config", "config", "config", "Check, show and explain the configuration."),
        ("db", "db", "db", "Schema steps and consistency of the queue."),
        ("lab", "lab", "lab", "A playground: DNS, receiving servers, failures."),
        ("help", "topics", "help_", "Help on a command or a topic."),
        ("version", "topics", "version", "Versions of the program and what it stands on."),
    )
}

root = LazyGroup(
    "dagent",
    commands=COMMANDS,
    help="Hand over mail, watch the queue, and run the agent.",
    examples=[
        "dagent send -f shop@example.org kim@example.net < message.eml",
        "dagent queue list --domain example.net",
        "dagent why kim@example.net",
    ],
)


def run(arguments: Sequence[str] | None = None) -> int:
    """Execute one command line (default: the process's own) and return its exit status."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:  # an ASCII terminal gets escapes, not a crash
            reconfigure(errors="backslashreplace")
    if "_DAGENT_COMPLETE" in os.environ or "_DELIVERYAGENT_COMPLETE" in os.environ:
        root.main(prog_name=os.path.basename(sys.argv[0]))  # noqa: PTH119 - pathlib costs 10 ms here
    invocation = Invocation()
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with root.make_context("dagent", words, obj=invocation) as context:
            status = root.invoke(context)
        sys.stdout.flush()
    except (KeyboardInterrupt, click.Abort) as stop:
        click.echo(err=True)
        if isinstance(stop.__cause__, EOFError):
            return ExitStatus.FAILED
        return ExitStatus.STOPPED
    except BrokenPipeError:
        # The interpreter flushes standard output once more at exit: let it succeed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitStatus.BROKEN_PIPE
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except Exception as error:  # noqa: BLE001 - the one place that turns errors into messages
        return _report(error, invocation)
    return status if isinstance(status, int) else ExitStatus.DONE


def _report(error: Exception, invocation: Invocation) -> int:
    from deliveryagent.cli.screen import Screen, clean

    if invocation.debug:
        import traceback

        traceback.print_exception(error)
    fault = describe(error)
    screen = Screen()
    for line in fault.lines:
        screen.note(f"dagent: {clean(line)}")
    if fault.hint:
        screen.note(f"hint: {clean(fault.hint)}")
    return fault.code
