"""The file of accounts: text, one account a line, read by listeners and changed by ``dagent user``.

    :secret=BASE64
    NAME password=$scrypt$… scram=SCRAM-SHA-256$… [cram-md5=BASE64] [sender=ADDRESS]… [disabled]

A name is prepared (``protocol.saslprep``), without blanks. Empty lines and lines that begin with ``#`` are
kept as they are. ``sender`` is an address or ``@domain``; without any, the account may use all. ``:secret``
makes up what strangers are told of their salt.

Guarantees: a file that others than its owner and group can read, or others than its owner can write, is not
used; a line that is not understood is an error, not an account with less said about it; readers see the file
before a change or after it, also after a power cut; two changes at a time are both made. Never stores a
password, except as the ``cram-md5`` secret of an account that asked for it.
"""

import fcntl
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep
from types import MappingProxyType

import msgspec

from deliveryagent.intake import passwords
from deliveryagent.intake.passwords import PasswordHash
from deliveryagent.mail.address import AddressError, parse_mailbox
from deliveryagent.protocol import scram
from deliveryagent.protocol.sasl import NAME_OCTETS
from deliveryagent.protocol.saslprep import PreparationError, prepare
from deliveryagent.protocol.scram import ScramVerifier

MODE = 0o640
"""Mode of a new file."""

_OPEN_TO_OTHERS = 0o027
_SEED = ":secret="
_PATIENCE = 10.0  # seconds another change may take
_HEAD = "# Accounts that may log in to send mail. Changed by `dagent user`; one a line.\n"


class UsersFileError(Exception):
    """The file cannot be used; ``hint`` says what to do about it, ``code`` is an exit status."""

    def __init__(self, text: str, hint: str = "", *, code: int = 1) -> None:
        super().__init__(text)
        self.hint = hint
        self.code = code


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """One account. ``senders`` is empty when it may use any address; ``cram`` where it cannot use CRAM-MD5."""

    name: str
    password: PasswordHash
    scram: ScramVerifier
    cram: bytes = b""
    senders: tuple[str, ...] = ()
    disabled: bool = False

    @property
    def line(self) -> str:
        """How it stands in the file."""
        words = [self.name, f"password={self.password.text}", f"scram={self.scram.text}"]
        if self.cram:
            words.append(f"cram-md5={scram.encode(self.cram)}")
        words += [f"sender={sender}" for sender in self.senders]
        return " ".join([*words, "disabled"] if self.disabled else words)

    def may_send_as(self, address: str) -> bool:
        """Whether it may use this sender, in wire form; the null sender is everybody's (RFC 6409 3.2)."""
        if not self.senders or not address:
            return True
        wanted = address.lower()
        return wanted in self.senders or wanted[wanted.rfind("@") :] in self.senders

    def __repr__(self) -> str:
        return f"Account(name={self.name!r})"


@dataclass(kw_only=True)
class Users:
    """What a file says. ``entries`` are its accounts, and the lines that are kept as they are, in order.

    ``lines`` has the accounts that were read by the lines they were read from.
    """

    secret: bytes = b""
    entries: list[Account | str] = field(default_factory=list)
    lines: dict[str, Account] = field(default_factory=dict, compare=False)

    def accounts(self) -> dict[str, Account]:
        """The accounts by name."""
        return {entry.name: entry for entry in self.entries if isinstance(entry, Account)}

    def put(self, account: Account) -> None:
        """Add an account, or change it where it stands."""
        for place, entry in enumerate(self.entries):
            if isinstance(entry, Account) and entry.name == account.name:
                self.entries[place] = account
                return
        self.entries.append(account)

    def remove(self, name: str) -> None:
        """Take an account out."""
        self.entries = [e for e in self.entries if not (isinstance(e, Account) and e.name == name)]

    @property
    def text(self) -> str:
        """The whole file."""
        lines = [entry.line if isinstance(entry, Account) else entry for entry in self.entries]
        return "".join(f"{line}\n" for line in [_SEED + scram.encode(self.secret), *lines])


def account_name(text: str) -> str:
    """A name as it is kept. Raises :class:`UsersFileError`."""
    try:
        name = prepare(text, stored=True)
    except PreparationError as error:
        raise UsersFileError(f'"{text}" cannot be the name of an account: {error}') from None
    if any(character.isspace() for character in name) or name[0] in "#:-":
        raise UsersFileError(
            f'"{text}" cannot be the name of an account',
            'Names have no blanks and begin neither with "#" nor with ":" or "-".',
        )
    if len(name.encode()) > NAME_OCTETS:
        raise UsersFileError(f"a name has at most {NAME_OCTETS} octets")
    return name


