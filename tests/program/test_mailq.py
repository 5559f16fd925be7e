"""``mailq`` in Postfix's shape, as programs that watch queues read it."""

import io
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deliveryagent.cli.sendmail import mailq
from deliveryagent.cli.sendmail.program import run
from deliveryagent.lab.postfix import Postfix, unavailable
from deliveryagent.mail.envelope import new_queue_id
from deliveryagent.queue.waiting import Waiting
from tests.doubles.filled_queue import Answering, FilledQueue
from tests.program.whole_agent import ROOT, eventually

EMPTY = "Mail queue is empty\n"


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FilledQueue]:
    filled = FilledQueue(tmp_path)
    monkeypatch.setenv("DELIVERYAGENT_CONFIG", filled.config)
    yield filled
    filled.close()


def listed() -> str:
    """What the command prints, run in this process."""
    out = io.StringIO()
    mailq.print_queue(out)
    return out.getvalue()


def test_an_empty_queue_says_so(queue: FilledQueue) -> None:
    assert listed() == EMPTY


def test_a_message_looks_as_in_postfix(queue: FilledQueue) -> None:
    queue_id = queue.add("kim@example.net", "lee@example.net", content=b"x" * 1500, age=60)
    arrived = time.strftime("%a %b %e %H:%M:%S", time.localtime(queue.now - 60))
    assert listed() == (
        "----Queue ID----- --Size-- ---Arrival Time---- --Sender/Recipient------\n"
        f"{queue_id}         1500 {arrived} shop@example.org\n"
        f"{' ' * 47}kim@example.net\n"
        f"{' ' * 47}lee@example.net\n"
        "\n-- 1 Kbytes in 1 Request.\n"
    )


def test_reasons_stand_above_the_recipients_they_hold_for(queue: FilledQueue) -> None:
    queue_id = queue.add("kim@example.net", "lee@example.net", "ann@example.net")
    queue.settle(queue_id, "kim@example.net", number=1)
    queue.settle(queue_id, "ann@example.net", number=3)
    said = (
        "host mx1.example.net[192.0.2.10] said: 450 4.7.1 try again (in reply to RCPT TO command)"
    )
    assert listed().splitlines()[2:6] == [
        f"{' ' * 47}lee@example.net",
        f"({said})".rjust(78),
        f"{' ' * 47}kim@example.net",
        f"{' ' * 47}ann@example.net",
    ]


def test_what_is_finished_is_not_listed(queue: FilledQueue) -> None:
    queue_id = queue.add("kim@example.net", "lee@example.net")
    queue.settle(queue_id, "kim@example.net", number=1, status="delivered", code=250)
    done = queue.add("ann@example.net")
    queue.settle(done, "ann@example.net", status="delivered", code=250)
    text = listed()
    assert "lee@example.net" in text
    assert "kim@example.net" not in text
    assert text.endswith(" in 1 Request.\n")


def test_marks_tell_what_is_on_hold_and_what_is_in_flight(queue: FilledQueue) -> None:
    held = queue.add("kim@example.net")
    queue.hold(held, "look at it")
    active, waits = queue.add("lee@example.net", sender=""), queue.add("ann@example.net")
    with Answering(queue.socket, active={"recipients": [[active, 1, queue.now]]}):
        text = listed()
    lines = {line.split()[0]: line for line in text.splitlines() if line[:1].isdigit()}
    assert set(lines) == {f"{held}!", f"{active}*", waits}
    assert lines[f"{active}*"].endswith(" MAILER-DAEMON")
    assert "(look at it)" in text
    assert {line.index(" Kbytes in 3 Requests.") for line in text.splitlines()[-1:]} == {4}


def test_what_strangers_wrote_stays_on_its_line(queue: FilledQueue) -> None:
    queue_id = queue.add("kim@example.net")
    queue.settle(queue_id, "kim@example.net", text="no\r\n-- 0 Kbytes in 9 Requests.\x1b[2J")
    text = listed()
    assert "\x1b" not in text
    assert len(text.splitlines()) == 6


def test_a_message_that_crosses_pages_is_one(
    queue: FilledQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mailq, "_FIRST_PAGE", 3)
    monkeypatch.setattr(mailq, "_PAGE", 2)
    for _ in range(3):
        queue.add(*(f"u{n}@example.net" for n in range(5)))
    text = listed()
    assert text.count("@example.net") == 15
    assert text.count("shop@example.org") == 3
    assert text.endswith(" in 3 Requests.\n")


def test_the_list_begins_before_the_queue_has_been_read() -> None:
    def endless() -> Iterator[Waiting]:
        for n in range(1_000_000_000):
            yield Waiting(
                *(new_queue_id(1.6e9 + n, 1), 1, "a@b.example", 500, "c@d.example", "queued"),
                *("", "", 0, "", "", ""),
            )

    pieces = mailq.listed(endless())
    assert next(pieces) == mailq.HEADING
    assert "a@b.example" in next(pieces)


