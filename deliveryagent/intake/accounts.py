"""Who may log in at a listener, as the users file says at this moment.

Guarantees: a change of the file holds from the next question on, without a reload; a file that cannot be used
lets nobody in, and says why (:class:`LoginUnavailable`: a temporary answer, never "wrong password"); a
stranger's password costs as much time as a wrong one, and strangers have a SCRAM salt that stays the same.
scrypt runs in threads, at most ``threads`` at a time and ``waiting`` in line. A login that succeeded is known
again by a keyed digest of password and account for some minutes, so that an application which logs in for
every message pays once; a changed line of the file makes it unknown. Never keeps a password, never says which
of name and password was wrong.
"""

import asyncio
import hashlib
import hmac
import os
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from deliveryagent.intake import passwords, users_file
from deliveryagent.intake.passwords import PasswordHash
from deliveryagent.intake.users_file import Account, Users, UsersFileError
from deliveryagent.protocol import scram
from deliveryagent.protocol.scram import ScramVerifier

_REMEMBERED = 1000  # logins known again
_LASTING = 600.0  # seconds for which they are


class LoginUnavailable(Exception):  # noqa: N818 - a state, answered with 454 4.7.0
    """Nobody can log in just now; the message is for the log."""


class Accounts:
    """The accounts of one users file. Used from one event loop; ``close`` ends the threads.

    ``path`` is read when the first question comes. ``clock`` counts seconds and never goes back.
    """

    def __init__(
        self,
        path: Path,
        *,
        threads: int = 2,
        waiting: int = 64,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="password")
        self._most = threads + waiting
        self._running: dict[bytes, asyncio.Future[bool]] = {}
        self._known = _Known(clock)
        self._stamp: tuple[int, ...] = ()
        self._accounts: dict[str, Account] = {}
        self._lines: dict[str, Account] = {}
        self._trouble = ""
        self._key = secrets.token_bytes(32)
        self._secret = self._key

    def close(self) -> None:
        """Let go of the threads; checks that wait for one are given up."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def load(self) -> int:
        """Look at the file, and read it if it changed; how many accounts there are.

        Every question does so first. Raises :class:`LoginUnavailable`.
        """
        try:
            stamp = _stamp(os.stat(self._path))  # noqa: PTH116 - asked at every login
        except OSError as error:
            self._stamp = ()
            raise LoginUnavailable(_reason(self._path, error)) from None
        if stamp != self._stamp:
            self._read()
            self._stamp = stamp
        if self._trouble:
            raise LoginUnavailable(self._trouble)
        return len(self._accounts)

    async def check_password(self, user: str, password: str) -> str | None:
        """Whose name and password these are, both prepared; None if nobody's.

        Raises :class:`LoginUnavailable`, also when too many passwords wait to be checked.
        """
        self.load()
        account = self._accounts.get(user)
        kept = self._decoy(user) if account is None else account.password
        known_as = self._fingerprint(user, kept, password)
        if account is None or account.disabled or not self._known.has(known_as):
            fits = await self._hash(known_as, kept, password)
            account = self._accounts.get(user)  # it may have changed in the meantime
            if not fits or account is None or account.disabled or account.password != kept:
                return None
            self._known.add(known_as)
        return account.name

    def scram(self, user: str) -> ScramVerifier:
        """What is kept for SCRAM-SHA-256; made up for whom nobody can be, the same every time."""
        self.load()
        account = self._accounts.get(user)
        if account is not None and not account.disabled:
            return account.scram
        like = account or next(iter(self._accounts.values()), None)
        iterations = scram.ITERATIONS if like is None else like.scram.iterations
        made_up = scram.made_up(user, self._secret, iterations)
        if account is None:
            return made_up
        return ScramVerifier(iterations, account.scram.salt, made_up.stored_key, made_up.server_key)

    def cram_secret(self, user: str) -> bytes | None:
        """The secret for CRAM-MD5; None for accounts that have none and for whom nobody can be."""
        self.load()
        account = self._accounts.get(user)
        return None if account is None or account.disabled else account.cram or None

    def may_send_as(self, user: str, address: str) -> bool:
        """Whether ``user`` may use this sender (wire form, empty for the null sender).

        False for whom the file does not know, or not any more.
        """
        self.load()
        account = self._accounts.get(user)
        return account is not None and not account.disabled and account.may_send_as(address)

    def _read(self) -> None:
        self._trouble = ""
        users = Users()
        try:
            users = users_file.load(self._path, self._lines)
        except (OSError, UsersFileError) as error:
            self._trouble = _reason(self._path, error)
        self._lines = users.lines
        self._accounts = users.accounts()
        self._secret = users.secret or self._key

    def _decoy(self, user: str) -> PasswordHash:
        """A hash that no password fits, as dear as those of the file."""
        digest = hmac.digest(self._secret, user.encode(), "sha256")
        salt = digest[: scram.SALT_OCTETS]
        first = next(iter(self._accounts.values()), None)
        if first is not None:
            return first.password.like(salt, digest)
        return PasswordHash(passwords.LOG_N, passwords.BLOCKS, passwords.LANES, salt, digest)

    def _fingerprint(self, user: str, kept: PasswordHash, password: str) -> bytes:
        parts = (user.encode(), kept.text.encode(), password.encode())
        told = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
        return hmac.digest(self._key, told, hashlib.sha256)

    async def _hash(self, known_as: bytes, kept: PasswordHash, password: str) -> bool:
        """Ask a thread; whoever asks the same at the same time shares the answer."""
        running = self._running.get(known_as)
        if running is None:
            if len(self._running) >= self._most:
                raise LoginUnavailable("too many passwords wait to be checked")
            loop = asyncio.get_running_loop()
            running = loop.run_in_executor(self._threads, kept.fits, password)
            self._running[known_as] = running
            running.add_done_callback(lambda _: self._running.pop(known_as, None))
        return await asyncio.shield(running)


class _Known:
    """Digests of logins that succeeded, for some time."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._ends: OrderedDict[bytes, float] = OrderedDict()

    def has(self, digest: bytes) -> bool:
        return self._clock() < self._ends.get(digest, 0.0)

    def add(self, digest: bytes) -> None:
        self._ends[digest] = self._clock() + _LASTING
        self._ends.move_to_end(digest)
        if len(self._ends) > _REMEMBERED:
            self._ends.popitem(last=False)


def _stamp(found: os.stat_result) -> tuple[int, ...]:
    return (
        found.st_dev,
        found.st_ino,
        found.st_size,
        found.st_mtime_ns,
        found.st_ctime_ns,
    )


def _reason(path: Path, error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{path}: {error.strerror}"
    return str(error)
