"""``deliveryagent.intake.Server``: mail for a Python program."""

import asyncio
import logging
import smtplib
import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme

from deliveryagent.intake import (
    Accept,
    Discard,
    Message,
    Recipient,
    Reject,
    Server,
    Session,
    Tempfail,
    Transaction,
)
from deliveryagent.mail.verdict import Decision
from deliveryagent.protocol.sasl import CheckPassword, CheckToken

ANYWHERE = "127.0.0.1:0"
LETTER = "Subject: hello\r\n\r\n..a dot\r\n"


def calling(server: Server) -> smtplib.SMTP:
    host, port = server.address
    return smtplib.SMTP(host, port, timeout=20)


def test_ten_lines_receive_mail() -> None:
    heard: list[tuple[str, tuple[str, ...], str | None, bytes]] = []

    def receive(session: Session, message: Message) -> None:
        del session
        heard.append(
            (message.sender, message.recipients, message.header("Subject"), message.content)
        )

    with Server(receive, address=ANYWHERE) as server, calling(server) as client:
        assert client.sendmail("a@b.dev", ["c@d.dev", "e@f.dev"], LETTER) == {}
    assert heard == [("a@b.dev", ("c@d.dev", "e@f.dev"), "hello", LETTER.encode())]


class Picky:
    """Knows one recipient, and what it does not like."""

    def __init__(self) -> None:
        self.ended = 0

    async def rcpt(self, session: Session, recipient: Recipient) -> Decision | None:
        del session
        await asyncio.sleep(0)
        if recipient.address.startswith("kim@"):
            return Accept()
        return Reject(code=550, enhanced="5.1.1", text="Nobody of that name")

    def mail(self, session: Session, transaction: Transaction) -> Decision | None:
        del session
        return Tempfail(text="Later") if transaction.sender.startswith("later@") else None

    def message(self, session: Session, message: Message) -> Decision | None:
        del session
        if b"spam" in message.content:
            return Reject(code=554, enhanced="5.7.1", text="Not this")
        if b"boom" in message.content:
            raise ValueError("boom")
        return Accept(text="Thanks")

    def disconnect(self, session: Session) -> None:
        del session
        self.ended += 1


def test_an_object_decides_at_every_stage(caplog: pytest.LogCaptureFixture) -> None:
    hook = Picky()
    with Server(hook, address=ANYWHERE) as server, calling(server) as client:
        client.ehlo("client.dev")
        assert client.mail("later@b.dev")[0] == 451
        assert client.mail("a@b.dev")[0] == 250
        assert client.rcpt("who@d.dev") == (550, b"5.1.1 Nobody of that name")
        assert client.rcpt("kim@d.dev")[0] == 250
        assert client.data(LETTER) == (250, b"2.0.0 Thanks")
        with pytest.raises(smtplib.SMTPDataError, match="Not this"):
            client.sendmail("a@b.dev", "kim@d.dev", "spam")
        with caplog.at_level(logging.ERROR), pytest.raises(smtplib.SMTPDataError) as failed:
            client.sendmail("a@b.dev", "kim@d.dev", "boom")
        assert failed.value.smtp_code == 451
    assert hook.ended == 1
    assert "boom" in caplog.text


def test_over_lmtp_each_recipient_has_an_answer() -> None:
    class Boxes:
        def message(self, session: Session, message: Message) -> dict[str, Decision]:
            del session, message
            return {
                "full@d.dev": Tempfail(code=452, enhanced="4.2.2", text="Full"),
                "void@d.dev": Discard(),
            }

    with Server(Boxes(), kind="lmtp", address=ANYWHERE) as server:
        host, port = server.address
        with smtplib.LMTP(host, port) as client:
            client.docmd("LHLO", "client.dev")
            client.mail("a@b.dev")
            for name in ("kim", "full", "void"):
                assert client.rcpt(f"{name}@d.dev")[0] == 250
            code, _ = client.data(LETTER)
            assert [code, client.getreply()[0], client.getreply()[0]] == [250, 452, 250]


def test_options_are_those_of_a_listener(tmp_path: Path) -> None:
    authority = trustme.CA()
    pem = tmp_path / "server.pem"
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(pem)
    context = ssl.create_default_context()
    authority.configure_trust(context)

    class Members:
        def auth(
            self, session: Session, mechanism: str, credentials: CheckPassword | CheckToken
        ) -> Decision | None:
            del session, mechanism
            known = credentials == CheckPassword("kim", "pencil")
            return Accept() if known else Reject()

        def message(self, session: Session, message: Message) -> None:
            del message
            users.append((session.user, session.protocol))

    users: list[tuple[str, str]] = []
    server = Server(
        Members(),
        kind="submission",
        address=ANYWHERE,
        hostname="mx.example.dev",
        message_size_limit=1000,
        tls_certificate=(str(pem),),
        require_tls=True,
        require_auth=True,
        auth_mechanisms=("PLAIN",),
        auth_error_sleep=0.01,
    )
    with server, smtplib.SMTP("localhost", server.address[1], timeout=20) as client:
        assert client.docmd("MAIL", "FROM:<a@b.dev>")[0] == 530
        client.starttls(context=context)
        client.ehlo("client.dev")
        assert client.esmtp_features["size"] == "1000"
        with pytest.raises(smtplib.SMTPAuthenticationError):
            client.login("kim", "pen")
        client.login("kim", "pencil")
        client.sendmail("a@b.dev", "c@d.dev", LETTER)
        with pytest.raises(smtplib.SMTPSenderRefused, match="552"):
            client.sendmail("a@b.dev", "c@d.dev", "x" * 2000, mail_options=["SIZE=2000"])
    assert users == [("kim", "ESMTPSA")]


def test_it_runs_in_a_loop_that_is_there(tmp_path: Path) -> None:
    heard: list[str] = []

    async def receive(session: Session, message: Message) -> None:
        heard.append(f"{session.client.uid >= 0} {message.size}")

    async def main() -> None:
        path = tmp_path / "mail.sock"
        async with Server(receive, address=f"unix:{path}"):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(
                b"EHLO client.dev\r\nMAIL FROM:<>\r\nRCPT TO:<c@d.dev>\r\n"
                b"BDAT 4 LAST\r\nhi\r\nQUIT\r\n"
            )
            said = await reader.read()
            assert said.endswith(b"250 2.0.0 Ok\r\n221 2.0.0 Bye\r\n")
            writer.close()
        assert not path.exists()

    asyncio.run(main())
    assert heard == ["True 4"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"address": "nowhere"}, "no address"),
        ({"trusted_networks": ("10.0.0.0/99",)}, "10.0.0.0/99"),
        ({"hooks": ("no.such:module",)}, "hooks"),
        ({"tls_certificate": ("missing.pem",)}, "missing.pem"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], reason: str) -> None:
    given = {"address": ANYWHERE} | options
    with pytest.raises(ValueError, match=reason), Server(print, **given):
        pass


def test_an_address_that_is_taken_is_an_error_where_it_is_used() -> None:
    with Server(print, address=ANYWHERE) as server:
        host, port = server.address
        with (
            pytest.raises(OSError, match="another program"),
            Server(print, address=f"{host}:{port}"),
        ):
            pass


def test_what_is_no_hook_is_refused() -> None:
    with pytest.raises(ValueError, match="handler"):
        Server(object())
