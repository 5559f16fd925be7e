"""Milters: what they are told and in which order, what is made of their answers, and what when they fail."""

import asyncio
import re
import struct
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deliveryagent.intake import milter_talk
from deliveryagent.intake.hooks import Hooks
from deliveryagent.intake.message import Message
from deliveryagent.intake.milter import Milter
from deliveryagent.mail.verdict import Accept, Discard, Reject, Tempfail
from deliveryagent.protocol.milter import CHUNK, STEPS, Step
from deliveryagent.protocol.session import Client, Recipient, Session
from tests.doors.milters import LETTER, Scripted, begin, in_a_loop, listening, packed, session

KIM, LEE = "kim@example.net", "lee@example.net"
LATER = Tempfail(text="Service unavailable - try again later")


class Troubles(list[tuple[str, str]]):
    """The stages at which something went wrong, and what."""

    def __call__(self, name: str, stage: str, error: BaseException) -> None:
        assert name.startswith("milter ")
        self.append((stage, f"{type(error).__name__}: {error}"))


def asking(
    address: str,
    troubles: Troubles | None = None,
    *,
    action: Literal["tempfail", "accept", "reject"] = "tempfail",
    timeout: float = 20.0,
) -> Milter:
    told = Troubles() if troubles is None else troubles
    return Milter(address, timeout=timeout, default_action=action, trouble=told)


async def greet(milter: Milter, where: Session) -> list[object]:
    return [await milter.connect(where), await milter.helo(where, where.helo)]


async def hand_over(
    milter: Milter, where: Session, *recipients: str, raw: bytes = LETTER
) -> tuple[object, str]:
    """A message, stage by stage, up to the first refusal: that, and the content."""
    message = begin(where, *recipients, raw=raw)
    transaction = message.transaction
    waiting, transaction.recipients = transaction.recipients, []
    if (said := await milter.mail(where, transaction)) is not None:
        return said, ""
    for recipient in waiting:
        if (said := await milter.rcpt(where, recipient)) is not None:
            return said, ""
        transaction.recipients.append(recipient)
    if (said := await milter.data(where)) is not None:
        return said, ""
    said = await milter.message(where, message)
    return said, message.content.decode()


# -- what they are told ---


@in_a_loop
async def test_a_session_is_told_in_order_over_one_connection(tmp_path: Path) -> None:
    script = Scripted()
    async with listening(script, tmp_path / "m") as address:
        milter, where = asking(address), session(user="kim", mechanism="PLAIN")
        assert await greet(milter, where) == [None, None]
        assert await hand_over(milter, where, KIM, LEE) == (None, LETTER.decode())
        assert await hand_over(milter, where, KIM) == (None, LETTER.decode())
        assert await milter.command(where, "XFOO", "bar") is None
        milter.disconnect(where)
        await asyncio.sleep(0.05)
    assert script.connections == 1
    assert script.letters == "OCH" + "MRRTLLLLLNBE" + "MRTLLLLLNBE" + "UQ"
    assert script.said(b"C") == [b"[192.0.2.7]\x004\x9c\x41192.0.2.7\0"]
    assert script.said(b"R")[1] == b"<lee@example.net>\0"
    assert script.said(b"L")[2] == b"Subject\0one\n two\0"
    assert script.said(b"B")[0] == b"Hello\r\n.\r\n"
    assert script.said(b"U") == [b"XFOO bar\0"]
    macros = script.said(b"D")
    assert any(one.startswith(b"C") and b"j\0mx.example.org\0" in one for one in macros)
    assert any(one.startswith(b"M") and b"{auth_authen}\0kim\0" in one for one in macros)
    assert any(one.startswith(b"R") and b"{rcpt_addr}\0lee@example.net\0" in one for one in macros)
    assert b"Ei\x004QzX1\0" in macros


@in_a_loop
async def test_a_message_that_is_given_up_is_broken_off_before_the_next(tmp_path: Path) -> None:
    script = Scripted()
    async with listening(script, tmp_path / "m") as address:
        milter, where = asking(address), session()
        message = begin(where)
        await milter.mail(where, message.transaction)
        await hand_over(milter, where, KIM)
        milter.disconnect(where)
    assert script.letters.startswith("OCHMAMR")


