"""From the end of a content to its reply: hooks, the service, and what goes wrong with either."""

import asyncio
import random
from collections.abc import Callable, Coroutine
from contextlib import closing
from typing import Any

import pytest

from deliveryagent.intake.frames import Refused, Taken
from deliveryagent.intake.hooks import Hooks
from deliveryagent.intake.keeper import Keeper
from deliveryagent.intake.message import Message
from deliveryagent.intake.spool import Spool
from deliveryagent.intake.taking import TakingTerms
from deliveryagent.mail.submission import StagedPart, Submission
from deliveryagent.mail.verdict import Accept, Defer, Discard, Hold, Reject, Tempfail
from deliveryagent.protocol.arrival import LimitSettings
from deliveryagent.protocol.local import ExitCode
from deliveryagent.protocol.session import Client, Recipient, Session, Transaction
from deliveryagent.protocol.smtpd_steps import Kept, Outcome
from deliveryagent.queue.ids import QueueIds

PLAIN = b"From: a@b.dev\r\nSubject: x\r\n\r\nhi\r\n"
LARGE = PLAIN + b"word\r\n" * 20_000
NOW = 1_800_000_000.0


class Service:
    """The other end of the line: takes, or refuses, what comes."""

    def __init__(self) -> None:
        self.taken: list[Submission] = []
        self.staged: list[StagedPart] = []
        self.abandoned: list[int] = []
        self.refuse: Refused | None = None
        self.duplicate = False

    def take(self, submission: Submission, answered: Callable[[Taken | Refused], None]) -> None:
        self.taken.append(submission)
        answer = self.refuse or Taken(0, "0C7", duplicate=self.duplicate)
        asyncio.get_running_loop().call_soon(answered, answer)

    async def stage(self, part: StagedPart) -> Taken | Refused:
        self.staged.append(part)
        await asyncio.sleep(0)
        return self.refuse or Taken(0, "")

    def abandon(self, queue_id: int) -> None:
        self.abandoned.append(queue_id)

    @property
    def content(self) -> bytes:
        return b"".join([one.data for one in self.staged] + [b"".join(self.taken[-1].parts)])


class Front:
    """A keeper and all it talks to."""

    def __init__(self, hook: object = None, *, kind: str = "smtp") -> None:
        self.service = Service()
        self.troubles: list[Exception] = []
        hooks = [] if hook is None else [("hook", hook)]
        self.keeper = Keeper(
            self.service,  # type: ignore[arg-type] # as much of it as is needed
            TakingTerms(
                hostname="mx.host.dev",
                limits=LimitSettings(hopcount_limit=3),
                part_size=65536,
                bulk_after=0,
                nesting_limit=100,
                key_header="",
            ),
            Hooks(hooks, limit=5.0, trouble=lambda *_: None),
            new_id=QueueIds(last=0, clock=lambda: NOW, rng=random.Random(1)),
            clock=lambda: NOW,
            trouble=self.troubles.append,
        )
        self.kind: Any = kind

    async def keep(self, content: bytes, *recipients: str) -> Outcome:
        with closing(Spool()) as spool:
            spool.write(content)
            return await self.keep_spool(spool, *recipients)

    async def keep_spool(self, spool: Any, *recipients: str) -> Outcome:
        session = Session(
            kind=self.kind, client=Client(address="192.0.2.7"), hostname="mx", verb="EHLO"
        )
        session.transaction = Transaction(
            sender="a@b.dev",
            recipients=[Recipient(address=one) for one in recipients or ("c@d.dev",)],
        )
        answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.keeper(session, spool, answer.set_result)
        async with asyncio.timeout(20):
            return await answer


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


@pytest.mark.parametrize("content", [PLAIN, LARGE], ids=["small", "large"])
def test_a_message_that_is_stored_is_answered_with_its_id(content: bytes) -> None:
    async def main() -> None:
        front = Front()
        assert await front.keep(content) == Outcome(Kept("Ok: queued as 0C7"))
        assert front.service.content.endswith(content)
        assert front.service.abandoned == []
        front.service.duplicate = True
        assert await front.keep(PLAIN) == Outcome(Kept("Ok: queued as 0C7 before"))

    run(main())


