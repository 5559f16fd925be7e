"""``make demo``: the main job in one minute, with nothing but loopback.

Starts the lab and, as a process of its own, the agent on an SQLite queue in a temporary directory;
hands over five letters with different fates; tells what happens as it happens, from the agent's own
event log and from what the lab's hosts take in; ends with the queue and an explanation of each
letter. Every fate is checked against what it should be: the exit status is 0 only when all came
true, so this is a test as well.

Guarantees: at the end, also after Ctrl-C, no process, socket or file is left.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from deliveryagent.lab.arrivals import Arrival
from deliveryagent.lab.playground import Playground

SENDER = "you@home.test"
PATIENCE = 50.0  # seconds until a letter that has not met its fate counts as failed
_GREEN, _RED, _BOLD, _FAINT = "32", "31", "1", "2"


@dataclass(frozen=True)
class Letter:
    """A letter and the fate it is to meet: status, number of tries, words of the last reply."""

    recipient: str
    subject: str
    fate: str
    status: str
    tries: Callable[[int], bool]
    reply: str
    host: str = ""
    report: bool = False


LETTERS = (
    Letter(
        recipient="ok@good.test",
        subject="Good morning",
        fate="is delivered at once",
        status="delivered",
        tries=lambda number: number == 1,
        reply="2.0.0",
        host="mx.good.test",
    ),
    Letter(
        recipient="greylist@good.test",
        subject="Who are you?",
        fate="is greylisted first, and delivered on a later try",
        status="delivered",
        tries=lambda number: number > 1,
        reply="2.0.0",
        host="mx.good.test",
    ),
    Letter(
        recipient="ok@backup.test",
        subject="Plan B",
        fate="finds the first MX host dead, and is delivered to the second",
        status="delivered",
        tries=lambda number: number == 1,
        reply="2.0.0",
        host="mx2.backup.test",
    ),
    Letter(
        recipient="550@good.test",
        subject="Anybody there?",
        fate="is refused for good; the sender gets a report",
        status="bounced",
        tries=lambda number: number == 1,
        reply="5.1.1",
        report=True,
    ),
    Letter(
        recipient="info@null.test",
        subject="No mail, please",
        fate="goes to a domain that wants no mail (null MX); the sender gets a report",
        status="bounced",
        tries=lambda number: number == 1,
        reply="5.1.10",
        report=True,
    ),
)


class Narrator:
    """Prints the story; colour only on a terminal."""

    def __init__(self) -> None:
        self._color = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        self._started = time.monotonic()

    def paint(self, text: str, code: str) -> str:
        """The text in a colour where there are colours."""
        return f"\x1b[{code}m{text}\x1b[0m" if self._color else text

    def line(self, text: str = "") -> None:
        """A line as it is."""
        print(text, flush=True)  # noqa: T201 - this program's output

    def heading(self, text: str) -> None:
        """The beginning of a part of the story."""
        self.line()
        self.line(self.paint(text, _BOLD))

    def command(self, words: str) -> None:
        """A command as one would type it."""
        self.line(self.paint(f"$ dagent {words}", _BOLD))

    def happened(self, text: str, code: str = "") -> None:
        """Something that happened just now."""
        elapsed = time.monotonic() - self._started
        shown = "".join(c if c.isprintable() else "?" for c in text)
        self.line(f"  {elapsed:5.1f} s  {self.paint(shown, code) if code else shown}")


@dataclass
class Story:
    """What is known so far: ids of the letters, their last events, reports that came home."""

    narrator: Narrator
    ids: dict[str, Letter] = field(default_factory=dict)
    ended: dict[str, str] = field(default_factory=dict)
    reports: list[bytes] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def arrived(self, arrival: Arrival, content: bytes) -> None:
        """A host of the lab took a message in."""
        if b"report-type=delivery-status" in content:
            self.reports.append(content)
            self.narrator.happened(
                f"{arrival.host} takes a report for {arrival.accepted[0]}: {arrival.subject}"
            )
        else:
            self.narrator.happened(f"{arrival.host} takes {arrival.subject!r}")
        self.changed.set()

    def event(self, record: dict[str, Any]) -> None:
        """One record of the agent's event log."""
        recipient, host = record.get("recipient") or "", record.get("host") or ""
        words = (record.get("code") or "", record.get("enhanced"), record.get("reply"))
        reply = " ".join(" ".join(str(word) for word in words if word).split())
        place = f" by {host}" if host else ""
        match record.get("event"):
            case "delivered":
                self.narrator.happened(f"{recipient}: delivered, {host} says: {reply}", _GREEN)
            case "deferred":
                self.narrator.happened(f"{recipient}: not now{place}: {reply}")
            case "bounced" | "expired" as end:
                self.narrator.happened(f"{recipient}: {end}{place}: {reply}", _RED)
            case "connect_failed":
                self.narrator.happened(f"{host} cannot be reached: {record.get('reason')}")
            case "dsn":
                self.narrator.happened(f"a report for {SENDER} is written")
            case _:
                return
        if record.get("event") in {"delivered", "bounced", "expired"} and record.get("id"):
            self.ended[str(record["id"])] = str(record["event"])
            self.changed.set()

    @property
    def complete(self) -> bool:
        """Whether every letter and every report has reached its end."""
        owed = sum(letter.report for letter in LETTERS)
        return set(self.ids) <= set(self.ended) and len(self.reports) >= owed


def _command(config: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "deliveryagent", "--config", str(config), *words]


