"""What callers of the local socket get, whatever they send."""

import asyncio
import json
import tracemalloc
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from deliveryagent.intake.admission import Peer, SubmitSettings
from deliveryagent.intake.requests import SessionLimits
from deliveryagent.intake.submit import Taker, Terms
from deliveryagent.mail.submission import Accepted, Submission
from deliveryagent.protocol.arrival import LimitSettings
from deliveryagent.protocol.local import END_OF_CONTENT, ServiceError, chunk, encode_line
from deliveryagent.setting import ByteSize
from tests.doors.office import (
    LETTER,
    ME,
    PART,
    UNAVAILABLE,
    Caller,
    Office,
    content_of,
    leftovers,
    open_office,
    request,
    rows,
    stored,
    until,
)

Scene = Callable[[Office, Caller], Awaitable[None]]


def play(directory: Path, scene: Scene, **options: Any) -> None:
    """One caller at one office."""

    async def main() -> None:
        async with asyncio.timeout(20), open_office(directory, **options) as office:
            async with await office.call() as caller:
                await scene(office, caller)
            assert not office.troubles

    asyncio.run(main())


# -- mail ---


def test_a_message_is_in_the_queue_when_its_id_is_told(tmp_path: Path) -> None:
    async def scene(office: Office, caller: Caller) -> None:
        answer = await caller.send(b"Subject: hi\n\n.dot\n", tags={"app": "shop"}, dsn="success")
        assert answer.keys() == {"ok", "id"}
        assert len(answer["id"]) == 13
        (row,) = rows(office.queue, "SELECT sender, dotted, origin, tags FROM message")
        assert row == ("shop@example.org", 1, ME.origin, '{"app":"shop"}')
        (row,) = rows(office.queue, "SELECT address, destination, status, notify FROM recipient")
        assert row == ("kim@example.net", "example.net", "queued", 2)
        assert content_of(office.queue).endswith(b"\r\n\r\n.dot\r\n")

    play(tmp_path, scene)


def test_no_answer_comes_before_the_commit(tmp_path: Path) -> None:
    async def scene(office: Office, caller: Caller) -> None:
        office.desk.gate.clear()
        caller.put(request())
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(caller.reader.readline(), 0.1)
        office.desk.gate.set()
        assert (await caller.answer())["ok"]

    play(tmp_path, scene)


def test_many_messages_are_read_while_the_first_waits_for_its_commit(tmp_path: Path) -> None:
    async def scene(office: Office, caller: Caller) -> None:
        office.desk.gate.clear()
        wrong = request(recipients=["nobody at all"])
        caller.put(b"".join([request()] * 20 + [wrong] + [request()] * 20))
        await until(lambda: len(office.desk.submitted) == 40)
        office.desk.gate.set()
        answers = [await caller.answer() for _ in range(41)]
        assert [answer["ok"] for answer in answers] == [True] * 20 + [False] + [True] * 20
        ids = [answer["id"] for answer in answers if answer["ok"]]
        assert ids == sorted(set(ids))
        assert stored(office.queue) == 40

    play(tmp_path, scene)


def test_a_caller_far_ahead_of_the_commits_is_not_read_any_further(tmp_path: Path) -> None:
    async def scene(office: Office, caller: Caller) -> None:
        office.desk.gate.clear()
        caller.put(request() * 50)
        await until(lambda: len(office.desk.submitted) == 5)
        await asyncio.sleep(0.05)
        assert len(office.desk.submitted) == 5
        office.desk.gate.set()
        assert all([(await caller.answer())["ok"] for _ in range(50)])

    play(tmp_path, scene, limits=SessionLimits(pending=5))


def test_content_waiting_for_commits_is_bounded(tmp_path: Path) -> None:
    async def scene(office: Office, caller: Caller) -> None:
        office.desk.gate.clear()
        caller.put(request(b"\n" + b"x" * 500) * 20)
        await until(lambda: len(office.desk.submitted) == 3)
        await asyncio.sleep(0.05)
        assert len(office.desk.submitted) == 3
        office.desk.gate.set()
        assert all([(await caller.answer())["ok"] for _ in range(20)])

    play(tmp_path, scene, limits=SessionLimits(pending_octets=1500))


