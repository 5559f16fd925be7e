"""What milters say: as another implementation of the protocol writes it, and nonsense."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kilter.protocol import messages
from kilter.protocol.buffer import SimpleBuffer

from deliveryagent.mail.verdict import Discard, Reject, Tempfail
from deliveryagent.protocol.milter import (
    ACTIONS,
    STEPS,
    VERSION,
    Step,
    Terms,
)
from deliveryagent.protocol.milter_answers import (
    PACKET_LIMIT,
    AddHeader,
    AddRecipient,
    ChangeHeader,
    ChangeSender,
    DropRecipient,
    InsertHeader,
    MilterError,
    Plain,
    Quarantine,
    ReplaceBody,
    ReplyCode,
    packet_size,
    read_answer,
    read_terms,
    refusal,
)

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=80)
words = st.from_regex(r"[A-Za-z][A-Za-z0-9-]{0,20}", fullmatch=True)
PLAIN = Terms(VERSION, ACTIONS, Step(0), {})
EXACT = Terms(VERSION, ACTIONS, Step.HDR_LEADSPC, {})


def said(message: messages.Message) -> bytes:
    """A packet of the other implementation, without its length."""
    buffer = SimpleBuffer(1 << 12)
    message.pack(buffer)
    octets = bytes(buffer[:])
    assert packet_size(octets[:4]) == len(octets) - 4
    return octets[4:]


@given(st.integers(2, 6), st.integers(0, int(ACTIONS)), st.integers(0, int(STEPS)), st.data())
def test_terms_are_read_as_they_were_sent(
    version: int, actions: int, steps: int, data: st.DataObject
) -> None:
    names = data.draw(
        st.dictionaries(st.sampled_from(list(messages.Stage)), st.lists(words, min_size=1))
    )
    steps &= int(STEPS)
    answer = messages.Negotiate(
        version, messages.ActionFlags(actions), messages.ProtocolFlags(steps), names
    )
    terms = read_terms(said(answer))
    assert (terms.version, terms.actions, terms.steps) == (version, actions, steps)
    assert sorted(terms.macros.values()) == sorted(map(tuple, names.values()))


@pytest.mark.parametrize(
    "terms",
    [
        b"",
        b"c",
        b"O",
        b"O" + struct.pack("!II", 6, 0),
        b"O" + struct.pack("!III", 1, 0, 0),
        b"O" + struct.pack("!III", 7, 0, 0),
        b"O" + struct.pack("!III", 6, 0x200, 0),
        b"O" + struct.pack("!III", 6, 0, 0x800),
        b"O" + struct.pack("!III", 6, 0, 0x10000000),
        b"O" + struct.pack("!III", 6, 0, 0) + b"\0",
        b"O" + struct.pack("!IIII", 6, 0, 0, 0) + b"j",
        b"O" + struct.pack("!IIII", 6, 0, 0, 7) + b"j\0",
    ],
)
def test_terms_that_cannot_be_kept_are_refused(terms: bytes) -> None:
    with pytest.raises(MilterError):
        read_terms(terms)


@given(words, texts, st.integers(1, 100))
def test_changes_of_fields_are_read_as_they_were_sent(name: str, value: str, at: int) -> None:
    octets = value.encode()
    assert read_answer(said(messages.AddHeader(name, octets))) == AddHeader(name, value)
    assert read_answer(said(messages.InsertHeader(at, name, octets))) == InsertHeader(
        at, name, value
    )
    assert read_answer(said(messages.ChangeHeader(at, name, octets))) == ChangeHeader(
        at, name, value
    )


@given(st.emails(), texts.filter(bool))
def test_changes_of_addresses_are_read_as_they_were_sent(address: str, more: str) -> None:
    assert read_answer(said(messages.ChangeSender(address))) == ChangeSender(address)
    assert read_answer(said(messages.AddRecipient(address))) == AddRecipient(address)
    assert read_answer(said(messages.AddRecipientPar(address, more))) == AddRecipient(address, more)
    assert read_answer(said(messages.RemoveRecipient(address))) == DropRecipient(address)


def test_other_changes_are_read_as_they_were_sent() -> None:
    assert read_answer(said(messages.ReplaceBody(b"a\0b"))) == ReplaceBody(b"a\0b")
    assert read_answer(said(messages.Quarantine("why"))) == Quarantine("why")


@pytest.mark.parametrize(
    ("message", "verdict"),
    [
        (messages.Continue(), None),
        (messages.Accept(), None),
        (messages.Discard(), Discard()),
        (messages.Reject(), Reject(text="Command rejected")),
        (
            messages.TemporaryFailure(),
            Tempfail(text="Service unavailable - try again later"),
        ),
    ],
)
def test_plain_answers_have_their_verdicts(
    message: messages.Message, verdict: Reject | Tempfail | Discard | None
) -> None:
    answer = read_answer(said(message))
    assert isinstance(answer, Plain)
    assert refusal(answer) == verdict


def test_a_filter_that_closes_ends_the_session() -> None:
    for letter in (b"4", b"f"):
        answer = read_answer(letter)
        assert isinstance(answer, Plain)
        verdict = refusal(answer)
        assert isinstance(verdict, Tempfail)
        assert (verdict.code, verdict.close) == (421, True)


@pytest.mark.parametrize(
    ("octets", "reply"),
    [
        (b"550 5.1.1 nobody", ReplyCode(550, "5.1.1", "nobody")),
        (b"451 later", ReplyCode(451, "4.7.1", "later")),
        (b"554", ReplyCode(554, "5.7.1", "")),
        (b"550 5.7.1", ReplyCode(550, "5.7.1", "")),
        (b"550 4.7.1 odd", ReplyCode(550, "5.7.1", "4.7.1 odd")),
        (b"550 100%% sure, 5% not", ReplyCode(550, "5.7.1", "100% sure, 5% not")),
        (
            b"550-5.7.26 one\r\n550-5.7.26 two\r\n550 5.7.26 three",
            ReplyCode(550, "5.7.26", "one\ntwo\nthree"),
        ),
        (b"550 \xc3\xa9 \x1b[0m\xff", ReplyCode(550, "5.7.1", "é ?[0m?")),
    ],
)
def test_replies_are_taken_apart(octets: bytes, reply: ReplyCode) -> None:
    assert read_answer(b"y" + octets + b"\0") == reply


@pytest.mark.parametrize("octets", [b"250 ok", b"", b"5", b"abc", b"550 a\r\n551 b", b"5500 x"])
def test_replies_that_refuse_nothing_are_none(octets: bytes) -> None:
    with pytest.raises(MilterError):
        read_answer(b"y" + octets + b"\0")


def test_a_reply_of_421_ends_the_session() -> None:
    answer = ReplyCode(421, "4.7.0", "bye")
    assert refusal(answer) == Tempfail(code=421, enhanced="4.7.0", text="bye", close=True)


@pytest.mark.parametrize("size", [0, PACKET_LIMIT + 1, 0xFFFFFFFF])
def test_packets_of_no_size_and_of_any_size_are_refused(size: int) -> None:
    with pytest.raises(MilterError):
        packet_size(struct.pack("!I", size))


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"z",
        b"h",
        b"hname\0",
        b"hname\0value",
        b"hname\0value\0more\0",
        b"i\0\0",
        b"+a@b",
        b"q",
    ],
)
def test_packets_that_are_cut_off_are_refused(octets: bytes) -> None:
    with pytest.raises(MilterError):
        read_answer(octets)


@given(st.one_of(st.binary(max_size=60), st.tuples(st.sampled_from(b"hmie+2-qybO"), st.binary())))
def test_whatever_comes_is_read_or_refused(octets: bytes | tuple[int, bytes]) -> None:
    if isinstance(octets, tuple):
        octets = bytes([octets[0]]) + octets[1]
    for read in (read_answer, read_terms):
        try:
            answer = read(octets)
        except MilterError:
            continue
        if isinstance(answer, ReplyCode):
            assert 400 <= answer.code < 600
            assert all(line.isprintable() for line in answer.text.split("\n"))
            assert answer.enhanced[0] == str(answer.code)[0]
