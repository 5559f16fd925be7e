"""Sessions of a listener over real sockets: time, crowds, TLS, proxies, and clients that do not play along."""

import asyncio
import errno
import socket
import struct
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trustme

from deliveryagent.intake.door import Limits
from deliveryagent.intake.networks import Networks
from deliveryagent.intake.spool import SMALL, Spool
from deliveryagent.mail.verdict import Accept, Decision, Tempfail
from deliveryagent.protocol.session import Client as Who
from deliveryagent.protocol.session import Session
from deliveryagent.protocol.smtpd_steps import Kept, Outcome
from tests.doors.talks import Run, both_loops
from tests.doubles.smtp_door import Client, Listening, open_door, tls_of, trusting
from tests.doubles.smtp_talk import TERMS, Guard

ENVELOPE = ["EHLO a.b.dev", "MAIL FROM:<a@b.dev>", "RCPT TO:<c@d.dev>"]
LETTER = b"DATA\r\nSubject: x\r\n\r\nhi\r\n.\r\n"
WITH_TLS = msgspec.structs.replace(TERMS, tls=True)
PROXIES = Networks(["127.0.0.0/8"])


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


async def greeted(listening: Listening, **more: Any) -> Client:
    client = await listening.client(**more)
    assert (await client.reply()).code == 220
    return client


async def hand_over(client: Client, code: int = 250) -> None:
    """One whole message."""
    assert {one[:3] for one in await client.codes(*ENVELOPE)} == {"250"}
    client.write(LETTER)
    assert [(await client.reply()).code, (await client.reply()).code] == [354, code]


@both_loops
def test_what_comes_in_one_write_is_answered_in_order(run: Run[None]) -> None:
    async def main() -> None:
        async with open_door() as listening:
            client = await listening.client()
            lines = "\r\n".join([*ENVELOPE, ""]).encode()
            client.write(
                lines + LETTER + lines.partition(b"\r\n")[2] + LETTER + b"QUIT\r\nNOOP\r\n"
            )
            codes = [line[:4] for line in (await client.rest()).split(b"\r\n") if line[3:4] == b" "]
            assert codes == [
                f"{code} ".encode() for code in (220, *[250] * 3, 354, *[250] * 3, 354, 250, 221)
            ]
            assert [one.content for one in listening.kept] == [b"Subject: x\r\n\r\nhi\r\n"] * 2
            assert listening.kept[0].session.client.address == "127.0.0.1"

    run(main())


@both_loops
def test_octet_by_octet_the_same(run: Run[None]) -> None:
    async def main() -> None:
        async with open_door() as listening:
            client = await greeted(listening)
            client.writer.get_extra_info("socket").setsockopt(
                socket.IPPROTO_TCP, socket.TCP_NODELAY, 1
            )
            for octet in "\r\n".join([*ENVELOPE, ""]).encode() + LETTER:
                client.write(bytes([octet]))
                await asyncio.sleep(0)
            assert [(await client.reply()).code for _ in range(5)] == [250, 250, 250, 354, 250]

    run(main())


