"""The Python client: with a service, without one, and while one comes and goes."""

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from deliveryagent import Client, EnqueueError
from deliveryagent.client import ServiceError
from deliveryagent.intake import outgoing
from deliveryagent.intake.admission import Peer
from deliveryagent.intake.link import Link, LostError
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
)
from tests.program.whole_agent import Background

TO = ["kim@example.net"]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where the queue is, with a configuration file that says so."""
    fresh_queue(tmp_path)
    url = f"sqlite:///{tmp_path}/queue.sqlite3"
    run_dir = tmp_path / "deliveryagent.sock"
    (tmp_path / "agent.toml").write_text(
        f'hostname = "mail.example.org"\nrun_dir = "{run_dir.parent}"\n[queue]\nurl = "{url}"\n'
    )
    return tmp_path


@contextmanager
def serving(directory: Path, **options: Any) -> Iterator[Office]:
    """A service's socket, in another thread; the lock of the queue is held as well."""
    with (
        QueueLock(directory / "queue.sqlite3"),
        Background(lambda: open_office(directory, **options)) as office,
    ):
        yield office


def at(directory: Path, **options: Any) -> Client:
    return Client(socket=directory / "deliveryagent.sock", **{"patience": 0.3, **options})


def configured(directory: Path, **options: Any) -> Client:
    return Client(directory / "agent.toml", **{"patience": 0.3, **options})


# -- with a service ---


def test_a_message_is_handed_over(directory: Path) -> None:
    with serving(directory) as office, at(directory) as client:
        queue_id = client.enqueue(
            "shop@example.org", "kim@example.net", LETTER, tags={"app": "shop"}
        )
        assert rows(office.queue, "SELECT id, sender, tags FROM message") == [
            (parse_queue_id(queue_id), "shop@example.org", '{"app":"shop"}')
        ]
        assert content_of(office.queue).endswith(b"\r\n\r\nhello\r\n")


def test_wishes_are_passed_on(directory: Path) -> None:
    future = datetime(2100, 1, 1, tzinfo=UTC)
    with serving(directory) as office, at(directory) as client:
        content = b"Bcc: lee@example.net\n\n"
        client.enqueue(
            "", TO, content, from_headers=True, ret="hdrs", envid="id 1", dsn=["success", "delay"]
        )
        client.enqueue("", TO, LETTER, hold=True)
        with pytest.raises(EnqueueError, match="year"):
            client.enqueue("", TO, LETTER, at=future)
        client.enqueue("", TO, LETTER, at=datetime(2020, 1, 1, tzinfo=UTC))
        soon = datetime.fromtimestamp(int(time.time()) + 3600, UTC)
        client.enqueue("", TO, LETTER, priority=-3, deliver_by=soon)
        client.enqueue("", TO, LETTER, deliver_by=soon, by_mode="return")
        for wrong in ({"priority": 10}, {"deliver_by": 5.0}, {"deliver_by": soon, "at": soon}):
            with pytest.raises(EnqueueError):
                client.enqueue("", TO, LETTER, **wrong)
        with pytest.raises(EnqueueError, match="sometimes"):
            client.enqueue("", TO, LETTER, deliver_by=soon, by_mode="sometimes")
        assert rows(
            office.queue, "SELECT priority, deliver_by, by_mode FROM message WHERE deliver_by > 0"
        ) == [(-3, soon.timestamp(), "N"), (0, soon.timestamp(), "R")]
        found = rows(
            office.queue,
            "SELECT address, status, notify FROM recipient ORDER BY message_id, number",
        )
        assert found[:3] == [
            ("kim@example.net", "queued", 10),
            ("lee@example.net", "queued", 10),
            ("kim@example.net", "held", 0),
        ]
        assert rows(office.queue, "SELECT ret, envid FROM message")[0] == ("HDRS", "id 1")


def test_many_are_handed_over_in_order(directory: Path) -> None:
    with serving(directory) as office, at(directory) as client:
        items = [("shop@example.org", [f"u{n}@example.net"], LETTER) for n in range(500)]
        ids = client.enqueue_many(items)
        found = rows(office.queue, "SELECT message_id, address FROM recipient ORDER BY message_id")
        assert found == [(parse_queue_id(i), f"u{n}@example.net") for n, i in enumerate(ids)]
        assert client.enqueue_many([]) == []


