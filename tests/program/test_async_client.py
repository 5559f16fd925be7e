"""The asyncio client: with a service, without one, and while one comes and goes."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from email.message import EmailMessage
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from deliveryagent import AsyncClient, EnqueueError
from deliveryagent.client import ServiceError
from deliveryagent.intake.admission import Peer
from deliveryagent.intake.async_link import AsyncLink
from deliveryagent.intake.link import LostError
from deliveryagent.mail.envelope import parse_queue_id
from deliveryagent.queue.lock import QueueLock
from tests.doors.office import (
    LETTER,
    UNAVAILABLE,
    Office,
    content_of,
    fresh_queue,
    leftovers,
    open_office,
    rows,
    stored,
    until,
)
from tests.program.whole_agent import WholeAgent

TO = ["kim@example.net"]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where the queue is, with a configuration file that says so."""
    fresh_queue(tmp_path)
    url = f"sqlite:///{tmp_path}/queue.sqlite3"
    (tmp_path / "agent.toml").write_text(
        f'hostname = "mail.example.org"\nrun_dir = "{tmp_path}"\n[queue]\nurl = "{url}"\n'
    )
    return tmp_path


@asynccontextmanager
async def serving(directory: Path, **options: Any) -> AsyncIterator[Office]:
    """A service's socket; the lock of the queue is held as well."""
    with QueueLock(directory / "queue.sqlite3"):
        async with open_office(directory, **options) as office:
            yield office


def at(directory: Path, **options: Any) -> AsyncClient:
    return AsyncClient(socket=directory / "deliveryagent.sock", **{"patience": 0.3, **options})


def configured(directory: Path, **options: Any) -> AsyncClient:
    return AsyncClient(directory / "agent.toml", **{"patience": 0.3, **options})


# -- with a service ---


async def _hand_over(directory: Path) -> None:
    async with serving(directory) as office, at(directory) as client:
        message = EmailMessage()
        message["Bcc"] = "lee@example.net"
        message.set_content("hello\n")
        queue_id = await client.enqueue("shop@example.org", TO, message, tags={"app": "shop"})
        assert rows(office.queue, "SELECT id, sender, tags FROM message") == [
            (parse_queue_id(queue_id), "shop@example.org", '{"app":"shop"}')
        ]
        assert content_of(office.queue).endswith(b"\r\n\r\nhello\r\n")
        assert b"lee@" not in content_of(office.queue)


def test_a_message_is_handed_over(directory: Path) -> None:
    asyncio.run(_hand_over(directory))


async def _many_tasks(directory: Path) -> None:
    async with serving(directory) as office, at(directory) as client:
        office.desk.gate.clear()  # no commit, and so no answer
        tasks = [
            asyncio.create_task(client.enqueue("", [f"u{n}@example.net"], LETTER))
            for n in range(200)
        ]
        await until(lambda: len(office.desk.submitted) == 200)  # none waited for another's answer
        assert not any(task.done() for task in tasks)
        assert len(office.desk.tasks) < 100  # and they share commits
        office.desk.gate.set()
        ids = await asyncio.gather(*tasks)
        found = dict(rows(office.queue, "SELECT address, message_id FROM recipient"))
        assert [found[f"u{n}@example.net"] for n in range(200)] == list(map(parse_queue_id, ids))


def test_many_tasks_share_a_connection_and_commits(directory: Path) -> None:
    asyncio.run(_many_tasks(directory))


async def _beyond_the_window(directory: Path) -> None:
    async with serving(directory) as office, at(directory) as client:
        calls = (client.enqueue("", [f"u{n}@example.net"], LETTER) for n in range(2000))
        ids = await asyncio.gather(*calls)
        assert len(set(ids)) == stored(office.queue) == 2000


def test_more_tasks_than_may_be_on_the_way_at_once(directory: Path) -> None:
    asyncio.run(_beyond_the_window(directory))


