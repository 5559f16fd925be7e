"""Who may write to an SQLite queue: one process, by an exclusive lock beside the file.

``queue.sqlite3.lock`` stays where it is; what counts is the kernel's lock on it, which ends with its holder
however that dies. The holder's process id is written inside for people. PostgreSQL needs no such lock.

Guarantees: never waits; never removes the lock file (two processes could each hold a lock on "it").
"""

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from deliveryagent.queue.engine import StoreError


class LockHeld(Exception):  # noqa: N818 - a state, seen by people as such
    """Another process writes to this queue; ``pid`` is its process id, 0 when it did not say."""

    def __init__(self, pid: int, queue: Path) -> None:
        by = f"process {pid}" if pid else "another process"
        super().__init__(f"the queue {queue} is in use by {by}")
        self.pid = pid


class QueueLock:
    """The right to write to the queue file at ``queue``, from the moment it is made until ``close``.

    Raises ``LockHeld`` when somebody else has it, ``StoreError`` when the lock file cannot be opened.
    """

    def __init__(self, queue: Path) -> None:
        path = queue.with_name(f"{queue.name}.lock")
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError as error:
            raise StoreError(
                f"the lock file {path} cannot be opened: {error.strerror}",
                "see that its directory exists and who owns it",
            ) from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._descriptor, 20, 0).strip()
            os.close(self._descriptor)
            raise LockHeld(int(holder) if holder.isdigit() else 0, queue) from error
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def close(self) -> None:
        """Give the right up; a second call does nothing."""
        if self._descriptor >= 0:
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
