"""What a message becomes on its way in: its lines, its header section, its facts."""

import hashlib
from email import message_from_bytes
from email.header import decode_header, make_header
from email.message import Message
from email.utils import getaddresses

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from deliveryagent.protocol.arrival import (
    Arrival,
    Arrived,
    ContentError,
    LimitSettings,
    Stamp,
    received,
)
from deliveryagent.setting import ByteSize

STAMP = Stamp(
    hostname="mail.example.org",
    queue_id="0C7QK4M2V9XTB",
    origin="from userid 1000",
    sender="shop@example.org",
    now=1762778407.5,
)
TRACE = received(STAMP).replace(b"\n", b"\r\n")
COMPLETE = b"From: shop@example.org\r\nDate: Mon, 10 Nov 2025 12:40:07 +0000\r\nMessage-ID: <1@example.org>\r\n"
PART = 64

# Texts in which the sequences that have ended messages early somewhere come up often.
octets = st.lists(
    st.sampled_from(
        [b"\r", b"\n", b"\r\n", b".", b"a", b"To: x\r\n", b" b", b":", b"\xc3\xa4", b"\xff"]
    ),
    max_size=60,
).map(b"".join)
chunkings = st.lists(st.integers(1, 40), max_size=20)


def arrive(
    *chunks: bytes,
    limits: LimitSettings | None = None,
    stamp: Stamp = STAMP,
    part_size: int = PART,
    read_recipients: bool = False,
) -> tuple[list[bytes], Arrived]:
    arrival = Arrival(
        stamp,
        limits=limits or LimitSettings(),
        part_size=part_size,
        read_recipients=read_recipients,
    )
    parts = [part for chunk in chunks for part in arrival.feed(chunk)]
    rest, arrived = arrival.finish()
    return parts + rest, arrived


def wire(*chunks: bytes, stamp: Stamp = STAMP) -> bytes:
    return b"".join(arrive(*chunks, stamp=stamp)[0])


def body_of(*chunks: bytes) -> bytes:
    """What became of a body that was sent behind a complete header section."""
    head = TRACE + COMPLETE + b"\r\n"
    whole = wire(COMPLETE, b"\r\n", *chunks)
    assert whole.startswith(head)
    return whole.removeprefix(head)


def parsed(content: bytes) -> Message:
    return message_from_bytes(wire(content))


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    chunks = []
    for size in sizes:
        chunks.append(data[:size])
        data = data[size:]
    return [*chunks, data]


# -- lines ---


@given(octets, chunkings)
@example(b"a\r\n\r\n.\r", [1, 2])
def test_any_chunking_gives_the_same_parts_and_facts(data: bytes, sizes: list[int]) -> None:
    assert arrive(*cut(data, sizes)) == arrive(data)


@given(octets, octets)
def test_no_bare_cr_or_lf_comes_out(head: bytes, body: bytes) -> None:
    content = wire(head + b"\n\n" + body)
    assert content.endswith(b"\r\n")
    assert b"\r" not in content.replace(b"\r\n", b"")
    assert b"\n" not in content.replace(b"\r\n", b"")


@given(octets)
def test_the_body_is_identical_but_for_line_ends(body: bytes) -> None:
    expected = body.replace(b"\r\n", b"\n").replace(b"\r", b" ").replace(b"\n", b"\r\n")
    if expected and not expected.endswith(b"\r\n"):
        expected += b"\r\n"
    assert body_of(body) == expected


@given(octets)
def test_wire_form_comes_out_as_it_went_in(data: bytes) -> None:
    once = wire(data)
    again = wire(once)
    assert again == TRACE + once


@given(octets)
def test_parts_have_the_size_asked_for(data: bytes) -> None:
    parts, arrived = arrive(data)
    assert all(len(part) == PART for part in parts[:-1])
    assert 0 < len(parts[-1]) <= PART
    assert arrived.facts.size == sum(map(len, parts))


