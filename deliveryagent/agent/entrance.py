"""How an agent enters its queue: the lock of a file, the schema, its lease.

Guarantees: on an SQLite queue nobody else writes from here on; what agents before left in it is everybody's
again. On PostgreSQL an agent is one of many: it has a lease, and a fence that says when it was lost.
"""

import contextlib
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deliveryagent.agent.home import Home
from deliveryagent.agent.manager import Manager
from deliveryagent.agent.membership import Membership
from deliveryagent.queue import leases
from deliveryagent.queue.engine import open_writer, store_file
from deliveryagent.queue.leases import Recovery, Registration
from deliveryagent.queue.lock import LockHeld, QueueLock
from deliveryagent.queue.news import Listener
from deliveryagent.queue.single import execute
from deliveryagent.queue.thread import Database
from deliveryagent.queue.upgrade import ensure

_LOCK_TIME = 3.0  # seconds to wait for a queue that another process writes to


class Entrance:
    """The way of the agent with the id ``agent`` into the queue at ``url``.

    ``alone``: nobody else can work on it. ``identity`` is the queue's own, ``home`` the agent's, where it keeps
    its ``journals``. Everything that has to be undone is put on ``stack``. Raises ``LockHeld`` or
    ``StoreError`` when the queue cannot be had.
    """

    def __init__(
        self,
        stack: contextlib.AsyncExitStack,
        url: str,
        *,
        journals: Path,
        agent: int,
        lease: float,
        now: float,
        version: str,
    ) -> None:
        file = store_file(url)
        self.alone = file is not None
        self._stack = stack
        self._url = url
        self._lease = lease
        if file is not None:
            stack.enter_context(_locked(Path(file)))
        self.home = stack.enter_context(Home(journals))
        engine = open_writer(url)
        stack.callback(engine.dispose)
        self._engine: Any = engine
        self._agent = agent
        self.identity = ensure(engine)
        if self.alone:
            execute(engine, leases.recover, [Recovery(alone=True)])
        one = Registration(
            agent=agent,
            host=socket.gethostname(),
            pid=os.getpid(),
            started=now,
            length=leases.FOREVER if self.alone else lease,
            version=version,
        )
        execute(engine, leases.register, [one])

    def database(
        self, *, on_state: Callable[[bool, str], None], on_fenced: Callable[[], None]
    ) -> Database:
        """The database thread of the agent; see there."""
        fence = None if self.alone else leases.fence(self._agent)
        return Database(self._engine, on_state=on_state, fence=fence, on_fenced=on_fenced)

    async def join(
        self,
        database: Database,
        manager: Manager,
        *,
        clock: Callable[[], float],
        deaf: Callable[[str], None],
    ) -> Membership | None:
        """Be one of the agents of the queue, with news from the others; None where there can be none.

        ``deaf`` is called when news do not arrive, or do again. Raises ``StoreUnavailable``.
        """
        if self.alone:
            return None
        side, ledger = database.beside(), database.beside()
        for thread in (side, ledger):
            self._stack.push_async_callback(thread.close, 0.0)
        membership = Membership(
            database=side,
            ledger=ledger,
            agent=self._agent,
            manager=manager,
            lease=self._lease,
            clock=clock,
        )
        await membership.begin()
        listener = Listener(self._url, heard=membership.heard, deaf=deaf)
        self._stack.push_async_callback(listener.close)
        return membership


def _locked(queue: Path) -> QueueLock:
    """The right to write; who hands mail over while no service runs has it only for a moment."""
    deadline = time.monotonic() + _LOCK_TIME
    while True:
        try:
            return QueueLock(queue)
        except LockHeld:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
