"""A delivery worker: ``python -m deliveryagent.agent.worker FD JOURNAL``.

Speaks frames (``agent.frames``) with the manager on the inherited socket FD: takes up delivery
requests, answers each as soon as its outcome is known, resolves next hops, gives a sign of life
each second. Notes what it is at in the journal, a file it creates.

Guarantees: a result is in the journal before it is sent; when the journal is full, requests wait; a
fault in one delivery ends that delivery only. Told to drain, it lets running deliveries go on for
the time of grace, then returns those that have not sent their final dot, waits for the answers to
those that have, and exits with status 0. When the manager is gone it does the same with little
grace; the journal keeps the outcomes. SIGTERM and SIGINT are the manager's business and ignored
here. Never imports the store, never decides about retries.
"""

import asyncio
import faulthandler
import gc
import os
import random
import resource
import signal
import socket
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import assert_never, cast

import msgspec

from deliveryagent.agent import frames, journal
from deliveryagent.agent.clients import Clients
from deliveryagent.agent.connections import Connections
from deliveryagent.agent.delivery import Delivery
from deliveryagent.agent.ledger import Ledger
from deliveryagent.agent.manager_link import ManagerLink
from deliveryagent.agent.parts import Parts
from deliveryagent.agent.planner import Planner
from deliveryagent.agent.visit import Means
from deliveryagent.agent.worker_settings import WorkerSettings
from deliveryagent.mail.delivery import DeliveryRequest
from deliveryagent.mail.nexthop import NextHopError, parse_next_hops
from deliveryagent.resolver.lookup import Resolver

new_event_loop: Callable[[], asyncio.AbstractEventLoop]
try:
    from uvloop import new_event_loop
except ImportError:  # pragma: no cover - no such loop on this system
    from asyncio import new_event_loop

BEAT = 1.0
ORPHAN_GRACE = 1.0  # seconds for deliveries before their final dot when the manager is gone
FAREWELL = 2.0  # seconds for last words: QUIT answers, frames to the manager
UNKNOWN_TTL = 5.0  # seconds until an unknown site may be asked for again
MOST_DELIVERIES = 2_000
_SPARE_FILES = 200  # for name service sockets, farewells and the process itself
_BAD_SETTINGS = 78  # EX_CONFIG


class Runner:
    """A task that carries out one delivery after the other; cheaper than a task for each.

    ``begun``: it is inside ``delivery.run``, which alone knows what to do when the task is cancelled.
    """

    __slots__ = ("_loop", "_wake", "_worker", "begun", "delivery", "task")

    def __init__(self, worker: "Worker", delivery: Delivery) -> None:
        self._worker = worker
        self._loop = asyncio.get_running_loop()
        self._wake: asyncio.Future[None] | None = None
        self.begun = False
        self.delivery: Delivery | None = delivery
        self.task = self._loop.create_task(self._run())

    def take(self, delivery: Delivery) -> None:
        """Wake up and carry this out."""
        self.delivery = delivery
        cast("asyncio.Future[None]", self._wake).set_result(None)

    async def _run(self) -> None:
        while True:
            delivery = cast("Delivery", self.delivery)
            self.begun = True
            try:
                await delivery.run()
            except Exception as error:  # noqa: BLE001 - the one place where a fault in a delivery ends
                self._worker.report_fault(error)
            self.begun = False
            self._worker.finish(delivery)
            self.delivery = self._worker.next_delivery()
            if self.delivery is None:
                self._wake = self._loop.create_future()
                self._worker.free.append(self)
                await self._wake


