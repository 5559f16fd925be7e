"""``dagent user``: the accounts that may log in at the listeners.

Only declared here; ``cli.accounts`` does the work. Passwords are never part of a command line: they are
prompted for, or read from standard input or a file.
"""

from typing import Any

import click

from deliveryagent.cli.command import Invocation, group

_file = click.option(
    "--file",
    "file",
    metavar="FILE",
    default="",
    help="The users file. Default: the one the listeners of the configuration name.",
)
_password_file = click.option(
    "--password-file",
    metavar="FILE",
    default="",
    help='Read the password from the first line of FILE, "-" for standard input. Without it, a terminal '
    "is asked and anything else on standard input is read.",
)
_senders = click.option(
    "--sender",
    "senders",
    metavar="ADDRESS",
    multiple=True,
    help="An address, or @domain, the account may send as; once for each. Without any it may use all.",
)


@group(
    "user",
    examples=[
        "dagent user add kim --sender kim@example.org --sender @lists.example.org",
        "dagent user add shop --password-file /run/secrets/shop",
        "dagent user list",
    ],
)
def user() -> None:
    """Add, change and list the accounts that may log in. Changes hold at once, without a reload."""


@user.command("add", examples=["dagent user add kim", "pwgen -s 24 1 | dagent user add shop"])
@click.argument("name")
@_password_file
@_senders
@click.option(
    "--cram-md5",
    is_flag=True,
    help="Keep the password itself too, for programs that log in with CRAM-MD5 only: who reads the "
    "file has it then.",
)
@_file
@click.pass_obj
def add(invocation: Invocation, /, name: str, **given: Any) -> None:
    """Add an account."""
    from deliveryagent.cli import accounts

    accounts.add(invocation, name, **given)


@user.command("passwd", examples=["dagent user passwd kim"])
@click.argument("name")
@_password_file
@_file
@click.pass_obj
def passwd(invocation: Invocation, /, name: str, password_file: str, file: str) -> None:
    """Give an account a new password; the old one is no longer good."""
    from deliveryagent.cli import accounts

    accounts.set_password(invocation, name, password_file, file)


@user.command(
    "change",
    examples=["dagent user change kim --disable", "dagent user change kim --sender @example.org"],
)
@click.argument("name")
@click.option("--disable/--enable", default=None, help="Let it not log in for now, or again.")
@_senders
@click.option("--any-sender", is_flag=True, help="Let it send as any address.")
@_file
@click.pass_obj
def change(invocation: Invocation, /, name: str, **given: Any) -> None:
    """Change what an account may do; its password stays. --sender replaces all it had."""
    from deliveryagent.cli import accounts

    accounts.change(invocation, name, **given)


@user.command("delete", examples=["dagent user delete kim"])
@click.argument("name")
@_file
@click.pass_obj
def delete(invocation: Invocation, /, name: str, file: str) -> None:
    """Take an account away."""
    from deliveryagent.cli import accounts

    accounts.delete(invocation, name, file)


@user.command("list", examples=["dagent user list", "dagent --json user list"])
@_file
@click.pass_obj
def list_(invocation: Invocation, /, file: str) -> None:
    """List the accounts, what they may send as, and how they can log in."""
    from deliveryagent.cli import accounts

    accounts.print_list(invocation, file)