def test_a_large_content_goes_to_the_store_part_by_part(tmp_path: Path) -> None:
    body = b"".join(b"%06d\r\n" % number for number in range(2000))

    async def scene(office: Office, caller: Caller) -> None:
        assert (await caller.send(b"Subject: big\r\n\r\n" + body))["ok"]
        assert office.desk.submitted[0].parts == ()
        assert content_of(office.queue).endswith(b"\r\n\r\n" + body)
        assert (
            max(size for (size,) in rows(office.queue, "SELECT length(data) FROM content")) == PART
        )
        assert not rows(office.queue, "SELECT * FROM arriving")

    play(tmp_path, scene)


def test_a_large_content_is_never_whole_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def staged(_: Any) -> None:
        """The store is not what is measured here."""

    def kept(submissions: Sequence[Submission], taker: Taker) -> None:
        taker([Accepted(1)] * len(submissions))

    async def scene(office: Office, caller: Caller) -> None:
        monkeypatch.setattr(office.desk, "stage", staged)
        monkeypatch.setattr(office.desk.door, "submit", kept)
        line = chunk(b"0123456789abcde\n" * 4096)
        tracemalloc.start()
        try:
            caller.put(request(b"Subject: big\n\n")[:-4])
            for _ in range(80):
                caller.put(line)
                await caller.writer.drain()
            caller.put(END_OF_CONTENT)
            assert (await caller.answer())["ok"]
            assert office.desk.submitted[0].facts.size > 5_000_000
            assert tracemalloc.get_traced_memory()[1] < 2_000_000
        finally:
            tracemalloc.stop()

    play(tmp_path, scene, terms=Terms(hostname="h.example", limits=LimitSettings()))


def test_the_callers_own_address_is_the_default_sender(tmp_path: Path) -> None:
    async def scene(office: Office, caller: Caller) -> None:
        line = encode_line({"op": "send", "recipients": ["kim@example.net"]})
        caller.put(line + chunk(LETTER) + END_OF_CONTENT)
        assert (await caller.answer())["ok"]
        assert rows(office.queue, "SELECT sender FROM message") == [
            (f"{ME.user}@mail.example.org",)
        ]

    play(tmp_path, scene)


# -- keys ---


def test_the_same_key_and_message_is_the_same_message(tmp_path: Path) -> None:
    async def scene(office: Office, caller: Caller) -> None:
        first = await caller.send(key="order-1", recipients=["a@b.example", "c@d.example"])
        again = await caller.send(key="order-1", recipients=["c@d.example", "a@b.example"])
        assert again == first | {"duplicate": True}
        assert stored(office.queue) == 1

    play(tmp_path, scene)


