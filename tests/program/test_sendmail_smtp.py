"""``sendmail -bs``: SMTP on standard input and output."""

import subprocess
from pathlib import Path

import pytest

from deliveryagent.intake.admission import Peer, SubmitSettings
from tests.doors.office import UNAVAILABLE, content_of, leftovers, rows, stored
from tests.program.test_sendmail import command, directory, environment, sendmail, serving

__all__ = ["directory"]

HELLO = b"EHLO mua.example\r\n"
ENVELOPE = b"MAIL FROM:<shop@example.org>\r\nRCPT TO:<kim@example.net>\r\n"
CONTENT = b"DATA\r\nSubject: test\r\n\r\n..dot\r\nhello\r\n.\r\n"


def talk(directory: Path, said: bytes) -> list[str]:
    """The replies to a whole conversation; the exit status must be 0."""
    done = sendmail(directory, "-bs", message=said)
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout.decode().splitlines()


def last_lines(replies: list[str]) -> list[str]:
    return [line[:3] for line in replies if line[3:4] == " "]


def test_messages_are_taken(directory: Path) -> None:
    with serving(directory) as office:
        replies = talk(directory, HELLO + (ENVELOPE + CONTENT) * 2 + b"QUIT\r\n")
        codes = ["220", "250", *["250", "250", "354", "250"] * 2, "221"]
        assert last_lines(replies) == codes
        ids = [row[0] for row in rows(office.queue, "SELECT id FROM message ORDER BY id")]
        assert len(ids) == 2
        content = content_of(office.queue, ids[0])
        assert content.endswith(b"\r\n\r\n.dot\r\nhello\r\n")
        assert b"From: shop@example.org\r\n" in content
        assert rows(office.queue, "SELECT DISTINCT address FROM recipient") == [
            ("kim@example.net",)
        ]


def test_a_caller_is_answered_before_it_goes_on(directory: Path) -> None:
    with (
        serving(directory) as office,
        subprocess.Popen(
            command("-bs"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(directory),
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"220 mail.example.org ")
        lines = [b"HELO x", *ENVELOPE.split(b"\r\n")[:2], b"DATA", b"A: b\r\n\r\nhi\r\n.", b"QUIT"]
        for line, code in zip(lines, (250, 250, 250, 354, 250, 221), strict=True):
            process.stdin.write(line + b"\r\n")
            process.stdin.flush()
            assert int(process.stdout.readline()[:3]) == code
        assert process.wait(30) == 0
        assert stored(office.queue) == 1


def test_neither_tls_nor_logins_are_offered(directory: Path) -> None:
    with serving(directory):
        replies = talk(directory, HELLO + b"STARTTLS\r\nAUTH PLAIN AAAA\r\nQUIT\r\n")
    offered = {line[4:].split()[0] for line in replies if line.startswith("250")}
    assert {"PIPELINING", "8BITMIME", "SMTPUTF8", "DSN", "CHUNKING"} <= offered
    assert not {"STARTTLS", "AUTH"} & offered
    assert [code[0] for code in last_lines(replies)] == ["2", "2", "5", "5", "2"]


def test_wishes_of_the_envelope_arrive(directory: Path) -> None:
    said = (
        b"MAIL FROM:<> RET=HDRS ENVID=e1 MT-PRIORITY=3 BY=600;R\r\n"
        b"RCPT TO:<kim@example.net> NOTIFY=SUCCESS,DELAY\r\n"
        b"RCPT TO:<lee@example.net> NOTIFY=SUCCESS,DELAY\r\n"
    )
    with serving(directory) as office:
        talk(directory, HELLO + said + CONTENT)
        assert rows(office.queue, "SELECT sender, ret, envid FROM message") == [("", "HDRS", "e1")]
        assert rows(office.queue, "SELECT notify FROM recipient") == [(2 | 8,)] * 2
        envelope = office.desk.submitted[0].envelope
        assert (envelope.priority, envelope.by_mode) == (3, "R")


@pytest.mark.parametrize(
    "envelope",
    [
        ENVELOPE + b"RCPT TO:<lee@example.net> NOTIFY=NEVER\r\n",
        ENVELOPE.replace(b".org>", b".org> BY=600;NT"),
    ],
)
def test_wishes_that_cannot_be_passed_on_are_refused(directory: Path, envelope: bytes) -> None:
    with serving(directory) as office:
        replies = talk(directory, HELLO + envelope + CONTENT + b"QUIT\r\n")
        assert replies[-2].startswith("554 5.5.4")
        assert stored(office.queue) == 0


def test_a_store_in_trouble_is_a_temporary_refusal(directory: Path) -> None:
    with serving(directory) as office:
        office.desk.failure = UNAVAILABLE
        replies = talk(directory, HELLO + ENVELOPE + CONTENT + b"QUIT\r\n")
    assert replies[-2].startswith("451 4.3.0")
    assert "the disk is full" in replies[-2]


def test_a_user_who_may_not_send_is_refused(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = Peer(uid=12345, gid=12345, pid=1, groups=frozenset(), user="anna")
    monkeypatch.setattr("deliveryagent.intake.local_socket.peer_of", lambda _: peer)
    with serving(directory, submit=SubmitSettings(allow=("daemon",))):
        replies = talk(directory, HELLO + ENVELOPE + CONTENT + b"QUIT\r\n")
    assert replies[-2].startswith("550 5.7.1")


def test_a_message_that_does_not_end_is_nowhere(directory: Path) -> None:
    with serving(directory) as office:
        talk(directory, HELLO + ENVELOPE + b"DATA\r\nSubject: test\r\n\r\n" + b"x" * 70_000)
        assert stored(office.queue) == 0
        assert not leftovers(office.queue)


def test_a_large_content_in_chunks_arrives(directory: Path) -> None:
    line = b"0123456789" * 7 + b"\r\n"
    first, second = b"A: b\r\n\r\n" + line * 5000, line * 5000
    said = b"".join(
        [ENVELOPE, b"BDAT %d\r\n" % len(first), first, b"BDAT %d LAST\r\n" % len(second), second]
    )
    with serving(directory) as office:
        replies = talk(directory, HELLO + said + b"QUIT\r\n")
        assert replies[-2].startswith("250 ")
        assert content_of(office.queue).endswith(b"\r\n\r\n" + line * 10_000)