@pytest.mark.parametrize(
    "end",
    [
        b"\n.\n", b"\r.\r", b"\r.\n", b"\n.\r", b"\n.\r\n", b"\r\n.\n", b"\r.\r\n", b"\r\n.\r",
        b"\r\n.\r\r\n", b"\r\r\n.\r\r\n", b"\r\n.\r\n",
    ],
)  # fmt: skip
def test_no_sequence_ends_the_message_early(end: bytes) -> None:
    """What follows stays text: once dots are doubled, no line is a lone dot."""
    injected = b"MAIL FROM:<evil@example.net>\r\n"
    body = body_of(b"text" + end + injected)
    stuffed = b"\r\n" + body.replace(b"\r\n.", b"\r\n..")
    assert injected in body
    assert b"\r\n.\r\n" not in stuffed
    assert b"\r" not in stuffed.replace(b"\r\n", b"")


@pytest.mark.parametrize("sequence", [b"\r\n\0.\r\n", b"\r\n.\0\r\n", b"\0"])
def test_nul_is_refused(sequence: bytes) -> None:
    with pytest.raises(ContentError, match="NUL") as caught:
        wire(COMPLETE + b"\r\ntext" + sequence)
    assert caught.value.enhanced == "5.6.0"


@pytest.mark.parametrize("ending", [b"", b"\n", b"\r\n"])
def test_a_last_line_has_exactly_one_line_end(ending: bytes) -> None:
    assert body_of(b"one\ntwo" + ending) == b"one\r\ntwo\r\n"


def test_empty_lines_at_the_end_stay() -> None:
    assert body_of(b"one\n\n\n") == b"one\r\n\r\n\r\n"


# -- facts ---


@pytest.mark.parametrize(
    ("body", "dotted"), [(b".x\n", True), (b"a\n.", True), (b"a.\n", False), (b"", False)]
)
def test_lines_that_begin_with_a_dot_are_noted(body: bytes, *, dotted: bool) -> None:
    for chunks in ([body], cut(body, [1, 1])):
        assert arrive(COMPLETE + b"\n", *chunks)[1].facts.dotted is dotted


@pytest.mark.parametrize(("length", "long"), [(998, False), (999, True)])
def test_long_lines_are_noted_wherever_they_are_cut(length: int, *, long: bool) -> None:
    line = b"x" * length
    for chunks in (
        [line],
        [line + b"\nend\n"],
        cut(line, [500]),
        cut(b"a\n" + line + b"\n", [600]),
    ):
        assert arrive(COMPLETE + b"\n", *chunks)[1].facts.long_lines is long


def test_a_size_is_known_after_a_long_line_too() -> None:
    body = b"x" * 2000 + b"\nrest\nlast"
    parts, arrived = arrive(COMPLETE + b"\n", *cut(body, [1500, 600]))
    assert b"".join(parts).endswith(b"x\r\nrest\r\nlast\r\n")
    assert arrived.facts.size == len(b"".join(parts))


@pytest.mark.parametrize(
    ("content", "eightbit", "utf8"),
    [
        (b"Subject: hi\n\nbody\n", False, False),
        (b"Subject: hi\n\nk\xc3\xb6nig\n", True, False),
        (b"Subject: k\xc3\xb6nig\n\nbody\n", True, True),
        (b"Subject: k\xf6nig\n\nbody\n", True, False),  # not UTF-8: SMTPUTF8 would be a lie
        (b"X: \xff\nSubject: k\xc3\xb6nig\n\nbody\n", True, True),
    ],
)
def test_octets_beyond_ascii_are_told_apart(content: bytes, *, eightbit: bool, utf8: bool) -> None:
    facts = arrive(content)[1].facts
    assert (facts.eightbit, facts.utf8_headers) == (eightbit, utf8)


@given(octets, chunkings)
def test_the_digest_is_of_what_was_submitted(data: bytes, sizes: list[int]) -> None:
    assert arrive(*cut(data, sizes))[1].facts.digest == hashlib.sha256(data).digest()


