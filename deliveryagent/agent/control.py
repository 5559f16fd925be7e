"""What people may ask and order of a running agent, over its local socket.

Every order takes and gives plain JSON objects. Orders that change recipients first take them out of the
scheduler's hands: what is in flight is left alone and counted as such, everything else is changed in the
store in bounded steps. Where several agents work, each obeys: what others own is asked back first, and they
hear of pauses and resets. Never decides who may ask: that is ``intake.admission``.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, TypeVar

import msgspec

from deliveryagent.agent.active import Site
from deliveryagent.agent.manager import Manager
from deliveryagent.agent.records import shown_record
from deliveryagent.mail.envelope import FINAL_STATUSES, format_queue_id, parse_queue_id
from deliveryagent.policy import concurrency
from deliveryagent.protocol.local import ExitCode, ServiceError
from deliveryagent.queue import course, orders, sites
from deliveryagent.queue.course import Tally
from deliveryagent.queue.operation import Operation
from deliveryagent.queue.orders import FOREVER, Kind, Order, Pause, Resume
from deliveryagent.queue.search import Filter
from deliveryagent.queue.selection import shown_by_id
from deliveryagent.queue.sites import SiteReset
from deliveryagent.queue.thread import Database

X = TypeVar("X")
R = TypeVar("R")

_LONGEST_WAIT = 3600.0


def _queue_id(asked: dict[str, Any]) -> int:
    try:
        return parse_queue_id(str(asked.get("id", "")))
    except ValueError as error:
        raise ServiceError(ExitCode.USAGE, str(error)) from None


Ask = Callable[[dict[str, Any], str], Awaitable[dict[str, Any]]]
"""An order: the request object and who asks ("root", "anna"); gives the answer object."""


class Control:
    """The orders of one agent, by name."""

    def __init__(
        self,
        *,
        manager: Manager,
        database: Database,
        clock: Callable[[], float],
        drain: Callable[[], None],
        reload: Callable[[], None],
        about: Mapping[str, Any],
        listeners: Callable[[], list[dict[str, Any]]] = list,
        agent: int = 0,
    ) -> None:
        self._manager = manager
        self._database = database
        self._clock = clock
        self._drain = drain
        self._reload = reload
        self._about = about
        self._listeners = listeners
        self._agent = agent

    def orders(self) -> dict[str, Ask]:
        """Every order by its name on the socket."""
        changes: dict[str, Ask] = {
            kind: self._changing(kind) for kind in ("retry", "hold", "release", "bounce", "delete")
        }
        return changes | {
            "status": self.status,
            "active": self.active,
            "dest": self.destination,
            "dest_pause": self.pause,
            "dest_resume": self.resume,
            "dest_reset": self.reset,
            "dest_reset_all": self.reset_all,
            "drain": self.drain,
            "reload": self.reload,
        }

    # -- looking ---

    async def status(self, _: dict[str, Any], __: str) -> dict[str, Any]:
        """The live state of manager, workers and sites in use."""
        manager, now = self._manager, self._clock()
        workers = manager.crew.workers if manager.crew else []
        sites = sorted(manager.schedule.sites.values(), key=lambda site: -site.busy)
        return {
            **self._about,
            "agent": format_queue_id(self._agent),
            "draining": manager.draining,
            "store": {"writable": not manager.store_trouble, "reason": manager.store_trouble},
            "active": sum(len(b.recipients) for b in manager.schedule.in_flight.values()),
            "in_memory": manager.schedule.size,
            "destinations": len(manager.schedule.destinations),
            "workers": [
                {
                    "pid": worker.pid,
                    "in_flight": worker.in_flight,
                    "sessions": worker.sessions,
                    "lag": worker.lag,
                    "restarts": worker.restarts,
                }
                for worker in workers
            ],
            "listeners": self._listeners(),
            "sites": [manager.sites.describe(site, now) for site in sites[:100]],
        }

    async def active(self, _: dict[str, Any], __: str) -> dict[str, Any]:
        """Recipients whose attempt is in flight: queue id, number, since when."""
        return {
            "recipients": [
                [format_queue_id(recipient.message_id), recipient.number, batch.dispatched]
                for batch in self._manager.schedule.in_flight.values()
                for recipient in batch.recipients
            ]
        }

    async def destination(self, asked: dict[str, Any], _: str) -> dict[str, Any]:
        """The site of a destination and its window, as far as this agent knows them now."""
        name, now = str(asked.get("name", "")).lower(), self._clock()
        site = self._manager.sites.of(name, now)
        return self._manager.sites.describe(site, now) if site else {"name": ""}

    async def wait(self, asked: dict[str, Any], sees: Callable[[str], bool]) -> dict[str, Any]:
        """A message once none of its recipients waits, or after ``timeout`` seconds.

        ``sees`` says whether the caller may see messages of an origin; others do not exist for it.
        """
        queue_id = _queue_id(asked)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + min(float(asked.get("timeout") or 0.0), _LONGEST_WAIT)
        with self._manager.recorder.watchers.watch(queue_id) as recorded:
            while True:
                recorded.clear()
                shown = await self._database.submit(shown_by_id, queue_id)
                if shown is None or not sees(shown.message.origin):
                    raise ServiceError(ExitCode.NOT_FOUND, f"there is no message {asked.get('id')}")
                left = deadline - loop.time()
                if shown.message.status in FINAL_STATUSES or left <= 0:
                    settings = self._manager.rules.retry
                    return {"message": shown_record(shown, settings, active=self._in_flight())}
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(left):
                        await recorded.wait()

    def _in_flight(self) -> set[tuple[int, int]]:
        return {
            (recipient.message_id, recipient.number)
            for batch in self._manager.schedule.in_flight.values()
            for recipient in batch.recipients
        }

    # -- changing ---

    def _changing(self, kind: Kind) -> Ask:
        async def change(asked: dict[str, Any], by: str) -> dict[str, Any]:
            order = Order(
                kind=kind,
                filter=msgspec.convert(asked.get("filter", {}), Filter),
                now=self._clock(),
                note=str(asked.get("note", ""))[:500] or f"by {by}",
                dry_run=bool(asked.get("dry_run")),
                agent=self._agent,
            )
            tally = await self._carry_out(order)
            shown = msgspec.structs.asdict(tally)
            del shown["owing"]
            return shown | {"sample": [format_queue_id(one) for one in tally.sample[:5]]}

        return change

    async def _carry_out(self, order: Order) -> Tally:
        tally = Tally()

        def active() -> set[tuple[int, int]]:
            return self._manager.schedule.active

        def report() -> None:
            owing, tally.owing = tally.owing, []
            for queue_id in owing:
                self._manager.recorder.reporting.report(queue_id)

        async def do(operation: Operation[X, R], item: X) -> R:
            report()
            return await self._database.submit(operation, item)

        try:
            async with self._still(dry_run=order.dry_run):
                foreign = await course.first(order, tally, active, do)
            # What other agents own is waited for while everything else goes on here.
            await course.rest(order, tally, active, do, foreign=foreign)
        finally:
            report()
        self._manager.nudge()
        return tally

    @contextlib.asynccontextmanager
    async def _still(self, *, dry_run: bool) -> AsyncIterator[None]:
        if dry_run:
            yield
            return
        async with self._manager.still():
            yield
        self._manager.nudge()

    async def pause(self, asked: dict[str, Any], by: str) -> dict[str, Any]:
        """Pause a destination, for a while or until resumed."""
        name, now = str(asked["name"]).lower(), self._clock()
        seconds = float(asked.get("for") or 0)
        until = now + seconds if seconds > 0 else FOREVER
        order = Pause(name=name, until=until, note=str(asked.get("note", ""))[:500], by=by)
        async with self._manager.still():
            known = await self._database.submit(orders.pause, order)
        return {"name": name, "until": until if seconds > 0 else None, "known": known}

    async def resume(self, asked: dict[str, Any], _: str) -> dict[str, Any]:
        """End a destination's pause."""
        name = str(asked["name"]).lower()
        done = await self._database.submit(orders.resume, Resume(name=name, now=self._clock()))
        self._manager.nudge()
        return {"name": name, "resumed": done}

    async def reset(self, asked: dict[str, Any], _: str) -> dict[str, Any]:
        """Forget that a destination's site failed: its window opens anew and its mail is tried now."""
        name, now = str(asked["name"]).lower(), self._clock()
        site = self._manager.sites.of(name, now)
        found = site.name if site is not None else ""
        if site is not None:
            self._open_anew(site, now)
        else:  # another agent may know it
            found = await self._database.submit(sites.reset, SiteReset(name, now))
        await self._database.submit(orders.resume, Resume(name=name, now=now))
        self._manager.schedule.reopen(now)
        self._manager.nudge()
        return {"name": name, "site": found}

    async def reset_all(self, _: dict[str, Any], __: str) -> dict[str, Any]:
        """Forget of every site that is closed that it failed, as ``postqueue -f`` does; pauses stay."""
        schedule, now = self._manager.schedule, self._clock()
        closed = [site for site in schedule.sites.values() if schedule.closed_until(site, now)]
        for site in closed:
            self._open_anew(site, now)
        schedule.reopen(now)
        self._manager.nudge()
        return {"sites": len(closed)}

    def _open_anew(self, site: Site, now: float) -> None:
        window = concurrency.opened(self._manager.rules.concurrency, limit=site.limit)
        self._manager.schedule.relearn(site, window)
        self._manager.sites.save(site, now)

    async def drain(self, _: dict[str, Any], __: str) -> dict[str, Any]:
        """Stop claiming; what runs is finished."""
        self._drain()
        return {"draining": True}

    async def reload(self, _: dict[str, Any], __: str) -> dict[str, Any]:
        """Read the configuration again."""
        self._reload()
        return {"reloading": True}
