"""The files that listeners need: certificates and keys, users, the directory of a socket.

Looked at by ``dagent config check`` and when the service reads its configuration, not by other commands: it
takes time, and who runs them need not be able to read private keys. Guarantees: no secret is part of what is
said. Never asks the network.
"""

import grp
import os
from collections.abc import Iterator

from deliveryagent.config.problems import ConfigError, Problem
from deliveryagent.config.read import Loaded
from deliveryagent.config.secrets import read_secret, secret_path
from deliveryagent.intake.listener_settings import ListenerSettings
from deliveryagent.intake.places import UnixPlace, parse_place


def file_problems(loaded: Loaded) -> tuple[list[Problem], list[Problem]]:
    """What is wrong, and what this user cannot look at."""
    wrong: list[Problem] = []
    unseen: list[Problem] = []
    for number, listener in enumerate(loaded.config.listener):
        for key, text, hidden in _look(listener):
            names = (f"listener.{number}.{key}", f"listener.{number}.")
            where = next(loaded.origins[name] for name in names if name in loaded.origins)
            found = Problem(where=where, key=f"listener.{key}", text=text)
            (unseen if hidden else wrong).append(found)
    return wrong, unseen


def require_files(loaded: Loaded) -> None:
    """Raise ``ConfigError`` unless the service, which this process is to be, can use every file."""
    wrong, unseen = file_problems(loaded)
    if wrong or unseen:
        raise ConfigError([*wrong, *unseen])


_Finding = tuple[str, str, bool]
"""The key, what is wrong, and whether that is only that this user cannot look."""


def _look(listener: ListenerSettings) -> Iterator[_Finding]:
    place = parse_place(listener.address)
    if isinstance(place, UnixPlace) and not os.path.isdir(os.path.dirname(place.path)):
        yield "address", f"the directory {os.path.dirname(place.path)} does not exist", False
    if listener.socket_group and not _has_group(listener.socket_group):
        yield "socket_group", f'there is no group "{listener.socket_group}" on this host', False
    if listener.users:
        yield from _readable("users", [listener.users])
    certificates = [
        *_readable("tls_certificate", listener.tls_certificate),
        *_readable("tls_key", listener.tls_key),
    ]
    passphrase, trouble = _passphrase(listener)
    yield from certificates
    yield from trouble
    if not certificates and not trouble:
        yield from _tls(listener, passphrase)


def _has_group(name: str) -> bool:
    try:
        grp.getgrnam(name)
    except KeyError:
        return False
    return True


def _readable(key: str, paths: tuple[str, ...] | list[str]) -> Iterator[_Finding]:
    for path in paths:
        try:
            with open(path, "rb"):
                pass
        except PermissionError:
            yield key, f"this user cannot read {path}", True
        except OSError as error:
            yield key, f"cannot read {path}: {error.strerror}", False


def _passphrase(listener: ListenerSettings) -> tuple[str, list[_Finding]]:
    key, source = "tls_key_passphrase", listener.tls_key_passphrase
    if not source:
        return "", []
    path = secret_path(source)
    if path is None:
        return "", [(key, f'"{source}": only the service is given its credentials', True)]
    hidden = [finding for finding in _readable(key, [path]) if finding[2]]
    if hidden:
        return "", hidden
    try:
        return read_secret(source), []
    except ValueError as error:
        return "", [(key, str(error), False)]


def _tls(listener: ListenerSettings, passphrase: str) -> Iterator[_Finding]:
    if not listener.tls_certificate:
        return
    import ssl  # late: a service without TLS needs none of it

    keys = listener.tls_key or listener.tls_certificate
    for certificate, key in zip(listener.tls_certificate, keys, strict=True):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            # Without a function OpenSSL would ask at the terminal.
            context.load_cert_chain(certificate, key, password=lambda: passphrase)
        except (ssl.SSLError, ValueError) as error:
            yield _blamed(error, certificate, key, asked=bool(passphrase))
    if listener.tls_ciphers:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).set_ciphers(listener.tls_ciphers)
        except ssl.SSLError:
            yield "tls_ciphers", f'OpenSSL knows no cipher in "{listener.tls_ciphers}"', False


def _blamed(error: Exception, certificate: str, key: str, *, asked: bool) -> _Finding:
    """Which file is to blame for what OpenSSL says, in words for people."""
    reason = str(getattr(error, "reason", None) or error)
    if "MISMATCH" in reason:
        return (
            "tls_certificate",
            f"{certificate} and the key in {key} do not belong together",
            False,
        )
    if any(word in reason for word in ("DECRYPT", "PASSWORD", "EMPTY")) or _is_locked(key):
        if asked:
            return "tls_key_passphrase", f"it does not open {key}", False
        return "tls_key", f"{key} is locked: set tls_key_passphrase", False
    if not _has(certificate, "CERTIFICATE"):
        return "tls_certificate", f"{certificate} holds no certificate in PEM", False
    if not _has(key, "PRIVATE KEY"):
        return "tls_key", f"{key} holds no private key in PEM", False
    return "tls_certificate", f"OpenSSL cannot use {certificate} with {key}: {reason}", False


def _is_locked(path: str) -> bool:
    return _has(path, "ENCRYPTED")


def _has(path: str, words: str) -> bool:
    with open(path, "rb") as file:
        return any(words.encode() in line for line in file)