# -- header section ---


def test_the_trace_field_stands_first_and_names_no_recipient() -> None:
    content = wire(b"Received: from a by b; date\nTo: kim@example.net\n\nhi\n")
    assert content.startswith(TRACE + b"Received: from a by b; date\r\n")
    assert b"kim" not in TRACE
    assert b"id 0C7QK4M2V9XTB; Mon, 10 Nov 2025 12:40:07 +0000" in TRACE


def test_missing_fields_are_added_behind_those_that_are_there() -> None:
    assert wire(b"Subject: hi\n\nbody\n") == (
        TRACE
        + b"Subject: hi\r\nFrom: shop@example.org\r\nDate: Mon, 10 Nov 2025 12:40:07 +0000\r\n"
        b"Message-ID: <0C7QK4M2V9XTB@mail.example.org>\r\n\r\nbody\r\n"
    )


def test_fields_that_are_there_keep_their_octets() -> None:
    odd = b"X-Odd :   a\t \r\n\tfolded  \r\nsUBJECT:x\r\n"
    assert wire(odd + COMPLETE + b"\r\nbody\r\n") == TRACE + odd + COMPLETE + b"\r\nbody\r\n"


def test_the_null_sender_writes_as_the_mailer_daemon() -> None:
    stamp = Stamp(hostname="h.example", queue_id="0", origin="from userid 0", sender="", now=0)
    assert b"From: MAILER-DAEMON@h.example\r\n" in wire(b"\nhi\n", stamp=stamp)


def test_a_message_sent_on_gets_its_missing_fields_in_their_resent_forms() -> None:
    message = parsed(b"Resent-To: kim@example.net\nResent-From: lee@example.net\n\nhi\n")
    assert message["Resent-Date"]
    assert message["Resent-Message-ID"]
    assert message["Resent-From"] == "lee@example.net"
    assert message["From"] is message["Date"] is None


def test_fields_nobody_should_see_are_dropped_with_all_their_lines() -> None:
    content = wire(
        b"Return-Path: <x@y>\nBcc: a@b,\n c@d\nTo: e@f\nRESENT-BCC: g@h\nbcc : i@j\n"
        + COMPLETE
        + b"\n"
    )
    assert content.startswith(TRACE + b"To: e@f\r\n" + COMPLETE)
    assert not any(hidden in content for hidden in (b"x@y", b"a@b", b"c@d", b"g@h", b"i@j"))


def test_recipients_are_read_before_the_hidden_ones_are_dropped() -> None:
    content = b"To: Kim <kim@example.net>\nBcc: lee@example.net\n\nhi\n"
    assert arrive(content, read_recipients=True)[1].recipients == (
        "kim@example.net",
        "lee@example.net",
    )
    assert arrive(content)[1].recipients == ()


def test_unreadable_recipients_are_refused() -> None:
    with pytest.raises(ContentError, match="cannot read the recipients: To: ") as caught:
        arrive(b"To: kim lee@example.net\n\nhi\n", read_recipients=True)
    assert caught.value.enhanced == "5.1.3"


