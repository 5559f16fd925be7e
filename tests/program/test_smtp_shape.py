"""The agent in the shape of ``smtplib``: for code of others that expects that, and with it."""

import doctest
import logging
import logging.config
import smtplib
from collections.abc import Iterator
from email.message import EmailMessage, Message
from email.mime.text import MIMEText
from logging.handlers import SMTPHandler
from pathlib import Path
from typing import Any

import pytest

from deliveryagent.intake import boundaries, instructions
from deliveryagent.logmail import LogMail
from deliveryagent.smtp import SMTP
from tests.doors.office import (
    UNAVAILABLE,
    Office,
    content_of,
    fresh_queue,
    open_office,
    rows,
    stored,
)
from tests.program.whole_agent import Background, WholeAgent

FROM, TO = "shop@example.org", "kim@example.net"


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    """A service's socket over an empty queue."""
    fresh_queue(tmp_path)
    with Background(lambda: open_office(tmp_path)) as office:
        yield office


@pytest.fixture
def smtp(office: Office) -> Iterator[SMTP]:
    with SMTP(str(office.socket), timeout=0.3) as smtp:
        yield smtp


@pytest.fixture
def config(tmp_path: Path, queue_url: str) -> Path:
    """A configuration without a service."""
    file = tmp_path / "agent.toml"
    file.write_text(
        f'hostname = "mail.example.org"\nrun_dir = "{tmp_path}"\n[queue]\nurl = "{queue_url}"\n'
    )
    return file


def letter(**fields: str) -> EmailMessage:
    message = EmailMessage()
    for name, text in {"From": FROM, "To": TO, "Subject": "order", **fields}.items():
        message[name.replace("_", "-")] = text
    message.set_content("hello\n")
    return message


def recipients(office: Office) -> list[str]:
    return [address for (address,) in rows(office.queue, "SELECT address FROM recipient")]


# -- what smtplib does too ---


def test_it_is_an_smtplib_connection(smtp: SMTP) -> None:
    assert isinstance(smtp, smtplib.SMTP)
    assert smtp.ehlo("me")[0] == 250
    assert smtp.helo()[0] == 250
    assert smtp.noop()[0] == smtp.rset()[0] == 250
    assert smtp.starttls()[0] == 220
    assert smtp.login("kim", "secret")[0] == 235
    assert smtp.verify(TO)[0] == 252
    assert smtp.expn("list")[0] == 502
    assert b"5.5.1" in smtp.help()
    assert all(map(smtp.has_extn, ("smtputf8", "dsn", "size", "8bitmime")))
    assert not smtp.has_extn("starttls")
    assert smtp.quit()[0] == 221


def test_a_message_is_taken(smtp: SMTP, office: Office) -> None:
    refused = smtp.sendmail(FROM, [TO, "Lee <lee@example.net>"], "Subject: x\n\nhello\n.\n")
    assert refused == {}
    assert recipients(office) == [TO, "lee@example.net"]
    assert b"\r\nSubject: x\r\n" in content_of(office.queue)
    assert content_of(office.queue).endswith(b"\r\n\r\nhello\r\n.\r\n")
    assert smtp.sendmail("", TO, b"\n") == {}
    assert rows(office.queue, "SELECT sender FROM message ORDER BY id") == [(FROM,), ("",)]
    assert len(smtp.queue_id) == 13


def test_blind_copies_stay_blind(smtp: SMTP, office: Office) -> None:
    message = letter(Cc="Ann <ann@example.net>", Bcc="lee@example.net")
    smtp.send_message(message)
    assert sorted(recipients(office)) == ["ann@example.net", TO, "lee@example.net"]
    assert b"lee@" not in content_of(office.queue)


def test_international_addresses_are_kept(smtp: SMTP, office: Office) -> None:
    smtp.send_message(letter(To="jürgen@bücher.example"))
    assert recipients(office) == ["jürgen@xn--bcher-kva.example"]
    assert "To: jürgen@bücher.example".encode() in content_of(office.queue)
    smtp.sendmail("jürgen@example.org", TO, b"\n")
    assert rows(office.queue, "SELECT utf8 FROM message") == [(1,), (1,)]


def test_refused_recipients_are_returned(smtp: SMTP, office: Office) -> None:
    refused = smtp.sendmail(FROM, [TO, "kim@@example.net", "a@b@c", "kim@nodots"], b"\n")
    assert {address: code for address, (code, _) in refused.items()} == {
        "kim@@example.net": 501,
        "a@b@c": 501,
        "kim@nodots": 501,
    }
    assert all(text.startswith(b"5.1.3 ") for _, text in refused.values())
    assert recipients(office) == [TO]


