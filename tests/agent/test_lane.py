"""Message after message over one session, the next begun before the last is answered: nothing is lost,
doubled or blamed on the wrong one, whatever the peer does in between.
"""

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from deliveryagent.agent import frames
from deliveryagent.agent.journal import Journal, State, read
from deliveryagent.agent.worker_settings import ClientSettings, LmtpSettings, WorkerSettings
from deliveryagent.lab.nameserver import NameServer
from deliveryagent.mail.delivery import DeliveryRequest, DeliveryResult, Verdict
from deliveryagent.policy.targets import LoopSettings
from deliveryagent.resolver.settings import ResolverSettings
from deliveryagent.setting import parse_duration
from tests.doubles.courier import (
    FIRST,
    IDENTITY,
    LIMITS,
    SECOND,
    TWO_HOSTS,
    Courier,
    free_port,
    request,
    until,
)
from tests.doubles.manager_double import WorkerInside, WorkerProcess
from tests.doubles.scripted_peer import (
    EXTENSIONS,
    Close,
    Drip,
    Pause,
    Raw,
    Reset,
    Script,
    ScriptedPeer,
    Stall,
)

ONE_HOST = {"example.net": ["MX 10 mx1.example.net"], "mx1.example.net": ["A 127.0.0.31"]}
QUICK: dict[str, Any] = dict.fromkeys(
    ("mail_timeout", "rcpt_timeout", "data_init_timeout", "data_done_timeout"), parse_duration(1)
)
OK = "250 2.0.0 taken"


def numbered(serial: int, port: int, *, lmtp: bool = False, **changes: Any) -> DeliveryRequest:
    usual: dict[str, Any] = {
        "serial": serial,
        "queue_id": 1000 + serial,
        "sender": f"s{serial}@example.org",
        "site": "here",
        "next_hop": f"lmtp:inet:{FIRST}:{port}" if lmtp else "example.net",
    }
    return request(f"r{serial}@example.net", **usual | changes)


def settings(names: NameServer, port: int, **changes: Any) -> WorkerSettings:
    limits = {**LIMITS, "port": port, **changes}
    return WorkerSettings(
        hostname="mail.example.org",
        identity=IDENTITY,
        dns=ResolverSettings(nameservers=(names.address,), timeout=parse_duration(1)),
        loop=LoopSettings(loopback_mx=True, inet_interfaces=("127.0.0.250",)),
        smtp=ClientSettings(**limits),
        lmtp=LmtpSettings(**limits),
    )


def with_worker(
    story: Callable[[WorkerInside, int], Awaitable[None]],
    zone: dict[str, list[str]] = ONE_HOST,
    **changes: Any,
) -> None:
    """Run a story with a worker in this event loop."""

    async def run() -> None:
        port = free_port()
        with tempfile.TemporaryDirectory() as folder:
            async with (
                NameServer(zone) as names,
                WorkerInside(settings(names, port, **changes), Path(folder) / "j") as worker,
            ):
                await story(worker, port)

    asyncio.run(run())


async def one_by_one(worker: WorkerInside, port: int, count: int, **how: Any) -> str:
    """Have messages carried over one session; the verdicts in their order."""
    worker.say(frames.Room("here", 1))
    worker.say(*(frames.Deliver(numbered(n, port, **how)) for n in range(1, count + 1)))
    await worker.until(lambda: len(worker.results) == count)
    return " ".join(verdict_of(worker.results[n]) for n in range(1, count + 1))


def verdict_of(result: DeliveryResult) -> str:
    (recipient,) = result.recipients
    return Verdict(recipient.verdict).name.lower()


def flights(peer: ScriptedPeer) -> list[bool]:
    """Of each segment that ended a content, whether the next message began in it."""
    ends = [segment for segment in peer.segments if b"\r\n.\r\n" in segment]
    return [b"DATA" in segment.partition(b"\r\n.\r\n")[2] for segment in ends]