async def _one_refused(directory: Path) -> None:
    async with serving(directory) as office, at(directory) as client:
        found = await asyncio.gather(
            client.enqueue("", TO, LETTER),
            client.enqueue("", [], LETTER),
            client.enqueue("", TO, b"a\0b"),
            client.enqueue("", ["kim\udcff@example.net"], LETTER),
            client.enqueue("", TO, LETTER),
            return_exceptions=True,
        )
        errors = [one for one in found if isinstance(one, EnqueueError)]
        assert [error.code for error in errors] == [65, 65, 65]
        assert ["no recipients" in str(errors[0]), "NUL" in str(errors[1])] == [True, True]
        assert isinstance(found[0], str)
        assert isinstance(found[4], str)
        assert stored(office.queue) == 2
        assert not leftovers(office.queue)


def test_a_refusal_is_told_to_whom_it_concerns(directory: Path) -> None:
    asyncio.run(_one_refused(directory))


async def _misuse(directory: Path) -> None:
    wrong: Any = "text"
    async with at(directory) as client:
        with pytest.raises(TypeError, match="octets"):
            await client.enqueue("", TO, wrong)
        with pytest.raises(TypeError, match="colour"):
            await client.enqueue("", TO, LETTER, colour="red")  # type: ignore[call-arg]


def test_misuse_is_told_at_once(directory: Path) -> None:
    asyncio.run(_misuse(directory))


async def _key(directory: Path) -> None:
    async with serving(directory) as office, at(directory) as client:
        same = [client.enqueue("", TO, LETTER, key="order-1") for _ in range(5)]
        assert len(set(await asyncio.gather(*same))) == 1
        with pytest.raises(EnqueueError, match="order-1") as caught:
            await client.enqueue("", TO, LETTER + b"more", key="order-1")
        assert caught.value.code == 65
        assert stored(office.queue) == 1


def test_a_key_makes_repeating_safe(directory: Path) -> None:
    asyncio.run(_key(directory))


async def _large(directory: Path) -> None:
    file = BytesIO(b"skipped\nSubject: big\n\n" + b"0123456789\n" * 300_000)
    file.readline()
    async with serving(directory) as office, at(directory) as client:
        small = [client.enqueue("", TO, LETTER) for _ in range(3)]
        await asyncio.gather(*small, client.enqueue("", ["big@example.net"], file), *small[:0])
        place = rows(office.queue, "SELECT message_id FROM recipient WHERE address LIKE 'big%'")
        content = content_of(office.queue, place[0][0])
        assert content.endswith(b"\r\n\r\n" + b"0123456789\r\n" * 300_000)


def test_a_large_file_is_streamed_among_others(directory: Path) -> None:
    asyncio.run(_large(directory))


class Broken(BytesIO):
    """A file that cannot be read to its end."""

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() > 100_000:
            raise OSError("the disk is broken")
        return super().read(size)


async def _broken_file(directory: Path, client: AsyncClient) -> None:
    async with client:
        found = await asyncio.gather(
            client.enqueue("", TO, LETTER),
            client.enqueue("", TO, Broken(b"\n" + b"0123456789\n" * 30_000)),
            client.enqueue("", TO, LETTER),
            return_exceptions=True,
        )
        assert [type(one) for one in found] == [str, OSError, str]
    assert stored(directory / "queue.sqlite3") == 2


async def _broken_file_with_a_service(directory: Path) -> None:
    async with serving(directory) as office:
        await _broken_file(directory, at(directory))
        await until(lambda: not leftovers(office.queue))


def test_a_file_that_breaks_concerns_its_own_message_only(directory: Path) -> None:
    asyncio.run(_broken_file_with_a_service(directory))


def test_directly_it_does_too(directory: Path) -> None:
    asyncio.run(_broken_file(directory, configured(directory)))


