"""The database thread: everything that waits for the store shares one transaction after the other.

Operations (``operation``) are handed over on the event loop; the thread takes all that is waiting, runs it
grouped by operation in one transaction, commits, and hands every answer back with one call into the loop.
Nothing is delayed to make groups larger: while one transaction is synced to disk, the next one gathers.

Guarantees: an answer is given after the commit only. A mistake in one item fails that item alone. When the
store itself is in trouble (disk full, locked, connection lost), items of ``must`` operations stay and are
tried again until they are recorded, everything else fails with ``StoreUnavailable``, and ``on_state`` says so
once; it says so again when a write has succeeded. Never drops a fact silently, never opens a second
connection beside the first.
"""

import asyncio
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine

from deliveryagent.queue import faults, probe
from deliveryagent.queue.operation import Operation

X = TypeVar("X")
R = TypeVar("R")

_MOST_ITEMS = 1000  # in one transaction: about 30 ms
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 2.0
_REPEAT_PAUSE = 0.01


class StoreUnavailable(Exception):  # noqa: N818 - a state, seen by people as such
    """The store cannot record anything now; ``str()`` is a sentence with the reason."""


class _Job:
    """Items of one operation that were handed over together, and the answers so far."""

    __slots__ = ("answers", "deliver", "items", "operation", "taken")

    def __init__(
        self,
        operation: Operation[Any, Any],
        items: Sequence[Any],
        deliver: Callable[[list[Any]], None],
    ) -> None:
        self.operation = operation
        self.items = items
        self.deliver = deliver
        self.taken = 0  # items that are in a transaction or answered
        self.answers: list[Any] = []


class _Group:
    """Items of one operation inside one transaction, with the jobs they come from."""

    __slots__ = ("answers", "items", "operation", "shares")

    def __init__(self, operation: Operation[Any, Any]) -> None:
        self.operation = operation
        self.items: list[Any] = []
        self.shares: list[tuple[_Job, int]] = []
        self.answers: list[Any] = []

    def room(self) -> int:
        return self.operation.cap - len(self.items)

    def take(self, job: _Job, count: int) -> None:
        self.items.extend(job.items[job.taken : job.taken + count])
        job.taken += count
        self.shares.append((job, count))


def execute(engine: Engine, operation: Operation[X, R], items: Sequence[X]) -> list[R]:
    """Run an operation at once, in a transaction of its own, for programs without a database thread.

    Raises ``StoreUnavailable`` when the store is in trouble.
    """
    try:
        with engine.begin() as connection:
            return operation(connection, items)
    except Exception as error:
        reason = faults.trouble(error)
        if reason:
            raise StoreUnavailable(reason) from error
        raise


