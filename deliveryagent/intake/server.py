"""Receive mail in Python, with everything a listener can do: ``from deliveryagent.intake import Server``.

::

    def receive(session, message):
        print(message.sender, message.recipients, message.header("Subject"))

    Server(receive, address="127.0.0.1:8025").run()

The first argument is a hook (``intake.hook.Hook``): a function that gets every message, or an object with
methods for the stages it cares about. A message is the client's to forget when the hook has returned nothing
or ``Accept``: what has to last must have been stored by then. Everybody may send to everybody, since nothing
is relayed; a hook with ``rcpt`` decides about recipients itself. Guarantees: those of a listener; an error of
the hook is a 4xx, logged to ``logging.getLogger("deliveryagent.intake")``. Never opens a queue.
"""

import asyncio
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Self

from deliveryagent.intake.accounts import Accounts
from deliveryagent.intake.arrivals import Arrivals
from deliveryagent.intake.door import Done, Door
from deliveryagent.intake.door_building import build_door
from deliveryagent.intake.hook_loading import load_hooks
from deliveryagent.intake.hooks import stages_of
from deliveryagent.intake.judging import judge
from deliveryagent.intake.listener_settings import ListenerSettings
from deliveryagent.intake.listening import Opened, listen_tcp, open_place
from deliveryagent.intake.message import Message
from deliveryagent.intake.places import TcpPlace, parse_place
from deliveryagent.intake.server_tls import server_context
from deliveryagent.intake.smtp_session import SmtpSession
from deliveryagent.intake.spool import Spool
from deliveryagent.mail.verdict import Accept, Tempfail
from deliveryagent.protocol.session import Recipient, Session
from deliveryagent.protocol.smtpd_steps import Kept, Outcome

_log = logging.getLogger("deliveryagent.intake")
_TROUBLE = Outcome(Tempfail(code=451, enhanced="4.3.0", text="Internal trouble, try again later"))
_GRACE = 5.0  # seconds sessions get to end


class _Everybody:
    """Takes every recipient, where the handler does not decide."""

    def rcpt(self, session: Session, recipient: Recipient) -> Accept:
        """Yes."""
        del session, recipient
        return Accept()


class Server:
    """A server for SMTP, submission or LMTP; the options are those of a ``[[listener]]`` (``kind="smtp"``).

    ``hostname`` is what it calls itself, ``message_size_limit`` is in octets (0: no limit). Options that make
    no sense are a ``ValueError``, here or when it starts. Use it as an asynchronous context manager, as an
    ordinary one (it runs in a thread of its own then), or call :meth:`run`.
    """

    def __init__(
        self,
        handler: object,
        *,
        hostname: str = "",
        message_size_limit: int = 50_000_000,
        passphrase: str = "",
        **options: Any,
    ) -> None:
        given: dict[str, Any] = {
            "kind": "smtp",
            "address": "127.0.0.1:8025",
            "check_sender_domain": False,
        } | options
        settings = self._settings = ListenerSettings(**given)
        if not stages_of(handler):
            raise ValueError("the handler has no method for any stage and cannot be called")
        hooks = [("handler", handler)]
        if "rcpt" not in stages_of(handler):
            hooks.append(("everybody", _Everybody()))
        self._hooks = load_hooks(settings, trouble=_hook_trouble, first=hooks)
        self._accounts = Accounts(Path(settings.users)) if settings.users else None
        self._hostname = hostname or socket.getfqdn()
        self._size_limit = message_size_limit
        self._context = server_context(settings, passphrase)
        self._arrivals: Arrivals | None = None
        self._opened: Opened | None = None
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Future[Any]] = set()
        self._thread: _InThread | None = None
        self.address: Any = None
        """Where it listens, as the socket says: ``(host, port)`` or a path."""

    # -- from asynchronous code ---

    async def start(self) -> None:
        """Listen; raises ``OSError`` when that cannot be had."""
        arrivals = self._arrivals = Arrivals(self._door())
        self._opened = _open(self._settings)
        loop = asyncio.get_running_loop()
        listening = socket.socket(fileno=os.dup(self._opened.descriptor))
        try:
            self.address = listening.getsockname()
            local = listening.family == socket.AF_UNIX
            make = loop.create_unix_server if local else loop.create_server
            self._server = await make(lambda: SmtpSession(arrivals.door, arrivals), sock=listening)
        except BaseException:
            listening.close()
            self._opened.close()
            raise

    async def stop(self, grace: float = _GRACE) -> None:
        """Listen no more; sessions get ``grace`` seconds to end."""
        if self._server is not None:
            self._server.close()
        if self._opened is not None:
            self._opened.close()
        if self._arrivals is not None:
            await self._arrivals.close(grace, at_once=True)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace)
        if self._accounts is not None:
            self._accounts.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    # -- from anywhere else ---

    def run(self) -> None:
        """Serve until interrupted."""

        async def serve() -> None:
            async with self:
                await asyncio.Event().wait()

        with suppress(KeyboardInterrupt):
            asyncio.run(serve())

    def __enter__(self) -> Self:
        self._thread = _InThread(self)
        self._thread.begin()
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread is not None:
            self._thread.end()

    # -- inside ---

    def _door(self) -> Door:
        return build_door(
            self._settings,
            hostname=self._hostname,
            size_limit=self._size_limit,
            hooks=self._hooks,
            accounts=self._accounts,
            tls=self._context,
            keep=self._keep,
            tell=_tell,
            trouble=_trouble,
        )

    def _keep(self, session: Session, spool: Spool, done: Done) -> None:
        async def handled() -> None:
            assert session.transaction is not None
            try:
                message = Message(session, session.transaction, spool.whole())
                found = await judge(self._hooks, message, time.time())
                done(found.outcome or Outcome(Kept(found.text or "Ok"), found.refused))
            except Exception as error:  # noqa: BLE001 - a fault must cost one message only
                _trouble(error)
                done(_TROUBLE)

        self._hold(asyncio.ensure_future(handled()))

    def _hold(self, task: asyncio.Future[Any]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _open(settings: ListenerSettings) -> Opened:
    """The socket; port 0 is any that is free."""
    host, _, port = settings.address.rpartition(":")
    if port == "0":
        place = parse_place(f"{host}:1")
        if isinstance(place, TcpPlace):
            return Opened(listen_tcp(replace(place, port=0)))
    mode = int(settings.socket_mode, 8)
    return open_place(settings.address, mode=mode, group=settings.socket_group, inherited=())


class _InThread:
    """A server in a thread of its own."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._started: Future[None] = Future()
        self._end: Callable[[], object] | None = None
        self._thread = threading.Thread(target=self._run, name="mail server", daemon=True)

    def begin(self) -> None:
        """Return when it listens; raises what it raised."""
        self._thread.start()
        self._started.result()

    def end(self) -> None:
        """Return when it has ended."""
        if self._end is not None:
            self._end()
        self._thread.join()

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        over = asyncio.Event()
        loop = asyncio.get_running_loop()
        try:
            await self._server.start()
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            self._started.set_exception(error)
            return
        self._end = partial(loop.call_soon_threadsafe, over.set)
        self._started.set_result(None)
        await over.wait()
        await self._server.stop()


def _tell(kind: str, fields: Mapping[str, Any]) -> None:
    _log.info("%s %s", kind, dict(fields))


def _trouble(error: Exception) -> None:
    _log.error("%s: %s", type(error).__name__, error, exc_info=error)


def _hook_trouble(name: str, stage: str, error: BaseException) -> None:
    _log.error("%s failed at %s: %s", name, stage, error, exc_info=error)
