"""The doors of an agent, opened, changed and closed together: the local socket and the listeners.

Guarantees: when ``open`` returns, every one of them takes mail; what comes in by any of them is told to the
manager and to the log alike, after its commit. Never decides about mail.
"""

import asyncio
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from deliveryagent import __version__
from deliveryagent.agent.control import Control
from deliveryagent.agent.manager import Manager
from deliveryagent.agent.readiness import inherited_copy, inherited_sockets
from deliveryagent.config import Config, parts
from deliveryagent.config.location import SOCKET_NAME
from deliveryagent.config.secrets import read_secret
from deliveryagent.intake.admission import Admission, Peer
from deliveryagent.intake.listener_settings import ListenerSettings
from deliveryagent.intake.listeners import Listeners, Office
from deliveryagent.intake.local_socket import LocalSocket
from deliveryagent.intake.queue_door import QueueDoor
from deliveryagent.log import EventLog
from deliveryagent.mail.envelope import format_queue_id
from deliveryagent.mail.submission import Submission
from deliveryagent.queue import inflow, submissions
from deliveryagent.queue.ids import QueueIds
from deliveryagent.queue.thread import Database

_LOCAL = "local"  # what the unit of the local socket calls it


class Household(Protocol):
    """What the doors need of the service they belong to. The configuration changes with every reload."""

    config: Config

    def drain(self) -> None:
        """Stop claiming."""

    def reload(self) -> None:
        """Read the configuration again."""


class Doors:
    """All ways into one agent, whose id is ``agent``."""

    def __init__(
        self,
        household: Household,
        *,
        manager: Manager,
        database: Database,
        ids: QueueIds,
        log: EventLog,
        agent: int,
    ) -> None:
        self._household = household
        self._manager = manager
        self._log = log
        door = QueueDoor(
            database=database,
            trouble=lambda: manager.store_trouble,
            coming=manager.coming,
            accepted=self._accepted,
            new_id=ids,
        )
        self._listeners = self._gathered(door, database)
        self._control = Control(
            manager=manager,
            database=database,
            clock=time.time,
            drain=household.drain,
            reload=household.reload,
            about={"pid": os.getpid(), "started": time.time(), "version": __version__},
            listeners=self._listeners.describe,
            agent=agent,
        )
        self._local = LocalSocket(
            Path(household.config.run_dir) / SOCKET_NAME,
            submitter=door,
            orders=self._control.orders(),
            admission=Admission(settings=household.config.submit, service_uid=os.geteuid()),
            terms=lambda: parts.terms(household.config),
            open_orders={"wait": self._wait},
            inherited=inherited_copy(os.environ, os.getpid(), _LOCAL),
        )

    def _gathered(self, door: QueueDoor, database: Database) -> Listeners:
        held = inherited_sockets(os.environ, os.getpid())
        return Listeners(
            Office(
                submitter=door,
                terms=self._terms,
                mark=lambda: database.submit(inflow.listener_mark, None),
                newest=lambda: database.submit(submissions.newest, None),
                tell=self._tell,
                trouble=self._trouble,
                inherited=[one for one in held if one[0] != _LOCAL],
            )
        )

    async def open(self) -> None:
        """Begin to take mail; raises ``OSError`` or ``ListenerError`` when a door cannot be opened."""
        await self._listeners.start(self._household.config.listener)
        await self._local.start()  # last: who reaches it may take all of the service to be there

    async def reload(self) -> None:
        """Follow the new configuration."""
        await self._listeners.replace(self._household.config.listener)

    async def close(self, grace: float) -> None:
        """Take no more mail; what is being received over a listener gets ``grace`` seconds to end."""
        await asyncio.gather(self._local.stop(), self._listeners.stop(grace))

    def kill(self) -> None:
        """End all listener processes at once."""
        self._listeners.kill()

    def _accepted(self, submissions: Sequence[Submission]) -> None:
        self._manager.arrived(submissions)
        events: list[dict[str, str | int]] = [
            {
                "id": format_queue_id(one.queue_id),
                "sender": one.envelope.sender,
                "recipients": len(one.envelope.recipients),
                "size": one.facts.size,
                "origin": one.origin,
            }
            for one in submissions
        ]
        self._log.events("queued", events, now=time.time())

    async def _wait(self, asked: dict[str, Any], peer: Peer) -> dict[str, Any]:
        return await self._control.wait(asked, lambda origin: peer.admin or origin == peer.origin)

    def _terms(self, settings: ListenerSettings) -> bytes:
        source = settings.tls_key_passphrase
        passphrase = read_secret(source) if source else ""
        return parts.listener_terms(self._household.config, settings, passphrase).encode()

    def _tell(self, kind: str, fields: dict[str, Any]) -> None:
        self._log.event(kind, fields, now=time.time())

    def _trouble(self, error: Exception) -> None:
        asyncio.get_running_loop().call_exception_handler(
            {"message": "fault in a listener", "exception": error}
        )
