"""Django's own functions for sending mail, with the agent as their backend."""

import logging
import smtplib
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

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

django = pytest.importorskip("django", reason="Django is not installed")

from django.conf import settings  # noqa: E402 - only where it is installed
from django.core import mail  # noqa: E402
from django.core.exceptions import ImproperlyConfigured  # noqa: E402
from django.core.mail import EmailMessage, EmailMultiAlternatives  # noqa: E402
from django.test.utils import override_settings  # noqa: E402
from django.utils.log import AdminEmailHandler  # noqa: E402

if not settings.configured:
    settings.configure(
        DEFAULT_FROM_EMAIL="shop@example.org", SERVER_EMAIL="root@example.org", SECRET_KEY="x"
    )
    django.setup(set_prefix=False)

BACKEND = "deliveryagent.django.EmailBackend"
HAS_MAILERS = django.VERSION >= (6, 1)
TO = "kim@example.net"

Configure = Callable[..., Any]


@contextmanager
def by_email_backend(**options: Any) -> Iterator[None]:
    """Settings as they are up to Django 6.0, and may be for some time after it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        with override_settings(EMAIL_BACKEND=BACKEND, DELIVERYAGENT=options):
            yield


@contextmanager
def by_mailers(**options: Any) -> Iterator[None]:
    """Settings as they are from Django 6.1 on."""
    with override_settings(MAILERS={"default": {"BACKEND": BACKEND, "OPTIONS": options}}):
        yield


@pytest.fixture(params=["EMAIL_BACKEND", "MAILERS"])
def configure(request: pytest.FixtureRequest) -> Configure:
    """Either kind of settings, with options."""
    if request.param == "EMAIL_BACKEND":
        return by_email_backend
    if not HAS_MAILERS:
        pytest.skip(f"Django {django.get_version()} has no MAILERS")
    return by_mailers


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    """A service's socket over an empty queue."""
    fresh_queue(tmp_path)
    with Background(lambda: open_office(tmp_path)) as office:
        yield office


@pytest.fixture
def configured(configure: Configure, office: Office) -> Iterator[Office]:
    """The service, and Django that uses it."""
    with configure(socket=office.socket, patience=0.3):
        yield office


def backend() -> Any:
    """The backend as Django makes it."""
    return mail.mailers.default if hasattr(mail, "mailers") else mail.get_connection()


def addresses(office: Office) -> list[str]:
    return [one for (one,) in rows(office.queue, "SELECT address FROM recipient ORDER BY address")]


def letter(*to: str, **options: Any) -> Any:
    return EmailMessage("order", "hello", "Shop <shop@example.org>", list(to or [TO]), **options)


def test_a_mail_is_handed_over(configured: Office) -> None:
    assert mail.send_mail("order", "hello\n.\n", None, [TO], html_message="<p>hello") == 1
    assert rows(configured.queue, "SELECT sender FROM message") == [("shop@example.org",)]
    content = content_of(configured.queue)
    assert b"Subject: order\r\n" in content
    assert b"multipart/alternative" in content


def test_many_go_over_one_connection(configured: Office) -> None:
    mails = [("order", "hello", None, [f"u{n}@example.net"]) for n in range(100)]
    assert mail.send_mass_mail(mails) == 100
    assert stored(configured.queue) == 100
    with backend() as connection:
        assert connection.open() is False
        link = None
        for _ in range(3):
            assert connection.send_messages([letter(), letter()]) == 2
            assert link in (None, connection._client._link)
            link = connection._client._link
    assert connection._client is None


def test_messages_without_recipients_are_left_out(configured: Office) -> None:
    nobody = EmailMessage("order", "hello", "shop@example.org", [])
    assert backend().send_messages([nobody, letter(), nobody]) == 1
    assert backend().send_messages([]) == 0
    assert stored(configured.queue) == 1


def test_blind_copies_stay_blind(configured: Office) -> None:
    letter(cc=["Ann <ann@example.net>"], bcc=["lee@example.net"]).send()
    assert addresses(configured) == ["ann@example.net", TO, "lee@example.net"]
    assert b"lee@" not in content_of(configured.queue)


