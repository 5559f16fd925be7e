"""Changes and lists the users file, for ``dagent user``.

Guarantees: a password is read, never shown, and hashed before the file is locked; a name that is not there is
exit status 5, and nothing is written then.
"""

import grp
import sys
from pathlib import Path

import click
import msgspec

from deliveryagent.cli.command import Invocation
from deliveryagent.cli.faults import CommandError, ExitStatus
from deliveryagent.cli.screen import Cell, Column, clean
from deliveryagent.intake import passwords, users_file
from deliveryagent.intake.users_file import Account, Users
from deliveryagent.protocol import scram
from deliveryagent.protocol.sasl import PASSWORD_OCTETS
from deliveryagent.protocol.saslprep import PreparationError, prepare

DEFAULT_FILE = "/etc/deliveryagent/users"
"""Where the accounts are when no listener says it."""

_SERVICE_GROUP = "deliveryagent"


def add(
    invocation: Invocation,
    name: str,
    *,
    password_file: str,
    senders: tuple[str, ...],
    cram_md5: bool,
    file: str,
) -> None:
    """Add an account."""
    path, named = _path(invocation, file)
    name = users_file.account_name(name)
    kept = tuple(dict.fromkeys(users_file.sender(sender) for sender in senders))
    if path.exists() and name in users_file.load(path).accounts():  # before anything is asked
        raise _taken(name)
    account = _account(name, _password(password_file, name), cram_md5=cram_md5)
    account = msgspec.structs.replace(account, senders=kept)
    new = not path.exists()
    with users_file.editing(path, group=_service_group()) as users:
        if name in users.accounts():
            raise _taken(name)
        users.put(account)
    _say(invocation, account, path, f"Added {clean(name)} to {path}. See: dagent user list")
    if new or not named:
        _advise(invocation, path, new=new, named=named)


def set_password(invocation: Invocation, name: str, password_file: str, file: str) -> None:
    """Give an account a new password."""
    path, _ = _path(invocation, file)
    name = users_file.account_name(name)
    cram = bool(_find(users_file.load(path), name, path).cram)
    new = _account(name, _password(password_file, name), cram_md5=cram)
    with users_file.editing(path) as users:
        account = _find(users, name, path)
        account = msgspec.structs.replace(
            account, password=new.password, scram=new.scram, cram=new.cram
        )
        users.put(account)
    _say(invocation, account, path, f"{clean(name)} has a new password; the old one is void.")


def change(
    invocation: Invocation,
    name: str,
    *,
    disable: bool | None,
    senders: tuple[str, ...],
    any_sender: bool,
    file: str,
) -> None:
    """Change what an account may do."""
    if disable is None and not senders and not any_sender:
        raise click.UsageError("say what to change: --disable, --enable, --sender or --any-sender")
    if senders and any_sender:
        raise click.UsageError("--sender and --any-sender contradict each other")
    path, _ = _path(invocation, file)
    name = users_file.account_name(name)
    kept = tuple(dict.fromkeys(users_file.sender(sender) for sender in senders))
    with users_file.editing(path) as users:
        account = _find(users, name, path)
        if disable is not None:
            account = msgspec.structs.replace(account, disabled=disable)
        if senders or any_sender:
            account = msgspec.structs.replace(account, senders=kept)
        users.put(account)
    state = "may not log in" if account.disabled else f"may send as {_senders(account)}"
    _say(invocation, account, path, f"{clean(name)} {clean(state)}. See: dagent user list")


def delete(invocation: Invocation, name: str, file: str) -> None:
    """Take an account away."""
    path, _ = _path(invocation, file)
    name = users_file.account_name(name)
    with users_file.editing(path) as users:
        _find(users, name, path)
        users.remove(name)
    screen = invocation.screen()
    if invocation.json:
        screen.record({"name": name, "deleted": True, "file": str(path)})
        return
    screen.line(f"Deleted {clean(name)} from {path}; sessions it has open take no more mail.")