both_protocols = pytest.mark.parametrize("lmtp", [False, True], ids=["smtp", "lmtp"])


@both_protocols
def test_the_next_message_begins_in_the_write_that_ends_the_present_one(lmtp: bool) -> None:
    async def story(worker: WorkerInside, port: int) -> None:
        async with ScriptedPeer(lmtp=lmtp, host=FIRST, port=port) as peer:
            assert await one_by_one(worker, port, 6, lmtp=lmtp) == " ".join(["delivered"] * 6)
        assert flights(peer) == [False, True, True, True, True, False]
        assert [m.sender for m in peer.messages] == [f"s{n}@example.org" for n in range(1, 7)]
        assert [worker.results[n].tries[0].uses for n in range(1, 7)] == [1, 2, 3, 4, 5, 6]

    with_worker(story)


# The third message began while the dot of the second is answered. What the peer does, what becomes of
# messages 2 to 5, and how many sessions that takes.
FACED: dict[str, tuple[Script, str, int]] = {
    "dot 4xx": ({"DOT": [OK, "451 4.3.0 no", OK]}, "deferred delivered delivered", 1),
    "dot 5xx": ({"DOT": [OK, "554 5.6.0 no", OK]}, "bounced delivered delivered", 1),
    "dot 500": ({"DOT": [OK, "500 5.5.2 what", OK]}, "bounced delivered delivered", 2),
    "dot 421": ({"DOT": [OK, "421 4.3.2 bye", OK]}, "deferred delivered delivered", 2),
    "dot 421, gone": ({"DOT": [OK, Close("421 4.3.2 bye"), OK]}, "deferred delivered delivered", 2),
    "dot 354": ({"DOT": [OK, "354 what", OK]}, "in_doubt delivered delivered", 2),
    "dot closed": ({"DOT": [OK, Close(), OK]}, "in_doubt delivered delivered", 2),
    "dot reset": ({"DOT": [OK, Reset(), OK]}, "in_doubt delivered delivered", 2),
    "dot silent": ({"DOT": [OK, Stall(), OK]}, "in_doubt delivered delivered", 2),
    "dot rubbish": ({"DOT": [OK, Raw(b"\0\r\n"), OK]}, "in_doubt delivered delivered", 2),
    "dot drips": ({"DOT": [OK, Drip(OK, 0.01), OK]}, "delivered delivered delivered", 1),
    "dot and one more": ({"DOT": [OK, f"{OK}\n{OK}", OK]}, "delivered delivered delivered", 2),
    "closed behind dot": ({"DOT": [OK, Close(OK), OK]}, "delivered delivered delivered", 2),
    "MAIL 4xx": ({"MAIL s3@example.org": "451 4.3.0 no"}, "delivered deferred delivered", 2),
    "MAIL 5xx": ({"MAIL s3@example.org": "550 5.7.1 no"}, "delivered bounced delivered", 2),
    "MAIL nested": (
        {"MAIL s3@example.org": ["503 5.5.1 nested", "250 ok"]}, "delivered delivered delivered", 2,
    ),
    "MAIL 421": (
        {"MAIL s3@example.org": ["421 4.3.2 bye", "250 ok"]}, "delivered delivered delivered", 2,
    ),
    "MAIL closed": (
        {"MAIL s3@example.org": [Close(), "250 ok"]}, "delivered delivered delivered", 2,
    ),
    "MAIL silent": (
        {"MAIL s3@example.org": [Stall(), "250 ok"]}, "delivered delivered delivered", 2,
    ),
    "MAIL rubbish": (
        {"MAIL s3@example.org": [Raw(b"\xff\r\n"), "250 ok"]}, "delivered delivered delivered", 2,
    ),
    "RCPT 4xx": ({"RCPT r3@example.net": "450 4.2.1 no"}, "delivered deferred delivered", 1),
    "RCPT 5xx": ({"RCPT r3@example.net": "550 5.1.1 no"}, "delivered bounced delivered", 1),
    "RCPT 421": (
        {"RCPT r3@example.net": ["421 4.3.2 bye", "250 ok"]}, "delivered delivered delivered", 2,
    ),
    "RCPT closed": (
        {"RCPT r3@example.net": [Close(), "250 ok"]}, "delivered delivered delivered", 2,
    ),
    "RCPT 5xx, DATA 354": (
        {"RCPT r3@example.net": "550 5.1.1 no", "DATA": "354 go"}, "delivered bounced delivered", 1,
    ),
    "DATA 4xx": (
        {"DATA": ["354 go", "354 go", "451 4.3.0 no", "354 go"]}, "delivered deferred delivered", 1,
    ),
    "DATA 250": (
        {"DATA": ["354 go", "354 go", "250 thanks", "354 go"]}, "delivered delivered delivered", 2,
    ),
    "DATA silent": (
        {"DATA": ["354 go", "354 go", Stall(), "354 go"]}, "delivered delivered delivered", 2,
    ),
}  # fmt: skip


