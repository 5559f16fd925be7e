"""What is said about a message to a peer that understands more or less."""

import pytest

from deliveryagent.mail.delivery import DeliveryRequest, RequestRecipient, Stage, Trouble
from deliveryagent.mail.envelope import Notify
from deliveryagent.protocol.capabilities import Capabilities
from deliveryagent.protocol.offer import FLIGHT_LIMIT, flights, make
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