@pytest.mark.parametrize(
    ("address", "wire", "utf8"),
    [
        ("kim@bücher.example", "kim@xn--bcher-kva.example", 0),
        ("jürgen@bücher.example", "jürgen@xn--bcher-kva.example", 1),
        ("Jürgen Groß <jürgen@example.net>", "jürgen@example.net", 1),
        ("Jürgen Groß <kim@example.net>", "kim@example.net", 0),
    ],
)
def test_international_addresses_are_kept(
    configured: Office, address: str, wire: str, utf8: int
) -> None:
    message = letter(address, cc=["lee@example.net"], reply_to=["müller@example.org"] * utf8)
    assert message.send() == 1
    assert wire in addresses(configured)
    assert rows(configured.queue, "SELECT utf8 FROM message") == [(utf8,)]
    head = content_of(configured.queue).partition(b"\r\n\r\n")[0]
    if utf8:
        assert "jürgen@".encode() in head
        assert "Reply-To: müller@example.org\r\n".encode() in head + b"\r\n"
    else:
        assert head.isascii()


def test_the_same_message_with_the_same_key_is_one(configured: Office) -> None:
    for _ in range(3):
        message = EmailMultiAlternatives("order", "hello", None, [TO])
        message.attach_alternative("<p>hello", "text/html")
        message.attach("order.csv", "a,b", "text/csv")
        message.delivery = {
            "key": "order-4711",
            "tags": {"app": "shop"},
            "at": datetime(2020, 1, 1, tzinfo=UTC),
            "hold": True,
            "dsn": "never",
        }
        assert message.send() == 1
    assert stored(configured.queue) == 1
    assert rows(configured.queue, "SELECT tags FROM message") == [('{"app":"shop"}',)]
    assert rows(configured.queue, "SELECT status, notify FROM recipient") == [("held", 1)]
    content = content_of(configured.queue)
    assert content.count(b"\r\nDate: ") == content.count(b"\r\nMessage-ID: ") == 1


def test_a_date_the_program_gave_is_kept(configured: Office) -> None:
    letter(headers={"Date": "Mon, 01 Jan 2024 00:00:00 +0000", "Idempotency-Key": "order-1"}).send()
    assert b"\r\nDate: Mon, 01 Jan 2024 00:00:00 +0000\r\n" in content_of(configured.queue)


def test_the_header_may_ask_too(configured: Office) -> None:
    fields = {
        "Idempotency-Key": "order-4711",
        "X-Deliveryagent-Tags": "app=shop, name=Jürgen",
        "X-Deliveryagent-Hold": "yes",
        "X-Deliveryagent-At": "2020-01-01T00:00:00Z",
        "X-Deliveryagent-DSN": "success, failure",
    }
    for _ in range(2):
        assert letter(headers=fields).send() == 1
    assert rows(configured.queue, "SELECT tags FROM message") == [
        ('{"app":"shop","name":"Jürgen"}',)
    ]
    assert rows(configured.queue, "SELECT status, notify FROM recipient") == [("held", 6)]
    content = content_of(configured.queue)
    assert b"X-Delivery" not in content
    assert b"Idempotency" not in content


def test_options_count_for_every_message(configure: Configure, office: Office) -> None:
    options = {"tags": {"app": "shop", "kind": "?"}, "dsn": ["delay"], "hold": True}
    with configure(socket=str(office.socket), **options):
        message = letter()
        message.delivery = {"tags": {"kind": "order"}}
        message.send()
        letter().send()
    assert rows(office.queue, "SELECT tags FROM message ORDER BY id") == [
        ('{"app":"shop","kind":"order"}',),
        ('{"app":"shop","kind":"?"}',),
    ]
    assert rows(office.queue, "SELECT DISTINCT status, notify FROM recipient") == [("held", 8)]


def test_unknown_options_are_reported(configure: Configure) -> None:
    with configure(colour="red"), pytest.raises(ImproperlyConfigured, match="'colour'"):
        backend()


def test_unknown_wishes_of_a_message_are_reported(configured: Office) -> None:
    message = letter()
    message.delivery = {"colour": "red"}
    with pytest.raises(ValueError, match="colour"):
        message.send()
    with pytest.raises(ValueError, match="nowhere"):
        letter(headers={"X-Deliveryagent-Tags": "nowhere"}).send()
    assert stored(configured.queue) == 0


def unacceptable(n: int) -> Any:
    """A message with a key that is too long."""
    return letter(f"u{n}@example.net", headers={"Idempotency-Key": "k" * 9999})


