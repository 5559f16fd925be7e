"""Hooks: who else is asked what becomes of a client, a sender, a recipient or a message.

A hook is any Python object with methods named like the stages of ``intake.hook.Hook``; a plain function is
asked at the end of a message. They are asked in order, and the first that has an opinion decides. Guarantees:
an exception, an answer that is none, or a time limit that is over is ``Tempfail``, reported, and never
raised; while no hook has to be waited for, :meth:`Hooks.ask` answers at once, without a task. What runs in
the listener's own thread blocks it: a hook that has to wait is asynchronous or says ``threaded = True``. A
thread cannot be ended: one that is over its time is left to itself, and its answer is thrown away.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import Any, cast

from msgspec.structs import replace

from deliveryagent.intake.hook import OBSERVERS, STAGES, Answer, Hook, Opinion
from deliveryagent.intake.message import Message
from deliveryagent.mail.address import AddressError, parse_mailbox
from deliveryagent.mail.verdict import Accept, Decision, Discard, Reject, Tempfail, Verdict
from deliveryagent.protocol.session import Session

SLOW = 0.1
"""Seconds that a hook may block the listener before it is reported."""

REPORT_EVERY = 60.0
"""Seconds between two reports that a hook is slow."""

THREADS = 32
"""Threads of all hooks that are ``threaded``; who finds none waits, within its limit."""

Trouble = Callable[[str, str, BaseException], None]
"""Told of every error of a hook: its name, the stage, and what happened."""


class HookError(Exception):
    """A hook answered what is no answer, took too long, or blocked the listener."""


class _Listening:
    """One hook: its name and, by stage, what is called, and whether in a thread."""

    __slots__ = ("calls", "limit", "name")

    def __init__(self, name: str, hook: object, limit: float | None) -> None:
        self.name = name
        self.limit = limit
        threaded = bool(getattr(hook, "threaded", False))
        self.calls: dict[str, tuple[Callable[..., Any], bool]] = {
            stage: (call, threaded and not inspect.iscoroutinefunction(call))
            for stage, call in stages_of(hook).items()
        }


def stages_of(hook: object) -> dict[str, Callable[..., Any]]:
    """What a hook listens to, by stage; empty for what is no hook."""
    found = {}
    for stage in STAGES:
        own = getattr(type(hook), stage, None)
        call = getattr(hook, stage, None)
        if callable(call) and own is not getattr(Hook, stage):
            found[stage] = call
    if not found and callable(hook):
        found["message"] = hook
    return found


class Hooks:
    """All hooks of a door, in order.

    ``hooks`` are names and objects. ``limit`` is in seconds, for each of them at each stage. ``last`` are
    asked after all others, and keep to time limits of their own (milters).
    """

    def __init__(
        self,
        hooks: Sequence[tuple[str, object]],
        *,
        limit: float,
        trouble: Trouble,
        last: Sequence[tuple[str, object]] = (),
    ) -> None:
        everyone = [_Listening(name, hook, limit) for name, hook in hooks]
        everyone += [_Listening(name, hook, None) for name, hook in last]
        self._stages: dict[str, list[_Listening]] = {
            stage: [one for one in everyone if stage in one.calls] for stage in STAGES
        }
        self._trouble = trouble
        self._reported: dict[tuple[str, str], float] = {}
        self._left: set[asyncio.Future[Any]] = set()
        self._threads: ThreadPoolExecutor | None = None
        self.asked: frozenset[str] = frozenset(
            stage for stage, listening in self._stages.items() if listening
        )
        """The stages at which there is anybody to ask."""
        self.admits = any({"mail", "rcpt"} & one.calls.keys() for one in everyone[: len(hooks)])
        """Whether a stranger might be let in: hooks can do that, those who come last (milters) cannot."""

    def ask(self, stage: str, session: Session, *given: object) -> Answer:
        """The first opinion, at once or, when a hook has to be waited for, to be awaited.

        ``given`` is what the method of that name in ``Hook`` gets after the session.
        """
        return self._ask(stage, iter(self._stages[stage]), (session, *given))

    def _ask(self, stage: str, order: Iterator[_Listening], given: tuple[object, ...]) -> Answer:
        for hook in order:
            call, threaded = hook.calls[stage]
            if threaded:
                return self._wait(stage, hook, self._in_thread(call, given), order, given)
            begun = perf_counter()
            try:
                result = call(*given)
            except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a hook does, the session goes on
                result = self._failed(hook, stage, error)
            if (took := perf_counter() - begun) > SLOW:
                self._report_slow(hook, stage, took)
            if result is None:
                continue
            if inspect.isawaitable(result):
                return self._wait(stage, hook, result, order, given)
            if (opinion := self._judge(hook, stage, result, given)) is not None:
                return opinion
        return None

    async def _wait(
        self,
        stage: str,
        hook: _Listening,
        waiting: Awaitable[Any],
        order: Iterator[_Listening],
        given: tuple[object, ...],
    ) -> Opinion:
        """The opinion of a hook that takes its time, or else of those after it."""
        try:
            result = await (waiting if hook.limit is None else self._within(waiting, hook.limit))
        except Exception as error:  # noqa: BLE001 - as above
            result = self._failed(hook, stage, error)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise  # the session is being ended, not something that the hook began
            result = self._failed(hook, stage, error)
        opinion = self._judge(hook, stage, result, given)
        if opinion is not None:
            return opinion
        rest = self._ask(stage, order, given)
        return await rest if inspect.isawaitable(rest) else rest

    async def _within(self, waiting: Awaitable[Any], limit: float) -> Any:
        """A task of its own: a hook that will not be cancelled cannot keep the session waiting either."""
        task = asyncio.create_task(_contained(waiting))
        try:
            await asyncio.wait({task}, timeout=limit or None)
        except asyncio.CancelledError:
            self._leave(task)
            raise
        if not task.done():
            self._leave(task)
            raise HookError(f"no answer within {limit:g} s")
        return task.result()

    async def _in_thread(self, call: Callable[..., Any], given: tuple[object, ...]) -> Any:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="hook")
        return await asyncio.get_running_loop().run_in_executor(self._threads, call, *given)

    def _leave(self, task: asyncio.Future[Any]) -> None:
        self._left.add(task)
        task.add_done_callback(self._forget)
        task.cancel()

    def _forget(self, task: asyncio.Future[Any]) -> None:
        self._left.discard(task)
        if not task.cancelled():
            task.exception()  # its answer comes too late, whatever it is

    # -- what an answer means ---

    def _judge(
        self, hook: _Listening, stage: str, result: object, given: tuple[object, ...]
    ) -> Opinion:
        if result is None or stage in OBSERVERS:
            return None
        try:
            if stage == "message" and isinstance(result, Mapping):
                return _for_each(result, cast("Message", given[1]))
            return check(result)
        except HookError as error:
            return self._failed(hook, stage, error)

    def _failed(self, hook: _Listening, stage: str, error: BaseException) -> Tempfail:
        self._trouble(hook.name, stage, error)
        return Tempfail(code=451, enhanced="4.3.0", text="Temporary trouble, try again later")

    def _report_slow(self, hook: _Listening, stage: str, took: float) -> None:
        now = perf_counter()
        where = (hook.name, stage)
        if now - self._reported.get(where, -REPORT_EVERY) >= REPORT_EVERY:
            self._reported[where] = now
            text = f"it blocked everybody for {took:.2f} s; let it be asynchronous, or threaded"
            self._trouble(hook.name, stage, HookError(text))


async def _contained(waiting: Awaitable[Any]) -> Any:
    try:
        return await waiting
    except SystemExit as error:  # out of a task it would end the listener
        raise HookError("it wanted to end the program") from error


def check(result: object) -> Decision:
    """A verdict that can be carried out; raises ``HookError``."""
    if not isinstance(result, Verdict) or type(result) is Verdict:
        raise HookError(f"it answered {result!r:.200}, which is no verdict")
    if isinstance(result, Reject | Tempfail):
        first = "5" if isinstance(result, Reject) else "4"
        code, enhanced = str(result.code), result.enhanced
        if len(code) != 3 or code[0] != first or not enhanced.startswith(first + "."):
            raise HookError(f"{type(result).__name__} cannot answer {code} {enhanced}")
    if not all(line.isprintable() for line in result.text.split("\n")):
        raise HookError(f"its text has control characters: {result.text!r:.200}")
    if isinstance(result, Accept) and result.address:
        try:
            return replace(result, address=parse_mailbox(result.address).address)
        except AddressError as error:
            raise HookError(f"it answered with what is no address: {error}") from None
    return cast("Decision", result)


def _for_each(result: Mapping[Any, Any], message: Message) -> Opinion:
    """Verdicts on recipients. Over LMTP each has its own answer; elsewhere there is one for all.

    There, ``Discard`` drops the recipient, and the first other verdict but ``Accept`` is on the message.
    """
    known = set(message.recipients)
    verdicts = {address: check(verdict) for address, verdict in result.items()}
    if strangers := verdicts.keys() - known:
        raise HookError(f"it decides on {', '.join(map(str, strangers))}: no recipients of this")
    if message.session.kind == "lmtp":
        for address, verdict in verdicts.items():
            message.refused.setdefault(address, verdict)
        return None
    whole: Opinion = None
    for address, verdict in verdicts.items():
        if isinstance(verdict, Discard):
            message.drop_recipient(address)
        elif whole is None and not isinstance(verdict, Accept):
            whole = verdict
    if whole is None and not message.recipients:
        return Discard()
    return whole
