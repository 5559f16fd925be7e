"""A listener: the process behind one ``[[listener]]``, ``python -m deliveryagent.intake.listener LINK SOCKET``.

The service starts it with two descriptors, its line to the service and a listening socket, and tells it the
rest. Guarantees: it says that it is ready when it accepts connections, or why it cannot; without its service
it ends at once, since it has nothing to say yes with; told to finish, it lets sessions come to their end.
Never opens the queue.
"""

import asyncio
import os
import random
import resource
import signal
import socket
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from deliveryagent.children import spare_collector
from deliveryagent.intake.accounts import Accounts
from deliveryagent.intake.arrivals import Arrivals
from deliveryagent.intake.door import Door
from deliveryagent.intake.door_building import build_door
from deliveryagent.intake.frames import Beat, Finish, Ready
from deliveryagent.intake.guard import SenderDomains
from deliveryagent.intake.hook_loading import load_hooks
from deliveryagent.intake.keeper import Keeper
from deliveryagent.intake.listener_terms import ListenerTerms
from deliveryagent.intake.server_tls import server_context
from deliveryagent.intake.service_link import ServiceLink
from deliveryagent.intake.smtp_session import SmtpSession
from deliveryagent.intake.taking import TakingTerms
from deliveryagent.log import EventLog
from deliveryagent.queue.ids import QueueIds
from deliveryagent.resolver.lookup import Resolver

try:  # a dependency on Linux, where it carries several times as many sessions
    from uvloop import new_event_loop
except ImportError:
    from asyncio import new_event_loop  # type: ignore[assignment] # called the same way

_BEAT = 1.0


class Listener:
    """The process while it runs."""

    def __init__(self, terms: ListenerTerms, link: ServiceLink, new_id: QueueIds) -> None:
        self._terms = terms
        self._link = link
        self._new_id = new_id
        self._log = EventLog(terms.log, hostname=terms.hostname)
        self._resolver = Resolver(terms.dns)
        self._hooks = load_hooks(terms.listener, trouble=self._hook_trouble)
        settings = terms.listener
        self._accounts = Accounts(Path(settings.users)) if settings.users else None
        self._arrivals = Arrivals(self._door())

    def _door(self) -> Door:
        settings, terms = self._terms.listener, self._terms
        keeper = Keeper(
            self._link,
            TakingTerms(
                hostname=terms.hostname,
                limits=terms.limits,
                part_size=terms.part_size,
                bulk_after=terms.bulk_after,
                nesting_limit=settings.mime_nesting_limit,
                key_header=settings.idempotency_key_header,
                clean=settings.bare_newline == "refuse",
            ),
            self._hooks,
            new_id=self._new_id,
            clock=time.time,
            trouble=self._trouble,
        )
        return build_door(
            settings,
            hostname=terms.hostname,
            size_limit=terms.limits.message_size_limit,
            hooks=self._hooks,
            accounts=self._accounts,
            tls=server_context(settings, terms.passphrase),
            keep=keeper,
            sender=SenderDomains(self._resolver),
            tell=self._tell,
            trouble=self._trouble,
        )

    async def run(self, listening: socket.socket) -> None:
        """Accept connections until the service wants us to end, or is gone."""
        loop = asyncio.get_running_loop()
        make = loop.create_unix_server if listening.family == socket.AF_UNIX else loop.create_server
        server = await make(
            lambda: SmtpSession(self._arrivals.door, self._arrivals), sock=listening
        )
        spare_collector()
        self._link.say(Ready())
        beating = asyncio.create_task(self._beat())
        await asyncio.wait(
            (self._link.finish, self._link.lost), return_when=asyncio.FIRST_COMPLETED
        )
        server.close()
        if not self._link.lost.done():
            wish: Finish = self._link.finish.result()
            closing = asyncio.create_task(self._arrivals.close(wish.grace, at_once=wish.at_once))
            await asyncio.wait((closing, self._link.lost), return_when=asyncio.FIRST_COMPLETED)
            closing.cancel()
        beating.cancel()
        await self._resolver.close()
        if self._accounts is not None:
            self._accounts.close()
        self._log.close()

    async def _beat(self) -> None:
        while True:
            self._link.say(Beat(len(self._arrivals), self._link.taken))
            await asyncio.sleep(_BEAT)

    def _tell(self, kind: str, fields: Mapping[str, Any]) -> None:
        self._log.event(kind, {"listener": self._terms.listener.address, **fields}, now=time.time())

    def _trouble(self, error: Exception) -> None:
        self._tell("listener_fault", {"error": f"{type(error).__name__}: {error}"})

    def _hook_trouble(self, name: str, stage: str, error: BaseException) -> None:
        self._tell(
            "hook_failed",
            {"hook": name, "stage": stage, "error": f"{type(error).__name__}: {error}"},
        )


async def _main(link_fd: int, listen_fd: int) -> int:
    loop = asyncio.get_running_loop()
    line = socket.socket(fileno=link_fd)
    line.setblocking(False)
    _, link = await loop.create_connection(ServiceLink, sock=line)
    await asyncio.wait((link.configured, link.lost), return_when=asyncio.FIRST_COMPLETED)
    if not link.configured.done():
        return 0
    told = link.configured.result()
    terms = ListenerTerms.decode(told.settings)
    rng = random.Random()  # noqa: S311 - tells ids apart, protects nothing
    new_id = QueueIds(last=told.last, clock=time.time, rng=rng, mark=told.mark)
    try:
        listener = Listener(terms, link, new_id)
    except (OSError, ValueError) as error:
        link.say(Ready(str(error)))
        await asyncio.wait((link.lost, link.finish), timeout=5.0)
        return 78
    await listener.run(socket.socket(fileno=listen_fd))
    return 0


def main() -> int:
    """Run a listener; the service ends it."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # they are the service's to act upon
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    link_fd, listen_fd = int(sys.argv[1]), int(sys.argv[2])
    with asyncio.Runner(loop_factory=new_event_loop) as runner, suppress(KeyboardInterrupt):
        status = runner.run(_main(link_fd, listen_fd))
    sys.stdout.flush()
    os._exit(status)  # a password that is being hashed must not hold us up


if __name__ == "__main__":
    sys.exit(main())