@pytest.mark.parametrize(
    "change",
    [
        {"content": LETTER + b"more\n"},
        {"recipients": ["lee@example.net"]},
        {"recipients": ["kim@example.net", "lee@example.net"]},
        {"sender": "other@example.org"},
    ],
)
def test_the_same_key_with_another_message_is_refused(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    async def scene(office: Office, caller: Caller) -> None:
        first = await caller.send(key="order-1")
        refused = await caller.send(**{"key": "order-1", **change})
        assert refused["code"] == 65
        assert first["id"] in refused["error"]
        assert stored(office.queue) == 1
        assert not leftovers(office.queue)

    play(tmp_path, scene)


def test_a_large_content_sent_twice_is_kept_once(tmp_path: Path) -> None:
    async def scene(office: Office, caller: Caller) -> None:
        content = b"\n" + b"line\n" * 1000
        first = await caller.send(content, key="big")
        assert (await caller.send(content, key="big"))["id"] == first["id"]
        assert not leftovers(office.queue)

    play(tmp_path, scene)


# -- refusals ---


@pytest.mark.parametrize(
    ("fields", "code", "text"),
    [
        ({"recipients": []}, 65, "no recipients"),
        ({"recipients": [], "from_headers": True}, 65, "no recipients"),
        ({"recipients": ["kim@"]}, 65, "a recipient is not acceptable"),
        ({"recipients": ["kim@example.net\r\nRCPT TO:<evil@example.net"]}, 65, "recipient"),
        ({"recipients": ["a b@example.net"]}, 65, "space"),
        ({"recipients": ["|/bin/sh", "x"]}, 0, ""),
        ({"sender": "kim@exa mple.net"}, 65, "the sender is not acceptable"),
        ({"sender": "a\0b@example.net"}, 65, "U+0000"),
        ({"dsn": "sometimes"}, 2, "sometimes"),
        ({"dsn": "never,success"}, 2, "alone"),
        ({"ret": "half"}, 2, "half"),
        ({"envid": "a\nb"}, 2, "envelope id"),
        ({"envid": "ä"}, 2, "ASCII"),
        ({"envid": "x" * 101}, 2, "100"),
        ({"key": "x" * 201}, 2, "200"),
        ({"key": "a\tb"}, 2, "printed"),
        ({"tags": {"": "x"}}, 2, "without a name"),
        ({"tags": {"a": "x" * 257}}, 2, "256"),
        ({"tags": {str(n): "" for n in range(33)}}, 2, "32 tags"),
        ({"not_before": 1e11}, 2, "year"),
        ({"priority": 10}, 2, "no priority"),
        ({"priority": -10}, 2, "no priority"),
        ({"deliver_by": 5.0}, 2, "over"),
        ({"deliver_by": 1e11}, 2, "year"),
        ({"colour": "red"}, 2, "colour"),
    ],
)
def test_a_bad_request_is_refused_and_the_next_one_served(
    tmp_path: Path, fields: dict[str, Any], code: int, text: str
) -> None:
    async def scene(office: Office, caller: Caller) -> None:
        answer = await caller.send(b"\n" + b"line\n" * 1000, **fields)
        assert answer.get("code", 0) == code
        assert text in answer.get("error", "")
        assert (await caller.send())["ok"]
        assert stored(office.queue) == (1 if code else 2)
        assert not leftovers(office.queue)

    play(tmp_path, scene)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"a\0b", "NUL"),
        (b"x: y\n" * 2000, "header section"),
        (b"Received: x\n" * 51, "loop"),
        (b"\n" + b"line\n" * 4000, "larger than 20 kB"),
        (b"To: kim lee\n", "cannot read the recipients"),
    ],
)
def test_a_bad_content_is_refused_and_leaves_nothing(
    tmp_path: Path, content: bytes, text: str
) -> None:
    async def scene(office: Office, caller: Caller) -> None:
        answer = await caller.send(content, from_headers=True)
        assert answer["code"] == 65
        assert text in answer["error"]
        assert (await caller.send())["ok"]
        assert stored(office.queue) == 1
        assert not leftovers(office.queue)

    small = LimitSettings(message_size_limit=ByteSize(20_000), header_size_limit=ByteSize(5000))
    play(tmp_path, scene, terms=Terms(hostname="h.example", limits=small, part_size=PART))


def test_too_many_recipients_are_refused(tmp_path: Path) -> None:
    async def scene(office: Office, caller: Caller) -> None:
        many = [f"u{n}@example.net" for n in range(4)]
        assert (await caller.send(recipients=many[:3] + many[:3]))["ok"]
        answer = await caller.send(recipients=many)
        assert answer["code"] == 65
        assert "4 recipients, more than 3" in answer["error"]
        assert (await caller.send(b"To: x@y.example\n\n", recipients=many[:3], from_headers=True))[
            "code"
        ]

    terms = Terms(hostname="h.example", limits=LimitSettings(recipient_limit=3), part_size=PART)
    play(tmp_path, scene, terms=terms)


def test_a_content_that_never_ends_ends_the_connection(tmp_path: Path) -> None:
    async def scene(office: Office, caller: Caller) -> None:
        caller.put(request()[:-4] + chunk(b"x" * 10_000) * 100)
        assert "larger" in (await caller.answer())["error"]
        assert await caller.closed()
        assert not leftovers(office.queue)

    small = LimitSettings(message_size_limit=ByteSize(20_000))
    play(tmp_path, scene, terms=Terms(hostname="h.example", limits=small, part_size=PART))