@both_protocols
@pytest.mark.parametrize("name", FACED)
def test_whatever_the_peer_does_both_messages_get_what_is_theirs(name: str, lmtp: bool) -> None:
    script, wanted, sessions = FACED[name]

    async def story(worker: WorkerInside, port: int) -> None:
        async with ScriptedPeer(script, lmtp=lmtp, host=FIRST, port=port) as peer:
            found = await one_by_one(worker, port, 4, lmtp=lmtp)
        begun = flights(peer)
        assert begun[:2] == [False, True], "the third message did not begin early"
        third = worker.results[3]
        # LMTP owes no reply to a dot without recipients: nobody waits for one, nor speaks on.
        lone = lmtp and name in ("RCPT 5xx, DATA 354", "MAIL 4xx", "MAIL 5xx")
        assert len(peer.clients) == sessions + lone
        assert found == f"delivered {wanted}"
        assert len(third.tries) == 1, "a session that served another message badly was counted"
        if wanted.split()[1] == "delivered":
            assert third.pressure == 1
        taken = [m for m in peer.messages if m.sender and m.recipients]  # not a lone dot
        senders = [m.sender for m in taken]
        assert len(senders) == len(set(senders)), "a message was handed over twice"
        assert {m.raw for m in taken} == {b"Subject: a test\r\n\r\nHello.\r\n"}
        assert "fault" not in {f.kind for f in worker.heard if isinstance(f, frames.Event)}

    with_worker(story, **QUICK)


SHY = [
    name for name in FACED if name.split()[-1] in ("closed", "reset", "silent", "rubbish", "nested")
]


@pytest.mark.parametrize("name", SHY)
def test_a_peer_that_could_not_bear_it_is_not_tried_again(name: str) -> None:
    async def story(worker: WorkerInside, port: int) -> None:
        async with ScriptedPeer(FACED[name][0], host=FIRST, port=port) as peer:
            await one_by_one(worker, port, 9)
        assert flights(peer).count(True) <= 2  # what was under way, and never again
        assert not any(flights(peer)[-5:])

    with_worker(story, **QUICK)


def test_a_refused_dot_sends_the_message_to_the_next_host_in_the_place_of_the_session() -> None:
    async def story(worker: WorkerInside, port: int) -> None:
        script: Script = {"DOT": [OK, "451 4.3.0 not here", OK]}
        async with (
            ScriptedPeer(script, host=FIRST, port=port) as first,
            ScriptedPeer(host=SECOND, port=port) as second,
        ):
            assert await one_by_one(worker, port, 5) == " ".join(["delivered"] * 5)
        assert [m.sender for m in second.messages] == ["s2@example.org"]
        assert len(first.clients) == 2  # there was room for one connection
        assert [host.code for host in worker.results[2].tries] == [451, 250]

    with_worker(story, TWO_HOSTS)