async def _cancelled(directory: Path) -> None:
    async with serving(directory) as office, at(directory) as client:
        office.desk.gate.clear()
        gone = asyncio.create_task(client.enqueue("", TO, LETTER))
        await until(lambda: bool(office.desk.submitted))
        gone.cancel()
        office.desk.gate.set()
        other = await client.enqueue("", ["lee@example.net"], LETTER)
        found = dict(rows(office.queue, "SELECT address, message_id FROM recipient"))
        assert found["lee@example.net"] == parse_queue_id(other)
        unsent = asyncio.create_task(client.enqueue("", ["never@example.net"], LETTER))
        await asyncio.sleep(0)
        unsent.cancel()
        await client.enqueue("", TO, LETTER)
        assert not rows(office.queue, "SELECT 1 FROM recipient WHERE address LIKE 'never%'")


def test_a_call_that_was_cancelled_leaves_the_others_their_answers(directory: Path) -> None:
    asyncio.run(_cancelled(directory))


async def _trouble(directory: Path) -> None:
    async with serving(directory) as office, at(directory) as client:
        office.desk.failure = UNAVAILABLE
        with pytest.raises(EnqueueError, match="disk is full") as caught:
            await client.enqueue("", TO, LETTER)
        assert caught.value.code == 75


def test_a_full_store_means_try_later(directory: Path) -> None:
    asyncio.run(_trouble(directory))


# -- many in one call ---


async def _many(directory: Path) -> None:
    async def made() -> AsyncIterator[tuple[Any, ...]]:
        for n in range(700):
            await asyncio.sleep(0)
            yield "", [f"v{n}@example.net"], LETTER

    async with serving(directory) as office, at(directory) as client:
        items = [("shop@example.org", [f"u{n}@example.net"], LETTER) for n in range(700)]
        ids, others = await asyncio.gather(client.enqueue_many(items), client.enqueue_many(made()))
        found = dict(rows(office.queue, "SELECT message_id, address FROM recipient"))
        assert [found[parse_queue_id(i)] for i in ids] == [f"u{n}@example.net" for n in range(700)]
        assert [found[parse_queue_id(i)] for i in others] == [
            f"v{n}@example.net" for n in range(700)
        ]
        assert await client.enqueue_many([]) == []


def test_many_are_handed_over_in_order(directory: Path) -> None:
    asyncio.run(_many(directory))


async def _stopping(directory: Path) -> None:
    asked = []

    def items() -> Iterator[tuple[Any, ...]]:
        for n in range(10_000):
            asked.append(n)
            yield "", ["not an address" if n == 5 else "a@b.example"], LETTER, {"tags": {"n": "1"}}

    async with serving(directory) as office, at(directory) as client:
        with pytest.raises(EnqueueError) as caught:
            await client.enqueue_many(items())
        error = caught.value
        assert error.code == 65
        assert error.accepted[5] is None
        assert all(error.accepted[:5])
        assert stored(office.queue) == len(error.accepted) - 1 < 1000
        assert len(asked) < 1000
        assert await client.enqueue("", TO, LETTER)


def test_many_stop_at_the_first_that_is_refused(directory: Path) -> None:
    asyncio.run(_stopping(directory))


async def _unfit(directory: Path) -> None:
    bad: list[Any] = [("", TO, LETTER), ("", ["kim\udcff@example.net"], LETTER), ("", TO, LETTER)]
    async with serving(directory) as office, at(directory) as client:
        with pytest.raises(EnqueueError, match="UTF-8") as caught:
            await client.enqueue_many(bad)
        assert [bool(entry) for entry in caught.value.accepted] == [True, False]
        assert stored(office.queue) == 1

        def broken() -> Iterator[tuple[Any, ...]]:
            yield ("", TO, LETTER)
            raise RuntimeError("enough")

        with pytest.raises(RuntimeError, match="enough"):
            await client.enqueue_many(broken())
        assert await client.enqueue("", TO, LETTER)


def test_many_stop_at_what_cannot_even_be_asked(directory: Path) -> None:
    asyncio.run(_unfit(directory))


# -- a service that comes and goes ---


