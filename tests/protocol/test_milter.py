"""Packets of the milter protocol, against another reading of the same protocol, and against nonsense."""

from ipaddress import IPv4Address, IPv6Address

from hypothesis import given
from hypothesis import strategies as st
from kilter.protocol import messages
from kilter.protocol.buffer import SimpleBuffer

from deliveryagent.protocol.milter import (
    ACTIONS,
    VERSION,
    Action,
    Command,
    Step,
    Terms,
    connect,
    field_value,
    header,
    macros,
    negotiation,
    packet,
    strings,
)

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=80)
words = st.from_regex(r"[A-Za-z][A-Za-z0-9-]{0,20}", fullmatch=True)
PLAIN = Terms(VERSION, ACTIONS, Step(0), {})
EXACT = Terms(VERSION, ACTIONS, Step.HDR_LEADSPC, {})


def heard(octets: bytes) -> messages.Message:
    """What the other implementation makes of a packet of ours."""
    buffer = SimpleBuffer(1 << 12)
    buffer[:] = octets
    message, size = messages.Message.unpack(buffer)
    assert size == len(octets)
    return message


# -- what we say ---


def test_the_negotiation_offers_all_actions_and_all_steps_but_refused_recipients() -> None:
    offer = heard(negotiation())
    assert isinstance(offer, messages.Negotiate)
    assert offer.version == 6
    assert offer.action_flags == messages.ActionFlags.ALL
    assert not offer.protocol_flags & messages.ProtocolFlags.REJECTED_RECIPIENT
    assert offer.protocol_flags & messages.ProtocolFlags.SKIP


@given(words, st.ip_addresses(), st.integers(0, 65535))
def test_who_connected_is_understood(
    name: str, address: IPv4Address | IPv6Address, port: int
) -> None:
    message = heard(connect(name, str(address), port))
    assert isinstance(message, messages.Connect)
    assert (message.hostname, message.address, message.port) == (name, address, port)


def test_who_has_no_address_is_of_unknown_family() -> None:
    assert connect("localhost", "", 0)[5:] == b"localhost\0U"


@given(words, texts)
def test_a_field_is_understood(name: str, value: str) -> None:
    message = heard(header(name, value, EXACT))
    assert isinstance(message, messages.Header)
    assert message.name == name
    assert bytes(message.value).decode() == value.replace("\r\n", "\n")


def test_the_blank_behind_the_colon_is_only_sent_to_who_asks_for_it() -> None:
    assert header("Subject", "  one\r\n two", PLAIN)[5:] == b"Subject\0 one\n two\0"
    assert header("Subject", "  one\r\n two", EXACT)[5:] == b"Subject\0  one\n two\0"
    assert header("Subject", "one", PLAIN)[5:] == b"Subject\0one\0"


@given(
    st.dictionaries(
        words,
        st.text(st.characters(codec="ascii", exclude_characters="\0"), min_size=1, max_size=80),
        min_size=1,
        max_size=5,
    )
)
def test_macros_are_understood(values: dict[str, str]) -> None:
    message = heard(macros(Command.RCPT, values, [*values, "unknown-one"]))
    assert isinstance(message, messages.Macro)
    assert message.stage == ord("R")
    assert message.macros == values


def test_macros_without_a_value_are_not_sent() -> None:
    assert macros(Command.MAIL, {"i": "", "j": "x"}, ["i"]) == b""


@given(st.text(st.characters(codec="utf-8"), max_size=20))
def test_no_string_ends_early(text: str) -> None:
    octets = strings(Command.HELO, (text,))[5:]
    assert octets.index(b"\0") == len(octets) - 1


def test_addresses_go_with_their_parameters() -> None:
    message = heard(strings(Command.MAIL, ("<kim@example.org>", "SIZE=10")))
    assert isinstance(message, messages.EnvelopeFrom)
    assert bytes(message.sender).rstrip(b"\0") == b"<kim@example.org>"
    assert [bytes(one) for one in message.arguments] == [b"SIZE=10"]


def test_old_filters_hear_of_no_commands_they_do_not_know() -> None:
    old = Terms(2, Action(0), Step(0), {})
    assert old.wants(Command.RCPT)
    assert not old.wants(Command.DATA)
    assert not old.wants(Command.UNKNOWN)


def test_a_filter_hears_and_answers_what_it_wants() -> None:
    terms = Terms(6, Action(0), Step.NOBODY | Step.NR_HDR, {})
    assert not terms.wants(Command.BODY)
    assert terms.wants(Command.HEADER)
    assert not terms.answers(Command.HEADER)
    assert terms.answers(Command.BODYEOB)


@given(st.text(max_size=60))
def test_a_value_never_ends_its_field(value: str) -> None:
    for terms in (PLAIN, EXACT):
        lines = field_value(value, terms).split("\r\n")
        assert not any("\r" in line or "\n" in line for line in lines)
        assert all(line[:1] in {" ", "\t"} and line.strip() for line in lines[1:])


def test_a_folded_value_stays_folded() -> None:
    assert field_value("v=1;\n\tb=x", PLAIN) == " v=1;\r\n\tb=x"
    assert field_value(" v=1;\r\n b=x", EXACT) == " v=1;\r\n b=x"
    assert field_value("a\nBcc: b", EXACT) == "a\r\n\tBcc: b"


def test_a_packet_says_how_long_it_is() -> None:
    assert packet(Command.QUIT) == b"\0\0\0\x01Q"
    assert packet(Command.BODY, b"ab") == b"\0\0\0\x03Bab"