def test_a_slow_answer_to_a_dot_holds_nobody_behind_it() -> None:
    async def story(worker: WorkerInside, port: int) -> None:
        script: Script = {"DOT": Pause(1.1, OK)}
        async with ScriptedPeer(script, host=FIRST, port=port) as peer:
            await one_by_one(worker, port, 3)
        assert not any(flights(peer))

    with_worker(story)


@pytest.mark.parametrize(
    ("extensions", "changes"),
    [
        ((*EXTENSIONS, "LIMITS MAILMAX=3"), {}),
        (EXTENSIONS, {"connection_reuse_count_limit": 3}),
    ],
)
def test_a_session_carries_no_more_messages_than_it_may(
    extensions: tuple[str, ...], changes: dict[str, Any]
) -> None:
    async def story(worker: WorkerInside, port: int) -> None:
        async with ScriptedPeer(extensions=extensions, host=FIRST, port=port) as peer:
            await one_by_one(worker, port, 7)
        assert [worker.results[n].tries[0].uses for n in range(1, 8)] == [1, 2, 3, 1, 2, 3, 1]
        assert len(peer.clients) == 3

    with_worker(story, **changes)


def test_a_session_is_left_when_its_time_is_over() -> None:
    async def story(worker: WorkerInside, port: int) -> None:
        async with ScriptedPeer({"DOT": Pause(0.1, OK)}, host=FIRST, port=port) as peer:
            await one_by_one(worker, port, 9)
        assert len(peer.clients) >= 3

    with_worker(story, connection_reuse_time_limit=parse_duration("0.3s"))


def test_messages_that_are_not_plain_take_their_own_way() -> None:
    async def story(worker: WorkerInside, port: int) -> None:
        async with ScriptedPeer(host=FIRST, port=port) as peer:
            worker.say(frames.Room("here", 1))
            two = tuple(request("a@example.net", "b@example.net").recipients)
            odd: list[dict[str, Any]] = [
                {}, {}, {"recipients": two}, {}, {"next_hop": "discard:"}, {"size": 1}, {},
                {"next_hop": "[bad"}, {}, {"next_hop": f"[{FIRST}]"}, {},
            ]  # fmt: skip
            wanted = [numbered(n, port, **changes) for n, changes in enumerate(odd, 1)]
            worker.say(*map(frames.Deliver, wanted))
            await worker.until(lambda: len(worker.results) == len(odd))
        found = [Verdict(worker.results[n].recipients[0].verdict) for n in range(1, len(odd) + 1)]
        assert [v.name for v in found if v is not Verdict.DELIVERED] == ["HELD", "DEFERRED"]
        assert len(peer.messages) == len(odd) - 3

    with_worker(story)


def test_a_peer_without_pipelining_gets_one_command_at_a_time() -> None:
    async def story(worker: WorkerInside, port: int) -> None:
        async with ScriptedPeer(extensions=("8BITMIME",), host=FIRST, port=port) as peer:
            await one_by_one(worker, port, 4)
        assert len(peer.clients) == 1
        assert not any(flights(peer))

    with_worker(story)


def test_an_encrypted_session_is_gone_on_with() -> None:
    async def story(worker: WorkerInside, port: int) -> None:
        async with ScriptedPeer(host=FIRST, port=port, tls=True) as peer:
            await one_by_one(worker, port, 5)
        assert len(peer.clients) == 1
        assert all(worker.results[n].tries[0].tls.startswith("TLS") for n in range(1, 6))
        assert flights(peer).count(True) == 3

    with_worker(story)


# -- the end ---


async def two_under_way(worker: WorkerInside, port: int, peer: ScriptedPeer) -> None:
    """The dot of the second message is out, and the third has begun."""
    worker.say(frames.Room("here", 1))
    worker.say(*(frames.Deliver(numbered(n, port)) for n in range(1, 5)))
    await until(lambda: len(peer.messages) == 2)


