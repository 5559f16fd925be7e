"""A worker's end of the socket pair: nothing is lost, nothing is answered twice."""

import asyncio
import socket
from collections.abc import Awaitable, Callable

import msgspec

from deliveryagent.agent import frames
from deliveryagent.agent.manager_link import MANY_RESULTS, ManagerLink
from deliveryagent.mail.delivery import DeliveryResult
from tests.doubles.courier import until


class Notes:
    """A listener that writes down."""

    def __init__(self) -> None:
        self.heard: list[frames.ToWorker] = []
        self.alone = 0

    def hear(self, frame: frames.ToWorker) -> None:
        self.heard.append(frame)

    def orphaned(self) -> None:
        self.alone += 1


def linked(story: Callable[[ManagerLink, socket.socket], Awaitable[None]]) -> None:
    async def run() -> None:
        ours, theirs = socket.socketpair()
        with ours:
            theirs.setblocking(False)
            ours.settimeout(2)
            link = ManagerLink()
            await asyncio.get_running_loop().create_connection(lambda: link, sock=theirs)
            await story(link, ours)
            await link.close(1.0)

    asyncio.run(run())


def test_settings_come_first_and_what_follows_waits_for_a_listener() -> None:
    async def story(link: ManagerLink, manager: socket.socket) -> None:
        said: list[frames.ToWorker] = [frames.Configure(b"x"), frames.Settled(1), frames.Settled(2)]
        manager.sendall(frames.encode(said))
        assert await link.settings() == b"x"
        notes = Notes()
        link.listen(notes)
        assert notes.heard == said[1:]
        manager.sendall(frames.encode([frames.Settled(3)]))
        await until(lambda: len(notes.heard) == 3)

    linked(story)


def test_a_manager_that_says_something_else_first_gives_no_settings() -> None:
    async def story(link: ManagerLink, manager: socket.socket) -> None:
        manager.sendall(frames.encode([frames.Settled(1)]))
        assert await link.settings() is None

    linked(story)


def test_a_manager_that_goes_away_at_once_gives_no_settings() -> None:
    async def story(link: ManagerLink, manager: socket.socket) -> None:
        manager.close()
        assert await link.settings() is None

    linked(story)


def test_what_is_said_in_one_turn_arrives_in_order() -> None:
    async def story(link: ManagerLink, manager: socket.socket) -> None:
        beats = [frames.Beat(float(n), n) for n in range(50)]
        for beat in beats:
            link.say(beat)
        await asyncio.sleep(0.01)
        received = list(frames.Unframer().feed(manager.recv(65536), frames.from_worker_decoder))
        assert received == beats

    linked(story)


def result(number: int) -> bytes:
    return msgspec.msgpack.encode(DeliveryResult(number, 1, (), (), 1, "", 0.5, number))


async def hear(manager: socket.socket) -> list[frames.FromWorker]:
    """What was said in one write."""
    octets = await asyncio.to_thread(manager.recv, 65536)
    return frames.Unframer().feed(octets, frames.from_worker_decoder)


def serials(heard: list[frames.FromWorker]) -> list[int]:
    return [r.serial for f in heard if isinstance(f, frames.Results) for r in f.results]


def test_results_that_others_follow_are_gathered_and_the_last_is_told_at_once() -> None:
    async def story(link: ManagerLink, manager: socket.socket) -> None:
        for number in range(5):
            link.report(result(number), soon=False)
            await asyncio.sleep(0)
        link.report(result(5), soon=True)
        heard = await hear(manager)
        assert len(heard) == 1
        assert serials(heard) == [0, 1, 2, 3, 4, 5]

    linked(story)


def test_gathered_results_do_not_wait_long() -> None:
    async def story(link: ManagerLink, manager: socket.socket) -> None:
        link.report(result(1), soon=False)
        assert serials(await hear(manager)) == [1]
        for number in range(MANY_RESULTS):
            link.report(result(number), soon=False)
        assert len(serials(await hear(manager))) == MANY_RESULTS
        link.report(result(7), soon=False)
        link.say(frames.Beat(0.5, 1))
        heard = await hear(manager)
        assert serials(heard) == [7]
        assert frames.Beat(0.5, 1) in heard

    linked(story)


def test_last_words_go_out_before_the_end() -> None:
    async def story(link: ManagerLink, manager: socket.socket) -> None:
        link.say(frames.Beat(0.5, 1))
        await link.close(1.0)
        assert manager.recv(65536) == frames.encode([frames.Beat(0.5, 1)])
        assert manager.recv(1) == b""

    linked(story)


def test_rubbish_ends_the_connection() -> None:
    async def story(link: ManagerLink, manager: socket.socket) -> None:
        notes = Notes()
        link.listen(notes)
        manager.sendall(b"\xff" * 64)
        await until(lambda: notes.alone > 0)
        assert notes.heard == []

    linked(story)