@in_a_loop
async def test_who_wants_to_hear_nothing_hears_the_end_of_each_message(tmp_path: Path) -> None:
    script = Scripted(steps=int(STEPS & ~Step.SKIP))
    async with listening(script, tmp_path / "m") as address:
        milter, where = asking(address), session()
        await greet(milter, where)
        assert await hand_over(milter, where, KIM) == (None, LETTER.decode())
    assert script.letters == "OE"
    assert any(one.startswith(b"M") for one in script.said(b"D")), "macros come all the same"


@in_a_loop
async def test_who_answers_nothing_before_the_end_is_not_waited_for(tmp_path: Path) -> None:
    quiet = Step.NR_CONN | Step.NR_HDR | Step.NR_EOH | Step.NR_BODY | Step.HDR_LEADSPC
    script = Scripted(steps=int(quiet))
    raw = b"A: b\r\n\r\n" + b"0123456789abcdef\r\n" * 20_000
    async with listening(script, tmp_path / "m") as address:
        milter, where = asking(address), session()
        await greet(milter, where)
        assert (await hand_over(milter, where, KIM, raw=raw))[0] is None
    assert script.said(b"L") == [b"A\0 b\0"]
    assert b"".join(script.said(b"B")) == raw[8:]
    assert {len(one) for one in script.said(b"B")[:-1]} == {CHUNK}


@in_a_loop
async def test_the_macros_are_those_that_were_asked_for(tmp_path: Path) -> None:
    symbols = struct.pack("!I", 0) + b"j {client_addr}\0" + struct.pack("!I", 2) + b"mail_host\0"
    script = Scripted(symbols=symbols)
    async with listening(script, tmp_path / "m") as address:
        milter, where = asking(address), session()
        await greet(milter, where)
        await hand_over(milter, where, KIM)
    assert script.said(b"D")[0] == b"Cj\0mx.example.org\0{client_addr}\x00192.0.2.7\0"
    assert b"M{mail_host}\0example.org\0" in script.said(b"D")


@in_a_loop
async def test_who_skips_the_body_is_sent_no_more_of_it(tmp_path: Path) -> None:
    script = Scripted({b"B": packed(b"s")})
    async with listening(script, tmp_path / "m") as address:
        milter, where = asking(address), session()
        raw = b"A: b\r\n\r\n" + b"x\r\n" * 70_000
        assert (await hand_over(milter, where, KIM, raw=raw))[0] is None
    assert script.letters == "OCHMRTLNBE"


@in_a_loop
async def test_what_hooks_decided_alone_is_told_before_what_follows(tmp_path: Path) -> None:
    script = Scripted()
    async with listening(script, tmp_path / "m") as address:
        milter, where = asking(address), session()
        message = begin(where, KIM, LEE)
        assert await milter.message(where, message) is None
    assert script.letters == "OCHMRRTLLLLLNBE"


@in_a_loop
async def test_what_hooks_accepted_a_milter_cannot_refuse_later(tmp_path: Path) -> None:
    script = Scripted({b"C": packed(b"r")})
    async with listening(script, tmp_path / "m") as address:
        milter, where = asking(address), session()
        assert await hand_over(milter, where, KIM) == (None, LETTER.decode())
    assert script.letters == "OC", "it is asked nothing more"


@in_a_loop
async def test_another_client_of_a_proxy_is_told_over_another_connection(tmp_path: Path) -> None:
    script = Scripted()
    async with listening(script, tmp_path / "m") as address:
        milter, where = asking(address), session()
        await greet(milter, where)
        where.client = Client(address="2001:db8::7", port=7, name="host.example", proxied=True)
        await greet(milter, where)
        await asyncio.sleep(0.05)
    assert sorted(script.letters) == sorted("OCHQ" + "OCH")
    assert script.said(b"C")[1] == b"host.example\x006\0\x072001:db8::7\0"


