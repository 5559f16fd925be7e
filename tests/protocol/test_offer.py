"""What is said about a message to a peer that understands more or less."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deliveryagent.mail.delivery import (
    DeliveryRequest,
    Handling,
    RequestRecipient,
    Stage,
    Trouble,
)
from deliveryagent.mail.envelope import Notify
from deliveryagent.protocol.capabilities import Capabilities
from deliveryagent.protocol.dialogue import opening
from deliveryagent.protocol.offer import FLIGHT_LIMIT, Offer, brief, flights, make
from tests.protocol.messages import ALL, PLAIN, message

SUCCESS = int(Notify.SUCCESS)


def lines(
    capabilities: Capabilities, request: DeliveryRequest, *recipients: RequestRecipient
) -> list[str]:
    offer = make(request, recipients or (RequestRecipient(0, "b@example.net", 1),), capabilities)
    return [line.decode().removesuffix("\r\n") for _, _, line in offer.lines]


def test_a_peer_that_offers_nothing_sees_no_parameter() -> None:
    request = message(size=500, ret="FULL", envid="x")
    recipient = RequestRecipient(0, "b@example.net", 1, SUCCESS, "rfc822;B@example.net")
    assert lines(PLAIN, request, recipient) == [
        "MAIL FROM:<a@example.org>",
        "RCPT TO:<b@example.net>",
    ]


def test_a_peer_that_offers_everything_sees_what_the_message_needs() -> None:
    assert lines(ALL, message(size=500))[0] == "MAIL FROM:<a@example.org> SIZE=500"
    assert lines(ALL, message(size=5, eightbit=True))[0] == (
        "MAIL FROM:<a@example.org> SIZE=5 BODY=8BITMIME"
    )
    assert lines(ALL, message(size=5, eightbit=True, utf8=True))[0] == (
        "MAIL FROM:<a@example.org> SIZE=5 BODY=8BITMIME SMTPUTF8"
    )


def test_wishes_for_reports_are_passed_to_a_peer_with_dsn() -> None:
    request = message(size=5, ret="HDRS", envid="id+1")
    recipient = RequestRecipient(0, "b@example.net", 1, SUCCESS, "rfc822;B+x@example.net")
    assert lines(ALL, request, recipient) == [
        "MAIL FROM:<a@example.org> SIZE=5 RET=HDRS ENVID=id+2B1",
        "RCPT TO:<b@example.net> NOTIFY=SUCCESS ORCPT=rfc822;B+2Bx@example.net",
    ]


def test_an_international_domain_alone_needs_no_smtputf8() -> None:
    found = make(message(), (RequestRecipient(0, "b@xn--bcher-kva.example", 1),), PLAIN)
    assert found.unsuitable is None
    assert b"SMTPUTF8" not in found.lines[0][2]


def test_a_sender_outside_ascii_needs_smtputf8() -> None:
    request = message(sender="käthe@example.org")
    assert lines(ALL, request)[0].endswith(" SMTPUTF8")
    found = make(request, (RequestRecipient(0, "b@example.net", 1),), PLAIN)
    assert found.unsuitable is not None
    assert found.unsuitable.trouble is Trouble.NEEDS_UTF8


def test_a_recipient_outside_ascii_does_not_stop_the_others() -> None:
    recipients = (
        RequestRecipient(0, "käthe@example.net", 1),
        RequestRecipient(1, "b@example.net", 1),
    )
    found = make(message(), recipients, PLAIN)
    assert [index for _, index, _ in found.lines] == [-1, 1]
    assert found.unsent[0].trouble is Trouble.NEEDS_UTF8
    assert lines(ALL, message(), *recipients)[0].endswith(" SMTPUTF8")


def test_a_peer_without_8bitmime_is_not_offered_8_bit_content() -> None:
    found = make(message(eightbit=True), (RequestRecipient(0, "b@example.net", 1),), PLAIN)
    assert found.lines == []
    assert found.unsuitable is not None
    assert found.unsuitable.trouble is Trouble.NEEDS_8BIT


@pytest.mark.parametrize(("limit", "fits"), [(0, True), (999, False), (1000, True)])
def test_a_message_over_the_stated_size_is_not_offered(limit: int, fits: bool) -> None:
    peer = Capabilities(size=True, size_limit=limit)
    found = make(message(size=1000), (RequestRecipient(0, "b@example.net", 1),), peer)
    assert (found.unsuitable is None) is fits
    if found.unsuitable is not None:
        assert found.unsuitable.trouble is Trouble.TOO_LARGE


def test_an_address_that_is_none_is_kept_from_the_wire_and_stops_nobody_else() -> None:
    recipients = (
        RequestRecipient(0, "b@example.net>\r\nRCPT TO:<c@example.net", 1),
        RequestRecipient(1, "b@example.net", 1),
    )
    found = make(message(), recipients, ALL)
    assert [index for _, index, _ in found.lines] == [-1, 1]
    assert found.unsent[0].trouble is Trouble.LOCAL
    assert found.unsent[0].text.isprintable()
    assert make(message(), recipients[:1], ALL).lines == []
    bad_sender = make(message(sender="a b@example.org"), recipients, ALL)
    assert bad_sender.unsuitable is not None
    assert bad_sender.unsuitable.trouble is Trouble.LOCAL


def test_a_flight_is_bounded_and_keeps_the_order() -> None:
    commands = [(Stage.RCPT, index, b"x" * 300) for index in range(100)]
    groups = flights(commands, pipelining=True)
    assert [line for group in groups for line in group] == commands
    assert len(groups) == 4
    assert all(sum(len(line[2]) for line in group) <= FLIGHT_LIMIT for group in groups)
    assert flights(commands, pipelining=False) == [[line] for line in commands]
    assert flights([(Stage.RCPT, 0, b"x" * 10000)], pipelining=True) == [
        [(Stage.RCPT, 0, b"x" * 10000)]
    ]


NOW = 1_800_000_000.0
URGENT = Capabilities(name="urgent.example", mt_priority=True, deliverby=True, least_time=20)
SAFE = Capabilities(name="safe.example", requiretls=True, protected=True)


def asked(capabilities: Capabilities, handling: Handling) -> Offer:
    recipients = (RequestRecipient(0, "b@example.net", 1),)
    return make(message(handling=handling), recipients, capabilities, now=NOW)


def mail(capabilities: Capabilities, handling: Handling) -> str:
    found = asked(capabilities, handling)
    assert found.unsuitable is None
    return found.lines[0][2].decode().partition(">")[2].strip()


def trouble(capabilities: Capabilities, handling: Handling) -> Trouble:
    found = asked(capabilities, handling)
    assert found.unsuitable is not None
    assert found.lines == []
    return found.unsuitable.trouble


@pytest.mark.parametrize("priority", [-9, -1, 1, 9])
def test_a_priority_is_passed_on_to_a_peer_that_has_them(priority: int) -> None:
    assert mail(URGENT, Handling(priority)) == f"MT-PRIORITY={priority}"
    assert mail(PLAIN, Handling(priority)) == ""


@pytest.mark.parametrize("mode", ["R", "N", "RT", "NT"])
def test_a_peer_is_told_how_much_time_is_left(mode: str) -> None:
    assert mail(URGENT, Handling(2, NOW + 90.9, mode)) == f"MT-PRIORITY=2 BY=90;{mode}"


def test_a_time_that_is_over_is_said_where_delivery_goes_on() -> None:
    assert mail(URGENT, Handling(0, NOW - 30, "N")) == "BY=-30;N"


def test_mail_that_is_to_be_returned_goes_to_nobody_who_would_not_return_it() -> None:
    assert trouble(PLAIN, Handling(0, NOW + 90, "R")) is Trouble.NEEDS_DELIVERBY
    assert trouble(URGENT, Handling(0, NOW + 19, "RT")) is Trouble.NEEDS_DELIVERBY
    assert trouble(URGENT, Handling(0, NOW + 0.5, "R")) is Trouble.LATE
    assert mail(URGENT, Handling(0, NOW + 19, "N")) == "BY=19;N"
    assert mail(PLAIN, Handling(0, NOW + 90, "N")) == ""
    final = msgspec.structs.replace(PLAIN, lmtp=True)
    assert mail(final, Handling(0, NOW + 90, "R")) == "", "that is no relay, it delivers"


def test_protected_mail_goes_only_where_it_is_protected_and_stays_so() -> None:
    handling = Handling(require_tls=True)
    assert mail(SAFE, handling) == "REQUIRETLS"
    unproven = msgspec.structs.replace(SAFE, protected=False)
    for peer in (PLAIN, ALL, unproven):
        assert trouble(peer, handling) is Trouble.NEEDS_PROTECTION
    careless = msgspec.structs.replace(SAFE, requiretls=False)
    assert trouble(careless, handling) is Trouble.NEEDS_REQUIRETLS


@given(
    st.builds(
        Handling,
        st.integers(-9, 9),
        st.floats(0, NOW * 10),
        st.sampled_from(["R", "N", "RT", "NT", ""]),
        st.booleans(),
    ),
    st.builds(
        Capabilities,
        pipelining=st.just(True),
        mt_priority=st.booleans(),
        deliverby=st.booleans(),
        least_time=st.integers(0, 100),
        requiretls=st.booleans(),
        protected=st.booleans(),
    ),
)
def test_nothing_is_ever_said_to_a_peer_that_would_break_what_was_asked(
    handling: Handling, capabilities: Capabilities
) -> None:
    request = message(handling=handling)
    assert brief(request, capabilities) == b""
    assert opening(request, capabilities) == b"", "nor in passing"
    found = asked(capabilities, handling)
    said = b"".join(line for _, _, line in found.lines)
    if handling.require_tls and not (capabilities.protected and capabilities.requiretls):
        assert not said
    if handling.returns and not capabilities.deliverby:
        assert not said
    if said:
        assert (b" REQUIRETLS" in said) is handling.require_tls
        assert (b" MT-PRIORITY=" in said) is (capabilities.mt_priority and handling.priority != 0)