def test_a_local_part_alone_is_of_this_host(smtp: SMTP, office: Office) -> None:
    assert smtp.sendmail("root", ["root", "postmaster"], b"\n") == {}
    assert recipients(office) == ["root@mail.example.org", "postmaster@mail.example.org"]


def test_when_all_are_refused_that_is_an_error(smtp: SMTP, office: Office) -> None:
    with pytest.raises(smtplib.SMTPRecipientsRefused) as caught:
        smtp.sendmail(FROM, ["@", "x y@example.net"], b"\n")
    assert set(caught.value.recipients) == {"@", "x y@example.net"}
    with pytest.raises(smtplib.SMTPRecipientsRefused):
        smtp.sendmail(FROM, [], b"\n")
    assert stored(office.queue) == 0


@pytest.mark.parametrize(
    "sender", ["kim@@example.org", "a b@example.org", "a@b.example, c@d.example"]
)
def test_a_refused_sender_is_an_error(smtp: SMTP, sender: str) -> None:
    with pytest.raises(smtplib.SMTPSenderRefused) as caught:
        smtp.sendmail(sender, TO, b"\n")
    assert caught.value.smtp_code == 501
    assert caught.value.smtp_error.startswith(b"5.1.7 ")
    assert smtp.sendmail(FROM, TO, b"\n") == {}


def test_a_refused_content_is_an_error(smtp: SMTP, office: Office) -> None:
    with pytest.raises(smtplib.SMTPDataError) as caught:
        smtp.sendmail(FROM, TO, b"a\0b")
    assert caught.value.smtp_code == 554
    assert b"NUL" in caught.value.smtp_error
    with pytest.raises(UnicodeEncodeError):
        smtp.sendmail(FROM, TO, "Grüße")
    assert stored(office.queue) == 0


def test_a_full_store_is_a_temporary_error(smtp: SMTP, office: Office) -> None:
    office.desk.failure = UNAVAILABLE
    with pytest.raises(smtplib.SMTPDataError) as caught:
        smtp.sendmail(FROM, TO, b"\n")
    assert caught.value.smtp_code == 451
    office.desk.failure = None
    assert smtp.sendmail(FROM, TO, b"\n") == {}


def test_without_an_agent_the_error_is_temporary(tmp_path: Path) -> None:
    with SMTP(f"{tmp_path}/none.sock", timeout=0.05) as smtp:
        with pytest.raises(smtplib.SMTPDataError) as caught:
            smtp.sendmail(FROM, TO, b"\n")
        assert caught.value.smtp_code == 451


def test_after_quit_there_is_no_connection_until_connect(smtp: SMTP, office: Office) -> None:
    smtp.quit()
    for call in (smtp.noop, smtp.quit, smtp.ehlo, smtp.starttls, smtp.rset):
        with pytest.raises(smtplib.SMTPServerDisconnected):
            call()
    with pytest.raises(smtplib.SMTPServerDisconnected):
        smtp.sendmail(FROM, TO, b"\n")
    assert smtp.connect(str(office.socket))[0] == 220
    assert smtp.sendmail(FROM, TO, b"\n") == {}


def test_commands_out_of_order_are_refused(smtp: SMTP) -> None:
    assert smtp.rcpt(TO)[0] == 503
    assert smtp.mail(FROM)[0] == 250
    with pytest.raises(smtplib.SMTPDataError):
        smtp.data(b"\n")
    assert smtp.docmd("BDAT", "5")[0] == 502
    with pytest.raises(smtplib.SMTPNotSupportedError):
        smtp.send(b"DATA\r\n")
    with pytest.raises(smtplib.SMTPNotSupportedError):
        smtp.getreply()


def test_nothing_goes_to_other_hosts() -> None:
    with pytest.raises(ValueError, match="another host"):
        SMTP("smtp.example.com", 587)
    for host in ("", "localhost", "127.0.0.1"):
        SMTP(host, 25, "me.example.org", 5.0, ("127.0.0.1", 0)).close()


def test_what_is_said_can_be_watched(smtp: SMTP, capsys: pytest.CaptureFixture[str]) -> None:
    smtp.set_debuglevel(1)
    smtp.sendmail(FROM, TO, b"\n")
    said = capsys.readouterr().err
    assert "mail" in said
    assert "queued as" in said


# -- wishes ---