@in_a_loop
async def test_a_filter_is_reached_over_tcp_as_well() -> None:
    script = Scripted({b"C": packed(b"r")})
    server = await asyncio.start_server(script.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    milter = asking(f"inet:localhost:{port}")
    assert await milter.connect(session()) == Reject(text="Command rejected")
    server.close()


# A filter that has decided hears no more of a message.
ORDER = re.compile(r"O(?:C(?:[HU]|M(?:[RU]*(?:TU*(?:L*(?:NB*E?)?)?)?)A?)*)?")
STAGES = ("connect", "helo", "mail", "rcpt", "data", "message", "command")


@given(
    st.lists(st.tuples(st.sampled_from(STAGES), st.booleans()), max_size=25),
    st.dictionaries(st.sampled_from("CHMRTLNBEU"), st.sampled_from("acdrt"), max_size=3),
)
def test_whatever_is_asked_a_filter_hears_commands_in_order(
    steps: list[tuple[str, bool]], answers: dict[str, str]
) -> None:
    """Each step either is asked or was decided by hooks alone."""

    @in_a_loop
    async def main() -> None:
        script = Scripted({one.encode(): packed(two.encode()) for one, two in answers.items()})
        troubles = Troubles()
        with TemporaryDirectory() as directory:
            async with listening(script, Path(directory) / "m") as address:
                milter, where = asking(address, troubles), session(helo="")
                for stage, asked in steps:
                    await _step(milter, where, stage, asked=asked)
                milter.disconnect(where)
        assert troubles == []
        assert not script.heard or ORDER.fullmatch(script.letters.removesuffix("Q"))

    main()


async def _step(milter: Milter, where: Session, stage: str, *, asked: bool) -> None:
    """What a listener does at a stage, where a hook may have answered before any milter."""
    transaction = where.transaction
    said: object = None
    match stage:
        case "connect":
            said = await milter.connect(where) if asked and not where.helo else None
        case "helo":
            where.helo, where.transaction = "client.example.org", None
            said = await milter.helo(where, where.helo) if asked else None
        case "mail":
            transaction = begin(where).transaction
            if asked and await milter.mail(where, transaction) is not None:
                where.transaction = None
        case "rcpt" if transaction is not None:
            recipient = Recipient(address=f"{len(transaction.recipients)}@example.net")
            if not asked or await milter.rcpt(where, recipient) is None:
                transaction.recipients.append(recipient)
        case "data" | "message" if transaction is not None and transaction.recipients:
            said = await milter.data(where) if asked else None
            if said is None and stage == "message":  # else the content was too large
                said = await milter.message(where, Message(where, transaction, LETTER))
            where.transaction = None
        case "command":
            said = await milter.command(where, "XFOO", "bar")
    assert said is None or isinstance(said, Reject | Tempfail | Discard)


# -- what they answer ---


@pytest.mark.parametrize("letter", [b"C", b"H", b"M", b"R", b"T", b"L", b"N", b"B", b"E"])
@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (b"r", Reject(text="Command rejected")),
        (b"t", LATER),
        (b"d", Discard()),
        (b"y550 5.1.1 not\0", Reject(code=550, enhanced="5.1.1", text="not")),
    ],
)
def test_a_refusal_is_about_the_stage_at_which_it_comes(
    letter: bytes, answer: bytes, verdict: object, tmp_path: Path
) -> None:
    @in_a_loop
    async def main() -> None:
        script = Scripted({letter: packed(answer)})
        async with listening(script, tmp_path / "m") as address:
            troubles = Troubles()
            milter, where = asking(address, troubles), session()
            said = await greet(milter, where)
            if letter in b"CH":
                assert said[b"CH".index(letter)] == verdict
            else:
                assert said == [None, None]
                assert (await hand_over(milter, where, KIM))[0] == verdict
            milter.disconnect(where)
            assert troubles == []

    main()


@pytest.mark.parametrize("letter", [b"C", b"H", b"M", b"R", b"T", b"L", b"N", b"B", b"E"])
def test_who_accepts_is_asked_no_more(letter: bytes, tmp_path: Path) -> None:
    @in_a_loop
    async def main() -> None:
        script = Scripted({letter: packed(b"a")})
        async with listening(script, tmp_path / "m") as address:
            milter, where = asking(address), session()
            await greet(milter, where)
            assert await hand_over(milter, where, KIM) == (None, LETTER.decode())
            assert script.letters[-1:] == letter.decode()
            assert await hand_over(milter, where, KIM) == (None, LETTER.decode())
            assert script.letters[-1:] == letter.decode()
        assert script.letters.count("M") == (0 if letter in b"CH" else 2)

    main()


