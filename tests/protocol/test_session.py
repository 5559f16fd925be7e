"""What is known of a client and its message, and how it is called in a Received field."""

import pytest

from deliveryagent.protocol.session import Client, Session, TlsFacts, Transaction

TLS = TlsFacts(version="TLSv1.3", cipher="x")


@pytest.mark.parametrize(
    ("verb", "tls", "user", "utf8", "word"),
    [
        ("HELO", None, "", False, "SMTP"),
        ("EHLO", None, "", False, "ESMTP"),
        ("EHLO", TLS, "", False, "ESMTPS"),
        ("EHLO", None, "kim", False, "ESMTPA"),
        ("EHLO", TLS, "kim", False, "ESMTPSA"),
        ("EHLO", TLS, "kim", True, "UTF8SMTPSA"),
        ("LHLO", None, "", False, "LMTP"),
        ("LHLO", TLS, "kim", True, "UTF8LMTPSA"),
    ],
)
def test_the_word_of_the_received_field(
    verb: str, tls: TlsFacts | None, user: str, utf8: bool, word: str
) -> None:
    session = Session(kind="smtp", client=Client(), hostname="mx", verb=verb, tls=tls, user=user)
    session.transaction = Transaction(sender="", smtputf8=utf8)
    assert session.protocol == word


@pytest.mark.parametrize(
    ("client", "shown"),
    [
        (Client(address="192.0.2.1"), "192.0.2.1"),
        (Client(uid=1000), "uid=1000"),
        (Client(uid=1000, address="192.0.2.1"), "192.0.2.1"),
        (Client(), "unknown"),
    ],
)
def test_how_logs_name_a_client(client: Client, shown: str) -> None:
    assert client.shown == shown


def test_two_messages_share_nothing() -> None:
    one, other = Transaction(sender="a@b.dev"), Transaction(sender="a@b.dev")
    one.tags["x"] = "y"
    assert other.tags == {}
    assert one.recipients is not other.recipients
