"""Replies: what is one, what is none, and what a hostile peer cannot do."""

import sys
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from deliveryagent.mail.status import SmtpReply
from deliveryagent.protocol.replies import (
    LINE_KEPT,
    LINE_LIMIT,
    REPLY_LIMIT,
    REPLY_LINES,
    TEXT_KEPT,
    ProtocolError,
    ReplyParser,
    printable,
)


def parse(*pieces: bytes) -> tuple[list[SmtpReply], str]:
    """All replies in some octets, and the error that ended them, if one did."""
    parser = ReplyParser()
    replies: list[SmtpReply] = []
    for piece in pieces:
        try:
            replies += parser.feed(piece)
        except ProtocolError as error:
            return replies + error.replies, str(error)
    return replies, ""


def cut(octets: bytes, places: list[int]) -> list[bytes]:
    """The octets in pieces."""
    ends = [0, *sorted(place % (len(octets) + 1) for place in places), len(octets)]
    return [octets[start:end] for start, end in pairwise(ends)]


reply_lines = st.builds(
    lambda code, mark, text, end: code + mark + text + end,
    st.sampled_from([b"250", b"354", b"421", b"550", b"200", b"599"]),
    st.sampled_from([b" ", b"-", b""]),
    st.one_of(
        st.sampled_from(
            [b"", b"2.1.0 fine", b"5.7.1 no \xff\xfe", b"\x1b[2J", b"a\rb", "ä".encode()]
        ),
        st.binary(max_size=20),
    ),
    st.sampled_from([b"\r\n", b"\n", b"\r\r\n"]),
)
conversations = st.lists(st.one_of(reply_lines, st.binary(max_size=8)), max_size=12).map(b"".join)


@given(conversations, st.lists(st.integers(0, 4000), max_size=12))
@example(b"250-a\r\n250 b\r\n", [3, 7, 8])
def test_any_way_of_cutting_the_octets_gives_the_same_replies(
    octets: bytes, places: list[int]
) -> None:
    whole = parse(octets)
    assert parse(*cut(octets, places)) == whole
    assert parse(*[octets[i : i + 1] for i in range(len(octets))]) == whole


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_nothing_but_a_protocol_error_escapes_and_text_is_printable(pieces: list[bytes]) -> None:
    replies, _ = parse(*pieces)
    for reply in replies:
        assert 200 <= reply.code <= 599
        assert all(line.isprintable() for line in reply.text.split("\n"))
        assert not reply.enhanced or reply.enhanced[0] == str(reply.code)[0]


@pytest.mark.parametrize(
    ("octets", "reply"),
    [
        (b"250\r\n", SmtpReply(250, "", "")),
        (b"250 \r\n", SmtpReply(250, "", "")),
        (b"250 ok\n", SmtpReply(250, "", "ok")),
        (b"250 2.1.0 ok\r\n", SmtpReply(250, "2.1.0", "ok")),
        (b"250 5.1.0 odd\r\n", SmtpReply(250, "", "5.1.0 odd")),
        (b"250 550 no\r\n", SmtpReply(250, "", "550 no")),
        (b"599 last\r\n", SmtpReply(599, "", "last")),
        (b"250-a\r\n250-b\r\n250 c\r\n", SmtpReply(250, "", "a\nb\nc")),
        (b"250-4.1.1\r\n250\r\n", SmtpReply(250, "", "4.1.1\n")),
        (b"450 a\tb\x00c\x1b[2Jd\x7f\r\n", SmtpReply(450, "", "a b?c?[2Jd?")),
        ("250 \N{RIGHT-TO-LEFT OVERRIDE}x\r\n".encode(), SmtpReply(250, "", "?x")),
        (b"250 \xc0\xaf\r\n", SmtpReply(250, "", "\ufffd\ufffd")),
    ],
)
def test_a_reply_is_read(octets: bytes, reply: SmtpReply) -> None:
    assert parse(octets) == ([reply], "")


@pytest.mark.parametrize(
    "octets",
    [
        b"\r\n",
        b"25\r\n",
        b"+25 x\r\n",
        b"2_0 x\r\n",
        b" 25 x\r\n",
        b"150 x\r\n",
        b"650 x\r\n",
        b"999 x\r\n",
        b"099 x\r\n",
        b"2200 x\r\n",
        b"250x\r\n",
        b"250\tx\r\n",
        "²50 x\r\n".encode(),
        b"250-a\r\n251 b\r\n",
        b"250-a\r\nhello\r\n",
        b"HTTP/1.1 400 Bad Request\r\n",
        b"SSH-2.0-OpenSSH\r\n",
    ],
)
def test_what_is_no_reply_is_an_error(octets: bytes) -> None:
    replies, error = parse(octets)
    assert replies == []
    assert error.startswith("not a reply")
    assert error.isprintable()


def test_replies_before_an_error_are_kept_and_nothing_is_read_after_it() -> None:
    parser = ReplyParser()
    with pytest.raises(ProtocolError) as caught:
        parser.feed(b"250 fine\r\nwhat?\r\n250 late\r\n")
    assert caught.value.replies == [SmtpReply(250, "", "fine")]
    with pytest.raises(ProtocolError) as again:
        parser.feed(b"250 later\r\n")
    assert again.value.replies == []


def test_a_long_line_is_cut_and_a_longer_one_is_no_reply() -> None:
    (reply,), error = parse(b"250 " + b"x" * 5000 + b"\r\n")
    assert not error
    assert len(reply.text) == LINE_KEPT - 4
    assert parse(b"250 " + b"x" * LINE_LIMIT + b"\r\n") == ([], "a reply without end")
    assert parse(*[b"x" * 1000] * 9) == ([], "a reply without end")


def test_many_lines_are_borne_and_more_are_not() -> None:
    many = b"250-" + b"x" * 90 + b"\r\n"
    (reply,), error = parse(many * (REPLY_LINES - 1) + b"250 end\r\n")
    assert not error
    assert len(reply.text) == TEXT_KEPT
    assert parse(many * REPLY_LINES + b"250 end\r\n") == ([], "a reply without end")
    fat = b"250-" + b"x" * 7000 + b"\r\n"
    assert parse(fat * (REPLY_LIMIT // 7000 + 1)) == ([], "a reply without end")


def test_an_endless_reply_takes_no_more_memory_than_a_short_one() -> None:
    for octets, times in ((b"250-" + b"x" * 60 + b"\r\n", 10_000), (b"x", 10_000)):
        parser = ReplyParser()
        replies: list[SmtpReply] = []
        error = ""
        for _ in range(times):
            try:
                replies += parser.feed(octets)
            except ProtocolError as caught:
                error = str(caught)
        assert replies == []
        assert error == "a reply without end"
        assert sum(sys.getsizeof(getattr(parser, name)) for name in parser.__slots__) < 4000


def test_an_unfinished_reply_can_be_shown() -> None:
    parser = ReplyParser()
    seen = [(parser.idle, parser.partial())]
    for piece in (b"250-first\r\n250-sec", b"ond\r\n250 third\r\n"):
        parser.feed(piece)
        seen.append((parser.idle, parser.partial()))
    assert seen == [(True, ""), (False, "first 250-sec"), (True, "")]


@given(st.binary(max_size=200))
def test_printable_text_is_printable(octets: bytes) -> None:
    assert printable(octets).isprintable()