@in_a_loop
async def test_every_change_is_made(tmp_path: Path) -> None:
    zero, one, two = (struct.pack("!I", number) for number in range(3))
    script = Scripted(
        {
            b"E": packed(
                b"p",
                b"hX-End\0last\0",
                b"i" + zero + b"X-Top\0first\0",
                b"i" + one + b"X-Second\0a\n b\0",
                b"i" + two + b"X-Third\0below the top\0",
                b"m" + one + b"Subject\0changed\0",
                b"m" + one + b"Date\0\0",
                b"m" + two + b"From\0another\0",
                b"e<ann@example.org>\0RET=HDRS ENVID=4711\0",
                b"+<new@example.net>\0",
                b"2<with@example.net>\0NOTIFY=NEVER\0",
                b"-<KIM@example.net>\0",
                b"-<kim@EXAMPLE.net>\0",
                b"qsuspicious\0",
                b"bnew\r\nbo",
                b"bdy\n",
                b"c",
            )
        }
    )
    async with listening(script, tmp_path / "m") as address:
        milter, where = asking(address), session()
        message = begin(where, KIM, LEE)
        assert await milter.message(where, message) is None
    assert message.content == (
        b"X-Top: first\r\nX-Second: a\r\n b\r\nX-Third: below the top\r\n"
        b"From: kim@example.org\r\nTo: lee@example.net\r\nSubject: changed\r\n"
        b"Message-ID: <1@example.org>\r\nX-End: last\r\nFrom: another\r\n\r\nnew\r\nbody\r\n"
    )
    transaction = message.transaction
    assert (transaction.sender, transaction.ret, transaction.envid) == (
        "ann@example.org",
        "HDRS",
        "4711",
    )
    assert message.recipients == (LEE, "new@example.net", "with@example.net")
    assert transaction.recipients[-1].notify.name == "NEVER"
    assert transaction.hold


@in_a_loop
async def test_no_change_is_made_to_what_is_refused(tmp_path: Path) -> None:
    script = Scripted({b"E": packed(b"hX-End\0last\0", b"qwhy\0", b"r")})
    async with listening(script, tmp_path / "m") as address:
        milter, where = asking(address), session()
        message = begin(where, KIM)
        assert await milter.message(where, message) == Reject(text="Command rejected")
    assert message.content == LETTER
    assert not message.transaction.hold


@in_a_loop
async def test_a_filter_sees_what_hooks_and_filters_before_it_changed(tmp_path: Path) -> None:
    first, second = Scripted({b"E": packed(b"hX-One\x001\0", b"a")}), Scripted()
    async with listening(first, tmp_path / "a") as one, listening(second, tmp_path / "b") as two:
        milters = [asking(one), asking(two)]
        hooks = Hooks(
            [("mine", lambda _session, message: message.add_header("X-Zero", "0"))],
            limit=1,
            trouble=Troubles(),
            last=[(milter.name, milter) for milter in milters],
        )
        where = session()
        message = begin(where, KIM)
        answer = hooks.ask("message", where, message)
        assert not isinstance(answer, Accept)
        assert answer is not None
        assert await answer is None  # type: ignore[misc]
        hooks.ask("disconnect", where)
    assert b"X-Zero\x000\0" in first.said(b"L")
    assert b"X-One\x001\0" in second.said(b"L")


# -- when they fail ---


@pytest.mark.parametrize(
    ("action", "verdict"),
    [
        ("tempfail", LATER),
        ("reject", Reject(enhanced="5.5.0", text="Service unavailable")),
        ("accept", None),
    ],
)
def test_the_default_action_stands_in_for_a_filter_that_is_not_there(
    action: Literal["tempfail", "accept", "reject"], verdict: object, tmp_path: Path
) -> None:
    @in_a_loop
    async def main() -> None:
        troubles = Troubles()
        milter = asking(f"unix:{tmp_path}/none", troubles, action=action)
        where = session()
        assert await greet(milter, where) == [None, None]
        assert (await hand_over(milter, where, KIM))[0] == verdict
        milter.disconnect(where)
        assert [stage for stage, _ in troubles] == ["connect"], "it is left in peace for a while"

    main()


@in_a_loop
async def test_a_filter_that_is_there_again_is_asked_and_counts(
    tmp_path: Path,
) -> None:
    script = Scripted({b"C": packed(b"r")})
    milter, where = asking(f"unix:{tmp_path}/m"), session()
    assert await greet(milter, where) == [None, None]
    milter._resting_until = 0.0
    async with listening(script, tmp_path / "m"):
        assert (await hand_over(milter, where, KIM))[0] == Reject(text="Command rejected")


@in_a_loop
async def test_a_filter_that_was_started_anew_is_told_everything_again(tmp_path: Path) -> None:
    troubles = Troubles()
    milter, where = asking(f"unix:{tmp_path}/m", troubles), session()
    first, second = Scripted({b"E": lambda _: b""}), Scripted()
    async with listening(first, tmp_path / "m"):
        await greet(milter, where)
        talk = next(iter(where.notes.values()))
        talk._reader.feed_eof()
    (tmp_path / "m").unlink(missing_ok=True)
    async with listening(second, tmp_path / "m"):
        assert await hand_over(milter, where, KIM) == (None, LETTER.decode())
    assert second.letters == "OCHMRTLLLLLNBE"
    assert troubles == []