async def _dagent(config: Path, *words: str, text: str = "") -> tuple[int, str]:
    """Run one command; its exit status and what it printed."""
    process = await asyncio.create_subprocess_exec(
        *_command(config, *words),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate(text.encode())
    return process.returncode or 0, output.decode("utf-8", "replace")


@contextlib.asynccontextmanager
async def _agent(config: Path, story: Story) -> AsyncIterator[asyncio.subprocess.Process]:
    """The agent as a process, its event log told as it comes; stopped whatever happens."""
    process = await asyncio.create_subprocess_exec(
        *_command(config, "--set", "log.format=json", "serve"),
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    listening = asyncio.create_task(_listen(process, story))
    try:
        yield process
        if process.returncode is None:
            process.terminate()
            await asyncio.wait_for(process.wait(), 15)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        await listening


async def _listen(process: asyncio.subprocess.Process, story: Story) -> None:
    async for line in cast("asyncio.StreamReader", process.stderr):
        try:
            record = json.loads(line)
        except ValueError:
            story.narrator.happened("the agent says: " + line.decode("utf-8", "replace").rstrip())
            continue
        if isinstance(record, dict):
            story.event(record)
    story.changed.set()


async def _wait_for_socket(process: asyncio.subprocess.Process, path: Path) -> bool:
    for _ in range(200):
        if process.returncode is not None:
            return False
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_unix_connection(str(path))
            writer.close()
            return True
        await asyncio.sleep(0.05)
    return False


async def _enqueue(config: Path, story: Story) -> None:
    """Hand the letters over with ``dagent send``, as a person would."""
    for letter in LETTERS:
        story.narrator.line(f"A letter that {letter.fate}:")
        story.narrator.command(f"send -f {SENDER} {letter.recipient}")
        text = f"From: {SENDER}\nTo: {letter.recipient}\nSubject: {letter.subject}\n\nHello!\n"
        status, output = await _dagent(config, "send", "-f", SENDER, letter.recipient, text=text)
        story.narrator.line(output.rstrip())
        if status:
            raise RuntimeError(f"dagent send ended with status {status}")
        story.ids[output.split()[-1]] = letter


async def _watch(process: asyncio.subprocess.Process, story: Story) -> None:
    """Let time pass until every letter has met its fate, the agent ends, or patience does."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE):
            while not story.complete and process.returncode is None:
                story.changed.clear()
                await story.changed.wait()


async def _explain(config: Path, story: Story) -> None:
    """End with the queue and why each letter is where it is."""
    color = ["--color"] if story.narrator.paint("", _BOLD) else ["--no-color"]
    for words in (["queue", "list", "--all"], *(["why", name] for name in story.ids)):
        story.narrator.line()
        story.narrator.command(" ".join(words))
        _, output = await _dagent(config, *color, *words)
        story.narrator.line(output.rstrip())


async def _complaints(config: Path, story: Story) -> list[str]:
    """What did not come out as it should have."""
    _, output = await _dagent(config, "--json", "queue", "list", "--all")
    try:
        messages = {record["id"]: record for record in map(json.loads, output.splitlines())}
    except (ValueError, LookupError, TypeError):
        return [f"dagent queue list says {output.strip()!r}"]
    found = []
    for queue_id, letter in story.ids.items():
        recipient = messages[queue_id]["recipients"][0]
        reply = recipient["last_reply"] or {}
        actual = (recipient["status"], recipient["attempts"], recipient["host"])
        good = (
            actual[0] == letter.status
            and letter.tries(int(actual[1]))
            and letter.reply in f"{reply.get('enhanced')} {reply.get('text')}"
            and letter.host in str(actual[2])
        )
        if not good:
            found.append(f"{letter.recipient}: {actual}, last reply {reply}")
        named = sum(letter.recipient.encode() in report for report in story.reports)
        if named != letter.report:
            found.append(f"{letter.recipient}: {named} reports, expected {int(letter.report)}")
    return found


async def _tell(directory: Path, narrator: Narrator) -> list[str]:
    story = Story(narrator)
    playground = Playground(directory, clock=time.time, notify=story.arrived, backoff="2s")
    async with playground:
        config = playground.config_path
        narrator.heading("A lab on loopback: name server, receiving hosts, and the agent itself")
        narrator.command("serve")
        async with _agent(config, story) as process:
            if not await _wait_for_socket(process, directory / "run" / "deliveryagent.sock"):
                return ["dagent serve did not start"]
            narrator.heading("Five letters")
            await _enqueue(config, story)
            narrator.heading("What happens")
            await _watch(process, story)
            narrator.heading("The queue, and why")
            await _explain(config, story)
            found = await _complaints(config, story)
        if process.returncode:
            found.append(f"dagent serve ended with status {process.returncode}")
    return found


def main() -> int:
    """Tell the story; 0 when every letter met its fate."""
    narrator = Narrator()
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    with tempfile.TemporaryDirectory(prefix="deliveryagent-demo-") as name:
        try:
            found = asyncio.run(_tell(Path(name), narrator))
        except KeyboardInterrupt:
            return 130
        except (OSError, RuntimeError) as error:
            found = [str(error)]
    narrator.line()
    for complaint in found:
        narrator.line(narrator.paint(f"NOT AS IT SHOULD BE: {complaint}", _RED))
    if not found:
        narrator.line(narrator.paint("Every letter met its fate. Nothing is left running.", _GREEN))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
