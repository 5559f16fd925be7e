"""Hooks: who is asked, in which order, and what becomes of hooks that misbehave."""

import asyncio
import inspect
import sys
import threading
from collections.abc import Mapping

import pytest

from deliveryagent.intake import hooks as hooks_module
from deliveryagent.intake.hook import STAGES, Answer, Hook
from deliveryagent.intake.hooks import HookError, Hooks, check
from deliveryagent.intake.message import Message
from deliveryagent.mail.verdict import (
    Accept,
    Decision,
    Defer,
    Discard,
    Hold,
    Reject,
    Tempfail,
    Verdict,
)
from deliveryagent.protocol.session import Session
from tests.doors.milters import begin, in_a_loop, session

Told = list[tuple[str, str, BaseException]]


def asking(*hooks: object, limit: float = 30.0) -> tuple[Hooks, Told]:
    """Hooks of these objects, and where their troubles go."""
    told: Told = []
    named = [(f"hook{number}", hook) for number, hook in enumerate(hooks)]

    def trouble(name: str, stage: str, error: BaseException) -> None:
        told.append((name, stage, error))

    return Hooks(named, limit=limit, trouble=trouble), told


def answered(answer: Answer) -> Decision | None:
    """What was answered at once."""
    assert not inspect.isawaitable(answer)
    return answer


async def waited(answer: Answer) -> Decision | None:
    """What was answered after a while."""
    assert inspect.isawaitable(answer)
    return await answer


class Says:
    """Says the same at CONNECT and at HELO, and notes it."""

    def __init__(self, verdict: object, heard: list[str] | None = None) -> None:
        self.verdict = verdict
        self.heard = [] if heard is None else heard

    def connect(self, session: Session) -> object:
        self.heard.append("connect")
        if isinstance(self.verdict, BaseException):
            raise self.verdict
        return self.verdict

    async def helo(self, session: Session, name: str) -> object:
        await asyncio.sleep(0)
        self.heard.append(name)
        if isinstance(self.verdict, BaseException):
            raise self.verdict
        return self.verdict


def test_the_first_opinion_decides_and_nobody_else_is_asked() -> None:
    last = Says(Reject())
    hooks, _ = asking(Says(None), Says(Accept(text="hello")), last)
    assert answered(hooks.ask("connect", session())) == Accept(text="hello")
    assert last.heard == []


@in_a_loop
async def test_coroutines_and_functions_are_asked_in_one_order() -> None:
    class Sync:
        def helo(self, session: Session, name: str) -> Decision | None:
            return Hold()

    hooks, _ = asking(Says(None), Sync(), Says(Reject()))
    assert await waited(hooks.ask("helo", session(), "name")) == Hold()


def test_stages_that_nobody_listens_to_are_known() -> None:
    hooks, _ = asking(Says(None), lambda session, message: None)
    assert hooks.asked == {"connect", "helo", "message"}
    assert answered(hooks.ask("mail", session())) is None
    assert asking()[0].asked == frozenset()


def test_inheriting_from_the_description_listens_to_nothing() -> None:
    class Mine(Hook):
        def data(self, session: Session) -> Answer:
            return Discard()

    hooks, _ = asking(Mine())
    assert hooks.asked == {"data"}


def test_every_stage_has_a_description() -> None:
    assert len(STAGES) == 13
    assert all(inspect.getdoc(getattr(Hook, stage)) for stage in STAGES)


@pytest.mark.parametrize("error", [RuntimeError("bad"), SystemExit(1), AssertionError()])
@in_a_loop
async def test_an_exception_is_a_temporary_refusal_and_is_told(error: BaseException) -> None:
    hooks, told = asking(Says(error))
    verdict = answered(hooks.ask("connect", session()))
    assert isinstance(verdict, Tempfail)
    assert (verdict.code, verdict.enhanced) == (451, "4.3.0")
    assert await waited(hooks.ask("helo", session(), "name")) == verdict
    assert [one[:2] for one in told] == [("hook0", "connect"), ("hook0", "helo")]
    assert told[0][2] is error
    assert error in {told[1][2], told[1][2].__cause__}


@in_a_loop
async def test_a_hook_that_takes_too_long_is_a_temporary_refusal() -> None:
    class Slow:
        async def connect(self, session: Session) -> None:
            await asyncio.Event().wait()

    hooks, told = asking(Slow(), limit=0.02)
    assert isinstance(await waited(hooks.ask("connect", session())), Tempfail)
    assert "no answer within" in str(told[0][2])


@in_a_loop
async def test_a_hook_that_will_not_be_cancelled_keeps_nobody_waiting() -> None:
    class Stubborn:
        done = asyncio.Event()

        async def connect(self, session: Session) -> None:
            while not self.done.is_set():
                try:
                    await asyncio.shield(self.done.wait())
                except asyncio.CancelledError:
                    continue
            raise RuntimeError("nobody hears this")

    hooks, _ = asking(Stubborn(), limit=0.02)
    assert isinstance(await waited(hooks.ask("connect", session())), Tempfail)
    Stubborn.done.set()
    for _ in range(5):
        await asyncio.sleep(0)


@in_a_loop
async def test_a_cancelled_session_takes_its_hook_along() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    class Waits:
        async def connect(self, session: Session) -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

    hooks, told = asking(Waits())

    async def asks() -> None:
        await waited(hooks.ask("connect", session()))

    task = asyncio.create_task(asks())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(ended.wait(), 10)
    assert told == []


@in_a_loop
async def test_a_hook_that_cancels_itself_does_not_end_the_session() -> None:
    hooks, told = asking(Says(asyncio.CancelledError()))
    assert isinstance(await waited(hooks.ask("helo", session(), "name")), Tempfail)
    assert len(told) == 1


