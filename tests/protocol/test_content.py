"""Content on the wire: it ends where the client says and nowhere else, and nothing of it is lost."""

import re
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from deliveryagent.protocol.content import LEAST_LIMIT, Stuffer, encode

pieces = st.sampled_from(
    [
        b"\r",
        b"\n",
        b"\r\n",
        b".",
        b"..",
        b"a",
        b"\r\n.\r\n",
        b"\n.\n",
        b"\r.\r",
        b"\n.\r\n",
        b" ",
        "ä€😀".encode(),
    ]
)
contents = st.one_of(st.lists(pieces, max_size=30).map(b"".join), st.binary(max_size=100))
# Long enough for lines that must be continued, with multi-byte characters at every offset.
wide_contents = st.lists(
    st.one_of(
        pieces,
        st.integers(1, 200).map(lambda n: b"x" * n),
        st.integers(1, 60).map(lambda n: "é€😀".encode() * n),
    ),
    max_size=12,
).map(b"".join)


def normal_form(content: bytes) -> bytes:
    """What a content is: lines that end in CRLF."""
    content = re.sub(rb"\r\n|\r|\n", b"\r\n", content)
    return content if not content or content.endswith(b"\r\n") else content + b"\r\n"


def undo(wire: bytes) -> bytes:
    """What a receiver makes of it (RFC 5321 4.5.2)."""
    return re.sub(rb"(?m)^\.", b"", wire)


def stuffed(content: bytes, cuts: list[int], limit: int = 0) -> bytes:
    """A content in wire form, fed in pieces."""
    stuffer = Stuffer(limit)
    ends = [0, *sorted(cut % (len(content) + 1) for cut in cuts), len(content)]
    fed = [stuffer.feed(content[a:b]) for a, b in pairwise(ends)]
    return b"".join([*fed, stuffer.end()])


def assert_safe(wire: bytes) -> None:
    """The dot that follows is the first end of data any receiver can see."""
    assert not re.search(rb"\r(?!\n)|(?<!\r)\n", wire)
    assert b"\r\n.\r\n" not in b"\r\n" + wire
    assert not wire or wire.endswith(b"\r\n")


@given(contents)
@example(b"\r\n.\r\nMAIL FROM:<x@example.org>\r\n")
@example(b"\n.\n")
@example(b".")
def test_taking_the_dots_away_gives_back_the_normal_form(content: bytes) -> None:
    wire = encode(content, long_lines=False)
    assert undo(wire) == normal_form(content)
    assert_safe(wire)


@given(contents, st.lists(st.integers(0, 500), max_size=6))
def test_any_way_of_cutting_the_content_gives_the_same_octets(
    content: bytes, cuts: list[int]
) -> None:
    assert stuffed(content, cuts) == encode(content, long_lines=False)


@given(wide_contents, st.lists(st.integers(0, 4000), max_size=6))
def test_no_line_is_longer_than_the_limit_and_none_is_cut(content: bytes, cuts: list[int]) -> None:
    wire = encode(content, long_lines=True, limit=LEAST_LIMIT)
    assert_safe(wire)
    assert stuffed(content, cuts, LEAST_LIMIT) == wire
    lines = undo(wire).split(b"\r\n")
    assert max(map(len, lines)) <= LEAST_LIMIT
    # Every original line is there, in one piece or continued by lines that begin with a blank.
    left = iter(lines)
    for original in normal_form(content).split(b"\r\n"):
        joined = next(left)
        while joined != original:
            joined += next(left).removeprefix(b" ")
            assert original.startswith(joined)
    assert next(left, None) is None


@given(st.text(alphabet="aé€😀", min_size=1, max_size=400))
def test_a_continued_line_breaks_between_characters(text: str) -> None:
    for line in encode(text.encode(), long_lines=True, limit=LEAST_LIMIT).split(b"\r\n"):
        line.decode("utf-8")


def test_a_long_line_of_no_text_is_cut_at_the_limit() -> None:
    wire = encode(b"\x80" * 150 + b"\r\n", long_lines=True, limit=64)
    assert [len(line) for line in wire.split(b"\r\n")] == [64, 64, 24, 0]


def test_content_that_needs_nothing_is_not_copied() -> None:
    content = b"Subject: x\r\n\r\nhello\r\n"
    assert encode(content, long_lines=False) is content
    assert encode(content, long_lines=False, limit=0) is content


def test_long_lines_are_continued_only_where_there_is_a_limit() -> None:
    line = b"x" * 2000 + b"\r\n"
    assert encode(line, long_lines=True, limit=0) == line
    assert [len(part) for part in encode(line, long_lines=True).split(b"\r\n")] == [998, 998, 6, 0]
    assert max(map(len, encode(b"x" * 900, long_lines=False, limit=100).split(b"\r\n"))) == 100
    with pytest.raises(ValueError, match="limited"):
        Stuffer(LEAST_LIMIT - 1)


@pytest.mark.parametrize("edge", [4096, 8192, 65536])
@pytest.mark.parametrize("shift", [-1, 0, 1])
def test_a_dot_at_the_edge_of_a_block_is_doubled(edge: int, shift: int) -> None:
    content = b"x" * (edge + shift - 2) + b"\r\n.\r\n"
    for piece in (1024, edge):
        stuffer = Stuffer(0)
        wire = b"".join(
            [stuffer.feed(content[i : i + piece]) for i in range(0, len(content), piece)]
        )
        assert wire + stuffer.end() == content[:-3] + b"..\r\n"


def test_a_very_long_line_takes_linear_time() -> None:
    wire = encode(b"x" * 10_000_000, long_lines=True)
    assert wire.count(b"\r\n") == 10031
