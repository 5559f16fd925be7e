"""The directory where an agent keeps its journals, and what the last one who lived there left behind.

A home has one inhabitant at a time, proved by a lock. So who moves in knows that the agent before is dead,
settles what its journals say, and has the queue give back what it owned at once, without waiting for the end
of its lease.

Guarantees: the journals of a living agent are never touched; what an earlier agent owned is given back only
after everything its journals say is recorded. Never delivers.
"""

import contextlib
import os
import random
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from deliveryagent.agent import recovery
from deliveryagent.policy.retry import RetrySettings
from deliveryagent.queue import leases
from deliveryagent.queue.engine import StoreError, store_file
from deliveryagent.queue.lock import LockHeld, QueueLock
from deliveryagent.queue.thread import Database

_INHABITANT = "agent"


def journals_of(queue_url: str, run_dir: str) -> Path:
    """Where the agent of a queue keeps its journals: beside the file, else in the state directory."""
    file = store_file(queue_url)
    state = file.parent if file else Path(os.environ.get("STATE_DIRECTORY") or run_dir)
    return state / "journal"


class Home:
    """The directory ``journals``, made if need be; entered by ``with``.

    Raises ``StoreError`` when another agent lives there.
    """

    def __init__(self, journals: Path) -> None:
        journals.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.journals = journals
        self._name = journals / _INHABITANT
        try:
            self._lock = QueueLock(self._name)
        except LockHeld as error:
            raise StoreError(
                f"another agent (process {error.pid}) keeps its journals in {journals}",
                "give each agent of this host a directory of its own (STATE_DIRECTORY, or run_dir)",
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lock.close()

    async def clear(
        self,
        database: Database,
        *,
        identity: bytes,
        retry: RetrySettings,
        clock: Callable[[], float],
        rng: random.Random,
    ) -> None:
        """Settle what dead processes were at, then give back what the agent before owned."""
        for path in sorted(self.journals.glob("*.journal")):
            await recovery.replay(
                path, identity=identity, database=database, now=clock(), retry=retry, rng=rng
            )
        with contextlib.suppress(OSError, ValueError):
            before = int(self._name.read_text("ascii"))
            await database.submit(leases.retire, before)

    def move_in(self, agent: int) -> None:
        """This agent lives here from now on."""
        self._name.write_text(f"{agent}\n", "ascii")

    def move_out(self) -> None:
        """Nobody lives here any more, and nothing is left."""
        self._name.unlink(missing_ok=True)
