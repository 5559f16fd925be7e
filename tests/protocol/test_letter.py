"""A message taken at once is what it would be piece by piece."""

from collections.abc import Callable

from hypothesis import example, given
from hypothesis import strategies as st

from deliveryagent.protocol.arrival import Arrival, Arrived, ContentError, LimitSettings, Stamp
from deliveryagent.protocol.letter import take
from deliveryagent.setting import ByteSize

STAMP = Stamp(
    hostname="mail.example.org",
    queue_id="0C7QK4M2V9XTB",
    origin="from userid 1000",
    sender="shop@example.org",
    now=1762778407.5,
)
TIGHT = LimitSettings(
    message_size_limit=ByteSize(900), header_size_limit=ByteSize(200), hopcount_limit=2
)

PIECES = st.sampled_from(
    [
        *(b"\r", b"\n", b"\r\n", b"\r\n\r\n", b"\n\n", b".", b"a", b" b", b"\t", b":", b" ", b"\0"),
        *(b"To: x\r\n", b"From: a@b.example\r\n", b"DATE : now\n", b"Message-ID:<1@b>\n", b"x" * 1100),
        *(b"Received: by x\n", b"Bcc: c@d\n", b"Return-Path: <>\n", b"Resent-From: e@f\r\n"),
        *(b"From me Fri\n", b">From me Fri\n", b"\xc3\xa4", b"\xff", b"Subject: \xc3\xa4\r\n", b"\n."),
        *(b"Subject: a\n  continued\n", b"y" * 500 + b"\r\n", b"name" + b" " * 30 + b": v\n"),
    ]
)  # fmt: skip


def piecemeal(
    content: bytes, limits: LimitSettings, part_size: int, *, read_recipients: bool
) -> tuple[list[bytes], Arrived]:
    arrival = Arrival(STAMP, limits=limits, part_size=part_size, read_recipients=read_recipients)
    parts = [
        part
        for start in range(0, len(content), 7)
        for part in arrival.feed(content[start : start + 7])
    ]
    rest, arrived = arrival.finish()
    return parts + rest, arrived


@given(
    st.lists(PIECES, max_size=30).map(b"".join),
    st.sampled_from([LimitSettings(), TIGHT]),
    st.sampled_from([256, 1 << 16]),
    st.booleans(),
)
@example(b"", LimitSettings(), 1 << 16, False)
@example(b"From: a@b\nDate: now\nMessage-ID: <1@b>\n\n.hi\n", LimitSettings(), 1 << 16, False)
def test_a_letter_is_what_arrives(
    content: bytes, limits: LimitSettings, part_size: int, read_recipients: bool
) -> None:
    piecewise = outcome(
        lambda: piecemeal(content, limits, part_size, read_recipients=read_recipients)
    )
    at_once = outcome(
        lambda: tuple(
            take(
                content, STAMP, limits=limits, part_size=part_size, read_recipients=read_recipients
            )
        )
    )
    assert at_once == piecewise


def outcome(arrives: Callable[[], object]) -> object:
    """What comes of it, or that it is refused; with several reasons, chunks decide which is told."""
    try:
        return arrives()
    except ContentError:
        return "refused"
