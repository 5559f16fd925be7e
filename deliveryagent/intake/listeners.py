"""The listeners of a service: their sockets, and a process for each.

The sockets belong to the service, so a process that dies, or is replaced at a reload, refuses nobody: clients
wait in the backlog for its successor. Guarantees: at the start every listener accepts connections, or
``ListenerError`` says which does not and why; later one that fails is logged and tried again, and the others
are not disturbed; a reload that a listener cannot follow leaves it as it was; no two processes that live at a
time draw queue ids under one mark. Never speaks to a client.
"""

import asyncio
import contextlib
import errno
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from deliveryagent import children
from deliveryagent.intake.frames import Configure, Finish
from deliveryagent.intake.listener_link import Listener
from deliveryagent.intake.listener_settings import ListenerSettings
from deliveryagent.intake.listening import Opened, inherited_for, open_place
from deliveryagent.intake.places import parse_place
from deliveryagent.intake.submit import Submitter
from deliveryagent.protocol.local import ExitCode
from deliveryagent.queue.thread import StoreUnavailable

PROCESS = "deliveryagent.intake.listener"
MARKS = 1024  # below are the listeners', where there is one agent (``queue.ids``)
_START_TIME = 60.0  # seconds a process may take until it accepts connections
_VACATE_TIME = 5.0  # seconds a former process may take to let go of an address
_LAST_MOMENT = 2.0  # seconds beyond the grace until a process is killed
_PAUSE = 0.1

Tell = Callable[[str, dict[str, Any]], None]
"""Writes an event of this kind to the log."""


class ListenerError(Exception):
    """A listener cannot be started; the message says which and why.

    ``code`` is an exit status: bad configuration, where another start would not mend it, else failed.
    """

    def __init__(self, text: str, code: int = ExitCode.FAILED) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True, kw_only=True)
class Office:
    """What all listeners work with.

    ``terms`` gives what a process is told (``ListenerTerms``, encoded), raising ``OSError`` or ``ValueError``
    when that cannot be had. ``mark`` draws a mark from the store, None where nobody else writes to it;
    ``newest`` is the largest queue id there. ``inherited`` are the names and descriptors of the sockets the
    service manager holds for us. ``trouble`` hears of faults of this program.
    """

    submitter: Submitter
    terms: Callable[[ListenerSettings], bytes]
    mark: Callable[[], Awaitable[int | None]]
    newest: Callable[[], Awaitable[int]]
    tell: Tell
    trouble: Callable[[Exception], None]
    inherited: Sequence[tuple[str, int]] = ()
    process: str = PROCESS


@dataclass(eq=False)
class _Post:
    """One address: its socket, who serves there now, and those who serve their last sessions."""

    settings: ListenerSettings  # those it was opened with
    opened: Opened
    serving: Listener | None = None
    leaving: list[Listener] = field(default_factory=list)