def test_a_large_content_goes_through_a_file(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_door() as listening:
            client = await greeted(listening)
            await client.codes(*ENVELOPE)
            body = (b"x" * 70 + b"\r\n") * (5 * SMALL // 72)
            client.write(b"DATA\r\n" + body + b".\r\n")
            assert [(await client.reply()).code, (await client.reply()).code] == [354, 250]
            assert listening.kept[0].content == body

    asyncio.run(main())


# -- trouble of our own ---


@pytest.mark.parametrize("size", [10, 2 * SMALL])
def test_a_full_disk_is_no_fault_of_the_message(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    def full(self: Spool, *_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async def main() -> None:
        async with Listening() as listening:
            client = await greeted(listening)
            for method in ("write", "flush"):
                with monkeypatch.context() as patched:
                    patched.setattr(Spool, method, full)
                    await client.codes(*ENVELOPE)
                    client.write(b"DATA\r\n" + b"x" * size + b"\r\n.\r\n")
                    assert (await client.reply()).code == 354
                    one = await client.reply()
                    assert (one.code, one.enhanced) == (452, "4.3.1")
            assert len(listening.troubles) == 2, "told once each"
            await hand_over(client)

    asyncio.run(main())


def test_after_a_full_disk_and_a_bad_content_the_next_message_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(self: Spool, piece: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async def main() -> None:
        async with Listening() as listening:
            client = await greeted(listening)
            await client.codes(*ENVELOPE)
            with monkeypatch.context() as patched:
                patched.setattr(Spool, "write", full)
                client.write(b"DATA\r\n")
                await client.reply()
                client.write(b"fine\r\n")
                await listening.until(lambda: listening.troubles)
                client.write(b"a\nb\r\n.\r\n")
                assert (await client.reply()).code == 550
            await hand_over(client)

    asyncio.run(main())


def test_a_fault_ends_one_session_only() -> None:
    async def main() -> None:
        async with Listening() as listening:
            client, other = await greeted(listening), await greeted(listening)
            listening.answer = RuntimeError("broken")
            await client.codes(*ENVELOPE)
            client.write(LETTER)
            assert (await client.rest()).endswith(
                b"421 4.3.0 Internal trouble, try again later\r\n"
            )
            listening.answer = None
            await hand_over(other)
            assert len(listening.troubles) == 1

    asyncio.run(main())


# -- crowds ---


def test_no_more_sessions_than_the_limit() -> None:
    async def main() -> None:
        async with open_door(limits=Limits(connections=2)) as listening:
            first, _ = await greeted(listening), await greeted(listening)
            third = await listening.client()
            assert (await third.rest()).startswith(b"421 4.7.0 ")
            first.write(b"QUIT\r\n")
            await first.rest()
            await listening.until(lambda: len(listening.arrivals) == 1)
            await greeted(listening)

    asyncio.run(main())


def test_no_more_sessions_of_an_address_unless_it_is_trusted() -> None:
    class Nobody:
        trusted = False

        def trusts(self, client: Who) -> bool:
            return self.trusted

        def may_send_as(self, user: str, sender: str) -> bool:
            return True

    async def main() -> None:
        guard = Nobody()
        async with open_door(limits=Limits(per_address=1), guard=guard) as listening:
            await greeted(listening)
            assert (await (await listening.client()).rest()).startswith(b"421 4.7.0 ")
            guard.trusted = True
            await greeted(listening)

    asyncio.run(main())


# -- clients that do not play along ---


@both_loops
def test_a_client_that_does_not_read_is_not_heard_either(run: Run[None]) -> None:
    async def main() -> None:
        terms = msgspec.structs.replace(TERMS, command_limit=0)
        async with open_door(terms, Limits(timeout=0.4)) as listening:
            client = await greeted(listening)
            client.reader._limit = 1  # type: ignore[attr-defined] # it reads no more from now on
            transport = client.writer.transport
            transport.pause_reading()  # type: ignore[attr-defined] # a stream's transport can
            for _ in range(200):
                client.write(b"HELP\r\n" * 5000)
            await listening.until(lambda: not len(listening.arrivals))
            session = listening.sessions[0]
            assert len(session._input.buffer) <= 1 << 20

    run(main())


@both_loops
def test_half_a_connection_gets_its_replies(run: Run[None]) -> None:
    async def main() -> None:
        async with open_door() as listening:
            client = await listening.client()
            client.write("\r\n".join([*ENVELOPE, ""]).encode() + LETTER)
            client.writer.write_eof()
            assert b"\r\n250 2.0.0 Ok: queued" in await client.rest()
            assert len(listening.kept) == 1

    run(main())


def test_half_a_message_is_none() -> None:
    async def main() -> None:
        whole = "\r\n".join([*ENVELOPE, ""]).encode() + LETTER
        async with open_door() as listening:
            for size in range(0, len(whole) - 1, 3):
                client = await listening.client()
                client.write(whole[:size])
                client.writer.write_eof() if size % 2 else client.writer.close()
                if size % 2:
                    await client.rest()
            await listening.until(lambda: not len(listening.arrivals))
            assert not listening.kept

    asyncio.run(main())


def test_who_goes_away_before_the_reply_is_noted() -> None:
    async def main() -> None:
        async with open_door() as listening:
            listening.held = []
            client = await greeted(listening)
            await client.codes(*ENVELOPE)
            client.write(LETTER)
            await listening.until(lambda: listening.held)
            client.reset()
            await listening.until(lambda: not len(listening.arrivals))
            listening.held[0](Outcome(Kept("Ok: queued as X")))
            assert (
                "reply_lost",
                {"client": "127.0.0.1", "text": "Ok: queued as X"},
            ) in listening.events

    asyncio.run(main())


# -- time ---


@pytest.mark.parametrize(
    "said", [b"", b"EH", "\r\n".join([*ENVELOPE, "DATA", ""]).encode(), b"AUTH PLAIN\r\n"]
)
def test_a_silent_client_is_sent_away(said: bytes) -> None:
    async def main() -> None:
        async with open_door(limits=Limits(timeout=0.2)) as listening:
            client = await listening.client()
            client.write(said)
            assert (await client.rest()).endswith(b"421 4.4.2 Timeout, closing the connection\r\n")

    asyncio.run(main())


def test_a_slow_client_is_sent_away() -> None:
    async def main() -> None:
        limits = Limits(timeout=0.4, data_rate=1_000_000)
        async with open_door(limits=limits) as listening:
            client = await greeted(listening)
            await client.codes(*ENVELOPE)
            client.write(b"DATA\r\n")
            await client.reply()
            for _ in range(100):
                client.write(b"word\r\n")
                await asyncio.sleep(0.02)
                if not len(listening.arrivals):
                    break
            assert (await client.rest()).startswith(b"421 4.4.2 ")
            assert not listening.kept

    asyncio.run(main())


def test_a_fast_beginning_buys_no_endless_pause() -> None:
    async def main() -> None:
        async with open_door(limits=Limits(timeout=0.3, data_rate=10)) as listening:
            client = await greeted(listening)
            await client.codes(*ENVELOPE)
            client.write(b"DATA\r\n" + b"word\r\n" * 20_000)
            await client.reply()
            assert (await client.rest()).startswith(b"421 4.4.2 ")

    asyncio.run(main())


def test_a_session_without_a_message_ends() -> None:
    async def main() -> None:
        limits = Limits(timeout=0.3, session_timeout=0.8)
        async with open_door(limits=limits) as listening:
            client = await greeted(listening)
            for _ in range(50):
                client.write(b"NOOP\r\n")
                await asyncio.sleep(0.03)
                if not len(listening.arrivals):
                    break
            assert (await client.rest()).endswith(b"421 4.4.2 This session has lasted too long\r\n")

    asyncio.run(main())


def test_no_limits_are_no_limits() -> None:
    async def main() -> None:
        limits = Limits(timeout=0.0, session_timeout=0.0, data_rate=0, per_address=0)
        async with open_door(limits=limits) as listening:
            client = await greeted(listening)
            for session in listening.sessions:
                session._look()
            await hand_over(client)

    asyncio.run(main())


# -- hooks that take their time ---


def test_a_hook_may_take_its_time_and_break() -> None:
    async def ask(stage: str, session: Session, *about: object) -> Decision | None:
        await asyncio.sleep(0.01)
        if stage == "helo" and about == ("broken.dev",):
            raise RuntimeError("broken")
        return Accept(delay=0.01) if stage == "mail" else None

    async def main() -> None:
        stages = frozenset({"connect", "helo", "mail", "rcpt", "data"})
        async with Listening(ask=ask, asked=stages) as listening:
            client = await greeted(listening)
            assert await client.codes("EHLO broken.dev", "NOOP") == ["451 4.3.0", "250 2.0.0"]
            await hand_over(client)
            assert [str(one) for one in listening.troubles] == ["broken"]

    asyncio.run(main())


def test_a_sender_is_looked_up() -> None:
    async def sender(address: str) -> Tempfail:
        await asyncio.sleep(0)
        return Tempfail(code=450, enhanced="4.1.8")

    async def main() -> None:
        terms = msgspec.structs.replace(TERMS, check_sender_domain=True)
        async with open_door(terms, sender=sender, guard=Guard(trusted="10.")) as listening:
            client = await greeted(listening)
            assert (await client.codes("EHLO a.b.dev", "MAIL FROM:<a@b.dev>"))[1] == "450 4.1.8"

    asyncio.run(main())


# -- TLS ---


@both_loops
def test_starttls(run: Run[None], tmp_path: Path, ca: trustme.CA) -> None:
    async def main() -> None:
        async with open_door(WITH_TLS, tls=tls_of(tmp_path, ca, "mx.host.dev")) as listening:
            client = await greeted(listening)
            assert (await client.codes("EHLO a.b.dev", "STARTTLS"))[1] == "220 2.0.0"
            await client.writer.start_tls(trusting(ca), server_hostname="mx.host.dev")
            assert await client.codes("MAIL FROM:<a@b.dev>") == ["503 5.5.1"]
            await client.codes(*ENVELOPE)
            body = b"word\r\n" * 100_000
            client.write(b"DATA\r\n" + body + b".\r\nQUIT\r\n")
            assert [(await client.reply()).code for _ in range(3)] == [354, 250, 221]
            parcel = listening.kept[0]
            assert parcel.content == body
            assert parcel.session.tls is not None
            assert (parcel.session.tls.version, parcel.session.tls.server_name) == (
                "TLSv1.3",
                "mx.host.dev",
            )
            assert parcel.session.protocol == "ESMTPS"
            await client.rest()

    run(main())


@both_loops
@pytest.mark.parametrize("behind", [b"NOOP\r\n", b"M", b"\x16\x03\x01\x02"])
def test_octets_behind_starttls_end_the_session(
    run: Run[None], tmp_path: Path, ca: trustme.CA, behind: bytes
) -> None:
    async def main() -> None:
        async with open_door(WITH_TLS, tls=tls_of(tmp_path, ca, "mx.host.dev")) as listening:
            client = await greeted(listening)
            client.write(b"STARTTLS\r\n" + behind)
            assert (await client.rest()).startswith(b"554 5.5.1 ")

    run(main())


@both_loops
def test_what_comes_while_a_hook_is_asked_about_tls_is_no_command(
    run: Run[None], tmp_path: Path, ca: trustme.CA
) -> None:
    async def main() -> None:
        gate = asyncio.Event()

        async def ask(stage: str, session: Session) -> None:
            await gate.wait()

        tls = tls_of(tmp_path, ca, "mx.host.dev")
        async with open_door(
            WITH_TLS, tls=tls, ask=ask, asked=frozenset({"starttls"})
        ) as listening:
            client = await greeted(listening)
            client.write(b"STARTTLS\r\n")
            await listening.until(lambda: listening.sessions[0]._task is not None)
            client.write(b"EHLO evil.dev\r\n")
            await listening.until(lambda: listening.sessions[0]._input.buffer)
            gate.set()
            assert (await client.rest()).startswith(b"554 5.5.1 ")

    run(main())


@both_loops
def test_a_handshake_that_is_none_ends_the_session(
    run: Run[None], tmp_path: Path, ca: trustme.CA
) -> None:
    async def main() -> None:
        async with open_door(WITH_TLS, tls=tls_of(tmp_path, ca, "mx.host.dev")) as listening:
            client = await greeted(listening)
            await client.codes("EHLO a.b.dev", "STARTTLS")
            client.write(b"EHLO in.clear.dev\r\n" * 5)
            await client.rest()
            await listening.until(lambda: not len(listening.arrivals))
            assert [kind for kind, _ in listening.events] == ["tls_failed"]

    run(main())


def test_whatever_goes_wrong_in_a_handshake_nothing_is_said_in_clear(
    tmp_path: Path, ca: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise RuntimeError("broken")

    async def main() -> None:
        async with open_door(WITH_TLS, tls=tls_of(tmp_path, ca, "mx.host.dev")) as listening:
            client = await greeted(listening)
            monkeypatch.setattr(asyncio.get_running_loop(), "start_tls", broken)
            assert await client.codes("STARTTLS") == ["220 2.0.0"]
            assert await client.rest() == b""
            assert [kind for kind, _ in listening.events] == ["tls_failed"]

    asyncio.run(main())


@both_loops
def test_tls_from_the_first_octet_on(run: Run[None], tmp_path: Path, ca: trustme.CA) -> None:
    async def main() -> None:
        tls = tls_of(tmp_path, ca, "mx.host.dev")
        async with open_door(WITH_TLS, tls=tls, tls_only=True) as listening:
            client = await greeted(listening, tls=trusting(ca))
            hello = await client.codes("EHLO a.b.dev", "STARTTLS")
            assert hello == ["250", "503 5.5.1"]
            await hand_over(client)
            in_clear = await listening.client()
            in_clear.write(b"EHLO a.b.dev\r\n")
            assert not (await in_clear.rest()).startswith(b"2")
            await listening.until(lambda: len(listening.arrivals) == 1)

    run(main())


@both_loops
def test_the_certificate_is_the_one_that_was_asked_for(
    run: Run[None], tmp_path: Path, ca: trustme.CA
) -> None:
    async def main() -> None:
        tls = tls_of(tmp_path, ca, "mx.host.dev", "*.other.dev")
        async with open_door(WITH_TLS, tls=tls, tls_only=True) as listening:
            for name in ("mx.host.dev", "mail.other.dev", "mx.host.dev"):
                client = await greeted(listening, tls=trusting(ca), name=name)
                await hand_over(client)
                parcel = listening.kept[-1]
                assert parcel.session.tls is not None
                assert parcel.session.tls.server_name == name

    run(main())


# -- proxies ---

V1 = b"PROXY TCP4 192.0.2.9 127.0.0.1 4711 25\r\n"
V2 = (
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11"
    + struct.pack("!H", 15)
    + bytes([192, 0, 2, 9, 127, 0, 0, 1])
    + struct.pack("!HH", 4711, 25)
    + b"\x04\x00\x00"
)


@both_loops
@pytest.mark.parametrize("header", [V1, V2], ids=["1", "2"])
@pytest.mark.parametrize("tls_only", [False, True])
def test_a_proxy_says_who_is_behind_it(
    run: Run[None], header: bytes, tls_only: bool, tmp_path: Path, ca: trustme.CA
) -> None:
    async def main() -> None:
        tls = tls_of(tmp_path, ca, "mx.host.dev")
        async with open_door(WITH_TLS, tls=tls, tls_only=tls_only, proxies=PROXIES) as listening:
            client = await greeted(listening, first=header, tls=trusting(ca) if tls_only else None)
            await client.codes("EHLO a.b.dev", "MAIL FROM:<a@b.dev>")
            assert await client.codes("RCPT TO:<c@d.dev>") == ["550 5.7.1"], "it is not the proxy"
            session = listening.sessions[0].session
            assert session is not None
            assert session.client == Who(address="192.0.2.9", port=4711, proxied=True)

    run(main())


@both_loops
def test_a_header_may_come_in_pieces_and_with_commands_behind_it(run: Run[None]) -> None:
    async def main() -> None:
        async with open_door(proxies=PROXIES) as listening:
            client = await listening.client()
            for start in range(0, len(V1), 7):
                client.write(V1[start : start + 7])
                await asyncio.sleep(0.01)
            client.write(b"EHLO a.b.dev\r\nQUIT\r\n")
            assert b"221 2.0.0" in await client.rest()

    run(main())


@both_loops
@pytest.mark.parametrize(
    "said", [b"EHLO a.b.dev\r\n", b"PROXY FOO\r\n", b"", b"PROXY TC", b"\x16\x03\x01\0"]
)
def test_without_a_header_there_is_no_greeting(run: Run[None], said: bytes) -> None:
    async def main() -> None:
        async with open_door(proxies=PROXIES) as listening:
            client = await listening.client()
            client.write(said)
            if said in b"PROXY TC":
                client.writer.write_eof()
            assert await client.rest() == b""
            assert [kind for kind, _ in listening.events] == ["connection_refused"]

    run(main())


def test_only_proxies_may_connect() -> None:
    async def main() -> None:
        async with open_door(proxies=Networks(["10.0.0.0/8"])) as listening:
            client = await listening.client()
            client.write(V1)
            assert await client.rest() == b""

    asyncio.run(main())


def test_behind_a_proxy_every_address_has_its_own_limit() -> None:
    async def main() -> None:
        async with open_door(limits=Limits(per_address=1), proxies=PROXIES) as listening:
            await greeted(listening, first=V1)
            crowded = await listening.client(first=V1)
            assert (await crowded.rest()).startswith(b"421 4.7.0 ")
            await greeted(listening, first=V1.replace(b"192.0.2.9", b"192.0.2.8"))

    asyncio.run(main())


def test_xclient_from_those_who_may() -> None:
    async def main() -> None:
        async with open_door(speakers=PROXIES) as listening:
            client = await greeted(listening)
            assert await client.codes("XCLIENT ADDR=192.0.2.9 LOGIN=kim") == ["220"]
            assert {one[:3] for one in await client.codes(*ENVELOPE)} == {"250"}
            session = listening.sessions[0].session
            assert session is not None
            assert (session.client.address, session.user) == ("192.0.2.9", "kim")
        async with open_door() as listening:
            client = await greeted(listening)
            assert await client.codes("XCLIENT ADDR=10.0.0.9") == ["550 5.7.0"]

    asyncio.run(main())


def test_on_a_unix_socket_a_client_is_who_the_system_says(tmp_path: Path) -> None:
    class Local:
        def trusts(self, client: Who) -> bool:
            return client.uid >= 0

        def may_send_as(self, user: str, sender: str) -> bool:
            return True

    async def main() -> None:
        async with open_door(path=str(tmp_path / "s"), guard=Local()) as listening:
            await hand_over(await greeted(listening))
            assert listening.kept[0].session.client.shown.startswith("uid=")

    asyncio.run(main())


# -- the end of the listener ---


@both_loops
def test_at_the_end_a_message_is_answered_first(run: Run[None]) -> None:
    async def main() -> None:
        async with open_door() as listening:
            listening.held = []
            idle, busy, begun = [await greeted(listening) for _ in range(3)]
            await busy.codes(*ENVELOPE)
            await begun.codes(*ENVELOPE)
            busy.write(LETTER)
            await listening.until(lambda: listening.held)
            closing = asyncio.ensure_future(listening.arrivals.close(10.0, at_once=True))
            assert await idle.rest() == b"421 4.3.2 Shutting down, try again later\r\n"
            late = await listening.client()
            assert (await late.rest()).startswith(b"421 4.3.2 ")
            assert not closing.done()
            listening.held[0](Outcome(Kept("Ok: queued as X")))
            assert (await busy.reply()).code == 354
            assert (await busy.reply()).code == 250
            assert (await busy.rest()).startswith(b"421 4.3.2 ")
            assert not closing.done()
            listening.held = None
            begun.write(LETTER)
            assert b"250 2.0.0 Ok" in await begun.rest()
            await closing

    run(main())


def test_at_the_very_end_everybody_hears_of_it() -> None:
    async def main() -> None:
        async with open_door() as listening:
            client = await greeted(listening)
            await client.codes(*ENVELOPE)
            client.write(b"DATA\r\nhalf a mess")
            await client.reply()
            await listening.arrivals.close(0.0, at_once=True)
            assert (await client.rest()).startswith(b"421 4.3.2 ")
            assert not listening.kept

    asyncio.run(main())


def test_the_hooks_hear_of_every_end() -> None:
    heard: list[tuple[str, str]] = []

    def ask(stage: str, session: Session, *about: object) -> None:
        heard.append((stage, session.helo))

    async def main() -> None:
        async with open_door(ask=ask, asked=frozenset({"disconnect"})) as listening:
            for end in ("QUIT", "NOOP"):
                client = await greeted(listening)
                await client.codes(f"EHLO {end}.b.dev", end)
                client.abort()
            await listening.until(lambda: len(heard) == 2)
            assert sorted(heard) == [("disconnect", "NOOP.b.dev"), ("disconnect", "QUIT.b.dev")]

    asyncio.run(main())


def test_many_idle_sessions_cost_little_and_end() -> None:
    async def main() -> None:
        limits = Limits(per_address=0)
        async with open_door(limits=limits) as listening:
            clients = [await greeted(listening) for _ in range(200)]
            await hand_over(clients[-1])
            assert len(listening.arrivals) == 200

    asyncio.run(main())