class Worker:
    """What the process does; ``over`` is done when everything is.

    ``free`` are the runners that have nothing to do. Raises ``ValueError`` for settings that make
    no sense, ``OSError`` when the journal cannot be made.
    """

    def __init__(self, settings: WorkerSettings, path: Path, link: ManagerLink) -> None:
        self._loop = asyncio.get_running_loop()
        self._link = link
        self._resolver = Resolver(settings.dns)
        files = _files() - _SPARE_FILES
        self._most = max(10, min(MOST_DELIVERIES, files * 3 // 4))
        rng = random.Random()  # noqa: S311 - spreads load, protects nothing
        self._means = Means(
            planner=Planner(self._resolver, rng),
            clients=Clients(settings),
            connections=Connections(limit=max(10, files // 4)),
            parts=Parts(link.say),
            journal=journal.Journal.create(
                path,
                settings.identity,
                slot_size=journal.slot_size_for(settings.recipient_limit),
            ),
            say=link.say,
            clock=time.time,
            minimal_backoff=settings.minimal_backoff_time,
        )
        self._backlog: deque[DeliveryRequest] = deque()
        self._runners: list[Runner] = []
        self.free: list[Runner] = []
        self._busy = 0
        self._sequence = 0
        self._draining = False
        self._lookups: set[asyncio.Task[None]] = set()
        self.over: asyncio.Future[None] = self._loop.create_future()

    def begin(self) -> None:
        """Be ready for work."""
        self._link.say(frames.Ready(os.getpid()))
        self._beat(self._loop.time())
        self._link.listen(self)

    # -- what the manager says ---

    def hear(self, frame: frames.ToWorker) -> None:
        """Take a frame."""
        match frame:
            case frames.Deliver():
                self._backlog.append(frame.request)
                self._pump()
            case frames.Settled():
                self._means.journal.settled(frame.sequence)
                self._pump()
            case frames.Part():
                self._means.parts.arrived(frame)
            case frames.Lookup():
                task = self._loop.create_task(self._look_up(frame))
                self._lookups.add(task)
                task.add_done_callback(self._lookups.discard)
            case frames.Release():
                self._means.connections.release(frame.next_hop)
            case frames.Drain():
                self._drain(frame.grace)
            case frames.Configure():
                return  # settings are for life: new ones mean new workers
            case _:
                assert_never(frame)

    def orphaned(self) -> None:
        """The manager is gone: end soon; the next one waits for what this process is at."""
        self._drain(ORPHAN_GRACE)

    def _beat(self, expected: float) -> None:
        lag = max(0.0, self._loop.time() - expected)
        self._link.say(frames.Beat(lag, len(self._means.connections) + self._busy))
        self._loop.call_later(BEAT, self._beat, self._loop.time() + BEAT)

    async def _look_up(self, question: frames.Lookup) -> None:
        name, ttl = "", UNKNOWN_TTL
        try:
            hop = parse_next_hops(question.next_hop)[0]
            transport = "smtp" if hop.final else hop.transport
            client = self._means.clients.of(question.route, transport)
            name, ttl = await self._means.planner.site(hop, client)
        except NextHopError:
            pass  # its requests will say so
        except Exception as error:  # noqa: BLE001 - unanswered, the manager would wait for ever
            self.report_fault(error)
        self._link.say(frames.Site(question.serial, name, ttl))

    # -- deliveries ---

    def _pump(self) -> None:
        """Begin what can be begun; while draining, send back what cannot."""
        if self._draining:
            self.next_delivery()
            return
        while self._backlog and (self.free or len(self._runners) < self._most):
            delivery = self.next_delivery()
            if delivery is None:
                return
            if self.free:
                self.free.pop().take(delivery)
            else:
                self._runners.append(Runner(self, delivery))

    def next_delivery(self) -> Delivery | None:
        """The next request to carry out, noted in the journal; None if there is none, or no slot."""
        while self._backlog:
            request = self._backlog[0]
            if self._draining:
                self._answer_unbegun(None)
                continue
            try:
                slot = self._means.journal.start(request)
            except ValueError as error:
                self._answer_unbegun(error)
                continue
            if slot is None:
                return None
            self._backlog.popleft()
            self._busy += 1
            return Delivery(request, slot, self._means)
        return None

    def _answer_unbegun(self, error: ValueError | None) -> None:
        """Answer the next request without beginning it: untried, or deferred because of a fault."""
        ledger = Ledger(self._backlog.popleft(), self._means.clock())
        if error is None:
            ledger.stop()
        else:
            self.report_fault(error)
            ledger.give_up(error)
        self._link.say(frames.Result(ledger.result()))

    def finish(self, delivery: Delivery) -> None:
        """A delivery is over: note its outcome, then tell it."""
        self._busy -= 1
        notes = self._means.journal
        if delivery.untried:
            notes.drop(delivery.slot)
            self._link.say(frames.Result(delivery.result(0)))
        else:
            self._sequence += 1
            result = delivery.result(self._sequence)
            notes.replied(delivery.slot, result)
            self._link.say(frames.Result(result))
        if self._draining:
            self._end_if_idle()

    def report_fault(self, error: BaseException) -> None:
        """A fault of this program, for its makers."""
        text = "".join(traceback.format_exception(error))
        self._link.say(frames.Event("fault", {"error": type(error).__name__, "trace": text}))

    # -- the end ---

    def _drain(self, grace: float) -> None:
        """Begin nothing any more; cut what has not reached its final dot after the time of grace."""
        self._draining = True
        self._pump()  # answers what was not begun
        self._means.connections.close()
        self._loop.call_later(grace, self._cut)
        self._end_if_idle()

    def _cut(self) -> None:
        for runner in self._runners:
            delivery = runner.delivery
            if delivery is not None:
                delivery.stop()
                if runner.begun and not delivery.past_dot:
                    runner.task.cancel()

    def _end_if_idle(self) -> None:
        if not self._busy and not self.over.done():
            self.over.set_result(None)

    async def leave(self) -> None:
        """Last words: results to the manager, QUIT to peers."""
        await self._link.close(FAREWELL)
        goodbyes = self._means.clients.goodbyes
        if goodbyes:
            await asyncio.wait(goodbyes, timeout=FAREWELL)
        await self._resolver.close()


def _files() -> int:
    """How many files this process may open."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 16 if limit == resource.RLIM_INFINITY else limit


async def work(file: int, path: Path) -> int:
    """Be a worker until the manager says it is enough; returns the exit status."""
    loop = asyncio.get_running_loop()
    link = ManagerLink()
    await loop.create_connection(lambda: link, sock=socket.socket(fileno=file))
    told = await link.settings()
    if told is None:
        return 0
    try:
        worker = Worker(WorkerSettings.decode(told), path, link)
    except (ValueError, msgspec.DecodeError, OSError) as error:
        print(f"deliveryagent worker: cannot start: {error}", file=sys.stderr)  # noqa: T201
        return _BAD_SETTINGS
    # What exists now lives as long as the process; the collector need not look at it again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
    worker.begin()
    await worker.over
    await worker.leave()
    return 0


def main(arguments: Sequence[str]) -> int:
    """Run a worker on an inherited socket; ``arguments`` are its file number and the journal's
    path.
    """
    faulthandler.enable()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(work(int(arguments[0]), Path(arguments[1])))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