@pytest.mark.parametrize("content", [LETTER, b"\n" + b"line\n" * 1000])
def test_a_store_that_cannot_write_means_try_later(tmp_path: Path, content: bytes) -> None:
    async def scene(office: Office, caller: Caller) -> None:
        office.desk.failure = UNAVAILABLE
        answer = await caller.send(content)
        assert answer["code"] == 75
        assert "the disk is full" in answer["error"]
        office.desk.failure = None
        assert (await caller.send(content))["ok"]

    play(tmp_path, scene)


def test_a_fault_of_the_program_is_told_without_details(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_office(tmp_path) as office, await office.call() as caller:
            office.desk.failure = RuntimeError("secret")
            answer = await caller.send()
            assert (answer["code"], answer["error"]) == (1, "internal error")
            big = await caller.send(b"\n" + b"line\n" * 1000)
            assert (big["code"], big["error"]) == (1, "internal error")
            assert [str(error) for error in office.troubles] == ["secret", "secret"]

    asyncio.run(main())


# -- lines that are no requests ---


@pytest.mark.parametrize(
    "line",
    [
        b"EHLO example.org\r\n",
        b"GET / HTTP/1.1\r\n",
        b"\n",
        b"[]\n",
        b"null\n",
        b'"send"\n',
        b'{"op":7}\n',
        b'{"op":"send","recipients":"kim@example.net"}\n',
        b'{"op":"send","recipients":[1]}\n',
        b'{"op":"send","not_before":1e999}\n',
        b'{"op":"send","tags":{"a":[]}}\n',
        b'{"op":"send"\n',
        b'{"op":"send","sender":"\xff"}\n',
        b'{"op":"send","sender":"\\udcff"}\n',
        b"[" * 60_000 + b"\n",
        b'{"op":' * 10_000 + b"\n",
        b"\0\0\0\n",
    ],
)
def test_a_line_that_is_no_request_ends_the_connection(tmp_path: Path, line: bytes) -> None:
    async def scene(office: Office, caller: Caller) -> None:
        caller.put(request() + line + request())
        assert (await caller.answer())["ok"]
        answer = await caller.answer()
        assert answer["code"] == 2
        assert "not a request" in answer["error"]
        assert await caller.closed()
        assert stored(office.queue) == 1

    play(tmp_path, scene)


def test_an_unknown_request_is_refused(tmp_path: Path) -> None:
    async def scene(_: Office, caller: Caller) -> None:
        assert (await caller.order("shutdown"))["code"] == 2
        assert (await caller.order("ping"))["ok"]

    play(tmp_path, scene)


# -- vanishing ---

WHOLE = request(b"\n" + b"line\n" * 600)


@pytest.mark.parametrize("cut", [*range(0, 140, 7), *range(140, len(WHOLE), 211), len(WHOLE) - 1])
def test_a_caller_that_vanishes_at_any_octet_leaves_nothing(tmp_path: Path, cut: int) -> None:
    async def scene(office: Office, caller: Caller) -> None:
        caller.put(WHOLE[:cut])
        await caller.writer.drain()
        caller.writer.close()
        async with await office.call() as other:
            assert (await other.send())["ok"]
        await until(lambda: not office.local.connections)
        assert stored(office.queue) == 1
        assert not leftovers(office.queue)
        assert not rows(office.queue, "SELECT * FROM arriving")

    play(tmp_path, scene)


def test_a_caller_that_stops_sending_still_gets_its_answers(tmp_path: Path) -> None:
    async def scene(office: Office, caller: Caller) -> None:
        office.desk.gate.clear()
        caller.put(request() * 3)
        caller.writer.write_eof()
        await asyncio.sleep(0.05)
        office.desk.gate.set()
        assert all([(await caller.answer())["ok"] for _ in range(3)])
        assert await caller.closed()

    play(tmp_path, scene)


# -- orders ---


async def _describe(fields: dict[str, Any], who: str) -> dict[str, Any]:
    return {"fields": fields, "who": who}


async def _who(_: dict[str, Any], peer: Peer) -> dict[str, Any]:
    return {"uid": peer.uid, "admin": peer.admin}


def test_an_order_is_carried_out_for_an_administrator(tmp_path: Path) -> None:
    async def scene(_: Office, caller: Caller) -> None:
        answer = await caller.order("hold", filter={"all": True})
        assert answer == {
            "ok": True,
            "fields": {"op": "hold", "filter": {"all": True}},
            "who": ME.user,
        }

    play(tmp_path, scene, orders={"hold": _describe})


def test_orders_wait_for_the_messages_before_them(tmp_path: Path) -> None:
    async def scene(office: Office, caller: Caller) -> None:
        office.desk.gate.clear()
        caller.put(request() + encode_line({"op": "count"}))
        await asyncio.sleep(0.05)
        office.desk.gate.set()
        assert (await caller.answer())["ok"]
        assert (await caller.answer())["messages"] == 1

    async def count(_: dict[str, Any], __: str) -> dict[str, Any]:
        return {"messages": stored(tmp_path / "queue.sqlite3")}

    play(tmp_path, scene, orders={"count": count})


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (ServiceError(5, "no such message", "look"), 5, "no such message"),
        (UNAVAILABLE, 75, "the disk is full"),
    ],
)
def test_an_order_that_fails_says_why(
    tmp_path: Path, error: Exception, code: int, text: str
) -> None:
    async def fail(_: dict[str, Any], __: str) -> dict[str, Any]:
        raise error

    async def scene(_: Office, caller: Caller) -> None:
        answer = await caller.order("fail")
        assert answer["code"] == code
        assert text in answer["error"]

    play(tmp_path, scene, orders={"fail": fail})


