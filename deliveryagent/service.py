"""The composition root: builds an agent from its configuration, runs it, and ends it.

``serve`` is what ``dagent serve`` does. Order of the start: lock, schema, what dead processes left behind,
workers, socket, readiness. Order of the end: no more claims, running deliveries, their outcomes, custody,
lease, lock. Guarantees: a second agent on the same SQLite queue does not start; a configuration that is bad
at a reload changes nothing. This is the one place, besides the command line, that reads the clock.
"""

import asyncio
import contextlib
import os
import random
import signal
import socket
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from deliveryagent import __version__
from deliveryagent.agent import recovery
from deliveryagent.agent.control import Control
from deliveryagent.agent.crew import Crew
from deliveryagent.agent.manager import Manager
from deliveryagent.agent.readiness import Readiness, inherited_sockets
from deliveryagent.agent.reporting import Reporting
from deliveryagent.agent.schedule import Schedule
from deliveryagent.agent.upkeep import LEASE, Upkeep
from deliveryagent.config import Config, ConfigError, parts
from deliveryagent.config.location import SOCKET_NAME, queue_file
from deliveryagent.intake.admission import Admission, Peer
from deliveryagent.intake.local_socket import LocalSocket
from deliveryagent.intake.queue_door import QueueDoor
from deliveryagent.intake.session import OpenOrder
from deliveryagent.log import EventLog
from deliveryagent.mail.envelope import format_queue_id, new_queue_id
from deliveryagent.queue import leases, reports, sites, submissions
from deliveryagent.queue.engine import open_writer
from deliveryagent.queue.ids import QueueIds
from deliveryagent.queue.lock import LockHeld, QueueLock
from deliveryagent.queue.submissions import Submission
from deliveryagent.queue.thread import Database
from deliveryagent.queue.upgrade import ensure

try:  # a dependency on Linux, where it doubles what a worker can carry
    from uvloop import new_event_loop
except ImportError:
    from asyncio import new_event_loop  # type: ignore[assignment] # called the same way