def test_many_stop_at_the_first_that_is_refused(directory: Path) -> None:
    def items() -> Iterator[tuple[Any, ...]]:
        for n in range(10_000):
            yield (
                "",
                ["not an address" if n == 5 else "a@b.example"],
                LETTER,
                {"tags": {"n": str(n)}},
            )

    with serving(directory) as office, at(directory) as client:
        with pytest.raises(EnqueueError) as caught:
            client.enqueue_many(items())
        error = caught.value
        assert error.code == 65
        assert error.accepted[5] is None
        assert all(error.accepted[:5])
        assert stored(office.queue) == len(error.accepted) - 1 < 500
        assert client.enqueue("", TO, LETTER)


def test_many_stop_at_what_cannot_even_be_asked(directory: Path) -> None:
    bad: list[Any] = [("", TO, LETTER), ("", ["kim\udcff@example.net"], LETTER), ("", TO, LETTER)]
    with serving(directory) as office, at(directory) as client:
        with pytest.raises(EnqueueError, match="UTF-8") as caught:
            client.enqueue_many(bad)
        assert [bool(entry) for entry in caught.value.accepted] == [True, False]
        assert stored(office.queue) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("a b@example.org", TO, LETTER), 65, "sender"),
        (("", [], LETTER), 65, "no recipients"),
        (("", TO, b"a\0b"), 65, "NUL"),
    ],
)
def test_refusals_say_why(directory: Path, arguments: Any, code: int, text: str) -> None:
    with serving(directory) as office, at(directory) as client:
        with pytest.raises(EnqueueError, match=text) as caught:
            client.enqueue(*arguments)
        assert caught.value.code == code
        assert client.enqueue("", TO, LETTER)
        assert not leftovers(office.queue)


def test_misuse_is_told_at_once(directory: Path) -> None:
    client = at(directory)
    wrong: Any = "text"
    with pytest.raises(TypeError, match="octets"):
        client.enqueue("", TO, wrong)
    with pytest.raises(TypeError, match="colour"):
        client.enqueue("", TO, LETTER, colour="red")  # type: ignore[call-arg]


def test_after_misuse_answers_still_belong_to_their_requests(directory: Path) -> None:
    def items() -> Iterator[tuple[Any, ...]]:
        yield ("", TO, LETTER)
        raise RuntimeError("enough")

    with serving(directory), at(directory) as client:
        with pytest.raises(RuntimeError, match="enough"):
            client.enqueue_many(items())
        with pytest.raises(EnqueueError):
            client.enqueue("", [], LETTER)


def test_a_key_makes_repeating_safe(directory: Path) -> None:
    with serving(directory) as office:
        with at(directory) as client:
            first = client.enqueue("", TO, LETTER, key="order-1")
        with at(directory) as client:
            assert client.enqueue("", TO, LETTER, key="order-1") == first
            with pytest.raises(EnqueueError, match="order-1") as caught:
                client.enqueue("", TO, LETTER + b"more", key="order-1")
        assert caught.value.code == 65
        assert stored(office.queue) == 1


def test_with_a_key_a_message_may_be_built_again(directory: Path) -> None:
    """Also one of several parts, whose boundaries would otherwise be others each time."""
    with serving(directory) as office, at(directory) as client:
        for _ in range(2):
            message = EmailMessage()
            message.set_content("hello")
            message.add_alternative("<p>hello", subtype="html")
            message.add_attachment(b"a,b", maintype="text", subtype="csv", filename="order.csv")
            client.enqueue("", TO, message, key="order-1")
        assert stored(office.queue) == 1


