"""The tree of commands, and the one place that runs a command line.

``root`` is the whole tree; ``run`` executes one command line. Importing this module costs click and
nothing else: a command's module, and the rooms it needs, are loaded when the command is used.
"""

import os
import sys
from collections.abc import Sequence

import click

from deliveryagent.cli.command import Invocation, Lazy, LazyGroup
from deliveryagent.cli.ending import completing, ended
from deliveryagent.cli.faults import ExitStatus

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
        ("user", "user", "user", "Accounts that may log in to send mail."),
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
    if completing(os.environ):
        root.main(prog_name=os.path.basename(sys.argv[0]))  # noqa: PTH119 - pathlib costs 10 ms here
    invocation = Invocation()
    words = list(sys.argv[1:] if arguments is None else arguments)
    return ended(lambda: _run(words, invocation), debug=lambda: invocation.debug)


def _run(words: list[str], invocation: Invocation) -> int | None:
    try:
        with root.make_context("dagent", words, obj=invocation) as context:
            status = root.invoke(context)
    except click.Abort as stop:
        if isinstance(stop.__cause__, EOFError):
            click.echo(err=True)
            return ExitStatus.FAILED
        raise KeyboardInterrupt from None
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    return status if isinstance(status, int) else None
