"""Message after message over a few sessions with peers that others wrote: smtp-sink and Postfix."""

import asyncio
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from deliveryagent.agent import frames
from deliveryagent.agent.worker_settings import WorkerSettings
from deliveryagent.lab.postfix import Postfix
from deliveryagent.mail.delivery import Verdict
from deliveryagent.policy.targets import LoopSettings
from tests.doubles.courier import IDENTITY, free_port, request, until
from tests.doubles.maildir_postfix import maildir_postfix
from tests.doubles.manager_double import WorkerInside
from tests.program.whole_agent import eventually

MANY = 200


def delivering(
    folder: Path, port: int, story: Callable[[WorkerInside], Awaitable[None]], *, lmtp: bool = False
) -> None:
    """Give a worker many messages for one place, two at a time; every fourth has an unknown recipient."""
    hop = f"lmtp:inet:127.0.0.1:{port}" if lmtp else f"[127.0.0.1]:{port}"

    async def run() -> None:
        settings = WorkerSettings(
            hostname="mail.example.org",
            identity=IDENTITY,
            loop=LoopSettings(loopback_mx=True, inet_interfaces=("127.0.0.250",)),
        )
        async with WorkerInside(settings, folder / "journal") as worker:
            worker.say(frames.Room("here", 2))
            for number in range(1, MANY + 1):
                name = f"ok+{number}" if number % 4 else f"unknown{number}"
                content = b"Message-ID: <%d@lane>\r\n\r\n..dots\r\n" % number
                wanted = request(
                    f"{name}@real.test", serial=number, site="here", next_hop=hop,
                    content=content, size=len(content),
                )  # fmt: skip
                worker.say(frames.Deliver(wanted))
            await worker.until(lambda: len(worker.results) == MANY, limit=60)
            await story(worker)

    asyncio.run(run())


def verdicts(worker: WorkerInside) -> Counter[str]:
    found = (Verdict(r.recipients[0].verdict).name for r in worker.results.values())
    return Counter(found)


@pytest.mark.parametrize(
    ("options", "refused"),
    [([], 0), (["-L"], 0), (["-f", "RCPT"], MANY), (["-f", "."], MANY), (["-f", "MAIL"], MANY)],
)
def test_smtp_sink_takes_or_refuses_every_message_once(
    options: list[str], refused: int, tmp_path: Path
) -> None:
    program = shutil.which("smtp-sink")
    if program is None:
        pytest.skip("smtp-sink is not installed")
    user = ["-u", "nobody"] if os.geteuid() == 0 else []
    port = free_port()
    count = tmp_path / "count"

    async def story(worker: WorkerInside) -> None:
        found = verdicts(worker)
        assert found["BOUNCED"] == refused
        assert found["DELIVERED"] == MANY - refused
        if not refused:
            await until(lambda: count.read_bytes().count(b"mesg=%d" % MANY) > 0)

    with count.open("wb") as file:
        command = [program, *user, "-c", *options, f"127.0.0.1:{port}", "10"]
        sink = subprocess.Popen(command, stdout=file)
    try:
        asyncio.run(_listening(port))
        delivering(tmp_path, port, story, lmtp="-L" in options)
    finally:
        sink.terminate()
        sink.wait()


async def _listening(port: int) -> None:
    async with asyncio.timeout(10):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return


@pytest.fixture
def postfix() -> Iterator[Postfix]:
    """A Postfix that knows ok+anything@real.test."""
    with maildir_postfix() as postfix:
        yield postfix


def test_a_real_postfix_gets_every_message_once_and_unchanged(
    postfix: Postfix, tmp_path: Path
) -> None:
    inbox = postfix.directory / "mail/inbox/new"
    good = MANY - MANY // 4

    async def story(worker: WorkerInside) -> None:
        found = verdicts(worker)
        assert (found["DELIVERED"], found["BOUNCED"]) == (good, MANY // 4)
        assert max(result.tries[0].uses for result in worker.results.values()) > MANY // 4

    delivering(tmp_path, postfix.port, story)
    eventually(lambda: inbox.exists() and len(list(inbox.iterdir())) >= good)
    kept = [path.read_bytes() for path in inbox.iterdir()]
    assert len(kept) == good
    wanted = {b"<%d@lane>" % number for number in range(1, MANY + 1) if number % 4}
    assert {content.partition(b"Message-ID: ")[2].partition(b"\n")[0] for content in kept} == wanted
    assert all(content.endswith(b"\n\n..dots\n") for content in kept)
