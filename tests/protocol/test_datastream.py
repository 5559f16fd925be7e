"""Contents over the wire: one end, the same content however it is cut, and nothing that hides a second one."""

import re
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deliveryagent.protocol.arrival import Arrival, LimitSettings, Stamp
from deliveryagent.protocol.datastream import ContentRules, DataStream
from deliveryagent.protocol.letter import take

STRICT = ContentRules(size_limit=0, line_limit=0)
LENIENT = ContentRules(size_limit=0, line_limit=0, normalise=True)
STAMP = Stamp(hostname="mx.host.dev", queue_id="0C7", origin="", sender="", now=0, complete=False)

# The ends of data that some servers believe in and others do not; only one is in RFC 5321.
SMUGGLED = {
    "LF.LF": b"\n.\n",
    "CR.CR": b"\r.\r",
    "CR.LF": b"\r.\n",
    "LF.CR": b"\n.\r",
    "LF.CRLF": b"\n.\r\n",
    "CRLF.LF": b"\r\n.\n",
    "CR.CRLF": b"\r.\r\n",
    "CRLF.CR": b"\r\n.\r",
    "CRLF NUL.CRLF": b"\r\n\0.\r\n",
    "CRLF.NUL CRLF": b"\r\n.\0\r\n",
    "CRLF.CRCRLF": b"\r\n.\r\r\n",
    "CRCRLF.CRCRLF": b"\r\r\n.\r\r\n",
}


def cut(octets: bytes, places: Sequence[int]) -> list[bytes]:
    """The octets in pieces that begin at these places."""
    marks = sorted({place % (len(octets) + 1) for place in places})
    return [octets[a:b] for a, b in zip([0, *marks], [*marks, len(octets)], strict=True)]


def read(
    octets: bytes, rules: ContentRules, places: Sequence[int] = ()
) -> tuple[bytes, str, bytes]:
    """The content up to its end, the fault, and what stands behind; fails when there is no end."""
    stream, buffer, content, done = DataStream(rules), bytearray(), bytearray(), False
    pieces = cut(octets, places)
    for piece in pieces:
        buffer += piece
        while not done:
            before = len(buffer)
            some, done = stream.take(buffer)
            content += some
            if not done and len(buffer) == before:
                break
        assert done or len(buffer) <= 1 << 16
    assert done, "the end was not seen"
    return bytes(content), stream.fault.text if stream.fault else "", bytes(buffer)


def chunked(octets: bytes, rules: ContentRules, places: Sequence[int] = ()) -> tuple[bytes, str]:
    stream = DataStream(rules)
    content = b"".join(stream.chunk(piece) for piece in cut(octets, places))
    content += stream.finish_chunks()
    return content, stream.fault.text if stream.fault else ""


def plain(octets: bytes) -> tuple[bytes, bytes]:
    """RFC 5321 4.5.2 as it is written: line by line up to the one that is a dot."""
    lines = re.split(rb"(?<=\r\n)", octets)
    content = b""
    for number, line in enumerate(lines):
        if line == b".\r\n":
            return content, b"".join(lines[number + 1 :])
        content += line[1:] if line.startswith(b".") else line
    raise AssertionError("no end")


odd_octets = st.lists(
    st.sampled_from([b"\r", b"\n", b".", b"\r\n", b"\r\n.", b"a", b"\0", b"\xff", b"bcd "]),
    max_size=30,
).map(b"".join)
places = st.lists(st.integers(0, 200), max_size=12)


@given(odd_octets, odd_octets, places)
def test_any_way_of_cutting_gives_what_the_rfc_says(
    body: bytes, rest: bytes, marks: list[int]
) -> None:
    octets = body + b"\r\n.\r\n" + rest
    content, behind = plain(octets)
    for rules in (STRICT, LENIENT):
        kept, fault, left = read(octets, rules, marks)
        assert left == behind
        assert read(octets, rules, [])[:2] == (kept, fault) or fault
        if not fault:
            assert kept == content


@given(odd_octets, places, st.booleans(), st.integers(0, 12), st.integers(0, 40))
def test_any_way_of_cutting_finds_the_same_fault(
    body: bytes, marks: list[int], normalise: bool, line_limit: int, size_limit: int
) -> None:
    rules = ContentRules(size_limit=size_limit, line_limit=line_limit, normalise=normalise)
    octets = body + b"\r\n.\r\n"
    assert read(octets, rules, marks)[1] == read(octets, rules)[1]
    assert chunked(body, rules, marks)[1] == chunked(body, rules)[1]


@given(odd_octets, places)
def test_chunks_are_taken_as_they_are(body: bytes, marks: list[int]) -> None:
    whole, fault = chunked(body, LENIENT, marks)
    assert fault or whole == body
    whole, fault = chunked(body, STRICT, marks)
    bare = re.search(rb"\r(?!\n)|(?<!\r)\n|\0", body)
    assert bool(fault) == bool(bare)
    assert fault or whole == body