class Listeners:
    """All listeners of one service. All methods belong to one event loop."""

    def __init__(self, office: Office) -> None:
        self._office = office
        self._posts: dict[tuple[str, ...], _Post] = {}
        self._tasks: dict[asyncio.Task[None], Listener] = {}
        self._marks: set[int] = set()
        self._next_mark = 0
        self._changing = asyncio.Lock()
        self._stopping = False

    # -- the start, a reload, the end ---

    async def start(self, wanted: Sequence[ListenerSettings]) -> None:
        """Open every socket and start every process; raises ``ListenerError`` when one cannot be had."""
        async with self._changing:
            try:
                await self._open_all(wanted)
                await self._begin_all()
            except ListenerError:
                await self.stop(0.0)
                raise

    async def _open_all(self, wanted: Sequence[ListenerSettings]) -> None:
        bad: list[str] = []
        for settings in wanted:
            try:
                self._posts[_key(settings)] = _Post(settings, await self._open(settings))
            except OSError as error:
                bad.append(f"listener {settings.address}: {_words(error)}")
        if bad:
            raise ListenerError("; ".join(bad))
        for name, descriptor in self._office.inherited:
            held = [(name, descriptor)]
            if not any(inherited_for(parse_place(one.address), held) for one in wanted):
                # Nobody accepts what the service manager holds for us: its clients wait in vain.
                self._office.tell("socket_unused", {"name": name})

    async def _begin_all(self) -> None:
        for post in self._posts.values():
            post.serving = self._begin(post, post.settings)
        found = [post.serving for post in self._posts.values() if post.serving is not None]
        problems = await asyncio.gather(*map(self._settled, found))
        told = zip(found, problems, strict=True)
        bad = [f"listener {one.settings.address}: {problem}" for one, problem in told if problem]
        if bad:
            lasting = any(listener.lasting for listener in found)
            code = ExitCode.BAD_CONFIGURATION if lasting else ExitCode.FAILED
            raise ListenerError("; ".join(bad), code)

    async def replace(self, wanted: Sequence[ListenerSettings]) -> None:
        """Follow a new configuration: new processes first, then the old ones serve their last sessions."""
        async with self._changing:
            if self._stopping:
                return
            keys = {_key(settings) for settings in wanted}
            for key in [key for key in self._posts if key not in keys]:
                self._give_up(self._posts.pop(key))
            await asyncio.gather(*map(self._renew, wanted))

    async def _renew(self, settings: ListenerSettings) -> None:
        post = self._posts.get(_key(settings))
        if post is None:
            await self._add(settings)
            return
        before, fresh = post.serving, self._begin(post, settings)
        problem = await self._settled(fresh)
        if problem:
            self._dismiss(post, fresh, Finish(0.0))
            fresh.kill(signal.SIGKILL)
        else:
            post.serving = fresh
            if before is not None:
                self._dismiss(post, before, Finish(before.settings.session_timeout))

    async def _add(self, settings: ListenerSettings) -> None:
        try:
            opened = await self._open(settings)
        except OSError as error:
            self._failed(settings, _words(error))
            return
        if self._stopping:
            opened.close()
            return
        post = self._posts[_key(settings)] = _Post(settings, opened)
        post.serving = self._begin(post, settings)
        await self._settled(post.serving)

    async def stop(self, grace: float) -> None:
        """End everything: sessions between two messages at once, others within ``grace`` seconds."""
        self._stopping = True
        for post in self._posts.values():
            post.opened.close()
        self._posts.clear()
        for listener in self._tasks.values():
            listener.draining = True
            listener.say(Finish(grace, at_once=True))
        limit = grace + _LAST_MOMENT
        while self._tasks:
            for task, listener in self._tasks.items():
                if not listener.pid:  # between two lives
                    task.cancel()
            await asyncio.wait(self._tasks, timeout=limit)
            limit = _PAUSE
            self.kill()

    def kill(self) -> None:
        """End all processes at once; what they were answered is in the queue."""
        self._stopping = True
        for listener in self._tasks.values():
            listener.kill(signal.SIGKILL)

    def describe(self) -> list[dict[str, Any]]:
        """Every listener, for ``dagent status``."""
        return [
            {
                "address": listener.settings.address,
                "kind": listener.settings.kind,
                "ready": listener.ready,
                "pid": listener.pid,
                "sessions": listener.sessions,
                "taken": listener.taken,
                "restarts": listener.restarts,
                "leaving": sum(old.pid > 0 for old in post.leaving),
            }
            for post in self._posts.values()
            if (listener := post.serving) is not None
        ]

    # -- sockets ---

    async def _open(self, settings: ListenerSettings) -> Opened:
        """The socket of a listener; for a moment a process of before may still have its address."""
        loop = asyncio.get_running_loop()
        until = loop.time() + _VACATE_TIME
        while True:
            try:
                return open_place(
                    settings.address,
                    mode=int(settings.socket_mode, 8),
                    group=settings.socket_group,
                    inherited=self._office.inherited,
                )
            except OSError as error:
                if error.errno != errno.EADDRINUSE or loop.time() > until:
                    raise
            await asyncio.sleep(_PAUSE)

    def _give_up(self, post: _Post) -> None:
        post.opened.close()
        if post.serving is not None:
            self._dismiss(post, post.serving, Finish(post.serving.settings.session_timeout))

    # -- processes ---

    def _begin(self, post: _Post, settings: ListenerSettings) -> Listener:
        """Start a listener at a post; it is looked after until it is told to finish."""
        listener = Listener(
            settings,
            self._office.submitter,
            started=self._started,
            refused=self._refused,
            trouble=self._office.trouble,
        )
        task = asyncio.create_task(self._look_after(post, listener))
        self._tasks[task] = listener
        task.add_done_callback(self._tasks.pop)
        return listener

    async def _look_after(self, post: _Post, listener: Listener) -> None:
        def over() -> bool:
            return self._stopping or listener.draining

        await children.keep(listener, lambda: self._life(post, listener, over), over)
        listener.settle("it was told to end")
        with contextlib.suppress(ValueError):
            post.leaving.remove(listener)

    async def _life(self, post: _Post, listener: Listener, over: Callable[[], bool]) -> int:
        """One process from its start to its end; returns the exit status, -1 when there was none."""
        mark = -1
        try:
            terms = self._office.terms(listener.settings)
            drawn = await self._office.mark()
            mark = self._draw() if drawn is None else drawn
            configure = Configure(terms, mark, await self._office.newest())
            if over():
                return 0
            descriptor = post.opened.descriptor
            process = await children.spawn(
                listener, self._office.process, [str(descriptor)], keep=[descriptor]
            )
            listener.say(configure)
            if over():  # told so before there was anybody to hear it
                listener.say(Finish(0.0))
            code = await children.outlive(listener, process)
            self._ended(listener, process.pid, code)
        except (OSError, ValueError, StoreUnavailable) as error:
            listener.lasting = isinstance(error, ValueError)
            self._refused(listener, _words(error))
            return -1
        finally:
            self._marks.discard(mark)
        return code

    def _draw(self) -> int:
        """A mark no living process has, and not the one that was given back last."""
        while self._next_mark in self._marks:
            self._next_mark = (self._next_mark + 1) % MARKS
        mark, self._next_mark = self._next_mark, (self._next_mark + 1) % MARKS
        self._marks.add(mark)
        return mark

    def _dismiss(self, post: _Post, listener: Listener, word: Finish) -> None:
        listener.draining = True
        listener.say(word)
        post.leaving.append(listener)

    async def _settled(self, listener: Listener) -> str:
        """Why a listener does not accept connections, or nothing."""
        try:
            async with asyncio.timeout(_START_TIME):
                return await asyncio.shield(listener.settled)
        except TimeoutError:
            return f"it does not accept connections after {_START_TIME:.0f} s"

    # -- events ---

    def _started(self, listener: Listener) -> None:
        settings = listener.settings
        fields = {"address": settings.address, "kind": settings.kind, "pid": listener.pid}
        self._office.tell("listener_started", fields)

    def _ended(self, listener: Listener, pid: int, code: int) -> None:
        listener.settle(f"it ended with status {code} before it accepted connections")
        kind = "listener_died" if code else "listener_ended"
        fields = {"address": listener.settings.address, "pid": pid, "status": code}
        self._office.tell(kind, fields)

    def _refused(self, listener: Listener, problem: str) -> None:
        self._failed(listener.settings, problem)
        listener.settle(problem)
        listener.kill(signal.SIGKILL)

    def _failed(self, settings: ListenerSettings, reason: str) -> None:
        fields = {"address": settings.address, "kind": settings.kind, "reason": reason}
        self._office.tell("listener_failed", fields)


def _key(settings: ListenerSettings) -> tuple[str, ...]:
    """What makes a socket another one."""
    return settings.address, settings.socket_mode, settings.socket_group


def _words(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
