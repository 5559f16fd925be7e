"""A complete message in the hands of hooks: octets that stay, fields and bodies that change."""

import io
from itertools import zip_longest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deliveryagent.intake.message import Message
from deliveryagent.mail.address import AddressError
from deliveryagent.mail.envelope import Notify
from deliveryagent.protocol.session import Client, Recipient, Session, Transaction

names = st.from_regex(r"[A-Za-z][A-Za-z0-9-]{0,15}", fullmatch=True)
texts = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs")), max_size=30)
lines = st.binary(max_size=30).map(lambda line: bytes(set(line) - set(b"\r\n\0")) + b"\r\n")
fields = st.builds(lambda name, text: f"{name}: {text}\r\n".encode(), names, texts)
contents = st.builds(
    lambda head, empty, body: b"".join(head) + empty + b"".join(body),
    st.lists(fields, max_size=5),
    st.sampled_from([b"\r\n", b""]),
    st.lists(lines, max_size=5),
)


def message(raw: bytes, *recipients: str, file: bool = False) -> Message:
    session = Session(kind="smtp", client=Client(), hostname="mx.example")
    transaction = Transaction(
        sender="kim@example.org", recipients=[Recipient(address=one) for one in recipients]
    )
    return Message(session, transaction, io.BytesIO(raw) if file else raw)


# -- octets ---


@given(contents, st.booleans())
def test_looking_at_a_message_changes_nothing(raw: bytes, file: bool) -> None:
    one = message(raw, file=file)
    assert one.size == len(raw)
    one.header("Subject")
    seen = one.fields
    assert one.content == raw
    assert raw.startswith(b"".join(f"{name}:".encode() for name, _ in seen[:1]))


@given(contents, names, texts, st.booleans())
def test_an_added_field_can_be_read_and_all_else_stays(
    raw: bytes,
    name: str,
    text: str,
    file: bool,
) -> None:
    one = message(raw, file=file)
    before, body = one.fields, b"".join(one.body())
    one.add_header(name, text)
    again = message(one.content)
    assert again.fields[:-1] == before
    assert again.fields[-1][0] == name
    assert again.fields[-1][1].strip() == text.strip()
    assert b"".join(again.body()) == body


@given(contents)
def test_what_was_added_on_top_can_be_removed_again(raw: bytes) -> None:
    one = message(raw)
    before = one.fields
    one.add_header("X-Mark", "here", place=0)
    assert one.header("x-mark") == "here"
    one.change_header("X-Mark", None)
    assert one.fields == before
    assert message(one.content).fields == before


@given(names, st.text(max_size=30))
def test_a_field_never_ends_early(name: str, value: str) -> None:
    one = message(b"Subject: x\r\n\r\nbody\r\n")
    try:
        one.add_header(name, value)
    except ValueError:
        assert one.content == b"Subject: x\r\n\r\nbody\r\n"
        return
    again = message(one.content)
    assert [found for found, _ in again.fields] == ["Subject", name]
    assert b"".join(again.body()) == b"body\r\n"


@pytest.mark.parametrize("name", ["", "A:B", "A B", "Ä", "A\r\nB", "a" * 201])
def test_what_is_no_name_of_a_field_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not the name"):
        message(b"\r\n").add_header(name, "x")


@pytest.mark.parametrize(
    "value", ["a\nb", "a\rb", "a\r\nb", "a\r\n", "a\0", "a\r\n \r\n b", "a\r\n  "]
)
def test_what_would_end_a_field_is_refused(value: str) -> None:
    one = message(b"A: b\r\n\r\n")
    with pytest.raises(ValueError, match="line end"):
        one.change_header("A", value)
    assert one.content == b"A: b\r\n\r\n"


def test_folded_values_stay_folded_and_are_read_unfolded() -> None:
    one = message(b"Subject: one\r\n\ttwo\r\nB: c\r\n\r\n")
    assert one.fields[0] == ("Subject", " one\r\n\ttwo")
    assert one.header("SUBJECT") == "one\ttwo"
    one.add_header("X", "a\r\n b")
    assert one.content.endswith(b"X: a\r\n b\r\n\r\n")


def test_fields_of_one_name_are_counted_from_one() -> None:
    one = message(b"A: 1\r\nB: x\r\na: 2\r\n\r\n")
    one.change_header("A", "two", number=2)
    one.change_header("A", "three", number=3)
    one.change_header("C", None)
    assert one.content == b"A: 1\r\nB: x\r\nA: two\r\nA: three\r\n\r\n"
    with pytest.raises(ValueError, match="from 1"):
        one.change_header("A", "x", number=0)


def test_octets_that_are_no_text_stay_what_they_are() -> None:
    one = message(b"Subject: \xff\xfe\r\n\r\n\xff\r\n")
    (name, value), *_ = one.fields
    one.change_header(name, value)
    assert one.content == b"Subject: \xff\xfe\r\n\r\n\xff\r\n"
    assert one.header("subject") == "\ufffd\ufffd"


def test_a_message_without_an_empty_line_gets_one_when_it_is_changed() -> None:
    one = message(b"A: b\r\nno field\r\n")
    one.add_header("C", "d")
    assert one.content == b"A: b\r\nC: d\r\n\r\nno field\r\n"


# -- bodies ---


def test_another_body_takes_the_place_of_the_old_one() -> None:
    one = message(b"A: b\r\n\r\nold\r\n", file=True)
    one.replace_body(b"new\r\n")
    assert one.content == b"A: b\r\n\r\nnew\r\n"
    one.replace_body(b"")
    assert one.content == b"A: b\r\n\r\n"


@pytest.mark.parametrize("body", [b"a\n", b"a\r", b"a\r\r\n", b"a\0\r\n", b"a"])
def test_a_body_that_could_not_be_sent_is_refused(body: bytes) -> None:
    one = message(b"A: b\r\n\r\nold\r\n")
    with pytest.raises(ValueError, match="body"):
        one.replace_body(body)
    assert one.content == b"A: b\r\n\r\nold\r\n"


def test_two_may_read_a_large_message_at_one_time() -> None:
    raw = b"A: b\r\n\r\n" + b"x" * 199_998 + b"\r\n"
    one = message(raw, file=True)
    pairs = list(zip_longest(one.pieces(), one.body(), fillvalue=b""))
    assert b"".join(first for first, _ in pairs) == raw
    assert b"".join(second for _, second in pairs) == raw[8:]


# -- the envelope ---


def test_recipients_come_and_go() -> None:
    one = message(b"\r\n", "kim@example.org", "lee@example.org")
    one.add_recipient("<ann@example.org>", notify=Notify.NEVER, orcpt="rfc822;a@example.org")
    one.add_recipient("kim@example.org")
    one.drop_recipient("lee@EXAMPLE.org")
    one.drop_recipient("nobody@example.org")
    assert one.recipients == ("kim@example.org", "ann@example.org")
    assert one.transaction.recipients[-1].notify is Notify.NEVER
    with pytest.raises(AddressError):
        one.add_recipient("nonsense")


def test_the_sender_can_be_another_one_or_none() -> None:
    one = message(b"\r\n")
    one.sender = "<lee@example.org>"
    assert one.sender == one.transaction.sender == "lee@example.org"
    one.sender = "<>"
    assert one.sender == ""
    with pytest.raises(AddressError):
        one.sender = "a@b@c"