MONITORS: dict[str, Callable[[str], int]] = {
    "monitoring-plugins check_mailq": lambda text: (
        0
        if re.search(r"^Mail queue is empty", text.splitlines()[-1])
        else int(re.search(r"^--\s+\d+\s+Kbytes in (\d+) Requests?\.?", text.splitlines()[-1])[1])  # type: ignore[index]
    ),
    "awk, last line": lambda text: int(
        text.splitlines()[-1].split()[4] if text.startswith("-") else 0
    ),
    "lines that begin with an id": lambda text: len(
        re.findall(r"^[0-9A-Za-z]{6,}[*!]?\s", text.replace("Mail queue", ""), re.MULTILINE)
    ),
    "grep -c ^[A-F0-9]": lambda text: len(re.findall(r"^[A-F0-9]", text, re.MULTILINE)),
    "paragraphs of perl": lambda text: len(
        [part for part in text.split("\n\n") if re.search(r"^\w+[*!]?\s+\d+ ", part, re.MULTILINE)]
    ),
    "a regular expression for whole lines": lambda text: len(
        re.findall(
            r"^(?P<id>[A-Za-z0-9]+)(?P<mark>[*!]?)\s+(?P<size>\d+)\s+"
            r"(?P<arrival>\w{3} \w{3} +\d{1,2} \d\d:\d\d:\d\d)\s+(?P<sender>\S+)$",
            text,
            re.MULTILINE,
        )
    ),
}


@pytest.mark.parametrize("monitor", MONITORS)
@pytest.mark.parametrize("messages", [0, 1, 3])
def test_monitors_count_right(queue: FilledQueue, monitor: str, messages: int) -> None:
    for n in range(messages):
        queue_id = queue.add("kim@example.net", "lee@example.net")
        if n:
            queue.settle(queue_id, "kim@example.net")
    assert MONITORS[monitor](listed()) == messages


@pytest.mark.skipif(bool(unavailable()), reason=unavailable())
def test_a_real_postfix_prints_the_same(queue: FilledQueue) -> None:
    directory = Path(tempfile.mkdtemp())  # its daemons have to reach it
    directory.chmod(0o755)
    settings = {"defer_transports": "smtp", "enable_long_queue_ids": "yes"}
    with Postfix(directory, port=_free_port(), settings=settings) as postfix:
        sendmail = ["/usr/sbin/sendmail", "-C", str(directory / "etc"), "-f", "shop@example.org"]
        recipients = ["kim@example.net", "lee@example.net"]
        subprocess.run([*sendmail, *recipients], input=b"A: b\n\n", check=True)
        eventually(lambda: "(deferred transport)" in postfix.run("postqueue", "-p").stdout)
        theirs = postfix.run("postqueue", "-p").stdout
    shutil.rmtree(directory)
    queue_id = queue.add(*recipients)
    for number, one in enumerate(recipients, 1):
        queue.settle(queue_id, one, number=number, code=0, text="deferred transport", ip="")
    assert _shape(listed()) == _shape(theirs)


def _shape(text: str) -> list[str]:
    """The list with what differs from message to message made the same, columns kept."""
    text = re.sub(r"^\w+(?= {2,}\d)", lambda m: "Q".ljust(len(m[0]), " "), text, flags=re.MULTILINE)
    text = re.sub(r"\d+(?= \w{3} \w{3} )", lambda m: "9".rjust(len(m[0])), text)
    text = re.sub(r"\w{3} \w{3} [ \d]\d \d\d:\d\d:\d\d", "Day Mon 00 00:00:00", text)
    return re.sub(r"-- \d+ K", "-- 0 K", text).splitlines()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# -- the command ---


def test_the_command_prints_it(queue: FilledQueue, tmp_path: Path) -> None:
    queue.add("kim@example.net")
    program = "from deliveryagent.cli.sendmail.program import mailq; mailq()"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT), "LC_ALL": "C"},
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == listed()


def test_a_reader_that_goes_away_is_no_trouble(queue: FilledQueue, tmp_path: Path) -> None:
    for _ in range(20):
        queue.add(*(f"{'u' * 60}{n}@example.net" for n in range(100)))
    program = f"{sys.executable} -c 'from deliveryagent.cli.sendmail.program import mailq; mailq()'"
    done = subprocess.run(
        ["sh", "-c", f"{program} | head -1"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert (done.stdout, done.stderr) == (mailq.HEADING, "")


def test_without_a_queue_it_is_not_empty_but_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "agent.toml").write_text('[queue]\nurl = "sqlite:///none.sqlite3"\n')
    monkeypatch.setenv("DELIVERYAGENT_CONFIG", str(tmp_path / "agent.toml"))
    assert run("mailq", []) == 69
    assert "there is no queue" in capfd.readouterr().err


def test_who_may_not_look_is_told(
    queue: FilledQueue,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    (tmp_path / "queue.sqlite3").unlink()
    assert run("mailq", []) == 77
    assert "you may not look" in capfd.readouterr().err