def test_a_refused_message_is_an_error_of_smtplib(configured: Office) -> None:
    messages = [letter("u0@example.net"), unacceptable(1), letter("u2@example.net")]
    with pytest.raises(smtplib.SMTPDataError) as caught:
        backend().send_messages(messages)
    assert caught.value.smtp_code >= 500
    assert isinstance(caught.value, smtplib.SMTPException)
    assert "u0@example.net" in addresses(configured)
    assert "u1@example.net" not in addresses(configured)


def test_silently_the_others_are_sent(configure: Configure, office: Office) -> None:
    with configure(socket=office.socket, fail_silently=True):
        bad = {1, 2, 5}
        messages = [unacceptable(n) if n in bad else letter(f"u{n}@example.net") for n in range(8)]
        assert backend().send_messages(messages) == 5
        assert addresses(office) == [f"u{n}@example.net" for n in range(8) if n not in bad]
        office.desk.failure = UNAVAILABLE
        assert backend().send_messages([letter(), letter()]) == 0


def test_without_an_agent_the_error_is_temporary(configure: Configure, tmp_path: Path) -> None:
    with configure(socket=tmp_path / "none", patience=0.05):
        with pytest.raises(smtplib.SMTPDataError) as caught:
            letter().send()
        assert caught.value.smtp_code == 451
    with configure(socket=tmp_path / "none", patience=0.05, fail_silently=True):
        assert letter().send() == 0


@pytest.mark.parametrize(
    "address", ["kim@@example.net", "a@example.net, b@example.net", "a\nb@c.example"]
)
def test_what_is_no_address_is_an_error_of_the_program(configured: Office, address: str) -> None:
    with pytest.raises(ValueError, match="Invalid address"):
        backend().send_messages([letter(), letter(address)])
    with pytest.raises(ValueError, match=r"newline|linefeed|CR"):
        letter(headers={"X-Order": "1\nBcc: lee@example.net"}).send()


def test_the_envelope_sender_may_differ_from_the_author(configured: Office) -> None:
    message = EmailMultiAlternatives(
        "order", "hello", "bounces@example.org", [TO], headers={"From": "Shop <shop@example.org>"}
    )
    message.attach_alternative("<p>hello", "text/html")
    message.attach("order.pdf", b"%PDF\x00\n", "application/pdf")
    assert message.send() == 1
    assert rows(configured.queue, "SELECT sender FROM message") == [("bounces@example.org",)]
    content = content_of(configured.queue)
    assert b"From: Shop <shop@example.org>\r\n" in content
    assert b'filename="order.pdf"' in content


def test_errors_of_a_site_are_mailed_to_its_admins(configured: Office) -> None:
    admins = ["ann@example.net"] if django.VERSION >= (6, 0) else [("Ann", "ann@example.net")]
    with override_settings(ADMINS=admins):
        log = logging.getLogger("deliveryagent-test-django")
        log.propagate = False
        log.handlers = [AdminEmailHandler()]
        log.error("trouble")
    assert addresses(configured) == ["ann@example.net"]


def test_threads_take_turns_on_one_connection(configured: Office) -> None:
    with ExitStack() as stack:
        connection = stack.enter_context(backend())
        threads = [
            threading.Thread(target=connection.send_messages, args=([letter()] * 20,))
            for _ in range(5)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert stored(configured.queue) == 100


def test_without_a_service_the_queue_is_written_directly(
    configure: Configure, tmp_path: Path, queue_url: str
) -> None:
    config = tmp_path / "agent.toml"
    config.write_text(
        f'hostname = "mail.example.org"\nrun_dir = "{tmp_path}"\n[queue]\nurl = "{queue_url}"\n'
    )
    with configure(config=config):
        assert backend().send_messages([letter(f"u{n}@example.net") for n in range(10)]) == 10
    assert len(WholeAgent(tmp_path, config).messages()) == 10


def test_a_whole_service_takes_it(configure: Configure, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with WholeAgent(
        tmp_path,
        f'hostname = "mail.example.org"\nrun_dir = "{tmp_path}/run"\n'
        f'[queue]\nurl = "sqlite:///{tmp_path}/queue.sqlite3"\n',
    ) as agent:
        with agent.serving(), configure(config=agent.config, hold=True):
            assert letter(TO, bcc=["lee@example.net"]).send() == 1
        [message] = agent.messages().values()
        assert len(message["recipients"]) == 2