def test_a_large_file_is_streamed(directory: Path) -> None:
    file = directory / "letter.eml"
    file.write_bytes(b"skipped\nSubject: big\n\n" + b"0123456789\n" * 30_000)
    with serving(directory) as office, at(directory) as client, file.open("rb") as content:
        content.readline()
        client.enqueue("", TO, content)
        assert content_of(office.queue).endswith(b"\r\n\r\n" + b"0123456789\r\n" * 30_000)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_octets_of_any_kind_are_taken(directory: Path, kind: Callable[[bytes], Any]) -> None:
    with serving(directory) as office, at(directory) as client:
        client.enqueue("", TO, kind(LETTER))
        assert content_of(office.queue).endswith(b"hello\r\n")


def test_an_email_message_is_written_as_mail(directory: Path) -> None:
    message = EmailMessage()
    message["Subject"] = "Grüße"
    message["To"] = "kim@example.net"
    message["Bcc"] = "lee@example.net"
    message.set_content("Schöne Grüße\n.\n")
    with serving(directory) as office, at(directory) as client:
        client.enqueue("", TO, message)
        content = content_of(office.queue)
        assert b"Subject: =?utf-8?" in content
        assert b"lee@" not in content
        assert rows(office.queue, "SELECT utf8 FROM message") == [(0,)]
        client.enqueue("", ["jürgen@example.net"], message)
        last = rows(office.queue, "SELECT max(id) FROM message")[0][0]
        assert "Subject: Grüße".encode() in content_of(office.queue, last)


def test_an_idle_connection_that_was_closed_is_replaced(directory: Path) -> None:
    with at(directory) as client:
        with serving(directory):
            first = client.enqueue("", TO, LETTER)
        with serving(directory) as office:
            assert client.enqueue("", TO, LETTER) > first
            assert stored(office.queue) == 2


def test_a_full_store_means_try_later(directory: Path) -> None:
    with serving(directory) as office, at(directory) as client:
        office.desk.failure = UNAVAILABLE
        with pytest.raises(EnqueueError, match="disk is full") as caught:
            client.enqueue("", TO, LETTER)
        assert caught.value.code == 75


# -- a service that comes and goes ---


