"""Secrets that settings name without saying them: ``credential:NAME`` and ``file:PATH``.

A credential is what the service manager hands to the service alone (``LoadCredential=``, systemd.exec(5)): a
file in ``$CREDENTIALS_DIRECTORY``. Guarantees: a file that others than its owner and group may read is
refused; what is read appears in no message. Never keeps anything.
"""

import os
import stat
from collections.abc import Mapping

_LONGEST = 64 * 1024  # octets: whatever is longer was named by mistake
CREDENTIAL = "credential:"
FILE = "file:"


def check_source(text: str) -> None:
    """Whether this names a secret; raises ``ValueError`` without the text, which may be the secret itself."""
    name = text.removeprefix(CREDENTIAL)
    named = text.startswith(CREDENTIAL) and name and "/" not in name and name not in {".", ".."}
    if not named and not text.startswith(f"{FILE}/"):
        raise ValueError('expected "credential:NAME" or "file:/PATH", never the secret itself')


def secret_path(text: str, environ: Mapping[str, str] = os.environ) -> str | None:
    """The file a secret stands in; None for a credential where there are none, outside the service."""
    check_source(text)
    if text.startswith(FILE):
        return text.removeprefix(FILE)
    directory = environ.get("CREDENTIALS_DIRECTORY", "")
    return os.path.join(directory, text.removeprefix(CREDENTIAL)) if directory else None


def read_secret(text: str, environ: Mapping[str, str] = os.environ) -> str:
    """The secret that is named, without the end of its line; raises ``ValueError`` with the reason."""
    path = secret_path(text, environ)
    if path is None:
        raise ValueError(
            f'"{text}": there are no credentials here; under systemd, LoadCredential= provides them'
        )
    try:
        with open(path, "rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            octets = file.read(_LONGEST + 1)
    except OSError as error:
        raise ValueError(f'"{text}": cannot read {path}: {error.strerror}') from None
    if mode & (stat.S_IRWXO | stat.S_IWGRP):
        raise ValueError(
            f'"{text}": {path} has mode {mode:04o}; nobody else may read it: chmod 0600'
        )
    if len(octets) > _LONGEST:
        raise ValueError(f'"{text}": {path} is too long for a secret')
    try:
        return octets.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise ValueError(f'"{text}": {path} is not UTF-8 text') from None