class Database:
    """One thread, one connection, one transaction at a time.

    Made and used on the event loop's thread. ``on_state(writable, reason)`` is called there when the store
    stops or starts taking writes.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        on_state: Callable[[bool, str], None] = lambda _writable, _reason: None,
    ) -> None:
        self._engine = engine
        self._on_state = on_state
        self._loop = asyncio.get_running_loop()
        self._inbox: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._waiting: deque[_Job] = deque()
        self._kept: list[_Group] = []
        self._connection: Connection | None = None
        self._reason = ""  # why the store cannot be written
        self._pause = _FIRST_PAUSE
        self._closing = False  # set on the loop's side
        self._ending = False  # seen on the thread's side
        self._deadline = 0.0
        self._closed = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, name="database", daemon=True)
        self._thread.start()

    # -- on the loop's thread ---

    def submit(self, operation: Operation[X, R], item: X) -> "asyncio.Future[R]":
        """Hand over one item; the future has its answer after the commit."""
        future: asyncio.Future[R] = self._loop.create_future()

        def deliver(answers: list[Any]) -> None:
            answer = answers[0]
            if future.done():
                return
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)

        self._hand_over(_Job(operation, (item,), deliver))
        return future

    def submit_many(
        self,
        operation: Operation[X, R],
        items: Sequence[X],
        callback: Callable[[list[R | Exception]], None],
    ) -> None:
        """Hand over several items; ``callback`` gets all answers in order, exceptions for failed items."""
        if items:
            self._hand_over(_Job(operation, items, callback))
        else:
            self._loop.call_soon(callback, [])

    async def close(self, grace: float = 10.0) -> None:
        """Run what is waiting, give up after ``grace`` seconds on what cannot be recorded, end the thread."""
        if not self._closing:
            self._closing = True
            self._deadline = time.monotonic() + grace
            self._inbox.put(None)
        await asyncio.shield(self._closed)
        self._thread.join()

    def _hand_over(self, job: _Job) -> None:
        if self._closing:
            error = StoreUnavailable("the queue is being closed")
            self._loop.call_soon(job.deliver, [error] * len(job.items))
        else:
            self._inbox.put(job)

    def _hand_back(self, finished: list[tuple[_Job, list[Any]]]) -> None:
        for job, answers in finished:
            try:
                job.deliver(answers)
            except Exception as error:  # noqa: BLE001 - one taker's fault must not cost the others theirs
                context = {
                    "message": f"an answer of {job.operation!r} was not taken",
                    "exception": error,
                }
                self._loop.call_exception_handler(context)

    # -- on the database thread ---

    def _run(self) -> None:
        try:
            while not (self._ending and not self._waiting and not self._kept):
                self._gather()
                if self._reason:
                    self._try_again()
                else:
                    groups = self._take()
                    if groups:
                        self._perform(groups)
        finally:
            self._disconnect()
            self._loop.call_soon_threadsafe(self._closed.set_result, None)

    def _gather(self) -> None:
        """Everything that was handed over; waits only when there is nothing to do."""
        inbox, waiting = self._inbox, self._waiting
        try:
            if self._reason:
                self._listen(time.monotonic() + self._pause)
            elif not waiting and not self._ending:
                self._receive(inbox.get())
            while True:
                self._receive(inbox.get_nowait())
        except queue.Empty:
            return

    def _listen(self, until: float) -> None:
        """Let the pause pass; closing cuts it short."""
        while not self._ending:
            self._receive(self._inbox.get(timeout=max(0.001, until - time.monotonic())))
            if time.monotonic() >= until:
                return
        time.sleep(_FIRST_PAUSE)

    def _receive(self, job: _Job | None) -> None:
        if job is None:
            self._ending = True
        else:
            self._waiting.append(job)

    def _take(self) -> list[_Group]:
        """The next transaction's worth of what is waiting."""
        groups: dict[Operation[Any, Any], _Group] = {}
        left, full = _MOST_ITEMS, deque[_Job]()
        while self._waiting and left:
            job = self._waiting.popleft()
            group = groups.get(job.operation)
            if group is None:
                group = groups[job.operation] = _Group(job.operation)
            count = min(left, group.room(), len(job.items) - job.taken)
            if count:
                group.take(job, count)
                left -= count
            if job.taken < len(job.items):
                full.append(job)
        self._waiting.extendleft(reversed(full))
        return sorted(groups.values(), key=lambda group: group.operation.turn)

    def _perform(self, groups: list[_Group]) -> None:
        try:
            self._record(groups)
        except Exception as error:  # noqa: BLE001 - no item's fault, then: the store's
            self._suspend(groups, error)
        else:
            self._finish(groups)

    def _record(self, groups: list[_Group]) -> None:
        """Run everything and commit; what it raises is the store's trouble."""
        try:
            self._transact(groups)
        except Exception as error:
            if faults.trouble(error):
                raise
            self._undo()
            self._isolate(groups)

    def _transact(self, groups: list[_Group]) -> None:
        for last in (False, False, True):
            connection = self._connected()
            try:
                with connection.begin():
                    for group in groups:
                        group.answers = group.operation(connection, group.items)
                        assert len(group.answers) == len(group.items), group.operation
            except Exception as error:
                if last or not faults.repeatable(error):
                    raise
                time.sleep(_REPEAT_PAUSE)  # whoever was preferred to us gets done first
            else:
                return

    def _isolate(self, groups: list[_Group]) -> None:
        """Something is wrong with an item: run each on its own inside one transaction."""
        connection = self._connected()
        with connection.begin():
            for group in groups:
                group.answers = [_alone(connection, group.operation, item) for item in group.items]

    def _finish(self, groups: list[_Group]) -> None:
        finished: list[tuple[_Job, list[Any]]] = []
        for group in groups:
            start = 0
            for job, count in group.shares:
                job.answers += group.answers[start : start + count]
                start += count
                if len(job.answers) == len(job.items):
                    finished.append((job, job.answers))
        if finished:
            self._loop.call_soon_threadsafe(self._hand_back, finished)

    # -- trouble ---

    def _suspend(self, groups: list[_Group], error: Exception) -> None:
        """The store is in trouble: keep the facts, fail the rest."""
        reason = self._recover(error)
        facts = [group for group in groups if group.operation.must]
        others = [group for group in groups if not group.operation.must]
        self._refuse(others, reason)
        if facts and others:
            # A transaction without the others may be small enough for what is left of the disk.
            self._perform(facts)
            if not self._reason:
                return
        elif facts:
            self._kept.extend(facts)
        if not self._reason:
            self._pause = _FIRST_PAUSE
            self._loop.call_soon_threadsafe(self._on_state, False, reason)
        self._reason = reason

    def _recover(self, error: Exception) -> str:
        """Make the connection good for another try; returns what is wrong, as a sentence."""
        if faults.connection_usable(error):
            self._undo()
        else:
            self._disconnect()
        return faults.trouble(error) or f"the database failed: {error}"

    def _refuse(self, groups: list[_Group], reason: str) -> None:
        for group in groups:
            group.answers = [StoreUnavailable(reason)] * len(group.items)
        self._finish(groups)

    def _try_again(self) -> None:
        """One more try with the facts, or with a write of our own; until it works, the rest is refused."""
        facts, others = self._kept, []
        self._kept = []
        while self._waiting:
            groups = self._take()
            facts += [group for group in groups if group.operation.must]
            others += [group for group in groups if not group.operation.must]
        try:
            if facts:
                self._record(facts)
            else:
                probe.write(self._connected())
        except Exception as error:  # noqa: BLE001 - no item's fault, then: the store's
            self._reason = self._recover(error)
            self._pause = min(_LONGEST_PAUSE, self._pause * 2)
            self._refuse(others, self._reason)
            if self._ending and time.monotonic() >= self._deadline:
                self._refuse(facts, self._reason)
            else:
                self._kept = facts
            return
        self._reason = ""
        self._loop.call_soon_threadsafe(self._on_state, True, "")
        self._finish(facts)
        if others:
            self._perform(others)

    # -- the connection ---

    def _connected(self) -> Connection:
        if self._connection is None:
            self._connection = self._engine.connect()
        return self._connection

    def _undo(self) -> None:
        """See to it that no transaction is open: one whose commit failed may still be."""
        try:
            self._connected().connection.rollback()
        except Exception:  # noqa: BLE001 - whatever it is, another connection does not have it
            self._disconnect()

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.invalidate()
                connection.close()
            except Exception:  # noqa: S110, BLE001 - it is of no use any more, whatever it says
                pass


def _alone(connection: Connection, operation: Operation[Any, Any], item: Any) -> Any:
    """The answer for one item, or the exception it raised, with everything it did undone."""
    try:
        with connection.begin_nested():
            return operation(connection, [item])[0]
    except Exception as error:
        if faults.trouble(error):
            raise
        return error