def losing(path: Path, times: int, *, read: int = 1 << 20, says: bytes = b"") -> threading.Thread:
    """A service that goes away before it answers, so often."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen()

    def lose() -> None:
        for _ in range(times):
            connection, _ = listening.accept()
            connection.recv(read)
            connection.sendall(says)
            connection.close()
        path.unlink()
        listening.close()

    thread = threading.Thread(target=lose, daemon=True)
    thread.start()
    return thread


def test_a_message_whose_answer_was_lost_is_taken_once(directory: Path) -> None:
    """The queue has it, the answer never came: sent again, the key tells that it is the same."""
    sent: list[outgoing.Outgoing] = []
    with serving(directory) as office, at(directory) as client:

        class Forgetful(Link):
            def answer(self, patience: float) -> dict[str, Any]:
                answer = super().answer(patience)
                if len(sent) < 3:
                    sent.append(answer)  # type: ignore[arg-type]
                    raise LostError("test")
                return answer

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("deliveryagent.client.Link", Forgetful)
            client.enqueue("", TO, LETTER)
            assert len(sent) == 3
            assert stored(office.queue) == 1


def test_a_service_that_dies_while_it_reads_is_tried_again(directory: Path) -> None:
    thread = losing(directory / "deliveryagent.sock", 2, read=100)
    with at(directory, patience=5) as client:
        queue_ids: list[str] = []
        sender = threading.Thread(
            target=lambda: queue_ids.extend(
                client.enqueue_many([("", TO, b"\n" + b"x" * 200_000)] * 3)
            )
        )
        sender.start()
        thread.join(5)
        with serving(directory) as office:
            sender.join(10)
            assert len(set(queue_ids)) == 3
            assert stored(office.queue) == 3


def test_a_service_that_never_comes_is_given_up(directory: Path) -> None:
    with pytest.raises(EnqueueError, match="cannot be reached") as caught:
        at(directory, patience=0.1).enqueue("", TO, LETTER)
    assert caught.value.code == 75
    assert caught.value.hint


def test_a_service_that_never_answers_leaves_doubt_and_says_so(directory: Path) -> None:
    losing(directory / "deliveryagent.sock", 100)
    with pytest.raises(EnqueueError, match="may have taken") as caught:
        at(directory, patience=0.1).enqueue("", TO, LETTER)
    assert caught.value.code == 75
    assert caught.value.accepted == (None,)


def test_something_else_at_the_socket_is_not_believed(directory: Path) -> None:
    losing(directory / "deliveryagent.sock", 100, says=b"220 mail.example.org ESMTP\r\n")
    with pytest.raises(EnqueueError) as caught:
        at(directory, patience=0.05).enqueue("", TO, LETTER)
    assert caught.value.code == 75


def test_a_socket_that_may_not_be_used_is_told(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str, patience: float) -> Link:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("deliveryagent.client.Link", refuse)
    with pytest.raises(EnqueueError, match="may not use") as caught:
        at(directory).enqueue("", TO, LETTER)
    assert caught.value.code == 4


# -- without a service ---


def test_without_a_service_the_queue_is_written_directly(directory: Path) -> None:
    with configured(directory) as client:
        queue_id = client.enqueue("shop@example.org", TO, LETTER)
        more = client.enqueue_many([("shop@example.org", TO, LETTER)] * 450)
    queue = directory / "queue.sqlite3"
    assert [queue_id, *more] == sorted({queue_id, *more})
    assert stored(queue) == 451
    assert rows(queue, "SELECT DISTINCT origin FROM message") == [(f"uid={os.geteuid()}",)]
    assert b"by mail.example.org" in content_of(queue, parse_queue_id(queue_id))
    with QueueLock(queue):
        pass


def test_the_queue_is_created_when_there_is_none(directory: Path) -> None:
    (directory / "queue.sqlite3").unlink()
    with configured(directory) as client:
        client.enqueue("", TO, LETTER)
    assert stored(directory / "queue.sqlite3") == 1


def test_directly_the_same_is_refused(directory: Path) -> None:
    with configured(directory) as client:
        client.enqueue("", TO, LETTER, key="order-1")
        with pytest.raises(EnqueueError, match="order-1"):
            client.enqueue("", TO, b"other", key="order-1")
        for bad in (b"a\0b", b"\n" + b"line\n" * 100_000 + b"\0"):
            with pytest.raises(EnqueueError, match="NUL"):
                client.enqueue("", TO, bad)
        with pytest.raises(EnqueueError) as caught:
            client.enqueue_many([("", TO, LETTER), ("", ["bad"], LETTER), ("", ["@"], LETTER)])
    assert [bool(entry) for entry in caught.value.accepted] == [True, True, False]
    queue = directory / "queue.sqlite3"
    assert stored(queue) == 3
    assert not leftovers(queue)
    assert rows(queue, "SELECT address FROM recipient WHERE address LIKE 'bad%'") == [
        ("bad@mail.example.org",)
    ]


def test_a_large_content_is_written_directly_too(directory: Path) -> None:
    with configured(directory) as client:
        client.enqueue("", TO, b"\n" + b"0123456789\n" * 50_000)
    queue = directory / "queue.sqlite3"
    assert content_of(queue).endswith(b"\r\n\r\n" + b"0123456789\r\n" * 50_000)
    assert len(rows(queue, "SELECT part FROM content")) == 3


def test_a_starting_service_is_waited_for(directory: Path) -> None:
    """The lock is held, the socket is not there yet."""
    found: list[str] = []
    client = configured(directory, patience=5)
    with QueueLock(directory / "queue.sqlite3"):
        sender = threading.Thread(target=lambda: found.append(client.enqueue("", TO, LETTER)))
        sender.start()
        sender.join(0.2)
        assert not found
        with Background(lambda: open_office(directory)) as office:
            sender.join(5)
            assert stored(office.queue) == 1
    assert found
    client.close()


def test_a_lock_that_stays_without_a_service_is_given_up(directory: Path) -> None:
    with QueueLock(directory / "queue.sqlite3"), pytest.raises(EnqueueError) as caught:
        configured(directory, patience=0.2).enqueue("", TO, LETTER)
    assert caught.value.code == 75


def test_a_queue_that_cannot_be_made_is_told_at_once(directory: Path) -> None:
    shutil.rmtree(directory / "gone", ignore_errors=True)
    client = configured(
        directory, overrides=[f"queue.url=sqlite:///{directory}/gone/q", f"run_dir={directory}"]
    )
    with pytest.raises(EnqueueError, match="gone") as caught:
        client.enqueue("", TO, LETTER)
    assert caught.value.code == 75


def test_a_bad_configuration_is_told(directory: Path) -> None:
    (directory / "agent.toml").write_text("hostname = 7\nrun_dir = 3\n")
    with pytest.raises(EnqueueError, match="run_dir") as caught:
        configured(directory).enqueue("", TO, LETTER)
    assert caught.value.code == 78
    missing = Client(directory / "missing.toml")
    with pytest.raises(EnqueueError) as caught:
        missing.enqueue("", TO, LETTER)
    assert caught.value.code == 78


# -- orders ---


async def _wait(fields: dict[str, Any], peer: Peer) -> dict[str, Any]:
    if fields["id"] == "unknown":
        raise ServiceError(5, "no such message")
    return {"message": {"id": fields["id"], "status": "delivered", "asked": fields["timeout"]}}


def test_the_outcome_is_waited_for(directory: Path) -> None:
    with serving(directory, open_orders={"wait": _wait}), at(directory) as client:
        message = client.wait("0C7QK4M2V9XTB", timeout=5)
        assert message["status"] == "delivered"
        assert 4 < message["asked"] <= 5
        with pytest.raises(ServiceError, match="no such") as caught:
            client.wait("unknown")
        assert caught.value.code == 5


def test_waiting_goes_on_when_the_service_restarts(directory: Path) -> None:
    losing(directory / "deliveryagent.sock", 2).join(0)
    found: list[dict[str, Any]] = []
    client = at(directory, patience=5)
    waiter = threading.Thread(target=lambda: found.append(client.wait("0C7QK4M2V9XTB", timeout=5)))
    waiter.start()
    while (directory / "deliveryagent.sock").exists():
        waiter.join(0.01)
    with serving(directory, open_orders={"wait": _wait}):
        waiter.join(5)
    assert found
    client.close()


def test_an_order_needs_a_service(directory: Path) -> None:
    with configured(directory) as client, pytest.raises(ServiceError) as caught:
        client.order("hold")
    assert caught.value.code == 3
    with QueueLock(directory / "queue.sqlite3"):
        pass


def test_a_lost_order_is_not_repeated(directory: Path) -> None:
    losing(directory / "deliveryagent.sock", 1)
    with at(directory) as client, pytest.raises(LostError):
        client.order("hold")


def test_with_a_service_nothing_heavy_is_imported(directory: Path) -> None:
    program = (
        "import sys; from deliveryagent import Client\n"
        f"client = Client({str(directory / 'agent.toml')!r})\n"
        f"client.enqueue('', {TO!r}, {LETTER!r})\n"
        "heavy = 'sqlalchemy alembic dns aiosmtplib asyncio msgspec email click ssl sqlite3'.split()\n"
        "print([name for name in heavy if name in sys.modules])\n"
    )
    with serving(directory):
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=False
        )
    assert done.stdout == "[]\n", done.stderr


def test_a_forked_process_has_a_connection_of_its_own(directory: Path) -> None:
    """As in pre-forking servers and task queues: both would read from one socket otherwise."""
    program = (
        "import os; from deliveryagent import Client\n"
        f"client = Client({str(directory / 'agent.toml')!r})\n"
        f"client.enqueue('', {TO!r}, {LETTER!r})\n"
        "child = os.fork()\n"
        f"ids = {{client.enqueue('', {TO!r}, {LETTER!r}) for _ in range(20)}}\n"
        "assert len(ids) == 20\n"
        "if not child: os._exit(0)\n"
        "print(os.waitpid(child, 0)[1])\n"
    )
    with serving(directory) as office:
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=False
        )
        assert done.stdout == "0\n", done.stderr
        assert stored(office.queue) == 41