HOSTILE = {
    "unknown": packed(b"?"),
    "empty": struct.pack("!I", 0),
    "over-long": struct.pack("!I", 0xFFFFFFFF),
    "cut off": struct.pack("!I", 10) + b"c",
    "closed": b"",
    "change": packed(b"hX\0y\0"),
    "no reply": packed(b"y250 yes\0"),
    "negotiation": packed(b"O" + bytes(12)),
}


@pytest.mark.parametrize("answer", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("letter", [b"C", b"M", b"R", b"L", b"B"])
def test_what_no_filter_says_is_as_if_it_were_not_there(
    letter: bytes, answer: bytes, tmp_path: Path
) -> None:
    @in_a_loop
    async def main() -> None:
        troubles = Troubles()
        script = Scripted({letter: answer})
        async with listening(script, tmp_path / "m") as address:
            milter, where = asking(address, troubles, timeout=0.05), session()
            assert await greet(milter, where) == [None, None]
            assert (await hand_over(milter, where, KIM))[0] == LATER
            milter.disconnect(where)
        assert troubles

    main()


@pytest.mark.parametrize(
    "answers",
    [
        [b"hBad Name\0x\0", b"c"],
        [b"+nonsense\0", b"c"],
        [b"2<a@b.example>\0NOTIFY=SOMETIMES\0", b"c"],
        [b"e<a@b@c>\0", b"c"],
        [b"ba\0b", b"c"],
        [b"O" + bytes(12)],
        [b"b" + bytes(1 << 19)] * 40,
    ],
    ids=["name", "recipient", "parameter", "sender", "body", "letter", "endless"],
)
def test_a_change_that_cannot_be_made_is_a_failure(answers: list[bytes], tmp_path: Path) -> None:
    @in_a_loop
    async def main() -> None:
        troubles = Troubles()
        async with listening(Scripted({b"E": packed(*answers)}), tmp_path / "m") as address:
            milter, where = asking(address, troubles), session()
            assert (await hand_over(milter, where, KIM))[0] == LATER
        assert [stage for stage, _ in troubles] == ["message"]

    main()


@pytest.mark.parametrize(
    "negotiation", [b"", packed(b"c"), packed(b"O"), packed(b"O" + struct.pack("!III", 9, 0, 0))]
)
def test_terms_that_cannot_be_agreed_on_are_a_failure(negotiation: bytes, tmp_path: Path) -> None:
    @in_a_loop
    async def main() -> None:
        troubles = Troubles()
        async with listening(Scripted(negotiation=negotiation), tmp_path / "m") as address:
            milter, where = asking(address, troubles, timeout=0.05), session()
            assert (await hand_over(milter, where, KIM))[0] == LATER
        assert [stage for stage, _ in troubles] == ["mail"]

    main()


@in_a_loop
async def test_a_filter_at_work_is_waited_for_but_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(milter_talk, "PATIENCE", 0.01)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(17)
        writer.write(packed(b"O" + struct.pack("!III", 6, 0, int(STEPS & ~Step.SKIP))))
        while not reader.at_eof():
            writer.write(packed(b"p"))
            await asyncio.sleep(0.005)
        writer.close()

    server = await asyncio.start_unix_server(serve, tmp_path / "m")
    troubles = Troubles()
    milter, where = asking(f"unix:{tmp_path}/m", troubles), session()
    assert (await hand_over(milter, where, KIM))[0] == LATER
    assert troubles == [("message", "TimeoutError: ")]
    milter.disconnect(where)
    server.close()


@in_a_loop
async def test_a_session_that_ends_leaves_no_conversation_half_done(tmp_path: Path) -> None:
    heard = asyncio.Event()

    def nothing(_packet: bytes) -> bytes:
        heard.set()
        return b""

    script = Scripted({b"M": nothing})
    async with listening(script, tmp_path / "m") as address:
        milter, where = asking(address), session()
        task = asyncio.create_task(hand_over(milter, where, KIM))
        await heard.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        script.answers = {}
        assert (await hand_over(milter, where, KIM))[0] is None
        milter.disconnect(where)
    assert script.connections == 2