SLOW: Script = {"DOT": [OK, Pause(0.4, OK), OK]}


def test_when_grace_ends_what_began_early_goes_back_and_its_dot_is_never_sent() -> None:
    async def story(worker: WorkerInside, port: int) -> None:
        async with ScriptedPeer(SLOW, host=FIRST, port=port) as peer:
            await two_under_way(worker, port, peer)
            worker.say(frames.Drain(0.05))
            await worker.until(lambda: len(worker.results) == 4)
            await until(lambda: peer.lost == 1)
        names = {n: verdict_of(result) for n, result in worker.results.items()}
        assert names == {1: "delivered", 2: "delivered", 3: "returned", 4: "returned"}
        assert len(peer.messages) == 2
        assert worker.results[3].sequence == 0
        assert "QUIT" not in peer.verbs()

    with_worker(story)


def test_what_began_early_does_not_wait_for_a_silent_peer_when_grace_is_over() -> None:
    async def story(worker: WorkerInside, port: int) -> None:
        script: Script = {**SLOW, "MAIL s3@example.org": Stall()}
        async with ScriptedPeer(script, host=FIRST, port=port) as peer:
            await two_under_way(worker, port, peer)
            worker.say(frames.Drain(0.05))
            await worker.until(lambda: len(worker.results) == 4)
        assert verdict_of(worker.results[2]) == "delivered"
        assert verdict_of(worker.results[3]) == "returned"

    with_worker(story)


def test_a_lane_that_is_cut_before_it_could_begin_gives_its_request_back() -> None:
    async def story(worker: WorkerInside, port: int) -> None:
        async with ScriptedPeer(host=FIRST, port=port) as peer:
            await one_by_one(worker, port, 2)
            worker.worker.hear(frames.Deliver(numbered(3, port)))
            worker.worker.hear(frames.Drain(0.0))
            worker.worker._cut()
            await worker.worker.over
        assert verdict_of(worker.results[3]) == "returned"
        assert len(peer.messages) == 2

    with_worker(story)


def test_a_fault_strikes_the_message_in_hand_and_not_the_one_behind_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dot = Journal.dot

    def broken(journal: Journal, slot: int, host: str) -> None:
        if Journal.marked == 2:  # type: ignore[attr-defined]
            raise KeyError(slot)
        Journal.marked += 1  # type: ignore[attr-defined]
        dot(journal, slot, host)

    async def story(worker: WorkerInside, port: int) -> None:
        async with ScriptedPeer(host=FIRST, port=port) as peer:
            await one_by_one(worker, port, 5)
        names = [verdict_of(worker.results[n]) for n in range(1, 6)]
        assert names[:4] == ["delivered", "delivered", "deferred", "returned"]
        assert worker.results[3].recipients[0].enhanced == "4.3.0"
        assert [m.sender for m in peer.messages][:2] == ["s1@example.org", "s2@example.org"]
        assert "s3@example.org" not in [m.sender for m in peer.messages]
        events = [f for f in worker.heard if isinstance(f, frames.Event) and f.kind == "fault"]
        assert events[0].fields["error"] == "KeyError"

    monkeypatch.setattr(Journal, "marked", 0, raising=False)
    monkeypatch.setattr(Journal, "dot", broken)
    with_worker(story)


def test_a_drained_worker_lets_what_began_early_be_delivered_in_time() -> None:
    async def story(worker: WorkerInside, port: int) -> None:
        async with ScriptedPeer(SLOW, host=FIRST, port=port) as peer:
            await two_under_way(worker, port, peer)
            worker.say(frames.Drain(10.0))
            await worker.worker.over
            assert len(peer.messages) == 3
        names = {n: verdict_of(result) for n, result in worker.results.items()}
        assert names == {1: "delivered", 2: "delivered", 3: "delivered", 4: "returned"}

    with_worker(story)