def print_list(invocation: Invocation, file: str) -> None:
    """The accounts in the order of the file."""
    path, named = _path(invocation, file)
    screen = invocation.screen()
    if not path.exists() and not file and not named:
        screen.note(f"There are no accounts: no listener names a users file, and no {path}.")
        return
    accounts = list(users_file.load(path).accounts().values())
    if invocation.json:
        for account in accounts:
            screen.record(_record(account))
        return
    if not accounts:
        screen.note(f"{path} has no accounts. To add one: dagent user add NAME")
        return
    rows: list[list[str | Cell]] = [
        [
            account.name,
            Cell("disabled", "warn") if account.disabled else "open",
            " ".join(_mechanisms(account)),
            _senders(account),
        ]
        for account in accounts
    ]
    screen.table(
        [Column("NAME"), Column("STATE"), Column("LOGS IN WITH"), Column("SENDS AS")], rows
    )


def _path(invocation: Invocation, file: str) -> tuple[Path, bool]:
    """The users file that is meant, and whether a listener names it."""
    if file:
        return Path(file), True
    files = (listener.users for listener in invocation.config().listener)
    named = list(dict.fromkeys(one for one in files if one))
    if len(named) > 1:
        raise CommandError(
            f"the listeners name several users files: {', '.join(named)}",
            code=ExitStatus.USAGE,
            hint=f"Say which one is meant: --file {named[0]}",
        )
    return (Path(named[0]), True) if named else (Path(DEFAULT_FILE), False)


def _password(source: str, name: str) -> str:
    """The new password, from the file, standard input, or a terminal where it is typed twice."""
    if source and source != "-":
        with Path(source).open(encoding="utf-8") as file:
            return _line(file.read(4 * PASSWORD_OCTETS))
    if source == "-" or not sys.stdin.isatty():
        return _line(sys.stdin.read(4 * PASSWORD_OCTETS))
    typed: str = click.prompt(
        f"Password for {name}", hide_input=True, confirmation_prompt=True, err=True
    )
    return _checked(typed)


def _line(text: str) -> str:
    """The only line of a text."""
    line = text.removesuffix("\n").removesuffix("\r")
    if "\n" in line:
        raise CommandError("a password is one line, and there are more", code=ExitStatus.BAD_DATA)
    return _checked(line)


def _checked(password: str) -> str:
    try:
        prepared = prepare(password, stored=True)
    except PreparationError as error:
        text = f"the password cannot be used: {error}" if password else "there is no password"
        raise CommandError(text, code=ExitStatus.BAD_DATA) from None
    if len(prepared.encode()) > PASSWORD_OCTETS:
        raise CommandError(
            f"a password has at most {PASSWORD_OCTETS} octets", code=ExitStatus.BAD_DATA
        )
    return prepared


def _account(name: str, password: str, *, cram_md5: bool) -> Account:
    import secrets

    return Account(
        name=name,
        password=passwords.hashed(password),
        scram=scram.derive(password, secrets.token_bytes(scram.SALT_OCTETS)),
        cram=password.encode() if cram_md5 else b"",
    )


def _service_group() -> int:
    """The group a new file belongs to, so that the service can read it; -1 for that of its maker."""
    import os

    if os.geteuid() != 0:
        return -1
    try:
        return grp.getgrnam(_SERVICE_GROUP).gr_gid
    except KeyError:
        return -1


def _find(users: Users, name: str, path: Path) -> Account:
    account = users.accounts().get(name)
    if account is None:
        raise CommandError(
            f"{path} has no account {clean(name)}",
            code=ExitStatus.NOT_FOUND,
            hint="dagent user list",
        )
    return account


def _taken(name: str) -> CommandError:
    return CommandError(
        f"there is an account {clean(name)} already", hint=f"dagent user passwd {clean(name)}"
    )


def _say(invocation: Invocation, account: Account, path: Path, line: str) -> None:
    screen = invocation.screen()
    if invocation.json:
        screen.record({**_record(account), "file": str(path)})
        return
    screen.line(line)


def _advise(invocation: Invocation, path: Path, *, new: bool, named: bool) -> None:
    screen = invocation.screen()
    if not named:
        screen.note(f'No [[listener]] uses {path} yet; in the configuration: users = "{path}"')
    if new:
        screen.note(f"{path} is new: see that the service's user may read it, and nobody else.")


def _record(account: Account) -> dict[str, object]:
    return {
        "name": account.name,
        "disabled": account.disabled,
        "mechanisms": _mechanisms(account),
        "senders": list(account.senders),
    }


def _mechanisms(account: Account) -> list[str]:
    return ["PLAIN", "LOGIN", "SCRAM-SHA-256", *(["CRAM-MD5"] if account.cram else [])]


def _senders(account: Account) -> str:
    return ", ".join(account.senders) or "any address"
