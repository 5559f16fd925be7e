"""TLS at the doors of a whole agent: several certificates, a new one at a reload, what was said before."""

import signal
import smtplib
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.doubles.mail_sink import MailSink
from tests.program.doors import Doors, authority, listeners_of, trusting
from tests.program.whole_agent import Background, eventually

PATIENCE = 30
LETTER = "Subject: hello\r\n\r\nhello\r\n"


@contextmanager
def secured(port: int, name: str) -> Iterator[ssl.SSLSocket]:
    """A connection to a listener with TLS first, that asks for a name and believes its certificate."""
    with (
        socket.create_connection(("127.0.0.1", port), PATIENCE) as plain,
        trusting().wrap_socket(plain, server_hostname=name) as line,
    ):
        yield line


def serial(port: int, name: str) -> str:
    """The serial number of the certificate a listener shows."""
    with secured(port, name) as line:
        shown = line.getpeercert()
        assert shown is not None
        return str(shown["serialNumber"])


def issue(path: Path, name: str) -> None:
    authority().issue_cert(name).private_key_and_cert_chain_pem.write_to_path(str(path))
    path.chmod(0o600)


def test_each_name_has_its_certificate_and_a_reload_brings_new_ones(tmp_path: Path) -> None:
    with Background(MailSink) as sink:
        doors = Doors(tmp_path, sink.port)
        first, second = tmp_path / "first.pem", tmp_path / "second.pem"
        issue(first, "mx.lab.test")
        issue(second, "mail.other.test")
        files = f'tls_certificate = ["{first}", "{second}"]'
        doors.add_trusted("submissions", files, "tls_only = true")
        doors.add_trusted("submission", files, "require_tls = true")
        port = doors.ports["submissions"]
        with doors.agent() as agent, agent.serving() as service:
            eventually(lambda: len(listeners_of(service)) == 2)
            before = {name: serial(port, name) for name in ("mx.lab.test", "mail.other.test")}
            with smtplib.SMTP("127.0.0.1", doors.ports["submission"], timeout=PATIENCE) as client:
                client._host = "mail.other.test"  # type: ignore[attr-defined] # whom it asks for
                client.starttls(context=trusting())
                issue(first, "mx.lab.test")
                issue(second, "mail.other.test")
                service.send_signal(signal.SIGHUP)
                for name, old in before.items():
                    eventually(lambda name=name, old=old: serial(port, name) != old)  # type: ignore[misc]
                assert client.sendmail("kim@home.test", ["old@far.test"], LETTER) == {}
            eventually(lambda: bool(sink.to("old@far.test")), limit=PATIENCE)
        assert " with ESMTPS " in sink.to("old@far.test")[0].header("Received")


def test_nothing_that_was_said_in_clear_counts_after_the_handshake(tmp_path: Path) -> None:
    with Background(MailSink) as sink:
        doors = Doors(tmp_path, sink.port)
        doors.add_trusted("relay", doors.certify())
        port = doors.ports["relay"]
        with doors.serving():
            with socket.create_connection(("127.0.0.1", port), PATIENCE) as line:
                line.sendall(b"EHLO pc\r\nSTARTTLS\r\nMAIL FROM:<evil@far.test>\r\n")
                replies = line.makefile("rb").read().splitlines()
            assert replies[-1].startswith(b"554 5.5.1")
            with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE) as client:
                client.ehlo()
                client._host = "mx.lab.test"  # type: ignore[attr-defined] # whom it asks for
                assert client.starttls(context=trusting())[0] == 220
                code, text = client.docmd("MAIL", "FROM:<kim@home.test>")  # without another EHLO
                assert (code, text[:5]) == (503, b"5.5.1")


def test_no_tls_word_is_answered_in_clear_where_tls_comes_first(tmp_path: Path) -> None:
    with Background(MailSink) as sink:
        doors = Doors(tmp_path, sink.port)
        doors.add_trusted("submissions", doors.certify(), "tls_only = true")
        with doors.serving():
            port = doors.ports["submissions"]
            with socket.create_connection(("127.0.0.1", port), PATIENCE) as line:
                line.sendall(b"EHLO pc\r\nMAIL FROM:<kim@home.test>\r\n" * 10)
                heard = b""
                try:
                    while more := line.recv(1000):
                        heard += more
                except ConnectionResetError:
                    pass
            assert b"250" not in heard
            assert serial(port, "mx.lab.test")  # and the next one is served