def test_parameters_of_smtp_are_wishes(smtp: SMTP, office: Office) -> None:
    smtp.sendmail(
        FROM,
        [TO],
        b"\n",
        mail_options=[
            *("RET=HDRS", "ENVID=order+2B1", "BODY=8BITMIME", "HOLDFOR=3600"),
            *("MT-PRIORITY=3", "BY=9999;R"),
        ],
        rcpt_options=["NOTIFY=SUCCESS,DELAY"],
    )
    assert rows(
        office.queue,
        "SELECT ret, envid, not_before > 0, priority, deliver_by > 0, by_mode FROM message",
    ) == [("HDRS", "order+1", 1, 3, 1, "R")]
    assert rows(office.queue, "SELECT notify FROM recipient") == [(10,)]


@pytest.mark.parametrize(
    "option",
    [
        "X-NONE=1",
        "BODY=BINARYMIME",
        "RET=SOME",
        "HOLDFOR=x",
        "MT-PRIORITY=99",
        "BY=9999;NT",
        "REQUIRETLS",
    ],
)
def test_unknown_parameters_are_refused(smtp: SMTP, option: str) -> None:
    with pytest.raises(smtplib.SMTPSenderRefused) as caught:
        smtp.sendmail(FROM, TO, b"\n", mail_options=[option])
    assert 500 <= caught.value.smtp_code < 560


def test_what_is_wished_for_recipients_counts_for_all(smtp: SMTP) -> None:
    assert smtp.mail(FROM)[0] == 250
    assert smtp.rcpt(TO, ["NOTIFY=NEVER"])[0] == 250
    assert smtp.rcpt("lee@example.net", ["NOTIFY=SUCCESS"])[0] == 501
    assert smtp.rcpt("lee@example.net", ["NOTIFY=NEVER", "ORCPT=rfc822;a@example.net"])[0] == 501
    assert smtp.data(b"\n")[0] == 250


def test_wishes_for_every_message_are_given_at_the_beginning(office: Office) -> None:
    with SMTP(str(office.socket), tags={"app": "shop"}, hold=True) as smtp:
        smtp.sendmail(FROM, TO, b"\n")
    assert rows(office.queue, "SELECT tags FROM message") == [('{"app":"shop"}',)]
    assert rows(office.queue, "SELECT status FROM recipient") == [("held",)]


def test_the_header_may_ask_where_that_is_allowed(office: Office) -> None:
    message = letter(
        Idempotency_Key="order-4711",
        X_Deliveryagent_Tags="app=shop, name=Jürgen",
        X_Deliveryagent_At="2020-01-31T12:00:00+01:00",
        X_Deliveryagent_Hold="yes",
        X_Deliveryagent_DSN="never",
    )
    with SMTP(str(office.socket), read_headers=True) as smtp:
        for _ in range(2):
            smtp.send_message(message)
        assert "Idempotency-Key" in message
    assert stored(office.queue) == 1
    assert rows(office.queue, "SELECT tags FROM message") == [('{"app":"shop","name":"Jürgen"}',)]
    assert rows(office.queue, "SELECT status, notify FROM recipient") == [("held", 1)]
    content = content_of(office.queue)
    assert b"Idempotency" not in content
    assert b"X-Delivery" not in content


def test_a_message_of_several_parts_that_is_built_again_is_the_same(office: Office) -> None:
    for _ in range(3):
        message = letter()
        message.add_alternative("<p>hello", subtype="html")
        with SMTP(str(office.socket), key="order-4711") as smtp:
            smtp.send_message(message)
    assert stored(office.queue) == 1


def test_otherwise_the_header_is_only_sent(smtp: SMTP, office: Office) -> None:
    for _ in range(2):
        smtp.send_message(letter(Idempotency_Key="order-4711"))
    assert stored(office.queue) == 2
    assert b"Idempotency-Key: order-4711" in content_of(office.queue)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("X-Deliveryagent-Tags", "shop"),
        ("X-Deliveryagent-At", "tomorrow"),
        ("X-Deliveryagent-At", "2030-01-31T12:00:00"),
        ("X-Deliveryagent-Hold", "perhaps"),
        ("X-Deliveryagent-DSN", "always"),
    ],
)
def test_a_wish_that_is_not_understood_is_refused(office: Office, name: str, text: str) -> None:
    message: Message[Any, Any] = MIMEText("hello")
    message[name] = text
    with SMTP(str(office.socket), read_headers=True) as smtp:
        with pytest.raises(smtplib.SMTPDataError) as caught:
            smtp.send_message(message, FROM, [TO])
        assert caught.value.smtp_code >= 500
        del message[name]
        smtp.send_message(message, FROM, [TO])


def test_examples_in_the_code_are_true() -> None:
    assert not any(doctest.testmod(one).failed for one in (boundaries, instructions))


# -- those who use it ---


