"""``dagent help`` and ``dagent version``."""

import platform
import sqlite3
import ssl
from importlib.metadata import version as distribution_version

import click

from deliveryagent import __version__
from deliveryagent.cli.command import Invocation, command
from deliveryagent.cli.faults import EXIT_MEANINGS, CommandError, ExitStatus

_EXIT_CODES = "exit-codes"


@command("help", examples=["dagent help queue retry", "dagent help exit-codes"])
@click.argument("topic", nargs=-1)
@click.pass_context
def help_(context: click.Context, topic: tuple[str, ...]) -> int | None:
    """Show the help of a command, or the meaning of the exit statuses."""
    screen = context.ensure_object(Invocation).screen()
    if topic == (_EXIT_CODES,):
        for status, meaning in EXIT_MEANINGS.items():
            screen.line(f"{status:>4}  {meaning}")
        return None
    path = context.find_root()
    node = path.command
    for word in topic:
        child = node.get_command(path, word) if isinstance(node, click.Group) else None
        if child is None:
            raise CommandError(
                f'no help on "{" ".join(topic)}"',
                code=ExitStatus.USAGE,
                hint=f"dagent help lists the commands; another topic is {_EXIT_CODES}",
            )
        node, path = child, click.Context(child, info_name=word, parent=path)
    screen.line(path.get_help())
    return None


@command("version", examples=["dagent version", "dagent version --json"])
@click.pass_obj
def version(invocation: Invocation) -> None:
    """Versions of the program and of what it stands on."""
    facts = {
        "deliveryagent": __version__,
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "tls": ssl.OPENSSL_VERSION,
        **{name: distribution_version(name) for name in ("aiosmtplib", "dnspython", "sqlalchemy")},
    }
    screen = invocation.screen()
    if screen.json:
        screen.record(facts)
        return
    for name, value in facts.items():
        screen.line(f"{name:<14} {value}")
