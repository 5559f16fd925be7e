"""The lab's receiving host takes mail as RFC 5321 has it, and fails as its addresses say."""

import asyncio
import hashlib
import json
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest
import trustme

from deliveryagent.lab.arrivals import Ledger
from deliveryagent.lab.certificate import self_signed
from deliveryagent.lab.receiver import Receiver
from deliveryagent.lab.session import HostSettings

T = TypeVar("T")
LIMIT = 0.3


class Caller:
    """The sending side, line by line."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def reply(self) -> str:
        """One whole reply, its lines joined by a bar; empty when the connection was closed."""
        lines = []
        while line := (await asyncio.wait_for(self.reader.readline(), 2)).decode().rstrip("\r\n"):
            lines.append(line)
            if line[3:4] != "-":
                break
        return "|".join(lines)

    async def say(self, *lines: str) -> str:
        """Send lines in one write; the last of their replies."""
        self.writer.write("".join(f"{line}\r\n" for line in lines).encode())
        replies = [await self.reply() for _ in lines]
        return replies[-1]

    async def message(self, *recipients: str, content: bytes = b"Subject: x\r\n\r\nhi\r\n") -> str:
        """A whole transaction; the reply to its final dot."""
        await self.say("MAIL FROM:<s@example.test>", *(f"RCPT TO:<{r}>" for r in recipients))
        if not (answer := await self.say("DATA")).startswith("354"):
            return answer
        self.writer.write(content + b".\r\n")
        return await self.reply()

    async def silent(self) -> bool:
        try:
            await asyncio.wait_for(self.reader.readline(), LIMIT)
        except TimeoutError:
            return True
        return False


def talk(
    ask: Callable[[Caller, Receiver], Awaitable[T]],
    settings: HostSettings | None = None,
    ledger: Ledger | None = None,
) -> T:
    async def main() -> T:
        async with Receiver(settings or HostSettings(), ledger=ledger) as receiver:
            caller = Caller(*await asyncio.open_connection("127.0.0.1", receiver.port))
            try:
                if settings is None or settings.greeting.startswith("220"):
                    await caller.reply()
                    hello = "LHLO" if settings is not None and settings.lmtp else "EHLO"
                    await caller.say(f"{hello} client.test")
                return await ask(caller, receiver)
            finally:
                caller.writer.close()

    return asyncio.run(main())


def ledger(directory: Path | None = None) -> Ledger:
    times = iter(range(1, 1000))
    return Ledger(clock=lambda: float(next(times)), directory=directory)


def test_a_message_is_accepted_and_entered_with_its_envelope() -> None:
    book = ledger()
    content = b"Message-ID: <1@x>\r\nSubject: Tea\r\n\r\n..dot\r\n"

    async def ask(caller: Caller, receiver: Receiver) -> str:
        reply = await caller.message("a@mx.test", "b@mx.test", content=content)
        assert receiver.house.messages == 1
        return reply

    assert talk(ask, ledger=book).startswith("250")
    [arrival] = book.arrivals
    assert arrival.recipients == arrival.accepted == ("a@mx.test", "b@mx.test")
    assert (arrival.sender, arrival.helo, arrival.host) == (
        "s@example.test",
        "client.test",
        "mx.lab.test",
    )
    assert (arrival.message_id, arrival.subject, arrival.transaction) == ("<1@x>", "Tea", 1)
    plain = content.replace(b"..dot", b".dot")
    assert (arrival.size, arrival.digest) == (len(plain), hashlib.sha256(plain).hexdigest())
    assert (arrival.dotted, arrival.replied) == (1.0, 2.0)
    assert book.deliveries() == {("<1@x>", "a@mx.test"): 1, ("<1@x>", "b@mx.test"): 1}


def test_its_keywords_are_those_an_agent_looks_for() -> None:
    async def ask(caller: Caller, _: Receiver) -> str:
        return await caller.say("EHLO again.test")

    words = talk(ask).split("|")
    assert [word[4:] for word in words] == [
        "mx.lab.test", "PIPELINING", "SIZE 50000000", "8BITMIME", "SMTPUTF8", "DSN",
        "ENHANCEDSTATUSCODES",
    ]  # fmt: skip


def test_flights_are_answered_in_order() -> None:
    async def ask(caller: Caller, _: Receiver) -> list[str]:
        caller.writer.write(
            b"MAIL FROM:<>\r\nRCPT TO:<550@mx.test>\r\nRCPT TO:<ok@mx.test>\r\nDATA\r\n"
        )
        replies = [await caller.reply() for _ in range(4)]
        caller.writer.write(b"x: y\r\n\r\n.\r\nMAIL FROM:<>\r\nQUIT\r\n")
        return [reply[:3] for reply in replies + [await caller.reply() for _ in range(3)]]

    assert talk(ask) == ["250", "550", "250", "354", "250", "250", "221"]


def test_content_may_arrive_octet_by_octet() -> None:
    book = ledger()

    async def ask(caller: Caller, _: Receiver) -> str:
        await caller.say("MAIL FROM:<>", "RCPT TO:<ok@mx.test>", "DATA")
        for octet in b"a: b\r\n\r\n..\r\n.\r\n":
            caller.writer.write(bytes([octet]))
            await caller.writer.drain()
            await asyncio.sleep(0)
        return await caller.reply()

    assert talk(ask, ledger=book).startswith("250")
    assert book.arrivals[0].size == len(b"a: b\r\n\r\n.\r\n")


def test_a_lone_dot_is_an_empty_content() -> None:
    book = ledger()

    async def ask(caller: Caller, _: Receiver) -> str:
        return await caller.message("ok@mx.test", content=b"")

    assert talk(ask, ledger=book).startswith("250")
    assert book.arrivals[0].size == 0


@pytest.mark.parametrize("line_end", [b"\n", b"\r", b"\r\n"])
def test_bare_line_ends_are_noted(line_end: bytes) -> None:
    book = ledger()

    async def ask(caller: Caller, _: Receiver) -> str:
        return await caller.message("ok@mx.test", content=b"a: b\r\n\r\nx" + line_end + b"y\r\n")

    talk(ask, ledger=book)
    assert book.arrivals[0].crlf_only is (line_end == b"\r\n")


def test_commands_out_of_order_are_refused() -> None:
    async def ask(caller: Caller, _: Receiver) -> list[str]:
        lines = ["RCPT TO:<a@b>", "DATA", "MAIL x", "MAIL FROM:<>", "MAIL FROM:<>", "RCPT y", "HUH"]
        return [(await caller.say(line))[:3] for line in lines]

    assert talk(ask) == ["503", "554", "501", "250", "503", "501", "500"]


def test_a_greylisted_recipient_passes_on_the_second_try() -> None:
    async def ask(caller: Caller, _: Receiver) -> list[str]:
        replies = []
        for _try in range(2):
            replies.append(await caller.say("MAIL FROM:<>", "RCPT TO:<greylist@mx.test>"))
            await caller.say("RSET")
        return [reply[:9] for reply in replies]

    assert talk(ask) == ["450 4.7.1", "250 2.1.5"]


@pytest.mark.parametrize(
    ("recipient", "reply"), [("data-451@mx.test", "451 4.3.0"), ("dot-550@mx.test", "550 5.1.1")]
)
def test_refusals_come_at_their_stage(recipient: str, reply: str) -> None:
    async def ask(caller: Caller, _: Receiver) -> str:
        return await caller.message("ok@mx.test", recipient)

    assert talk(ask).startswith(reply)


@pytest.mark.parametrize("recipient", ["timeout@mx.test", "drop@mx.test", "421@mx.test"])
def test_trouble_at_rcpt(recipient: str) -> None:
    async def ask(caller: Caller, _: Receiver) -> str:
        await caller.say("MAIL FROM:<>")
        caller.writer.write(f"RCPT TO:<{recipient}>\r\nNOOP\r\n".encode())
        if await caller.silent():
            return "silence"
        return "closed" if await caller.reply() == "" else "talks on"

    assert talk(ask) == ("silence" if recipient.startswith("timeout") else "closed")


@pytest.mark.parametrize("recipient", ["timeout-dot@mx.test", "drop-dot@mx.test"])
def test_trouble_at_the_dot_is_entered_but_not_accepted(recipient: str) -> None:
    book = ledger()

    async def ask(caller: Caller, _: Receiver) -> bool:
        await caller.say("MAIL FROM:<>", f"RCPT TO:<{recipient}>", "DATA")
        caller.writer.write(b"a: b\r\n\r\n.\r\n")
        return await caller.silent()

    assert talk(ask, ledger=book) is recipient.startswith("timeout")
    assert book.arrivals[0].accepted == ()
    assert book.arrivals[0].replied == 0


def test_a_slow_recipient_delays_what_follows() -> None:
    async def ask(caller: Caller, _: Receiver) -> list[str]:
        caller.writer.write(b"MAIL FROM:<>\r\nRCPT TO:<slow-0.4s@mx.test>\r\nNOOP\r\n")
        first = await caller.reply()
        assert await caller.silent()
        return [reply[:9] for reply in (first, await caller.reply(), await caller.reply())]

    assert talk(ask) == ["250 2.1.0", "250 2.1.5", "250 2.0.0"]


def test_every_dot_can_be_delayed() -> None:
    book = ledger()

    async def ask(caller: Caller, _: Receiver) -> str:
        await caller.say("MAIL FROM:<>", "RCPT TO:<ok@mx.test>", "DATA")
        caller.writer.write(b".\r\n")
        assert await caller.silent()
        assert book.arrivals[0].replied == 0
        return await caller.reply()

    assert talk(ask, HostSettings(dot_delay=(0.4, 0.4)), book).startswith("250")


@pytest.mark.parametrize("greeting", ["554 no service", "421 too busy"])
def test_a_host_may_refuse_everybody(greeting: str) -> None:
    async def ask(caller: Caller, _: Receiver) -> list[str]:
        return [await caller.reply(), await caller.reply()]

    assert talk(ask, HostSettings(greeting=greeting)) == [greeting, ""]


def test_a_host_may_never_greet() -> None:
    async def ask(caller: Caller, _: Receiver) -> bool:
        return await caller.silent()

    assert talk(ask, HostSettings(greeting=""))


def test_limits_of_size_and_recipients_are_kept() -> None:
    async def ask(caller: Caller, _: Receiver) -> list[str]:
        large = await caller.say("MAIL FROM:<> BODY=8BITMIME SIZE=1001")
        await caller.say("MAIL FROM:<> SIZE=1000", "RCPT TO:<a@mx.test>")
        return [large[:9], (await caller.say("RCPT TO:<b@mx.test>"))[:9]]

    settings = HostSettings(size_limit=1000, recipient_limit=1)
    assert talk(ask, settings) == ["552 5.3.4", "452 4.5.3"]


def test_a_line_without_end_ends_the_connection() -> None:
    async def ask(caller: Caller, _: Receiver) -> list[str]:
        caller.writer.write(b"x" * 5000)
        return [(await caller.reply())[:3], await caller.reply()]

    assert talk(ask) == ["500", ""]


def test_lmtp_answers_the_dot_once_per_recipient() -> None:
    book = ledger()

    async def ask(caller: Caller, _: Receiver) -> list[str]:
        first = await caller.message("ok@mx.test", "dot-452@mx.test")
        return [first[:3], (await caller.reply())[:3]]

    assert talk(ask, HostSettings(lmtp=True), book) == ["250", "452"]
    assert book.arrivals[0].accepted == ("ok@mx.test",)


def test_lmtp_on_a_unix_socket(tmp_path: Path) -> None:
    async def main() -> str:
        path = str(tmp_path / "lmtp")
        async with Receiver(HostSettings(lmtp=True), path=path):
            caller = Caller(*await asyncio.open_unix_connection(path))
            await caller.reply()
            reply = await caller.say("LHLO x")
            caller.writer.close()
            return reply

    assert asyncio.run(main()).startswith("250-mx.lab.test|")


def test_starttls_starts_afresh_and_forgets_what_came_in_clear() -> None:
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("mx.lab.test").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    book = ledger()

    async def ask(caller: Caller, _: Receiver) -> list[str]:
        caller.writer.write(b"STARTTLS\r\nMAIL FROM:<injected@x>\r\n")
        ready = await caller.reply()
        await caller.writer.start_tls(client, server_hostname="mx.lab.test")
        early = await caller.say("MAIL FROM:<>")
        hello = await caller.say("EHLO inside.test")
        assert "STARTTLS" not in hello
        return [ready[:3], early[:3], (await caller.message("ok@mx.test"))[:3]]

    assert talk(ask, HostSettings(tls=server), book) == ["220", "503", "250"]
    assert (book.arrivals[0].tls, book.arrivals[0].helo) == (True, "inside.test")


def test_a_certificate_is_made_where_openssl_is() -> None:
    context = self_signed(["mx.lab.test"])
    if context is None:
        pytest.skip("no openssl command")

    async def ask(caller: Caller, _: Receiver) -> bool:
        await caller.say("STARTTLS")
        trusting = ssl._create_unverified_context()
        await caller.writer.start_tls(trusting, server_hostname="mx.lab.test")
        return (await caller.say("EHLO x")).startswith("250-")

    assert talk(ask, HostSettings(tls=context))


def test_arrivals_are_kept_in_files(tmp_path: Path) -> None:
    book = ledger(tmp_path / "kept")

    async def ask(caller: Caller, _: Receiver) -> None:
        await caller.message("ok@mx.test", content=b"Subject: one\r\n\r\n")
        await caller.message("ok@mx.test", content=b"Subject: two\r\n\r\n")

    talk(ask, ledger=book)
    lines = (tmp_path / "kept" / "arrivals.jsonl").read_text().splitlines()
    assert [json.loads(line)["subject"] for line in lines] == ["one", "two"]
    assert (tmp_path / "kept" / "000002.eml").read_bytes() == b"Subject: two\r\n\r\n"


def test_who_said_quit_before_another_connects_is_gone() -> None:
    async def ask(_caller: Caller, receiver: Receiver) -> tuple[int, int]:
        writers = []
        for _ in range(10):
            _reader, writer = await asyncio.open_connection("127.0.0.1", receiver.port)
            writer.write(b"QUIT\r\n")
            writers.append(writer)
        for writer in writers:
            writer.close()
        return receiver.house.sessions, receiver.house.peak

    assert talk(ask) == (11, 2)


def test_sessions_are_counted() -> None:
    async def ask(_: Caller, receiver: Receiver) -> tuple[int, int]:
        reader, writer = await asyncio.open_connection("127.0.0.1", receiver.port)
        await reader.readline()
        writer.close()
        return receiver.house.sessions, receiver.house.peak

    assert talk(ask) == (2, 2)
