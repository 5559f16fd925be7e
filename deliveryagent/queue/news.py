"""News between the agents of one queue: that there is mail, an order, a share to look at.

Mail that applications enqueued by SQL is news of its own (``inflow``): it takes a step more to find it.

PostgreSQL carries them (NOTIFY), at the commit of the transaction that causes them and only then; equal news of
one transaction arrive once. A :class:`Listener` hears them on a connection of its own, in a thread of its own,
since the database thread's connection is busy with transactions. When that connection breaks it is opened anew,
with growing pauses, and then everything counts as news, because nobody knows what was missed.

Guarantees: news are hints, nothing depends on their arrival; a listener that cannot hear says so once, and once
more when it can. Behind a pooler, which lends connections for a transaction at a time, nothing can be heard:
a listener says that and ends. An SQLite queue has one agent, and nobody to tell.
"""

import asyncio
import os
import select as polling
import threading
from collections.abc import Callable
from typing import Any, Literal

from sqlalchemy import Connection, bindparam, func, select

from deliveryagent.queue.bulk import Prepared
from deliveryagent.queue.engine import connecting, is_pooled

CHANNEL = "deliveryagent"

News = Literal["mail", "inflow", "orders", "shares"]

EVERYTHING: frozenset[str] = frozenset({"mail", "inflow", "orders", "shares"})

_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 10.0  # seconds between two tries to connect

POOLED = "a connection pooler lends connections for a transaction at a time, which carry no news"

_tell = Prepared(select(func.pg_notify(CHANNEL, bindparam("news"))))


def tell(connection: Connection, news: News) -> None:
    """Let the other agents know once the caller's transaction is committed."""
    if connection.dialect.name == "postgresql":
        _tell.run(connection, news=news)


class Listener:
    """Hears news until it is closed; made and used on the event loop's thread.

    ``heard`` is called there with what the news are about (``EVERYTHING`` after every connect), and ``deaf``
    with why nothing can be heard, or with an empty text when it can again.
    """

    def __init__(
        self,
        url: str,
        *,
        heard: Callable[[frozenset[str]], None],
        deaf: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._url = url
        self._heard = heard
        self._deaf = deaf
        self._reason = ""
        self._loop = asyncio.get_running_loop()
        self._waker, self._wakes = os.pipe()
        self._ending = threading.Event()
        self._ended = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, name="news", daemon=True)
        self._thread.start()

    async def close(self) -> None:
        """End the connection and the thread; a second call does nothing."""
        if not self._ending.is_set():
            self._ending.set()
            os.write(self._wakes, b"\0")
        await asyncio.shield(self._ended)
        self._thread.join()

    def _run(self) -> None:
        import psycopg  # noqa: PLC0415 - an extra, of no use to an SQLite queue

        pause = _FIRST_PAUSE
        try:
            while not self._ending.is_set():
                try:
                    with psycopg.connect(**connecting(self._url), autocommit=True) as connection:
                        if not self._begin(connection):
                            return
                        pause = _FIRST_PAUSE
                        self._attend(connection)
                except (psycopg.Error, OSError) as error:
                    self._say(f"the connection for news is down: {error}".splitlines()[0])
                polling.select([self._waker], [], [], pause)
                pause = min(_LONGEST_PAUSE, pause * 2)
        finally:
            os.close(self._waker)
            self._loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        self._ending.set()
        os.close(self._wakes)
        self._ended.set_result(None)

    def _begin(self, connection: Any) -> bool:
        """Start to listen; False when no news can arrive on such a connection."""
        (pid,) = connection.execute("SELECT pg_backend_pid()").fetchone()
        if is_pooled(connection, pid):
            self._say(POOLED)
            return False
        connection.execute(f"LISTEN {CHANNEL}")
        self._say("")
        self._pass_on(EVERYTHING)
        return True

    def _attend(self, connection: Any) -> None:
        """Pass on what arrives until the connection breaks (which raises) or the listener is closed."""
        driver = connection.pgconn
        while not self._ending.is_set():
            polling.select([driver.socket, self._waker], [], [])
            driver.consume_input()
            found = set()
            while (notice := driver.notifies()) is not None:
                found.add(notice.extra.decode(errors="replace"))
            if found:
                self._pass_on(frozenset(found))

    def _pass_on(self, news: frozenset[str]) -> None:
        self._loop.call_soon_threadsafe(self._heard, news)

    def _say(self, reason: str) -> None:
        if bool(reason) != bool(self._reason):
            self._loop.call_soon_threadsafe(self._deaf, reason)
        self._reason = reason