@asynccontextmanager
async def losing(
    directory: Path, *, read: int = 1 << 20, says: bytes = b""
) -> AsyncIterator[list[int]]:
    """A service that goes away before it answers, every time."""
    times: list[int] = []

    async def lose(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        times.append(len(await reader.read(read)))
        writer.write(says)
        writer.close()

    path = directory / "deliveryagent.sock"
    server = await asyncio.start_unix_server(lose, path)
    yield times
    server.close()
    path.unlink(missing_ok=True)


async def _comes_back(directory: Path) -> None:
    async with at(directory, patience=20) as client:
        async with losing(directory, read=100) as times:
            call = asyncio.create_task(client.enqueue_many([("", TO, b"\n" + b"x" * 200_000)] * 3))
            await until(lambda: len(times) >= 2)
        async with serving(directory) as office:
            assert len(set(await call)) == 3
            assert stored(office.queue) == 3


def test_a_service_that_dies_while_it_reads_is_tried_again(directory: Path) -> None:
    asyncio.run(_comes_back(directory))


async def _answer_lost(directory: Path) -> None:
    lost: list[bytes] = []

    async def forgetful(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Passes on what it hears, but not the first answers."""
        there, back = await asyncio.open_unix_connection(directory / "deliveryagent.sock")

        async def listen() -> None:
            while data := await reader.read(1 << 16):
                back.write(data)
            back.close()

        task = asyncio.create_task(listen())
        while answer := await there.readline():
            if len(lost) < 3:
                lost.append(answer)
                break
            writer.write(answer)
        writer.close()
        task.cancel()
        back.close()

    async with serving(directory) as office:
        server = await asyncio.start_unix_server(forgetful, directory / "between.sock")
        async with AsyncClient(socket=directory / "between.sock", patience=20) as client:
            calls = [client.enqueue("", [f"u{n}@example.net"], LETTER) for n in range(20)]
            assert len(set(await asyncio.gather(*calls))) == 20
        assert len(lost) == 3
        assert stored(office.queue) == 20
        server.close()


def test_messages_whose_answer_was_lost_are_taken_once(directory: Path) -> None:
    asyncio.run(_answer_lost(directory))


async def _never_there(directory: Path) -> None:
    async with at(directory, patience=0.1) as client:
        with pytest.raises(EnqueueError, match="cannot be reached") as caught:
            await client.enqueue("", TO, LETTER)
        assert caught.value.code == 75
        assert caught.value.hint


def test_a_service_that_never_comes_is_given_up(directory: Path) -> None:
    asyncio.run(_never_there(directory))


async def _own_patience(directory: Path) -> None:
    loop = asyncio.get_running_loop()
    times: list[float] = []

    async def call() -> None:
        begun = loop.time()
        with pytest.raises(EnqueueError):
            await client.enqueue("", TO, LETTER)
        times.append(loop.time() - begun)

    async with at(directory, patience=0.4) as client:
        first = asyncio.create_task(call())
        await asyncio.sleep(0.3)
        await call()
        await first
    assert all(time >= 0.4 for time in times)


def test_every_message_has_the_whole_patience(directory: Path) -> None:
    asyncio.run(_own_patience(directory))


async def _in_doubt(directory: Path, says: bytes) -> None:
    async with losing(directory, says=says), at(directory, patience=0.1) as client:
        with pytest.raises(EnqueueError, match="may have taken") as caught:
            await client.enqueue("", TO, LETTER)
        assert caught.value.code == 75
        assert caught.value.accepted == (None,)


@pytest.mark.parametrize("says", [b"", b"220 mail.example.org ESMTP\r\n", b'{"ok":tr'])
def test_a_service_that_never_answers_leaves_doubt_and_says_so(
    directory: Path, says: bytes
) -> None:
    asyncio.run(_in_doubt(directory, says))


async def _silent(directory: Path, says: bytes) -> str:
    """What is told of a service that says this and then nothing."""

    gone = asyncio.Event()

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(says)
        while await reader.read(1 << 16):
            pass
        writer.close()
        gone.set()

    path = directory / "deliveryagent.sock"
    server = await asyncio.start_unix_server(swallow, path)
    link = await AsyncLink.open(str(path), lambda _: None, 20 if says else 0.1)
    if not says:
        await link.ask(b"{}\n")
    with pytest.raises(LostError) as caught:
        await link.stirred()
    await link.close()
    await gone.wait()
    server.close()
    return str(caught.value)


def test_a_service_that_gives_no_sign_is_lost(directory: Path) -> None:
    assert "no sign of life" in asyncio.run(_silent(directory, b""))


def test_an_answer_that_nobody_asked_for_is_not_believed(directory: Path) -> None:
    assert "nobody asked" in asyncio.run(_silent(directory, b'{"ok":true,"id":"0C7QK4M2V9XTB"}\n'))


async def _restart(directory: Path) -> None:
    async with at(directory) as client:
        async with serving(directory):
            first = await client.enqueue("", TO, LETTER)
        async with serving(directory) as office:
            assert await client.enqueue("", TO, LETTER) > first
            assert stored(office.queue) == 2


def test_an_idle_connection_that_was_closed_is_replaced(directory: Path) -> None:
    asyncio.run(_restart(directory))


async def _not_permitted(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("deliveryagent.async_client.AsyncLink.open", refuse)
    client = at(directory)
    with pytest.raises(EnqueueError, match="may not use") as caught:
        await client.enqueue("", TO, LETTER)
    assert caught.value.code == 4
    with pytest.raises(ServiceError, match="may not use"):
        await client.order("hold")


def test_a_socket_that_may_not_be_used_is_told(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.run(_not_permitted(directory, monkeypatch))


# -- without a service ---


async def _directly(config: Path) -> None:
    async with AsyncClient(config, patience=0.3) as client:
        calls = [client.enqueue("", TO, LETTER, key=f"order-{n % 50}") for n in range(100)]
        found = await asyncio.gather(*calls, client.enqueue("", [], LETTER), return_exceptions=True)
        assert len(set(found[:-1])) == 50
        assert isinstance(found[-1], EnqueueError)
        assert found[-1].code == 65
        more = await client.enqueue_many([("shop@example.org", TO, LETTER)] * 450)
        assert len(set(more)) == 450
        with pytest.raises(EnqueueError) as caught:
            await client.enqueue_many([("", TO, LETTER), ("", ["@"], LETTER)])
        assert [bool(entry) for entry in caught.value.accepted] == [True, False]
        with pytest.raises(ServiceError, match="no service") as missing:
            await client.wait(more[0])
        assert missing.value.code == 3


def test_without_a_service_the_queue_is_written_directly(tmp_path: Path, queue_url: str) -> None:
    config = tmp_path / "agent.toml"
    config.write_text(
        f'hostname = "mail.example.org"\nrun_dir = "{tmp_path}"\n[queue]\nurl = "{queue_url}"\n'
    )
    asyncio.run(_directly(config))
    agent = WholeAgent(tmp_path, config)
    assert len(agent.messages()) == 501


async def _starting(directory: Path) -> None:
    async with configured(directory, patience=20) as client:
        with QueueLock(directory / "queue.sqlite3"):
            call = asyncio.create_task(client.enqueue("", TO, LETTER))
            await asyncio.wait([call], timeout=0.25)
            assert not call.done()
            async with open_office(directory) as office:
                await call
                assert stored(office.queue) == 1


def test_a_starting_service_is_waited_for(directory: Path) -> None:
    asyncio.run(_starting(directory))


async def _bad_configuration(directory: Path) -> None:
    (directory / "agent.toml").write_text("hostname = 7\nrun_dir = 3\n")
    async with configured(directory) as client:
        with pytest.raises(EnqueueError, match="run_dir") as caught:
            await client.enqueue("", TO, LETTER)
        assert caught.value.code == 78


def test_a_bad_configuration_is_told(directory: Path) -> None:
    asyncio.run(_bad_configuration(directory))


# -- orders ---


async def _answer_to_wait(fields: dict[str, Any], peer: Peer) -> dict[str, Any]:
    if fields["id"] == "unknown":
        raise ServiceError(5, "no such message")
    if fields["id"] == "late":
        await asyncio.sleep(0.2)
    return {"message": {"id": fields["id"], "status": "delivered", "asked": fields["timeout"]}}


async def _waiting(directory: Path) -> None:
    async with serving(directory, open_orders={"wait": _answer_to_wait}), at(directory) as client:
        late = asyncio.create_task(client.wait("late", timeout=5))
        message = await client.wait("0C7QK4M2V9XTB", timeout=5)
        assert await client.enqueue("", TO, LETTER)
        assert not late.done()  # nobody waits for those who wait
        assert message["status"] == "delivered"
        assert 4 < message["asked"] <= 5
        with pytest.raises(ServiceError, match="no such") as caught:
            await client.wait("unknown")
        assert caught.value.code == 5
        many = await asyncio.gather(*(client.wait(str(n)) for n in range(100)))
        assert [one["id"] for one in many] == [str(n) for n in range(100)]
        assert (await late)["id"] == "late"


def test_the_outcome_is_waited_for(directory: Path) -> None:
    asyncio.run(_waiting(directory))


async def _waiting_on(directory: Path) -> None:
    async with at(directory, patience=20) as client:
        async with losing(directory) as times:
            waiter = asyncio.create_task(client.wait("0C7QK4M2V9XTB", timeout=20))
            await until(lambda: len(times) >= 2)
            with pytest.raises(LostError):
                await client.order("hold")  # is not repeated
        async with serving(directory, open_orders={"wait": _answer_to_wait}):
            assert (await waiter)["status"] == "delivered"


def test_waiting_goes_on_when_the_service_restarts(directory: Path) -> None:
    asyncio.run(_waiting_on(directory))


# -- the whole service ---


async def _whole(config: Path) -> str:
    async with AsyncClient(config) as client:
        calls = [client.enqueue("", [f"u{n}@example.net"], LETTER, hold=True) for n in range(300)]
        ids = await asyncio.gather(*calls)
        message = await client.wait(ids[0], timeout=0)
        assert message["id"] == ids[0]
    return ids[0]


def whole(directory: Path, queue_url: str) -> WholeAgent:
    (directory / "run").mkdir()
    return WholeAgent(
        directory,
        f'hostname = "mail.example.org"\nrun_dir = "{directory}/run"\n[queue]\nurl = "{queue_url}"\n',
    )


def test_a_whole_service_takes_it(tmp_path: Path, queue_url: str) -> None:
    with whole(tmp_path, queue_url) as agent:
        with agent.serving():
            first = asyncio.run(_whole(agent.config))
        messages = agent.messages()
        assert len(messages) == 300
        assert first in messages


async def _killed(agent: WholeAgent) -> list[str]:
    process = agent.start()
    await asyncio.to_thread(agent.ready, process)
    async with AsyncClient(agent.config, patience=60) as client:
        calls = [
            asyncio.create_task(client.enqueue("", [f"u{n}@example.net"], LETTER, hold=True))
            for n in range(3000)
        ]
        await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.to_thread(agent.kill, process)
        assert not all(call.done() for call in calls)
        again = agent.start()
        await asyncio.to_thread(agent.ready, again)
        return await asyncio.gather(*calls)


def test_a_service_that_is_killed_has_every_message_once(tmp_path: Path, queue_url: str) -> None:
    with whole(tmp_path, queue_url) as agent:
        ids = asyncio.run(_killed(agent))
        messages = agent.messages()
    assert len(set(ids)) == 3000
    assert set(ids) == set(messages)
    assert len({one["recipients"][0]["address"] for one in messages.values()}) == 3000
