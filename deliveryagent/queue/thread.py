"""The database thread: everything that waits for the store shares one transaction after the other.

Operations (``operation``) are handed over on the event loop; the thread takes all that is waiting, runs it
grouped by operation in one transaction, commits, and hands every answer back with one call into the loop.
Nothing is delayed to make groups larger: while one transaction is synced to disk, the next one gathers.

Guarantees: an answer is given after the commit only. A mistake in one item fails that item alone. When the
store itself is in trouble (disk full, locked, connection lost), items of ``must`` operations stay and are
tried again until they are recorded, everything else fails with ``StoreUnavailable``, and ``on_state`` says so
once; it says so again when a write has succeeded. Never drops a fact silently, never opens a second
connection beside the first. A ``fence`` is asked first in every transaction that writes; when it says that
the lease was lost (``Fenced``), nothing is written any more, everything fails, and ``on_fenced`` is called.
"""

import asyncio
import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine

from deliveryagent.queue import faults, probe
from deliveryagent.queue.jobs import Group, Job
from deliveryagent.queue.operation import Fenced, Operation

X = TypeVar("X")
R = TypeVar("R")

_MOST_ITEMS = 1000  # in one transaction: about 30 ms
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 2.0
_REPEAT_PAUSE = 0.01


class StoreUnavailable(Exception):  # noqa: N818 - a state, seen by people as such
    """The store cannot record anything now; ``str()`` is a sentence with the reason."""


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
        fence: Callable[[Connection], None] | None = None,
        on_fenced: Callable[[], None] = lambda: None,
    ) -> None:
        self._engine = engine
        self._on_state = on_state
        self._fence = fence
        self._on_fenced = on_fenced
        self._fenced = ""  # why nothing may be written any more
        self._loop = asyncio.get_running_loop()
        self._inbox: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._waiting: deque[Job] = deque()
        self._kept: list[Group] = []
        self._connection: Connection | None = None
        self._reason = ""  # why the store cannot be written
        self._committing = False  # the last transaction got as far as its commit
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

        self._hand_over(Job(operation, (item,), deliver))
        return future

    def submit_all(
        self, operation: Operation[X, R], items: Sequence[X]
    ) -> "asyncio.Future[list[R]]":
        """Hand over several items; the future has all answers in order, or the first exception."""
        future: asyncio.Future[list[R]] = self._loop.create_future()

        def deliver(answers: list[Any]) -> None:
            if future.done():
                return
            failed = next((answer for answer in answers if isinstance(answer, Exception)), None)
            if failed is not None:
                future.set_exception(failed)
            else:
                future.set_result(answers)

        self.submit_many(operation, items, deliver)
        return future

    def submit_many(
        self,
        operation: Operation[X, R],
        items: Sequence[X],
        callback: Callable[[list[R | Exception]], None],
    ) -> None:
        """Hand over several items; ``callback`` gets all answers in order, exceptions for failed items."""
        if items:
            self._hand_over(Job(operation, items, callback))
        else:
            self._loop.call_soon(callback, [])

    def beside(self) -> "Database":
        """Another thread with a connection of its own, under the same fence: nothing here keeps it waiting."""
        return Database(self._engine, fence=self._fence, on_fenced=self._on_fenced)

    async def close(self, grace: float = 10.0) -> None:
        """Run what is waiting, give up after ``grace`` seconds on what cannot be recorded, end the thread."""
        if not self._closing:
            self._closing = True
            self._deadline = time.monotonic() + grace
            self._inbox.put(None)
        await asyncio.shield(self._closed)
        self._thread.join()

    def _hand_over(self, job: Job) -> None:
        if self._closing:
            error = StoreUnavailable("the queue is being closed")
            self._loop.call_soon(job.deliver, [error] * len(job.items))
        else:
            self._inbox.put(job)

    def _hand_back(self, finished: list[tuple[Job, list[Any]]]) -> None:
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
                if self._fenced:
                    self._refuse([*self._kept, *self._take()], self._fenced)
                    self._kept.clear()
                elif self._reason:
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

    def _receive(self, job: Job | None) -> None:
        if job is None:
            self._ending = True
        else:
            self._waiting.append(job)

    def _take(self) -> list[Group]:
        """The next transaction's worth of what is waiting."""
        groups: dict[Operation[Any, Any], Group] = {}
        left, full = _MOST_ITEMS, deque[Job]()
        while self._waiting and left:
            job = self._waiting.popleft()
            group = groups.get(job.operation)
            if group is None:
                group = groups[job.operation] = Group(job.operation)
            count = min(left, group.room(), len(job.items) - job.taken)
            if count:
                group.take(job, count)
                left -= count
            if job.taken < len(job.items):
                full.append(job)
        self._waiting.extendleft(reversed(full))
        return sorted(groups.values(), key=lambda group: group.operation.turn)

    def _perform(self, groups: list[Group]) -> None:
        try:
            self._record(groups)
        except Fenced as error:
            self._lose(groups, error)
        except Exception as error:  # noqa: BLE001 - no item's fault, then: the store's
            self._suspend(groups, error)
        else:
            self._finish(groups)

    def _record(self, groups: list[Group]) -> None:
        """Run everything and commit; what it raises is the store's trouble."""
        try:
            self._transact(groups)
        except Fenced:
            raise
        except Exception as error:
            if faults.trouble(error):
                raise
            self._undo()
            self._isolate(groups)

    def _transact(self, groups: list[Group]) -> None:
        for last in (False, False, True):
            self._committing = False
            connection = self._connected()
            try:
                with connection.begin():
                    self._ask_fence(connection, groups)
                    for group in groups:
                        group.answers = group.operation(connection, group.items)
                        assert len(group.answers) == len(group.items), group.operation
                    self._committing = True
            except Exception as error:
                if last or not faults.repeatable(error):
                    raise
                time.sleep(_REPEAT_PAUSE)  # whoever was preferred to us gets done first
            else:
                return

    def _ask_fence(self, connection: Connection, groups: list[Group]) -> None:
        if self._fence is not None and any(group.operation.writes for group in groups):
            self._fence(connection)

    def _isolate(self, groups: list[Group]) -> None:
        """Something is wrong with an item: run each on its own inside one transaction."""
        self._committing = False
        connection = self._connected()
        with connection.begin():
            self._ask_fence(connection, groups)
            for group in groups:
                group.answers = [_alone(connection, group.operation, item) for item in group.items]
            self._committing = True

    def _finish(self, groups: list[Group]) -> None:
        finished: list[tuple[Job, list[Any]]] = []
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

    def _lose(self, groups: list[Group], error: Fenced) -> None:
        """What was ours is somebody else's: nothing is written from now on."""
        self._fenced, self._reason = str(error), ""
        self._refuse(groups, self._fenced)
        self._loop.call_soon_threadsafe(self._on_fenced)

    def _suspend(self, groups: list[Group], error: Exception) -> None:
        """The store is in trouble: keep the facts, fail the rest.

        After a commit that lost its connection nobody knows whether it happened: what it wrote is handed in
        again until the store has said so, which does nothing twice.
        """
        unsure = self._committing and faults.unanswered(error)
        reason = self._recover(error)
        for group in groups:
            group.must = group.must or (unsure and group.operation.writes)
        facts = [group for group in groups if group.must]
        others = [group for group in groups if not group.must]
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
        reason = faults.trouble(error) or f"the database failed: {error}"
        if not faults.connection_usable(error):
            self._disconnect()
            return reason
        self._undo()
        if faults.locked(error):
            with contextlib.suppress(Exception):  # to know more is not worth further trouble
                reason = f"{reason}: {probe.blocker(self._connected())}".removesuffix(": ")
        return reason

    def _refuse(self, groups: list[Group], reason: str) -> None:
        for group in groups:
            group.answers = [StoreUnavailable(reason)] * len(group.items)
        self._finish(groups)

    def _try_again(self) -> None:
        """One more try with the facts, or with a write of our own; until it works, the rest is refused."""
        facts, others = self._kept, []
        self._kept = []
        while self._waiting:
            groups = self._take()
            facts += [group for group in groups if group.must]
            others += [group for group in groups if not group.must]
        try:
            if facts:
                self._record(facts)
            else:
                probe.write(self._connected())
        except Fenced as error:
            self._lose([*facts, *others], error)
            return
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