def log_by(one: logging.Handler) -> logging.Logger:
    """A logger of the test's own."""
    log = logging.getLogger(f"deliveryagent-test-{id(one)}")
    log.propagate = False
    log.handlers = [one]
    return log


def test_log_records_become_messages(office: Office) -> None:
    mailer = LogMail(str(office.socket), FROM, [TO, "root"], "trouble", tags={"app": "shop"})
    mailer.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    log_by(mailer).error("the disk of %s is full: größer", "db1")
    assert recipients(office) == [TO, "root@mail.example.org"]
    content = content_of(office.queue)
    assert b"Subject: trouble\r\n" in content
    assert b"From: shop@example.org\r\n" in content
    assert b"Date: " in content
    assert "ERROR: the disk of db1 is full: größer".encode() in content
    assert rows(office.queue, "SELECT tags FROM message") == [('{"app":"shop"}',)]


def test_a_handler_is_configured_as_the_standard_one(config: Path, tmp_path: Path) -> None:
    settings = {
        "class": "deliveryagent.logmail.LogMail",
        "mailhost": ["localhost", 25],
        "fromaddr": FROM,
        "toaddrs": [TO],
        "subject": "trouble",
        "credentials": ["kim", "secret"],
        "secure": [],
        "config": str(config),
    }
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "handlers": {"mail": settings},
            "loggers": {"deliveryagent-test-shop": {"handlers": ["mail"], "propagate": False}},
        }
    )
    logger = logging.getLogger("deliveryagent-test-shop")
    logger.error("one")
    logger.handlers.clear()
    [message] = WholeAgent(tmp_path, config).messages().values()
    assert message["recipients"][0]["address"] == TO


def test_a_log_that_cannot_be_sent_does_not_stop_the_program(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log_by(LogMail(f"{tmp_path}/none", FROM, TO, "trouble", timeout=0.05)).error("one")
    assert "SMTPDataError" in capsys.readouterr().err


def test_the_standard_handler_works_with_it(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own code, given this class in place of the one it takes from ``smtplib``."""
    monkeypatch.setattr(smtplib, "SMTP", SMTP)
    standard = SMTPHandler(
        (str(office.socket), 25), FROM, [TO], "trouble", credentials=("kim", "x"), secure=()
    )
    monkeypatch.setattr(standard, "handleError", _raise)
    log_by(standard).error("one")
    assert recipients(office) == [TO]


def _raise(_: logging.LogRecord) -> None:
    raise  # noqa: PLE0704 - what handleError would have printed


def test_flask_mail_works_with_it(office: Office) -> None:
    flask = pytest.importorskip("flask", reason="Flask is not installed")
    flask_mail = pytest.importorskip("flask_mail", reason="Flask-Mail is not installed")

    class Connection(flask_mail.Connection):  # type: ignore[misc, name-defined] # not typed here
        def configure_host(self) -> smtplib.SMTP:
            return SMTP(self.mail.server)

    class Mail(flask_mail.Mail):  # type: ignore[misc, name-defined] # likewise
        def connect(self) -> Any:
            return Connection(self.app.extensions["mail"])

    app = flask.Flask(__name__)
    app.config.update(MAIL_SERVER=str(office.socket), MAIL_DEFAULT_SENDER=FROM)
    mail = Mail(app)
    with app.app_context():
        mail.send_message("order", recipients=[TO], bcc=["lee@example.net"], body="hello")
        with mail.connect() as connection:
            for n in range(3):
                connection.send_message("order", recipients=[f"u{n}@example.net"], html="<p>x")
    assert sorted(recipients(office)) == [
        TO, "lee@example.net", "u0@example.net", "u1@example.net", "u2@example.net",
    ]  # fmt: skip
    first = rows(office.queue, "SELECT min(id) FROM message")[0][0]
    assert b"lee@" not in content_of(office.queue, first)


def test_without_a_service_the_queue_is_written_directly(config: Path, tmp_path: Path) -> None:
    with SMTP(config=config) as smtp:
        smtp.send_message(letter())
        with pytest.raises(smtplib.SMTPDataError):
            smtp.sendmail(FROM, TO, b"\0")
    assert list(WholeAgent(tmp_path, config).messages()) == [smtp.queue_id]


def test_a_whole_service_takes_it(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with WholeAgent(
        tmp_path,
        f'hostname = "mail.example.org"\nrun_dir = "{tmp_path}/run"\n'
        f'[queue]\nurl = "sqlite:///{tmp_path}/queue.sqlite3"\n',
    ) as agent:
        with agent.serving(), SMTP(config=agent.config, hold=True) as smtp:
            smtp.send_message(letter())
        assert list(agent.messages()) == [smtp.queue_id]
