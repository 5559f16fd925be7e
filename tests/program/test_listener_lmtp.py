"""LMTP with recipients of different fates: a real Postfix as the client, and Python's smtplib.

``tests.doubles.refusing_hook`` decides by their names: some are refused at RCPT, some after the final dot.
"""

import re
import smtplib
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.doubles.mail_sink import MailSink
from tests.doubles.maildir_postfix import maildir_postfix
from tests.program.doors import Doors
from tests.program.whole_agent import Background, WholeAgent, eventually

PATIENCE = 30
HOOK = 'hooks = ["tests.doubles.refusing_hook:Refusing"]'
NAMES = ("ok", "nobody", "busy", "full", "never", "void", "too")
FATES = {
    "ok": ("sent", "250"),
    "nobody": ("bounced", "550 5.1.1"),
    "busy": ("deferred", "450 4.2.1"),
    "full": ("deferred", "452 4.2.2"),
    "never": ("bounced", "550 5.7.1"),
    "void": ("sent", "250"),
    "too": ("sent", "250"),
}
LETTER = b"From: kim@home.test\r\nSubject: many\r\n\r\nhello\r\n.dot\r\n"


@dataclass
class Place:
    """The running agent, its next host, and the path of its Unix socket."""

    doors: Doors
    agent: WholeAgent
    sink: MailSink
    path: str


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with (
        Background(MailSink) as sink,
        tempfile.TemporaryDirectory(prefix="deliveryagent-test-") as name,
    ):
        Path(name).chmod(0o755)  # pytest's own directories are closed to the user postfix
        doors = Doors(tmp_path_factory.mktemp("lmtp"), sink.port)
        doors.add_trusted("inet", HOOK, kind="lmtp")
        path = f"{name}/lmtp"
        doors.add("unix", "lmtp", HOOK, 'socket_mode = "0666"', address=f"unix:{path}")
        with doors.serving() as agent:
            yield Place(doors, agent, sink, path)


def lmtp(place: Place, way: str) -> smtplib.LMTP:
    host = place.path if way == "unix" else "127.0.0.1"
    return smtplib.LMTP(host, place.doors.ports.get(way, 0), "home.test")


@pytest.mark.parametrize("way", ["inet", "unix"])
def test_each_accepted_recipient_has_a_reply_of_its_own(place: Place, way: str) -> None:
    domain = f"python-{way}.test"
    with lmtp(place, way) as client:
        client.ehlo_or_helo_if_needed()
        assert client.mail("kim@home.test")[0] == 250
        replies = {name: client.rcpt(f"{name}@{domain}") for name in NAMES}
        accepted = [name for name, (code, _) in replies.items() if code == 250]
        assert accepted == ["ok", "full", "never", "void", "too"]
        assert client.docmd("DATA")[0] == 354
        client.send(LETTER.replace(b"\r\n.", b"\r\n..") + b".\r\n")
        replies |= {name: client.getreply() for name in accepted}
        assert client.noop()[0] == 250  # there was no reply too many
    for name, (_, words) in FATES.items():
        code, text = replies[name]
        assert f"{code} {text.decode()}".startswith(words), (name, replies[name])
    eventually(lambda: bool(place.sink.to(f"too@{domain}")), limit=PATIENCE)
    (message,) = place.sink.to(f"ok@{domain}")
    assert len(message.rcpt) == 2
    assert message.body == b"hello\r\n.dot\r\n"
    assert " with LMTP " in message.header("Received")


def test_lmtp_and_smtp_are_not_mixed_up(place: Place) -> None:
    with lmtp(place, "inet") as client:
        for word in ("EHLO", "HELO"):
            code, text = client.docmd(word, "home.test")
            assert (code, text[:5]) == (500, b"5.5.1")
        assert client.docmd("LHLO", "home.test")[0] == 250
        assert client.mail("kim@home.test")[0] == 250
        code, text = client.docmd("DATA")
        assert code in {503, 554}


def test_a_unix_listener_says_who_came(place: Place) -> None:
    assert Path(place.path).stat().st_mode & 0o777 == 0o666
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(place.path)
        assert line.recv(1000).startswith(b"220 mx.lab.test ")


@pytest.mark.parametrize("way", ["inet", "unix"])
def test_a_real_postfix_gives_each_recipient_its_fate(place: Place, way: str) -> None:
    domain = f"postfix-{way}.test"
    nexthop = f"unix:{place.path}" if way == "unix" else f"inet:127.0.0.1:{place.doors.ports[way]}"
    settings = {"default_transport": f"lmtp:{nexthop}", "minimal_backoff_time": "1h"}
    with maildir_postfix(settings) as postfix:
        with smtplib.SMTP("127.0.0.1", postfix.port, timeout=PATIENCE) as client:
            to = [f"{name}@{domain}" for name in NAMES]
            assert client.sendmail("", to, LETTER) == {}

        def fates() -> dict[str, tuple[str, str]]:
            found = re.finditer(
                rf"to=<(\w+)@{domain}>.* status=(\w+) \((?:host .* said: )?(.*)", postfix.log
            )
            return {one[1]: (one[2], one[3]) for one in found}

        eventually(lambda: len(fates()) == len(NAMES), limit=PATIENCE)
        for name, (status, words) in FATES.items():
            assert fates()[name][0] == status, (name, fates()[name])
            assert fates()[name][1].startswith(words), (name, fates()[name])
        queue = postfix.run("postqueue", "-p").stdout
        assert sorted(re.findall(rf"(\w+)@{domain}", queue)) == ["busy", "full"]
        postfix.run("postqueue", "-f")  # this time there is room for the one that was full
        eventually(lambda: fates()["full"][0] == "sent", limit=PATIENCE)
        eventually(lambda: bool(place.sink.to(f"full@{domain}")), limit=PATIENCE)
    for name in NAMES:
        count = len(place.sink.to(f"{name}@{domain}"))
        assert count == (name in {"ok", "too", "full"}), (name, count)