_LOCK_TIME = 3.0  # seconds to wait for a queue that another process writes to
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
        self._ids: QueueIds | None = None
        self._signals = 0

    async def run(self, *, until_idle: bool) -> int:
        """Serve until told to stop, or until nothing is runnable; returns the exit status."""
        async with contextlib.AsyncExitStack() as stack:
            database, identity = self._open_store(stack)
            agent = await self._register(database)
            ids = QueueIds(
                last=await database.submit(submissions.newest, None), clock=time.time, rng=self._rng
            )
            self._ids = ids
            manager = self._manager = self._build_manager(database, agent, identity)
            owing = await self._recover(database, identity)
            crew = self._crew = manager.crew = Crew(
                manager,
                count=self.config.delivery.workers or os.cpu_count() or 1,
                settings=lambda: parts.worker_settings(self.config, identity),
                journals=self._journals(),
            )
            crew.start()
            for queue_id in owing:
                manager.recorder.reporting.report(queue_id)
            upkeep = Upkeep(
                database=database,
                manager=manager,
                agent=agent,
                retention=self.config.queue.history_retention,
                clock=time.time,
            )
            door = await self._open_door(database, manager, ids)
            self._watch_signals()
            wheels = [manager.run(), upkeep.run(), self._feed_watchdog(manager)]
            if until_idle:
                wheels.append(self._stop_when_idle(manager))
            tasks = [asyncio.create_task(self._guard(wheel)) for wheel in wheels]
            self._readiness.ready("accepting and delivering")
            self._log.event(
                "started", {"pid": os.getpid(), "version": __version__}, now=time.time()
            )
            await self.stop.wait()
            await self._finish(manager, crew, door)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await manager.leave()
            await database.submit(leases.retire, agent)
            await database.close(_RECORD_TIME)
        self._log.event("stopped", {"status": self.status}, now=time.time())
        self._log.close()
        return self.status

    # -- the start ---

    def _open_store(self, stack: contextlib.AsyncExitStack) -> tuple[Database, bytes]:
        url = self.config.queue.url
        file = queue_file(url)
        if file is not None:
            stack.enter_context(_locked(Path(file)))
        engine = open_writer(url)
        stack.callback(engine.dispose)
        identity = ensure(engine)
        self._journals().mkdir(mode=0o700, parents=True, exist_ok=True)
        return Database(engine, on_state=self._store_state), identity

    def _journals(self) -> Path:
        file = queue_file(self.config.queue.url)
        state = (
            Path(file).parent
            if file
            else Path(os.environ.get("STATE_DIRECTORY") or self.config.run_dir)
        )
        return state / "journal"

    async def _register(self, database: Database) -> int:
        now = time.time()
        agent = new_queue_id(now, self._rng.getrandbits(12))
        lease = leases.Lease(agent, socket.gethostname(), os.getpid(), now, now + LEASE)
        alone = queue_file(self.config.queue.url) is not None
        await database.submit(leases.recover, leases.Recovery(now, alone))
        await database.submit(leases.register, lease)
        await database.submit(submissions.sweep_arriving, None)
        return agent

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

    async def _recover(self, database: Database, identity: bytes) -> list[int]:
        """Deal with what dead processes were at; returns the messages that owe a report."""
        for path in sorted(self._journals().glob("*.journal")):
            await recovery.replay(
                path,
                identity=identity,
                database=database,
                now=time.time(),
                retry=self.config.queue,
                rng=self._rng,
            )
        assert self._manager is not None
        for state in await database.submit(sites.load, None):
            if state.closed_until is not None:
                self._manager.schedule.remember(
                    state.name, state.closed_until, state.reason, time.time()
                )
        return await database.submit(reports.pending, None)

    async def _open_door(self, database: Database, manager: Manager, ids: QueueIds) -> LocalSocket:
        config = self.config
        door = QueueDoor(
            database=database,
            trouble=lambda: manager.store_trouble,
            accepted=self._accepted,
            new_id=ids,
        )
        control = Control(
            manager=manager,
            database=database,
            clock=time.time,
            drain=self._drain,
            reload=self._reload,
            about={"pid": os.getpid(), "started": time.time(), "version": __version__},
        )
        local = LocalSocket(
            Path(config.run_dir) / SOCKET_NAME,
            submitter=door,
            orders=control.orders(),
            admission=Admission(settings=config.submit, service_uid=os.geteuid()),
            terms=lambda: parts.terms(self.config),
            open_orders={"wait": self._waiting(control)},
            inherited=inherited_sockets(os.environ, os.getpid()).get("local"),
        )
        await local.start()
        return local

    def _waiting(self, control: Control) -> OpenOrder:
        async def wait(asked: dict[str, Any], peer: Peer) -> dict[str, Any]:
            return await control.wait(asked, lambda origin: peer.admin or origin == peer.origin)

        return wait

    # -- while it runs ---

    def _accepted(self, submission: Submission) -> None:
        assert self._manager is not None
        self._manager.nudge()
        fields: dict[str, str | int] = {
            "id": format_queue_id(submission.queue_id),
            "sender": submission.envelope.sender,
            "recipients": len(submission.envelope.recipients),
            "size": submission.facts.size,
            "origin": submission.origin,
        }
        self._log.event("queued", fields, now=time.time())

    def _store_state(self, writable: bool, reason: str) -> None:
        if self._manager is None:
            return
        self._manager.store_trouble = "" if writable else reason
        kind = "store_recovered" if writable else "store_failed"
        self._log.event(kind, {"reason": reason}, now=time.time())
        self._readiness.status("accepting and delivering" if writable else f"paused: {reason}")
        self._manager.nudge()

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

    def _watch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._told_to_stop)
        loop.add_signal_handler(signal.SIGHUP, self._reload)

    def _told_to_stop(self) -> None:
        self._signals += 1
        if self._signals > 1 and self._crew is not None:
            self._crew.kill()
        self.stop.set()

    def _drain(self) -> None:
        assert self._manager is not None
        self._manager.draining = True
        self._readiness.status("draining: no new claims")

    def _reload(self) -> None:
        assert self._manager is not None
        assert self._crew is not None
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
        self._manager.reconfigure(parts.rules(config), parts.composer(config, self._ids, time.time))
        self._crew.replace(config.delivery.shutdown_grace)
        self._log.event("reloaded", {}, now=now)
        self._readiness.ready("accepting and delivering")

    # -- the end ---

    async def _finish(self, manager: Manager, crew: Crew, door: LocalSocket) -> None:
        """No new work, let running deliveries end, record what they say."""
        self._readiness.stopping("finishing deliveries")
        await door.stop()
        manager.draining = True
        await crew.drain(self.config.delivery.shutdown_grace)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_RECORD_TIME):
                await manager.recorder.done()


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


def serve(config: Config, read_again: Callable[[], Config], *, until_idle: bool) -> int:
    """Run an agent in this process until it is told to stop; returns the exit status.

    Raises ``StoreError`` or ``LockHeld`` when the queue cannot be opened.
    """

    async def start() -> int:
        return await Service(config, read_again).run(until_idle=until_idle)

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(start())