def test_an_order_nobody_waits_for_any_more_is_given_up(tmp_path: Path) -> None:
    given_up = asyncio.Event()

    async def endless(_: dict[str, Any], __: Peer) -> dict[str, Any]:
        try:
            await asyncio.sleep(60)
        finally:
            given_up.set()
        return {}

    async def scene(_: Office, caller: Caller) -> None:
        caller.put(encode_line({"op": "wait"}))
        await asyncio.sleep(0.05)
        caller.writer.close()
        await asyncio.wait_for(given_up.wait(), 5)

    play(tmp_path, scene, open_orders={"wait": endless})


def test_an_order_of_somebody_who_stopped_sending_goes_on(tmp_path: Path) -> None:
    async def slow(_: dict[str, Any], __: Peer) -> dict[str, Any]:
        await asyncio.sleep(0.2)
        return {"done": True}

    async def scene(_: Office, caller: Caller) -> None:
        caller.put(encode_line({"op": "wait"}))
        caller.writer.write_eof()
        assert (await caller.answer())["done"]

    play(tmp_path, scene, open_orders={"wait": slow})


# -- permission ---


def as_user(monkeypatch: pytest.MonkeyPatch, **facts: Any) -> None:
    """Whoever connects appears as this user."""
    values = {"uid": 12345, "gid": 12345, "pid": 1, "groups": frozenset({12345}), "user": "anna"}
    peer = Peer(**{**values, **facts})
    monkeypatch.setattr("deliveryagent.intake.local_socket.peer_of", lambda _: peer)


def test_a_user_who_is_not_allowed_cannot_send(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_user(monkeypatch)

    async def scene(office: Office, caller: Caller) -> None:
        answer = await caller.send()
        assert answer["code"] == 4
        assert "submit.allow" in answer["hint"]
        assert (await caller.order("wait"))["code"] == 4
        assert stored(office.queue) == 0

    play(tmp_path, scene, submit=SubmitSettings(allow=("daemon",)), open_orders={"wait": _who})


def test_every_user_may_send_and_ask_but_not_give_orders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_user(monkeypatch)

    async def scene(office: Office, caller: Caller) -> None:
        assert (await caller.send())["ok"]
        assert rows(office.queue, "SELECT origin FROM message") == [("uid=12345",)]
        assert (await caller.order("hold"))["code"] == 4
        assert await caller.order("wait") == {"ok": True, "uid": 12345, "admin": False}

    play(tmp_path, scene, orders={"hold": _describe}, open_orders={"wait": _who})


def test_answers_are_single_lines_whatever_they_quote(tmp_path: Path) -> None:
    async def scene(_: Office, caller: Caller) -> None:
        caller.put(encode_line({"op": "x\ny\u2028\x1b[31m"}))
        line = await caller.reader.readline()
        assert json.loads(line)["code"] == 2
        assert (await caller.order("ping"))["ok"]

    play(tmp_path, scene)
