"""What a client has sent, given out piece by piece: the same however it came."""

from hypothesis import given
from hypothesis import strategies as st

from deliveryagent.protocol.datastream import ContentRules, DataStream
from deliveryagent.protocol.smtpd_input import MISSING, Input, Missing
from deliveryagent.protocol.smtpd_steps import Chunk, Line, Read

LIMIT = 12


def lines(pieces: list[bytes]) -> list[bytes | None]:
    """All lines of some pieces; None is one that was too long."""
    source, found = Input(), []
    for piece in pieces:
        source.buffer += piece
        while not isinstance(line := source.line(Line(LIMIT)), Missing):
            found.append(line)
        assert len(source.buffer) < LIMIT
    return found


@given(st.lists(st.sampled_from([b"a", b"\r", b"\n", b"\r\n", b"word", b"x" * LIMIT]), max_size=30))
def test_any_way_of_coming_gives_the_same_lines(pieces: list[bytes]) -> None:
    whole = b"".join(pieces)
    expected = [
        None if len(line) >= LIMIT else line[:-1] if line.endswith(b"\r") else line + b"\n"
        for line in whole.split(b"\n")[:-1]
    ]
    assert lines([whole]) == lines(pieces) == lines([bytes([one]) for one in whole]) == expected


def test_a_line_may_have_as_many_octets_as_the_limit() -> None:
    assert lines([b"x" * (LIMIT - 2) + b"\r\n"]) == [b"x" * (LIMIT - 2)]
    assert lines([b"x" * (LIMIT - 1) + b"\r\n", b"a\r\n"]) == [None, b"a"]


def test_a_lone_lf_can_be_told_from_a_line_end() -> None:
    assert lines([b"a\nb\r\n"]) == [b"a\n", b"b"]


def test_a_content_ends_at_its_dot_and_nothing_behind_it_is_touched() -> None:
    source, content = Input(), bytearray()
    step = Read(DataStream(ContentRules()))
    for piece in (b"a\r\n", b"..b\r", b"\n.", b"\r"):
        source.buffer += piece
        assert source.read(step, content.extend) is MISSING
    source.buffer += b"\nQUIT\r\n"
    assert source.read(step, content.extend) is None
    assert content == b"a\r\n.b\r\n"
    assert source.line(Line()) == b"QUIT"


@given(st.binary(max_size=40), st.lists(st.integers(0, 40), max_size=5))
def test_a_chunk_has_as_many_octets_as_announced(octets: bytes, sizes: list[int]) -> None:
    source, content = Input(), bytearray()
    stream = DataStream(ContentRules(normalise=True))
    if b"\0" in octets:
        return
    step = Chunk(len(octets), stream, last=True)
    for size in sizes:
        source.buffer += octets[:size]
        octets = octets[size:]
        if octets:
            assert source.chunk(step, content.extend) is MISSING
    source.buffer += octets + b"NOOP\r\n"
    sent = step.size
    assert source.chunk(step, content.extend) is None
    assert len(content) == sent
    assert source.line(Line()) == b"NOOP"


def test_a_large_chunk_is_handed_on_in_pieces() -> None:
    source, sizes = Input(), []
    source.buffer += b"x" * 300_000
    step = Chunk(300_000, DataStream(ContentRules()), last=True)
    assert source.chunk(step, lambda piece: sizes.append(len(piece))) is None
    assert sum(sizes) == 300_000
    assert max(sizes) <= 1 << 16