@pytest.mark.parametrize("content", [PLAIN, LARGE], ids=["small", "large"])
@pytest.mark.parametrize(
    ("code", "status"),
    [(ExitCode.TRY_LATER, "452 4.3.1"), (ExitCode.BAD_DATA, "554 5.5.4")],
)
def test_a_queue_that_cannot_take_it_says_so(content: bytes, code: int, status: str) -> None:
    async def main() -> None:
        front = Front()
        front.service.refuse = Refused(0, code, "No")
        whole = (await front.keep(content)).whole
        assert isinstance(whole, Reject | Tempfail)
        assert f"{whole.code} {whole.enhanced}" == status
        assert len(front.service.abandoned) == (content is LARGE)

    run(main())


@pytest.mark.parametrize("content", [PLAIN, LARGE], ids=["small", "large"])
def test_a_message_that_must_not_be_taken_leaves_nothing_behind(content: bytes) -> None:
    async def main() -> None:
        front = Front()
        whole = (await front.keep(b"Received: x\r\n" * 4 + content)).whole
        assert isinstance(whole, Reject)
        assert (whole.code, whole.enhanced) == (554, "5.4.6")
        assert front.service.taken == []
        assert len(front.service.abandoned) == (content is LARGE)
        assert front.troubles == []

    run(main())


def test_a_fault_is_for_later() -> None:
    class Broken(Spool):
        def whole(self) -> bytes:
            raise OSError("lost")

    async def main() -> None:
        front = Front()
        whole = (await front.keep_spool(Broken())).whole
        assert isinstance(whole, Tempfail)
        assert len(front.troubles) == 1

    run(main())


@pytest.mark.parametrize(
    ("verdict", "outcome"),
    [
        (Reject(text="No"), Outcome(Reject(text="No"))),
        (Tempfail(), Outcome(Tempfail())),
        (Discard(), Outcome(Kept("Ok"))),
    ],
)
@pytest.mark.parametrize("stage", ["headers", "message"])
def test_a_hook_may_end_the_matter(stage: str, verdict: Reject, outcome: Outcome) -> None:
    hook = type("Hook", (), {stage: lambda *_: verdict})()

    async def main() -> None:
        front = Front(hook)
        assert await front.keep(PLAIN) == outcome
        assert front.service.taken == []

    run(main())


def test_what_a_hook_changes_is_what_is_stored() -> None:
    class Changing:
        async def message(self, _: Session, message: Message) -> Accept:
            await asyncio.sleep(0)
            message.add_header("X-Spam", "no")
            message.add_recipient("e@f.dev")
            message.sender = "x@y.dev"
            message.tags["list"] = "news"
            return Accept()

    async def main() -> None:
        front = Front(Changing())
        for content in (PLAIN, LARGE):
            await front.keep(content)
            envelope = front.service.taken[-1].envelope
            assert [one.address for one in envelope.recipients] == ["c@d.dev", "e@f.dev"]
            assert (envelope.sender, envelope.tags) == ("x@y.dev", {"list": "news"})
            assert b"\r\nX-Spam: no\r\n\r\n" in front.service.content
            assert front.service.content.startswith(b"Received: ")
            front.service.staged.clear()

    run(main())


@pytest.mark.parametrize("verdict", [Hold(), Defer(seconds=60)])
def test_a_hook_may_hold_and_defer(verdict: Hold | Defer) -> None:
    async def main() -> None:
        front = Front(lambda *_: verdict)
        await front.keep(PLAIN)
        envelope = front.service.taken[0].envelope
        assert envelope.hold == isinstance(verdict, Hold)
        assert envelope.not_before == (NOW + 60 if isinstance(verdict, Defer) else 0)

    run(main())


def test_a_hook_that_breaks_is_for_later() -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("broken")

    async def main() -> None:
        front = Front(broken)
        whole = (await front.keep(PLAIN)).whole
        assert isinstance(whole, Tempfail)
        assert front.service.taken == []

    run(main())


def test_over_lmtp_each_recipient_may_have_its_own_answer() -> None:
    no = Reject(text="No")

    async def main() -> None:
        front = Front(lambda *_: {"u1@d.dev": no, "u2@d.dev": Discard()}, kind="lmtp")
        outcome = await front.keep(PLAIN, "u1@d.dev", "u2@d.dev", "u3@d.dev")
        assert outcome == Outcome(Kept("Ok: queued as 0C7"), {"u1@d.dev": no})
        assert [one.address for one in front.service.taken[0].envelope.recipients] == ["u3@d.dev"]
        alone = await front.keep(PLAIN, "u1@d.dev", "u2@d.dev")
        assert alone == Outcome(Kept("Ok"), {"u1@d.dev": no})
        assert len(front.service.taken) == 1

    run(main())
