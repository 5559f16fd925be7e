"""Many sessions at a time, and many who guess passwords: others are served, and memory stays bounded."""

import asyncio
import base64
import contextlib
import resource
import smtplib
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from deliveryagent.lab.arrivals import Ledger
from deliveryagent.lab.receiver import Receiver
from deliveryagent.lab.session import HostSettings
from tests.program.doors import PASSWORD, Doors, add_user, listeners_of
from tests.program.whole_agent import Background, WholeAgent, eventually

PATIENCE = 60
IDLE = 1000
LETTER = b"From: kim@home.test\r\nSubject: hello\r\n\r\n" + b"x" * 70 + b"\r\n"
KIB, MIB = 1 << 10, 1 << 20


@pytest.fixture(autouse=True)
def many_files() -> None:
    """As many descriptors as all these sessions take on both ends."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 3 * IDLE
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"a process may open {hard} files only")
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@dataclass
class Place:
    """A running agent, and the process of its only listener."""

    port: int
    agent: WholeAgent
    listener: int
    ledger: Ledger

    def memory(self) -> int:
        """What the listener holds, in octets."""
        pages = Path(f"/proc/{self.listener}/statm").read_text().split()[1]
        return int(pages) * resource.getpagesize()


@contextlib.contextmanager
def serving(directory: Path, *lines: str, trusted: bool = True) -> Iterator[Place]:
    ledger = Ledger(clock=time.monotonic)
    with Background(lambda: Receiver(HostSettings(name="far.test"), ledger=ledger)) as receiver:
        doors = Doors(directory, receiver.port)
        if trusted:
            doors.add_trusted("door", *lines)
        else:
            doors.add("door", "submission", f'users = "{doors.users}"', *lines)
        with doors.agent() as agent:
            if not trusted:
                add_user(agent, "kim")
                add_user(agent, "lee")
            with agent.serving() as service:
                eventually(lambda: len(listeners_of(service)) == 1)
                (listener,) = listeners_of(service)
                yield Place(doors.ports["door"], agent, listener, ledger)


def send(port: int, count: int, source: str = "127.0.0.1", user: str = "") -> None:
    """One session with some messages."""
    with smtplib.SMTP(
        "127.0.0.1", port, "pc.home.test", timeout=PATIENCE, source_address=(source, 0)
    ) as client:
        if user:
            client.login(user, PASSWORD)
        for _ in range(count):
            assert client.sendmail("kim@home.test", ["you@far.test"], LETTER) == {}


# -- sessions that do nothing ---


async def _idle(port: int, opening: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"EHLO pc.home.test\r\n" + opening)
    while not (await reader.readline()).startswith(b"250 "):
        pass
    return reader, writer


@pytest.mark.parametrize(
    ("opening", "most"),
    [
        pytest.param(b"", 100 * KIB, id="after EHLO"),
        pytest.param(b"X" * 60_000, 200 * KIB, id="within a line that is far too long"),
        pytest.param(
            b"MAIL FROM:<a@home.test>\r\nRCPT TO:<b@far.test>\r\nDATA\r\n" + b"X" * 60_000,
            300 * KIB,
            id="within a line of a content",
        ),
    ],
)
def test_a_thousand_idle_sessions_cost_little_and_hinder_nobody(
    tmp_path: Path, opening: bytes, most: int
) -> None:
    with serving(tmp_path) as place:
        send(place.port, 20)
        before = place.memory()

        async def all_of_them() -> int:
            sessions = []
            for _ in range(IDLE // 50):
                sessions += await asyncio.gather(*(_idle(place.port, opening) for _ in range(50)))
            with ThreadPoolExecutor(10) as clients:
                loop = asyncio.get_running_loop()
                work = (loop.run_in_executor(clients, send, place.port, 25) for _ in range(20))
                await asyncio.gather(*work)
            grown = place.memory() - before
            for reader, writer in sessions:
                assert not reader.at_eof()  # they are still let be
                writer.close()
            return grown

        grown = asyncio.run(all_of_them())
        print(f"{grown / IDLE / KIB:.1f} KiB a session")  # noqa: T201 - shown with -s
        assert grown < most * IDLE
        eventually(lambda: len(place.ledger.arrivals) == 520, limit=PATIENCE)
        send(place.port, 1)


# -- guesses ---


class Guesser:
    """Tries passwords from one address, a few in each session."""

    def __init__(self, port: int, address: str, told: Counter[bytes]) -> None:
        self.port = port
        self.address = address
        self.told = told
        self.left = 0

    async def run(self, guesses: int) -> None:
        self.left = guesses
        while self.left > 0:
            with contextlib.suppress(ConnectionError):
                await self._session()

    async def _session(self) -> None:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.port, local_addr=(self.address, 0)
        )
        try:
            await reader.readline()
            writer.write(b"EHLO pc.home.test\r\n")
            while (line := await reader.readline())[3:4] == b"-":
                pass
            for _ in range(3):
                user = "kim" if self.left % 10 == 0 else f"u{self.left}"
                secret = base64.b64encode(f"\0{user}\0guess{self.left}".encode())
                writer.write(b"AUTH PLAIN " + secret + b"\r\n")
                line = await reader.readline()
                self.told[line[:3]] += 1
                self.left -= 1
                if line[:3] not in {b"535", b"454"} or self.left <= 0:
                    break
        finally:
            writer.close()


def guess(directory: Path, *, addresses: int, each: int) -> str:
    """Have many guess from as many addresses, while two users work; some figures."""
    settings = [
        "auth_without_tls = true",
        "auth_error_sleep = 0.005",
        "check_sender_domain = false",
    ]
    with serving(directory, *settings, trusted=False) as place:
        send(place.port, 1, "127.0.0.5", "kim")
        before, told, sent = place.memory(), Counter[bytes](), Counter[str]()
        over = threading.Event()
        longest = 0.0

        def work() -> None:
            nonlocal longest
            while not over.is_set() or not sent:
                begun = time.monotonic()
                send(place.port, 1, "127.0.0.5", "kim")  # where kim is at home
                send(place.port, 1, "127.0.0.6", "lee")  # where nobody logged in before
                longest = max(longest, time.monotonic() - begun)
                sent["both"] += 1
                over.wait(0.1)

        async def attack() -> None:
            guessers = [Guesser(place.port, f"127.1.0.{n + 1}", told) for n in range(addresses)]
            await asyncio.gather(*(one.run(each) for one in guessers))

        with ThreadPoolExecutor(1) as office:
            working = office.submit(work)
            try:
                asyncio.run(attack())
            finally:
                over.set()
            working.result()
        grown = place.memory() - before
        eventually(lambda: len(place.ledger.arrivals) == 1 + 2 * sent["both"], limit=PATIENCE)
    assert set(told) <= {b"535", b"454", b"421", b""}
    assert told[b"535"] <= addresses * 12  # ten are looked at, and those that were under way
    assert told.total() == addresses * each
    assert grown < 100 * MIB
    return (
        f"{told.total()} guesses from {addresses} addresses, {told[b'535']} looked at; {sent['both']} rounds "
        f"of two users meanwhile, the longest {longest:.1f} s; {grown / MIB:.1f} MiB more"
    )


def test_who_guesses_is_refused_and_users_are_not(tmp_path: Path) -> None:
    print(guess(tmp_path, addresses=5, each=40))  # noqa: T201 - shown with -s


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ten_thousand_guesses(tmp_path: Path) -> None:
    print(guess(tmp_path, addresses=100, each=100))  # noqa: T201 - shown with -s