def test_no_dot_is_written_once_the_lease_is_over() -> None:
    async def story(worker: WorkerInside, port: int) -> None:
        async with ScriptedPeer(SLOW, host=FIRST, port=port) as peer:
            await two_under_way(worker, port, peer)
            worker.say(frames.Lease(time.monotonic() - 1))
            await worker.until(lambda: len(worker.results) == 4)
            names = {n: verdict_of(result) for n, result in worker.results.items()}
            assert names == {1: "delivered", 2: "delivered", 3: "returned", 4: "returned"}
            assert len(peer.messages) == 2
            assert worker.results[4].sequence == 0
            worker.say(frames.Lease(time.monotonic() + 60), frames.Deliver(numbered(5, port)))
            assert verdict_of(await worker.result(5)) == "delivered"

    with_worker(story)


def test_a_delivery_whose_lease_ends_leaves_its_recipients_untried() -> None:
    async def run() -> None:
        async with Courier() as courier:
            courier.means.lease.until = time.monotonic() - 1
            async with (
                ScriptedPeer(
                    {"RCPT b@example.net": "550 5.1.1 no"}, host=FIRST, port=courier.port
                ) as a,
                ScriptedPeer(host=SECOND, port=courier.port) as b,
            ):
                result = await courier.deliver(request("a@example.net", "b@example.net"))
                await until(lambda: a.lost == 1)
            assert [Verdict(r.verdict).name for r in result.recipients] == ["RETURNED", "BOUNCED"]
            assert not a.messages
            assert not b.received

    asyncio.run(run())


def test_a_killed_worker_leaves_word_of_both_messages(tmp_path: Path) -> None:
    async def run() -> None:
        port = free_port()
        async with (
            NameServer(ONE_HOST) as names,
            WorkerProcess(settings(names, port), tmp_path / "j") as worker,
            ScriptedPeer({"DOT": [OK, Stall()]}, host=FIRST, port=port) as peer,
        ):
            worker.say(frames.Room("here", 1))
            worker.say(*(frames.Deliver(numbered(n, port)) for n in range(1, 5)))
            await until(lambda: len(peer.messages) == 2 and b"s3@" in peer.segments[-1])
            worker.kill()
            await worker.exit_status()
        entries = {entry.queue_id - 1000: entry for entry in read(tmp_path / "j", IDENTITY)}
        entries.pop(1, None)
        assert {n: entry.state for n, entry in entries.items()} == {2: State.DOT, 3: State.STARTED}
        assert entries[2].host.startswith("mx1.example.net[")

    asyncio.run(run())


# -- the same as without a lane ---


@pytest.mark.parametrize("extensions", [EXTENSIONS, ("PIPELINING",)])
@pytest.mark.parametrize("taken", [OK, "250 ok", "251 2.1.5 forwarded", "250-2.0.0 two\n250 lines"])
def test_a_lane_tells_the_same_as_a_delivery(taken: str, extensions: tuple[str, ...]) -> None:
    found: list[DeliveryResult] = []

    async def general() -> None:
        async with (
            Courier(ONE_HOST) as courier,
            ScriptedPeer({"DOT": taken}, extensions=extensions, host=FIRST, port=courier.port),
        ):
            await courier.deliver(numbered(1, courier.port))
            found.append(await courier.deliver(numbered(2, courier.port)))

    async def story(worker: WorkerInside, port: int) -> None:
        async with ScriptedPeer({"DOT": taken}, extensions=extensions, host=FIRST, port=port):
            await one_by_one(worker, port, 2)
            found.append(worker.results[2])

    asyncio.run(general())
    with_worker(story)
    first, second = (_timeless(result) for result in found)
    assert first == second


def _timeless(result: DeliveryResult) -> DeliveryResult:
    tries = tuple(msgspec.structs.replace(t, transfer=0.0, port=0) for t in result.tries)
    return msgspec.structs.replace(result, started=0.0, sequence=0, tries=tries)
