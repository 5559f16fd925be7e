"""The composition root: builds an agent from its configuration, runs it, and ends it.

``serve`` is what ``dagent serve`` does. Order of the start: lock, schema, lease, what dead processes left
behind, workers, doors, readiness. Order of the end: doors, no more claims, running deliveries, their
outcomes, custody, lease, lock. An agent that lost its lease ends at once and begins anew as another one,
which first reads the journals of the old. Guarantees: a second agent on the same SQLite queue does not start;
a configuration that is bad at a reload changes nothing. This is the one place, besides ``doors`` and the
command line, that reads the clock.
"""

import asyncio
import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Coroutine
from typing import Any

from deliveryagent import __version__
from deliveryagent.agent.crew import Crew
from deliveryagent.agent.entrance import Entrance
from deliveryagent.agent.home import Home, journals_of
from deliveryagent.agent.manager import Manager
from deliveryagent.agent.membership import Membership
from deliveryagent.agent.readiness import Readiness
from deliveryagent.agent.reporting import Reporting
from deliveryagent.agent.schedule import Schedule
from deliveryagent.agent.upkeep import Upkeep
from deliveryagent.children import spare_collector
from deliveryagent.config import Config, ConfigError, parts
from deliveryagent.doors import Doors
from deliveryagent.log import EventLog
from deliveryagent.mail.envelope import new_queue_id
from deliveryagent.queue import inflow, leases, reports, sites, submissions
from deliveryagent.queue.ids import QueueIds
from deliveryagent.queue.thread import Database, StoreUnavailable

try:  # a dependency on Linux, where it doubles what a worker can carry
    from uvloop import new_event_loop
except ImportError:
    from asyncio import new_event_loop  # type: ignore[assignment] # called the same way

_STARTING = 0.2  # seconds until a reload is tried again that was asked for too early
_RECORD_TIME = 30.0  # seconds the last outcomes may take to be recorded when the service ends