@pytest.mark.parametrize("mark", [b"From kim@example.org Fri Nov 21 12:00:00 2025", b">From kim"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_an_mbox_line_is_dropped(mark: bytes, end: bytes) -> None:
    for sizes in ([], [3], [len(mark), 1]):
        assert wire(*cut(mark + end + COMPLETE + b"\r\nhi\r\n", sizes)) == (
            TRACE + COMPLETE + b"\r\nhi\r\n"
        )


def test_only_the_first_line_can_be_an_mbox_line() -> None:
    assert body_of(b"From kim\n") == b"From kim\r\n"
    assert wire(b"From : kim@example.org\n\n").count(b"From") == 1


def test_a_missing_empty_line_is_added() -> None:
    assert wire(COMPLETE + b"hello, no header\r\n\r\nworld\r\n") == (
        TRACE + COMPLETE + b"\r\nhello, no header\r\n\r\nworld\r\n"
    )


@pytest.mark.parametrize("content", [b"", b"\n", b"\r\n"])
def test_an_empty_message_gets_a_header_section(content: bytes) -> None:
    message = parsed(content)
    assert message["From"] == "shop@example.org"
    assert not message.get_payload()


def test_text_without_a_header_section_is_a_body() -> None:
    message = parsed(b"just some text\nof two lines\n")
    assert message["Date"]
    assert message.get_payload() == "just some text\r\nof two lines\r\n"


# -- limits ---


def limits(**values: int) -> LimitSettings:
    return LimitSettings(**{name: ByteSize(value) for name, value in values.items()})


def test_a_message_over_its_limit_is_refused_as_soon_as_that_is_known() -> None:
    small = limits(message_size_limit=2000)
    arrival = Arrival(STAMP, limits=small, part_size=PART)
    arrival.feed(b"Subject: hi\n\n")
    with pytest.raises(ContentError, match="larger than 2 kB") as caught:
        arrival.feed((b"x" * 60 + b"\n") * 100)
    assert caught.value.enhanced == "5.3.4"


def test_a_limit_counts_octets_as_they_go_over_the_wire() -> None:
    _, arrived = arrive(b"Subject: hi\n\nbody\n")
    exact = limits(message_size_limit=arrived.facts.size)
    assert arrive(b"Subject: hi\n\nbody\n", limits=exact)[1] == arrived
    with pytest.raises(ContentError):
        arrive(b"Subject: hi\n\nbody\n\n", limits=exact)


def test_no_limit_is_no_limit() -> None:
    assert (
        arrive(b"\n" + b"x\n" * 50_000, limits=limits(message_size_limit=0))[1].facts.size > 100_000
    )


@given(chunkings, st.sampled_from([b"X: " + b"y" * 600, b"X: y\n" * 120, b"X:\n" + b" y\n" * 200]))
def test_a_header_section_over_its_limit_is_refused_however_it_arrives(
    sizes: list[int], section: bytes
) -> None:
    with pytest.raises(ContentError, match="header section is larger than 500"):
        arrive(*cut(section + b"\n\nbody\n", sizes), limits=limits(header_size_limit=500))


@given(chunkings)
def test_a_long_text_without_header_section_is_not_taken_for_one(sizes: list[int]) -> None:
    text = b"y" * 3000 + b"\nand: more\n"
    _, arrived = arrive(*cut(text, sizes), limits=limits(header_size_limit=500))
    assert arrived.facts.long_lines


def test_a_message_that_passed_too_many_hosts_is_in_a_loop() -> None:
    hop = b"Received: from a by b; date\n"
    arrive(hop * 50 + b"\n")
    with pytest.raises(ContentError, match="loop") as caught:
        arrive(hop * 51 + b"\n")
    assert caught.value.enhanced == "5.4.6"


def test_memory_stays_at_one_part_and_the_header_section() -> None:
    arrival = Arrival(STAMP, limits=LimitSettings(message_size_limit=ByteSize(0)), part_size=PART)
    arrival.feed(b"Subject: hi\n\n")
    for _ in range(200):
        arrival.feed(b"x" * 1000 + b"\n")
        held = sum(len(value) for value in vars(arrival).values() if isinstance(value, bytearray))
        assert held < PART


@given(
    st.text(st.characters(exclude_categories=["C", "Z"]) | st.just(" "), min_size=1, max_size=256)
)
def test_a_full_name_is_read_back_as_it_was_given(name: str) -> None:
    name = " ".join(name.split())
    if not name:
        return
    message = wire(b"\n", stamp=msgspec.structs.replace(STAMP, full_name=name))
    ((shown, address),) = getaddresses([message_from_bytes(message)["From"]])
    assert address == STAMP.sender
    # Encoded words that stand side by side are one text (RFC 2047 6.2): not every reader knows.
    assert str(make_header(decode_header(shown))) == name