def sender(text: str) -> str:
    """An address or @domain as it is kept: wire form, lower case. Raises :class:`UsersFileError`."""
    try:
        mailbox = parse_mailbox(f"x{text}" if text.startswith("@") else text)
    except AddressError as error:
        raise UsersFileError(f'"{text}" is neither an address nor "@domain": {error}') from None
    if " " in mailbox.address:
        raise UsersFileError(f'"{text}" has a blank, which this file has no way to write')
    kept = f"@{mailbox.domain}" if text.startswith("@") else mailbox.address
    return kept.lower()


def read(text: str, known: Mapping[str, Account] = MappingProxyType({})) -> Users:
    """What a file says; lines that are ``known`` from before are not read again.

    Raises :class:`UsersFileError` with the number of the line.
    """
    users, names = Users(), set[str]()
    for number, line in enumerate(text.removesuffix("\n").split("\n"), 1):
        try:
            if line.startswith(_SEED):
                users.secret = scram.decode(line.removeprefix(_SEED).strip())
            elif not line.strip() or line.startswith("#"):
                users.entries.append(line)
            else:
                account = users.lines[line] = known.get(line) or _account(line)
                _note(account.name, names)
                users.entries.append(account)
        except (UsersFileError, ValueError) as error:
            raise UsersFileError(f"line {number}: {error}") from None
    return users


def _note(name: str, names: set[str]) -> None:
    if name in names:
        raise UsersFileError(f"{name} is there twice")
    names.add(name)


def _account(line: str) -> Account:
    written, *words = line.split()
    name = account_name(written)
    values: dict[str, str] = {}
    senders: list[str] = []
    for word in words:
        key, mark, value = word.partition("=")
        if key == "sender" and value:
            senders.append(sender(value))
        elif (
            key in values
            or key not in {"password", "scram", "cram-md5", "disabled"}
            or bool(mark) == (key == "disabled")
        ):
            raise UsersFileError(f'a word is not understood; it begins with "{word[:12]}"')
        else:
            values[key] = value
    if not {"password", "scram"} <= values.keys():
        raise UsersFileError(f"{name} has no password= or no scram=")
    return Account(
        name=name,
        password=passwords.read(values["password"]),
        scram=scram.read(values["scram"]),
        cram=scram.decode(values.get("cram-md5", "")),
        senders=tuple(senders),
        disabled="disabled" in values,
    )


def load(path: Path, known: Mapping[str, Account] = MappingProxyType({})) -> Users:
    """What the file at ``path`` says, as :func:`read` does. Raises ``OSError`` and ``UsersFileError``."""
    with path.open("rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise UsersFileError(f"{path} is not a file")
        if found.st_mode & _OPEN_TO_OTHERS:
            raise UsersFileError(
                f"{path} is open to others (mode {stat.S_IMODE(found.st_mode):04o})",
                f"chmod 0640 {path}",
            )
        octets = file.read()
    try:
        return read(octets.decode(), known)
    except UnicodeDecodeError:
        raise UsersFileError(f"{path} is not a text in UTF-8") from None
    except UsersFileError as error:
        raise UsersFileError(f"{path}: {error}", error.hint) from None


@contextmanager
def editing(path: Path, *, group: int = -1) -> Iterator[Users]:
    """The file's content, to be changed; written when the block ends without an exception.

    A file that is not there begins as an empty one, that belongs to ``group`` unless that is -1. Raises as
    :func:`load` does, and when another change takes longer than ten seconds.
    """
    path = Path(os.path.realpath(path))
    with _locked(path):
        try:
            users = load(path)
            before = path.stat()
            owner, mode = (before.st_uid, before.st_gid), stat.S_IMODE(before.st_mode)
        except FileNotFoundError:
            users = Users(entries=[_HEAD.rstrip()])
            owner, mode = (-1, group), MODE
        users.secret = users.secret or secrets.token_bytes(32)
        yield users
        _write(path, users.text.encode(), owner, mode)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Alone among those who change the file; a file beside it carries the lock, and stays."""
    lock = os.open(
        path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
    )
    try:
        end = monotonic() + _PATIENCE
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if monotonic() > end:
                    raise UsersFileError(f"{path} is being changed by another process") from None
                sleep(0.02)
        yield
    finally:
        os.close(lock)


def _write(path: Path, octets: bytes, owner: tuple[int, int], mode: int) -> None:
    """In place of what is there: complete on the disk first, then under its name."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            _give(descriptor, owner, path)
            os.fchmod(descriptor, mode)
            file.write(octets)
            file.flush()
            os.fsync(descriptor)
        beside.replace(path)
    except BaseException:
        with suppress(OSError):
            beside.unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _give(descriptor: int, owner: tuple[int, int], path: Path) -> None:
    """Who could read the file before can read it afterwards."""
    try:
        os.fchown(descriptor, *owner)
    except PermissionError:
        raise UsersFileError(
            f"{path} belongs to others, and only its owner or root can change it and leave it so",
            code=4,
        ) from None
