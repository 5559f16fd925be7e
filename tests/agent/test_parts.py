"""Large contents come part by part, never more than two ahead, and never wrong."""

import asyncio
import os
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deliveryagent.agent import frames
from deliveryagent.agent.parts import AHEAD, Parts
from deliveryagent.mail.delivery import Trouble, Verdict
from deliveryagent.protocol.content import encode
from deliveryagent.wire.connection import ContentError
from tests.doubles.courier import FIRST, Courier, request
from tests.doubles.scripted_peer import Reset, ScriptedPeer

KIM = "kim@example.net"
SIZE = 4096


class Store:
    """Answers for the manager; ``most`` is the largest number of parts on their way at a time."""

    def __init__(self, content: bytes, *, size: int = SIZE, missing: int = -1) -> None:
        self.asked: list[int] = []
        self.taken = 0
        self.most = 0
        self.parts = Parts(self.ask)
        self._size = size
        self._content = content
        self._missing = missing

    def ask(self, wanted: frames.Fetch) -> None:
        self.asked.append(wanted.part)
        self.most = max(self.most, len(self.asked) - self.taken)
        start = wanted.part * self._size
        data: bytes | None = self._content[start : start + self._size]
        if not data or wanted.part == self._missing:
            data = None
        part = frames.Part(wanted.queue_id, wanted.part, data)
        asyncio.get_running_loop().call_soon(self.parts.arrived, part)


async def collect(store: Store, size: int, *, long_lines: bool = False) -> bytes:
    wanted = request(KIM, content=None, size=size, long_lines=long_lines)
    found = []
    async for chunk in store.parts.stream(wanted, line_limit=998):
        store.taken += 1
        found.append(chunk)
    return b"".join(found)


@settings(max_examples=30, deadline=None)
@given(
    content=st.lists(
        st.sampled_from([b"line\r\n", b".\r\n", b"..x\r\n", b"\r\n"]), max_size=60
    ).map(b"".join),
    size=st.integers(1, 40),
)
def test_the_parts_make_up_the_wire_form_of_the_whole(content: bytes, size: int) -> None:
    store = Store(content, size=size)
    assert asyncio.run(collect(store, len(content))) == encode(content, long_lines=False)
    assert store.asked == list(range(-(-len(content) // size)))


def test_long_lines_are_folded_across_parts() -> None:
    content = b"y" * 10_000 + b"\r\n"
    found = asyncio.run(collect(Store(content), len(content), long_lines=True))
    assert found == encode(content, long_lines=True)


def test_only_two_parts_are_fetched_ahead() -> None:
    content = b"0123456789abcde\n".replace(b"e\n", b"\r\n") * 4096
    store = Store(content)
    asyncio.run(collect(store, len(content)))
    assert len(store.asked) == 16
    assert store.most <= AHEAD


BAD: list[tuple[str, Callable[[bytes], Store], int, Trouble]] = [
    ("missing", lambda c: Store(c, missing=2), 0, Trouble.CORRUPT),
    ("missing at once", lambda c: Store(c, missing=0), 0, Trouble.CORRUPT),
    ("too short", lambda c: Store(c[:-100]), 0, Trouble.CORRUPT),
    ("too long", Store, -100, Trouble.CORRUPT),
]


@pytest.mark.parametrize(
    ("make", "more", "trouble"), [row[1:] for row in BAD], ids=[row[0] for row in BAD]
)
def test_a_content_that_is_not_what_it_should_be_breaks_off(
    make: Callable[[bytes], Store], more: int, trouble: Trouble
) -> None:
    content = b"x" * 20_000
    with pytest.raises(ContentError) as caught:
        asyncio.run(collect(make(content), len(content) + more))
    assert caught.value.failure.trouble is trouble


def test_two_deliveries_of_a_message_fetch_a_part_once() -> None:
    async def run() -> None:
        content = b"x" * 3000
        store = Store(content)
        both = await asyncio.gather(collect(store, 3000), collect(store, 3000))
        assert both[0] == both[1]
        assert store.asked == [0]

    asyncio.run(run())


def answer_fetches(courier: Courier, content: Callable[[int], bytes | None]) -> None:
    """Let the courier's parts be answered as a manager would."""

    def ask(wanted: frames.Fetch) -> None:
        part = frames.Part(wanted.queue_id, wanted.part, content(wanted.part))
        asyncio.get_running_loop().call_soon(courier.means.parts.arrived, part)

    courier.means.parts._ask = ask


async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A peer that keeps nothing of what it takes."""
    writer.write(b"220 sink.example ESMTP\r\n")
    while line := await reader.readline():
        verb = line[:4].upper()
        writer.write(b"354 go\r\n" if verb == b"DATA" else b"250 sink.example\r\n")
        if verb == b"DATA":
            tail = b""
            while not tail.endswith(b"\r\n.\r\n"):
                tail = (tail + await reader.read(65536))[-5:]
            writer.write(b"250 taken\r\n")
        if verb == b"QUIT":
            writer.close()
            return


def test_a_large_message_is_streamed_in_bounded_memory() -> None:
    part = (b"x" * 62 + b"\r\n") * 4096
    count = 80

    async def run() -> None:
        async with Courier() as courier:
            server = await asyncio.start_server(swallow, FIRST, courier.port)
            answer_fetches(courier, lambda number: bytes(part) if number < count else None)
            tracemalloc.start()
            result = await courier.deliver(request(KIM, content=None, size=len(part) * count))
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            server.close()
            assert result.recipients[0].verdict == Verdict.DELIVERED
            assert peak < 16 * len(part)  # a fifth of the message, most of it in the sockets

    asyncio.run(run())


@pytest.mark.parametrize("missing", [0, 3])
def test_an_unreadable_content_is_put_aside_and_never_ends_in_a_dot(missing: int) -> None:
    part = os.urandom(8) * 8192

    async def run() -> None:
        async with Courier() as courier, ScriptedPeer(host=FIRST, port=courier.port) as peer:
            answer_fetches(courier, lambda number: part if number != missing else None)
            wanted = request(KIM, content=None, size=len(part) * 5)
            result = await courier.deliver(wanted)
            assert [r.verdict for r in result.recipients] == [Verdict.HELD]
            assert peer.messages == []

    asyncio.run(run())


def test_an_early_refusal_ends_the_stream() -> None:
    part = b"x" * 62 + b"\r\n"

    async def run() -> None:
        script = {"CONTENT": "554 5.3.4 too much"}
        async with Courier() as courier, ScriptedPeer(script, host=FIRST, port=courier.port):
            answer_fetches(courier, lambda _: part * 4096)
            result = await courier.deliver(request(KIM, content=None, size=len(part) * 4096 * 30))
            found = result.recipients[0]
            assert (found.verdict, found.code, found.enhanced) == (Verdict.BOUNCED, 554, "5.3.4")

    asyncio.run(run())


def test_a_peer_that_resets_during_the_content_is_soft() -> None:
    part = b"x" * 62 + b"\r\n"

    async def run() -> None:
        script = {"CONTENT": Reset()}
        async with Courier() as courier, ScriptedPeer(script, host=FIRST, port=courier.port):
            answer_fetches(courier, lambda _: part * 4096)
            result = await courier.deliver(request(KIM, content=None, size=len(part) * 4096 * 30))
            assert result.recipients[0].verdict == Verdict.DEFERRED

    asyncio.run(run())