class Service:
    """One agent while it runs."""

    def __init__(self, config: Config, read_again: Callable[[], Config]) -> None:
        self.config = config
        self.status = 0
        self.stop = asyncio.Event()
        self._read_again = read_again
        self._rng = random.Random()  # noqa: S311 - spreads load, protects nothing
        self._readiness = Readiness()
        self._log = EventLog(config.log, hostname=config.hostname)
        self._manager: Manager | None = None
        self._crew: Crew | None = None
        self._doors: Doors | None = None
        self._ids: QueueIds | None = None
        self._note_terms: Callable[[], asyncio.Future[None]] | None = None
        self._membership: Membership | None = None  # where other agents may work too
        self._tasks: list[asyncio.Task[None]] = []
        self._open = False  # mail is taken
        self.signals = 0  # that told us to stop
        self.fenced = False  # others took over what was ours

    async def run(self, *, until_idle: bool) -> int:
        """Serve until told to stop, or until nothing is runnable; returns the exit status."""
        async with contextlib.AsyncExitStack() as stack:
            agent = new_queue_id(time.time(), self._rng.getrandbits(12))
            entrance = Entrance(
                stack,
                self.config.queue.url,
                journals=journals_of(self.config.queue.url, self.config.run_dir),
                agent=agent,
                lease=self.config.queue.lease_time,
                now=time.time(),
                version=__version__,
            )
            identity, home = entrance.identity, entrance.home
            database = entrance.database(on_state=self._store_state, on_fenced=self._lose_lease)
            ids = await self._prepare(database)
            manager = self._manager = self._build_manager(database, agent, identity)
            stack.push_async_callback(self._end_tasks)
            membership = self._membership = await entrance.join(
                database, manager, clock=time.time, deaf=self._deaf
            )
            if membership is not None:
                self._begin(membership.run())
            owing = await self._recover(database, home, identity)
            home.move_in(agent)
            crew = self._start_crew(manager, home, identity)
            for queue_id in owing:
                manager.recorder.reporting.report(queue_id)
            doors = self._doors = Doors(
                self, manager=manager, database=database, ids=ids, log=self._log, agent=agent
            )
            try:
                await doors.open()
                self._open = True
                self._begin(manager.run())
                self._begin(self._upkeep(database, manager, agent).run())
                self._begin(self._feed_watchdog(manager))
                if until_idle:
                    self._begin(self._stop_when_idle(manager))
                self._settled_in()
                await self.stop.wait()
            finally:  # also when a door could not be opened
                await self._finish(manager, crew, doors)
                await self._end_tasks()
                if not self.fenced:
                    await self._leave(database, manager, agent)
                    home.move_out()
                await database.close(_RECORD_TIME)
        self._log.event("stopped", {"status": self.status}, now=time.time())
        self._log.close()
        return self.status

    # -- the start ---

    async def _prepare(self, database: Database) -> QueueIds:
        """What has to be done before the first message; returns the source of queue ids."""
        await database.submit(submissions.sweep_arriving, None)
        self._note_terms = lambda: database.submit(inflow.note_terms, parts.conditions(self.config))
        await self._note_terms()
        self._ids = QueueIds(
            last=await database.submit(submissions.newest, None),
            clock=time.time,
            rng=self._rng,
            mark=await database.submit(inflow.agent_mark, None),
        )
        return self._ids

    def _build_manager(self, database: Database, agent: int, identity: bytes) -> Manager:
        assert self._ids is not None
        rules = parts.rules(self.config)
        return Manager(
            database=database,
            agent=agent,
            identity=identity,
            schedule=Schedule(rules=rules, rng=self._rng),
            rules=rules,
            reporting=Reporting(
                database=database,
                composer=parts.composer(self.config, self._ids, time.time),
                log=self._log,
                clock=time.time,
            ),
            log=self._log,
            clock=time.time,
            rng=self._rng,
        )

    def _start_crew(self, manager: Manager, home: Home, identity: bytes) -> Crew:
        crew = self._crew = manager.crew = Crew(
            manager,
            count=self.config.delivery.workers or os.cpu_count() or 1,
            settings=lambda: parts.worker_settings(self.config, identity),
            journals=home.journals,
        )
        if self._membership is not None:
            crew.lease(self._membership.until)
        crew.start()
        return crew

    async def _recover(self, database: Database, home: Home, identity: bytes) -> list[int]:
        """Deal with what dead processes were at; returns the messages that owe a report."""
        await home.clear(
            database,
            identity=identity,
            retry=self.config.queue,
            clock=time.time,
            rng=self._rng,
        )
        assert self._manager is not None
        for state in await database.submit(sites.load, None):
            self._manager.sites.heard(state, time.time())
        return await database.submit(reports.pending, None)

    def _upkeep(self, database: Database, manager: Manager, agent: int) -> Upkeep:
        membership = self._membership
        return Upkeep(
            database=database,
            manager=manager,
            agent=agent,
            retention=self.config.queue.history_retention,
            clock=time.time,
            eldest=membership.is_eldest if membership is not None else lambda: True,
        )

    def _settled_in(self) -> None:
        spare_collector()
        self._readiness.ready("accepting and delivering")
        self._log.event("started", {"pid": os.getpid(), "version": __version__}, now=time.time())

    # -- while it runs ---

    def _store_state(self, writable: bool, reason: str) -> None:
        if self._manager is None:
            return
        self._manager.store_trouble = "" if writable else reason
        self._manager.custody.doubt()
        kind = "store_recovered" if writable else "store_failed"
        self._log.event(kind, {"reason": reason}, now=time.time())
        self._readiness.status("accepting and delivering" if writable else f"paused: {reason}")
        self._manager.nudge()

    def _deaf(self, reason: str) -> None:
        """News do not arrive, or do again (with an empty reason); the slow look at everything goes on."""
        if self._manager is not None:
            self._manager.custody.deaf = bool(reason)
        kind = "news_lost" if reason else "news_again"
        self._log.event(kind, {"reason": reason} if reason else {}, now=time.time())

    def _lose_lease(self) -> None:
        """Another agent took over what was ours: nothing more leaves here."""
        self.fenced = True
        self._log.event("lease_lost", {"pid": os.getpid()}, now=time.time())
        if self._crew is not None:
            self._crew.kill()
        self.stop.set()

    def _begin(self, wheel: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.create_task(self._guard(wheel)))

    async def _guard(self, wheel: Coroutine[Any, Any, None]) -> None:
        """A wheel that breaks ends the service with a clear word instead of standing still."""
        try:
            await wheel
        except Exception as error:
            self.status = 1
            self.stop.set()
            self._log.event(
                "failed", {"error": f"{type(error).__name__}: {error}"}, now=time.time()
            )
            raise

    async def _feed_watchdog(self, manager: Manager) -> None:
        """Tell systemd we are alive, as long as the scheduler makes progress and the store answers."""
        interval = self._readiness.watchdog_interval or 10.0
        seen = -1
        while True:
            await asyncio.sleep(interval)
            manager.nudge()
            if manager.progress != seen or manager.store_trouble:
                seen = manager.progress
                self._readiness.alive()

    async def _stop_when_idle(self, manager: Manager) -> None:
        await manager.idled.wait()
        self.stop.set()

    def watch_signals(self) -> None:
        """Do from now on what signals ask for, in place of an agent before this one."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._told_to_stop)
        loop.add_signal_handler(signal.SIGHUP, self.reload)

    def _told_to_stop(self) -> None:
        self.signals += 1
        if self.signals > 1 and self._crew is not None:
            self._crew.kill()
            if self._doors is not None:
                self._doors.kill()
        self.stop.set()

    def drain(self) -> None:
        """Stop claiming; what is owned is given back."""
        assert self._manager is not None
        self._manager.draining = True
        self._manager.release_all()
        if self._membership is not None:
            self._membership.tell()
        self._readiness.status("draining: no new claims")

    def reload(self) -> None:
        """Read the configuration again, and go by it unless it is bad."""
        if not self._open:  # not started yet
            asyncio.get_running_loop().call_later(_STARTING, self.reload)
            return
        assert self._manager is not None
        assert self._crew is not None
        assert self._doors is not None
        assert self._ids is not None
        self._readiness.reloading()
        now = time.time()
        try:
            config = self._read_again()
        except ConfigError as error:
            for problem in error.problems:
                self._log.event("reload_refused", {"problem": str(problem)}, now=now)
            self._readiness.ready("accepting and delivering; the last reload was refused")
            return
        self.config = config
        self._log.reopen(config.log)
        if self._note_terms is not None:
            self._note_terms().add_done_callback(asyncio.Future.exception)  # next start, if not now
        self._manager.reconfigure(parts.rules(config), parts.composer(config, self._ids, time.time))
        self._crew.replace(config.delivery.shutdown_grace)
        self._begin(self._reload_doors(self._doors))

    async def _reload_doors(self, doors: Doors) -> None:
        await doors.reload()
        if self.stop.is_set():
            return
        self._log.event("reloaded", {}, now=time.time())
        self._readiness.ready("accepting and delivering")

    # -- the end ---

    async def _finish(self, manager: Manager, crew: Crew, doors: Doors) -> None:
        """No new work, let running deliveries end, record what they say."""
        self._readiness.stopping("finishing deliveries")
        grace = 0.0 if self.fenced else self.config.delivery.shutdown_grace
        await doors.close(grace)
        manager.draining = True
        await crew.drain(grace)
        with contextlib.suppress(TimeoutError, StoreUnavailable):
            async with asyncio.timeout(_RECORD_TIME):
                await manager.recorder.done()

    async def _leave(self, database: Database, manager: Manager, agent: int) -> None:
        """Give everything back; where that cannot be recorded, the next start does it."""
        with contextlib.suppress(TimeoutError, StoreUnavailable):
            async with asyncio.timeout(_RECORD_TIME):
                await manager.leave()
                await database.submit(leases.retire, agent)

    async def _end_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def serve(config: Config, read_again: Callable[[], Config], *, until_idle: bool) -> int:
    """Run an agent in this process until it is told to stop; returns the exit status.

    Raises ``StoreError`` or ``LockHeld`` when the queue cannot be opened, ``OSError`` or ``ListenerError`` when
    a door cannot be.
    """

    async def start() -> int:
        service = Service(config, read_again)
        while True:
            service.watch_signals()
            status = await service.run(until_idle=until_idle)
            if not service.fenced or service.signals:
                return status
            service = Service(service.config, read_again)

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(start())