@pytest.mark.parametrize(
    "answer",
    [
        "yes",
        True,
        Verdict(),
        Reject(code=450),
        Reject(code=250, enhanced="2.0.0"),
        Reject(enhanced="4.7.1"),
        Tempfail(code=550),
        Accept(text="a\r\nb"),
        {"kim@example.org": Reject()},
    ],
)
def test_an_answer_that_is_none_is_a_temporary_refusal(answer: object) -> None:
    hooks, told = asking(Says(answer))
    assert isinstance(answered(hooks.ask("connect", session())), Tempfail)
    assert isinstance(told[0][2], HookError)


@pytest.mark.parametrize(
    "verdict",
    [Accept(), Reject(text="one\ntwo"), Tempfail(), Defer(seconds=5), Discard(), Hold()],
)
def test_every_verdict_is_an_answer(verdict: Decision) -> None:
    assert check(verdict) is verdict


@in_a_loop
async def test_a_threaded_hook_runs_beside_the_listener() -> None:
    class Threaded:
        threaded = True

        def connect(self, session: Session) -> Decision:
            return Accept(text=threading.current_thread().name)

        async def data(self, session: Session) -> Decision:
            return Accept(text=threading.current_thread().name)

    hooks, _ = asking(Threaded())
    verdict = await waited(hooks.ask("connect", session()))
    assert verdict is not None
    assert verdict.text.startswith("hook")
    assert await waited(hooks.ask("data", session())) == Accept(text="MainThread")


@in_a_loop
async def test_a_thread_that_takes_too_long_is_left_to_itself() -> None:
    class Stuck:
        threaded = True
        free = threading.Event()

        def connect(self, session: Session) -> None:
            self.free.wait(30)

    hooks, told = asking(Stuck(), limit=0.02)
    try:
        assert isinstance(await waited(hooks.ask("connect", session())), Tempfail)
    finally:
        Stuck.free.set()
    assert len(told) == 1


def test_a_hook_that_blocks_everybody_is_told_once_in_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hooks_module, "SLOW", 0.0)
    hooks, told = asking(Says(None))
    for _ in range(3):
        assert answered(hooks.ask("connect", session())) is None
    assert [(name, stage) for name, stage, _ in told] == [("hook0", "connect")]


@in_a_loop
async def test_all_observers_are_told_whatever_they_answer() -> None:
    heard: list[str] = []

    class Observer:
        def debug(self, session: Session, direction: str, line: str) -> Decision:
            heard.append(direction + line)
            return Reject()

        async def disconnect(self, session: Session) -> None:
            heard.append("over")
            raise RuntimeError("bad")

    hooks, told = asking(Observer(), Observer())
    assert answered(hooks.ask("debug", session(), "<", "QUIT")) is None
    assert await waited(hooks.ask("disconnect", session())) is None
    assert heard == ["<QUIT", "<QUIT", "over", "over"]
    assert len(told) == 2


# -- a verdict for each recipient ---

KIM, LEE = "kim@example.net", "lee@example.net"


def decide(verdicts: Mapping[str, object], kind: str) -> tuple[Message, Decision | None, Told]:
    hooks, told = asking(lambda _session, _message: verdicts, lambda _session, _message: None)
    where = session(kind=kind)
    message = begin(where, KIM, LEE)
    return message, answered(hooks.ask("message", where, message)), told


def test_over_lmtp_every_recipient_has_its_own_verdict() -> None:
    message, whole, _ = decide({KIM: Reject(text="full"), LEE: Discard()}, "lmtp")
    assert whole is None
    assert message.refused == {KIM: Reject(text="full"), LEE: Discard()}


def test_over_lmtp_the_first_verdict_on_a_recipient_counts() -> None:
    hooks, _ = asking(
        lambda _session, _message: {KIM: Reject()},
        lambda _session, _message: {KIM: Discard(), LEE: Hold()},
    )
    where = session(kind="lmtp")
    message = begin(where, KIM, LEE)
    hooks.ask("message", where, message)
    assert message.refused == {KIM: Reject(), LEE: Hold()}


def test_elsewhere_one_refusal_is_the_answer_for_all() -> None:
    message, whole, _ = decide({KIM: Discard(), LEE: Reject(text="full")}, "submission")
    assert whole == Reject(text="full")
    assert message.recipients == (LEE,)
    assert message.refused == {}


def test_elsewhere_a_message_without_recipients_is_forgotten() -> None:
    assert decide({KIM: Discard(), LEE: Discard()}, "smtp")[1] == Discard()
    assert decide({KIM: Accept(), LEE: Accept()}, "smtp")[1] is None


def test_a_verdict_on_a_stranger_is_none() -> None:
    _, whole, told = decide({"ann@example.net": Reject()}, "lmtp")
    assert isinstance(whole, Tempfail)
    assert "ann@example.net" in str(told[0][2])


def test_no_task_is_needed_where_nobody_has_to_be_waited_for() -> None:
    assert "asyncio" in sys.modules
    hooks, _ = asking(Says(None), Says(Accept()))
    assert answered(hooks.ask("connect", session())) == Accept()  # there is no event loop here


def test_an_address_in_an_answer_is_read_like_any_other() -> None:
    hooks, told = asking(Says(Accept(address="<@relay.example:Joe@Example.ORG>")))
    assert answered(hooks.ask("connect", session())) == Accept(address="Joe@Example.ORG")
    hooks, told = asking(Says(Accept(address="joe@example.org>\r\nRCPT TO:<x@y.example")))
    assert isinstance(answered(hooks.ask("connect", session())), Tempfail)
    assert len(told) == 1
    hooks, _ = asking(Says(Accept(address="")))
    assert answered(hooks.ask("connect", session())) == Accept(address="")