@given(odd_octets, places)
def test_what_is_taken_has_no_lone_cr_or_lf_once_it_is_stored(
    body: bytes, marks: list[int]
) -> None:
    for rules in (STRICT, LENIENT):
        for content, fault in (
            read(body + b"\r\n.\r\n", rules, marks)[:2],
            chunked(body, rules, marks),
        ):
            if not fault:
                assert_clean(content)
            if not fault and rules is STRICT:
                known = take(content, STAMP, limits=LimitSettings(), part_size=1 << 20, clean=True)
                assert known == take(content, STAMP, limits=LimitSettings(), part_size=1 << 20)


def assert_clean(content: bytes) -> None:
    limits = LimitSettings()
    whole, _ = take(content, STAMP, limits=limits, part_size=1 << 20)
    arrival = Arrival(STAMP, limits=limits, part_size=1 << 20)
    parts = arrival.feed(content)
    rest, _ = arrival.finish()
    for stored in (b"".join(whole), b"".join(parts + rest)):
        assert re.search(rb"\r(?!\n)|(?<!\r)\n|\0", stored) is None
        assert stored.endswith(b"\r\n")


@pytest.mark.parametrize("end", SMUGGLED.values(), ids=SMUGGLED)
@pytest.mark.parametrize("rules", [STRICT, LENIENT], ids=["refuse", "normalise"])
def test_what_others_take_for_an_end_ends_nothing(end: bytes, rules: ContentRules) -> None:
    smuggled = (
        b"Subject: one\r\n\r\ntext"
        + end
        + b"MAIL FROM:<b@b.dev>\r\nRCPT TO:<c@c.dev>\r\nDATA\r\nhi"
    )
    for marks in ([], list(range(len(smuggled) + 5))):
        content, fault, behind = read(smuggled + b"\r\n.\r\n", rules, marks)
        assert not behind
        if rules is STRICT:
            assert fault
        if not fault:
            assert b"MAIL FROM" in content
            assert_clean(content)
    _, fault = chunked(smuggled, rules)
    assert fault or rules is LENIENT


@pytest.mark.parametrize("edge", [4096, 8192, 65536])
@pytest.mark.parametrize("off", [-2, -1, 0, 1, 2])
def test_dots_at_the_edges_of_blocks_are_no_more_than_dots(edge: int, off: int) -> None:
    body = b"x" * (edge + off - 2) + b"\r\n.dot\r\n..two\r\n"
    stuffed = re.sub(rb"(?m)^\.", b"..", body)
    octets = stuffed + b".\r\n"
    assert read(octets, STRICT, list(range(4096, len(octets), 4096))) == (body, "", b"")
    assert read(octets, STRICT, [edge]) == (body, "", b"")


@pytest.mark.parametrize("octets", [b".\r\n", b"..\r\n.\r\n", b"\r\n.\r\n", b".a\r\n.\r\n"])
def test_the_first_line_may_be_a_dot_too(octets: bytes) -> None:
    for marks in ([], [1], [2], [1, 2, 3]):
        assert read(octets + b"QUIT", STRICT, marks) == (plain(octets)[0], "", b"QUIT")


def test_an_endless_line_is_not_held() -> None:
    stream, buffer = DataStream(ContentRules(line_limit=1 << 20)), bytearray()
    kept = 0
    for _ in range(40):
        buffer += b"x" * 60_000
        piece, done = stream.take(buffer)
        kept += len(piece)
        assert not done
        assert len(buffer) <= 1 << 16
    assert kept <= (1 << 20) + (1 << 17)
    assert stream.fault is not None
    buffer += b"\r\n.\r\nQUIT"
    assert stream.take(buffer) == (b"", True)
    assert buffer == b"QUIT"


@pytest.mark.parametrize(
    ("body", "reply"),
    [
        (b"12345678\r\n", None),
        (b"123456789\r\n", (552, "5.3.4")),
        (b"a\0b\r\n", (550, "5.6.0")),
        (b"a\rb\r\n", (550, "5.5.2")),
        (b"a\nb\r\n", (550, "5.5.2")),
        (b"1234567\r\n", (550, "5.6.0")),
    ],
)
def test_every_fault_has_its_reply(body: bytes, reply: tuple[int, str] | None) -> None:
    line_limit = 6 if reply == (550, "5.6.0") and b"\0" not in body else 0
    stream = DataStream(ContentRules(size_limit=10, line_limit=line_limit))
    buffer = bytearray(body + b".\r\n")
    while not stream.take(buffer)[1]:
        pass
    found = stream.fault and (stream.fault.code, stream.fault.enhanced)
    assert found == reply


def test_a_line_of_the_limit_is_taken() -> None:
    rules = ContentRules(line_limit=998)
    line = b"x" * 998 + b"\r\n"
    assert read(line * 3 + b".\r\n", rules) == (line * 3, "", b"")
    assert "998" in read(line + b"x" + line + b".\r\n", rules)[1]


def test_what_is_known_to_be_too_much_is_not_kept() -> None:
    stream = DataStream(ContentRules(size_limit=10))
    stream.expect(10)
    assert stream.chunk(b"12345") == b"12345"
    stream.expect(6)
    assert stream.chunk(b"678901") == b""
    assert stream.fault is not None
    assert stream.fault.code == 552
