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
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, assert_never

import msgspec

from deliveryagent.agent import frames, journal
from deliveryagent.agent.clients import Client, Clients
from deliveryagent.agent.connections import Connections
from deliveryagent.agent.delivery import Delivery
from deliveryagent.agent.errand import Means
from deliveryagent.agent.lane import begin
from deliveryagent.agent.ledger import Ledger
from deliveryagent.agent.lines import Lines
from deliveryagent.agent.manager_link import ManagerLink
from deliveryagent.agent.parts import Parts
from deliveryagent.agent.planner import Planner
from deliveryagent.agent.runner import Runner, Work
from deliveryagent.agent.staffing import Load
from deliveryagent.agent.worker_settings import WorkerSettings
from deliveryagent.mail.delivery import DeliveryRequest, DeliveryResult
from deliveryagent.mail.nexthop import NextHop, NextHopError, parse_next_hops
from deliveryagent.resolver.lookup import Resolver

new_event_loop: Callable[[], asyncio.AbstractEventLoop]
try:
    from uvloop import new_event_loop
except ImportError:  # pragma: no cover - no such loop on this system
    from asyncio import new_event_loop

BEAT = 1.0
ORPHAN_GRACE = 1.0  # seconds for deliveries before their final dot when the manager is gone
FAREWELL = 2.0  # seconds for last words: QUIT answers, frames to the manager
_PULSE = 0.02  # seconds between two looks at how late the event loop is, while there is work
_INERTIA = 0.8  # how much of what was measured before stays
_FIRST_LAG = (
    0.004  # seconds; what is assumed when work begins, so that a burst does not open all it may
)
UNKNOWN_TTL = 5.0  # seconds until an unknown site may be asked for again
MOST_DELIVERIES = 2_000
_SPARE_FILES = 200  # for name service sockets, farewells and the process itself
_BAD_SETTINGS = 78  # EX_CONFIG


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
        self.lines = Lines()
        self.means = Means(
            planner=Planner(self._resolver, rng),
            clients=Clients(settings),
            connections=Connections(limit=max(10, files // 4), spare=self.lines.spare),
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
        self._runners: list[Runner] = []
        self.free: list[Runner] = []
        self._busy = 0
        self._sequence = 0
        self._draining = False
        self._load = Load()
        self._lag = 0.0
        self._pulsing = False
        self._asides: set[asyncio.Task[None]] = set()  # what is done besides deliveries
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
                if self.lines.add(frame.request) or self._draining:
                    self._pump()
            case frames.Settled():
                self.means.journal.settled(frame.sequence)
                self._pump()
            case frames.Part():
                self.means.parts.arrived(frame)
            case frames.Lookup():
                self._in_background(self._look_up(frame))
            case frames.Hosts():
                self.means.planner.learn(*self._first_hop(frame), frame.hosts, frame.ttl)
            case frames.Release():
                self._in_background(self._release(frame))
            case frames.Lease():
                self.means.lease.until = frame.until
            case frames.Drain():
                self._drain(frame.grace)
            case frames.Room():
                for unbegun in self.lines.room(frame.site, frame.limit):
                    self._answer_unbegun(unbegun, None)
                if frame.limit:
                    self.means.connections.fit(frame.site)
                else:
                    self.means.connections.release([frame.site])
                self._pump()
            case frames.Configure():
                return  # settings are for life: new ones mean new workers
            case _:
                assert_never(frame)

    def orphaned(self) -> None:
        """The manager is gone: end soon; the next one waits for what this process is at."""
        self._drain(ORPHAN_GRACE)

    def _beat(self, expected: float) -> None:
        lag = max(0.0, self._loop.time() - expected)
        sessions = len(self.means.connections) + self._busy
        self._link.say(frames.Beat(lag, sessions, self._load.lately()))
        self._loop.call_later(BEAT, self._beat, self._loop.time() + BEAT)

    def _pulse(self, expected: float) -> None:
        """Measure how late the event loop is: much, and requests wait for this process, not for their peers."""
        now = self._loop.time()
        self._lag = self._lag * _INERTIA + max(0.0, now - expected) * (1.0 - _INERTIA)
        if self.lines.breathe(self._lag):
            self._pump()
        self._pulsing = self._busy > 0
        if self._pulsing:
            self._loop.call_later(_PULSE, self._pulse, now + _PULSE)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._asides.add(task)
        task.add_done_callback(self._asides.discard)

    async def _look_up(self, question: frames.Lookup) -> None:
        name, ttl, hosts = "", UNKNOWN_TTL, None
        try:
            hop, client = self._first_hop(question)
            name, ttl, hosts = await self.means.planner.site(hop, client)
        except NextHopError:
            pass  # its requests will say so
        except Exception as error:  # noqa: BLE001 - unanswered, the manager would wait for ever
            self.report_fault(error)
        self._link.say(frames.Site(question.serial, name, ttl, hosts))

    def _first_hop(self, asked: frames.Lookup | frames.Hosts) -> tuple[NextHop, Client]:
        hop = parse_next_hops(asked.next_hop)[0]
        return hop, self.means.clients.of(asked.route, "smtp" if hop.final else hop.transport)

    # -- deliveries ---

    def _pump(self) -> None:
        """Begin what can be begun; while draining, send back what cannot."""
        if self._draining:
            for unbegun in self.lines.clear():
                self._answer_unbegun(unbegun, None)
            return
        while self.free or len(self._runners) < self._most:
            work = self.next_work()
            if work is None:
                return
            if self.free:
                self.free.pop().take(work)
            else:
                self._runners.append(Runner(self, work))

    def next_work(self) -> Work | None:
        """The next request to carry out, noted in the journal; None if there is none, or no slot."""
        lines = self.lines
        while not self._draining and (line := lines.first()) is not None:
            request = line.waiting[0]
            try:
                slot = self.means.journal.start(request)
            except ValueError as error:
                self._answer_unbegun(lines.drop(line), error)
                continue
            if slot is None:
                return None
            self._busy += 1
            if not self._pulsing:
                self._pulsing = True
                self._lag = _FIRST_LAG
                self.lines.breathe(self._lag)
                self._loop.call_later(_PULSE, self._pulse, self._loop.time() + _PULSE)
            return begin(self, lines.begin(line), slot)
        return None

    def _answer_unbegun(self, request: DeliveryRequest, error: ValueError | None) -> None:
        """Answer a request without beginning it: untried, or deferred because of a fault."""
        ledger = Ledger(request, self.means.clock())
        if error is None:
            ledger.stop()
        else:
            self.report_fault(error)
            ledger.give_up(error)
        self._link.report(msgspec.msgpack.encode(ledger.result()))

    def finish(self, delivery: Delivery) -> None:
        """A delivery is over."""
        result = delivery.result(0 if delivery.untried else self.number())
        self.conclude(delivery.slot, result, soon=True)
        self.vacate(delivery.site)

    # what lanes ask

    def number(self) -> int:
        """The sequence number of the next result."""
        self._sequence += 1
        return self._sequence

    def conclude(self, slot: int, result: DeliveryResult, *, soon: bool) -> None:
        """A request is over: note its outcome, then tell it; number 0 means that it was not tried."""
        if result.sequence:
            self._link.report(self.means.journal.replied(slot, result), soon=soon)
        else:
            self.means.journal.drop(slot)
            self._link.report(msgspec.msgpack.encode(result))

    def crowd(self, site: str) -> None:
        """One more request of a site is in work than has a place of its own."""
        self._busy += 1
        self.lines.crowd(site)

    def vacate(self, site: str) -> None:
        """A place is free again."""
        self._busy -= 1
        self.lines.end(site)
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
        self.means.connections.close()
        self._loop.call_later(grace, self._cut)
        self._end_if_idle()

    def _cut(self) -> None:
        for runner in self._runners:
            runner.cut()

    def _end_if_idle(self) -> None:
        if not self._busy and not self.over.done():
            self.over.set_result(None)

    async def _release(self, asked: frames.Release) -> None:
        """End idle sessions, and say so when their peers know: others are about to open as many."""
        self.means.connections.release(asked.sites)
        goodbyes = set(self.means.clients.goodbyes)
        if goodbyes:
            _, deaf = await asyncio.wait(goodbyes, timeout=FAREWELL / 2)
            for goodbye in deaf:
                goodbye.cancel()
            await asyncio.wait(goodbyes)
        self._link.say(frames.Released(asked.serial))

    async def leave(self) -> None:
        """Last words: results to the manager, QUIT to peers."""
        await self._link.close(FAREWELL)
        goodbyes = self.means.clients.goodbyes
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
