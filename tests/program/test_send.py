"""``dagent send`` as people and scripts run it: a process with a message on standard input."""

import io
import json
import os
import pty
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from deliveryagent import cli
from deliveryagent.cli.faults import ExitStatus
from deliveryagent.intake.admission import Peer, SubmitSettings
from deliveryagent.intake.submit import Terms
from deliveryagent.mail.envelope import parse_queue_id
from deliveryagent.protocol.arrival import LimitSettings
from deliveryagent.protocol.local import ServiceError
from deliveryagent.queue.lock import QueueLock
from deliveryagent.setting import ByteSize
from tests.doors.office import (
    LETTER,
    ME,
    TERMS,
    UNAVAILABLE,
    Office,
    content_of,
    fresh_queue,
    leftovers,
    open_office,
    rows,
    stored,
)
from tests.program.whole_agent import Background

ROOT = Path(__file__).parents[2]
TERMS_AS_USUAL = Terms(hostname=TERMS.hostname, limits=LimitSettings())
Done = subprocess.CompletedProcess[bytes]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where the queue is, with a configuration file that says so."""
    fresh_queue(tmp_path)
    (tmp_path / "agent.toml").write_text(
        f'hostname = "mail.example.org"\nrun_dir = "{tmp_path}"\n'
        f'[queue]\nurl = "sqlite:///{tmp_path}/queue.sqlite3"\n'
    )
    return tmp_path


def command(directory: Path, *words: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "deliveryagent",
        "-c",
        str(directory / "agent.toml"),
        "send",
        *words,
    ]


def run(directory: Path, *words: str, message: bytes = LETTER) -> Done:
    """The command as a process of its own."""
    return subprocess.run(
        command(directory, *words), input=message, capture_output=True, check=False, cwd=ROOT
    )


def send(directory: Path, *words: str, message: bytes = LETTER) -> Done:
    """The command inside this process, which starts faster."""
    letter = directory / "stdin"
    letter.write_bytes(message)
    out, err = io.StringIO(), io.StringIO()
    with (
        letter.open() as stdin,
        patch.object(sys, "stdin", stdin),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        code = cli.run(command(directory, *words)[3:])
    return Done(words, code, out.getvalue().encode(), err.getvalue().encode())


@contextmanager
def serving(directory: Path, **options: Any) -> Iterator[Office]:
    """A service's socket, in another thread; the lock of the queue is held as well."""
    with (
        QueueLock(directory / "queue.sqlite3"),
        Background(lambda: open_office(directory, **options)) as office,
    ):
        yield office


def test_only_the_queue_id_is_printed(directory: Path) -> None:
    with serving(directory) as office:
        done = run(directory, "-f", "shop@example.org", "kim@example.net", "lee@example.net")
        assert (done.returncode, done.stderr) == (0, b"")
        queue_id = parse_queue_id(done.stdout.decode().removesuffix("\n"))
        assert rows(office.queue, "SELECT id, sender FROM message") == [
            (queue_id, "shop@example.org")
        ]
        assert rows(office.queue, "SELECT address FROM recipient ORDER BY number") == [
            ("kim@example.net",),
            ("lee@example.net",),
        ]


def test_json_is_an_object_with_the_id(directory: Path) -> None:
    with serving(directory):
        done = send(directory, "--json", "kim@example.net")
    assert list(json.loads(done.stdout)) == ["id"]


def test_every_option_arrives(directory: Path) -> None:
    letter = directory / "letter.eml"
    letter.write_bytes(b"To: Kim <kim@example.net>\nBcc: lee@example.net\n\nhi\n")
    with serving(directory) as office:
        done = send(
            directory, "-t", "--file", str(letter), "--hold", "--dsn", "success,failure", "--ret", "hdrs",
            "--envid", "e 1", "--tag", "app=shop", "--tag", "n=1=2", "--key", "order-1", "-f", "<>",
            "--priority", "-4",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert rows(office.queue, "SELECT sender, ret, envid, tags, priority FROM message") == [
            ("", "HDRS", "e 1", '{"app":"shop","n":"1=2"}', -4)
        ]
        assert rows(
            office.queue, "SELECT address, status, notify FROM recipient ORDER BY number"
        ) == [
            ("kim@example.net", "held", 6),
            ("lee@example.net", "held", 6),
        ]
        assert b"lee@" not in content_of(office.queue)
        assert rows(office.queue, "SELECT key FROM submission_key") == [("order-1",)]


def test_the_default_sender_is_the_user(directory: Path) -> None:
    with serving(directory) as office:
        send(directory, "kim@example.net")
        assert rows(office.queue, "SELECT sender FROM message") == [
            (f"{ME.user}@mail.example.org",)
        ]


@pytest.mark.parametrize(
    ("at", "seconds"),
    [
        ("in 2h", 7200),
        ("+90m", 5400),
        ("2020-01-31T08:00:00Z", 0),
        ("2020-01-31T08:00:00+01:00", 0),
    ],
)
def test_a_message_waits_for_its_time(directory: Path, at: str, seconds: float) -> None:
    with serving(directory) as office:
        assert send(directory, "--at", at, "kim@example.net").returncode == 0
        (due, arrival) = rows(office.queue, "SELECT due, updated FROM recipient")[0]
        assert seconds - 10 < due - arrival <= seconds


def test_without_a_service_the_queue_is_written_directly(directory: Path) -> None:
    done = run(directory, "kim@example.net")
    assert done.returncode == 0, done.stderr
    assert rows(directory / "queue.sqlite3", "SELECT id FROM message") == [
        (parse_queue_id(done.stdout.decode().strip()),)
    ]


@pytest.mark.parametrize(
    ("words", "message", "code", "text"),
    [
        ([], LETTER, 2, "recipients"),
        (["--tag", "novalue", "a@b.example"], LETTER, 2, "NAME=VALUE"),
        (["--at", "tomorrow", "a@b.example"], LETTER, 2, "tomorrow"),
        (["--at", "2030-01-01T00:00:00", "a@b.example"], LETTER, 2, "Z"),
        (["--dsn", "sometimes", "a@b.example"], LETTER, 2, "sometimes"),
        (["--ret", "half", "a@b.example"], LETTER, 2, "half"),
        (["--patience", "long", "a@b.example"], LETTER, 2, "long"),
        (["--wait", "5x", "a@b.example"], LETTER, 2, "5x"),
        (["--no-such-option"], LETTER, 2, "no-such-option"),
        (["a b@example.net"], LETTER, 65, "space"),
        (["-f", "a@@b", "a@b.example"], LETTER, 65, "sender"),
        (["-t"], LETTER, 65, "no recipients"),
        (["-t"], b"To: kim lee\n\n", 65, "cannot read the recipients"),
        (["a@b.example"], b"\0", 65, "NUL"),
        (["a@b.example"], b"\n" + b"x" * 30_000, 65, "larger than 20 kB"),
        (["a@b.example"], b"Received: x\n" * 51, 65, "loop"),
        (["--key", "taken", "a@b.example"], LETTER, 65, "taken"),
        (["--file", "/nonexistent/letter", "a@b.example"], LETTER, 1, "/nonexistent/letter"),
        (["-c", "/nonexistent/config", "a@b.example"], LETTER, 78, "/nonexistent/config"),
        (["--set", "run_dir", "a@b.example"], LETTER, 78, "run_dir"),
    ],
)
def test_errors_have_a_text_and_an_exit_status(
    directory: Path, words: list[str], message: bytes, code: int, text: str
) -> None:
    small = Terms(hostname="h.example", limits=LimitSettings(message_size_limit=ByteSize(20_000)))
    with serving(directory, terms=small) as office:
        assert send(directory, "--key", "taken", "other@b.example").returncode == 0
        done = send(directory, *words, message=message)
        assert done.returncode == code, done.stderr
        assert text in done.stderr.decode()
        assert not done.stdout
        assert b"Traceback" not in done.stderr
        assert stored(office.queue) == 1
        assert not leftovers(office.queue)


def test_octets_that_are_no_text_are_refused(directory: Path) -> None:
    with serving(directory):
        words = [os.fsencode(word) for word in command(directory)]
        done = subprocess.run(
            [*words, b"kim\xff@example.net"],
            input=LETTER,
            capture_output=True,
            check=False,
            cwd=ROOT,
        )
    assert done.returncode == 65
    assert b"UTF-8" in done.stderr


def test_a_store_that_cannot_write_means_try_later(directory: Path) -> None:
    with serving(directory) as office:
        office.desk.failure = UNAVAILABLE
        done = send(directory, "kim@example.net")
    assert done.returncode == 75
    assert b"the disk is full" in done.stderr


def test_a_user_who_may_not_send_is_told(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    peer = Peer(uid=12345, gid=12345, pid=1, groups=frozenset(), user="anna")
    monkeypatch.setattr("deliveryagent.intake.local_socket.peer_of", lambda _: peer)
    with serving(directory, submit=SubmitSettings(allow=("daemon",))):
        done = send(directory, "kim@example.net")
    assert done.returncode == 4
    assert b"submit.allow" in done.stderr


def test_a_service_that_does_not_come_back_means_try_later(directory: Path) -> None:
    with QueueLock(directory / "queue.sqlite3"):
        done = send(directory, "--patience", "0.2s", "kim@example.net")
    assert done.returncode == 75
    assert b"cannot be reached" in done.stderr


def test_a_restarting_service_is_waited_for(directory: Path) -> None:
    with QueueLock(directory / "queue.sqlite3"):
        process = subprocess.Popen(
            command(directory, "kim@example.net"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )
        assert process.stdin is not None
        process.stdin.write(LETTER)
        process.stdin.close()
        time.sleep(0.4)
        with Background(lambda: open_office(directory)) as office:
            assert process.wait(10) == 0
            assert stored(office.queue) == 1
        assert process.stdout is not None
        process.stdout.close()


@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
def test_lines_may_end_either_way(directory: Path, ending: bytes) -> None:
    with serving(directory) as office:
        send(directory, "kim@example.net", message=b"A: b\n\n.\n..\nend".replace(b"\n", ending))
        assert content_of(office.queue).endswith(b"\r\n\r\n.\r\n..\r\nend\r\n")


@pytest.mark.parametrize(
    "end",
    [
        b"\n.\n", b"\r.\r", b"\r.\n", b"\n.\r", b"\n.\r\n", b"\r\n.\n", b"\r.\r\n", b"\r\n.\r",
        b"\r\n.\r\r\n", b"\r\r\n.\r\r\n",
    ],
)  # fmt: skip
def test_no_sequence_smuggles_a_second_message(directory: Path, end: bytes) -> None:
    second = b"MAIL FROM:<evil@example.net>\r\nRCPT TO:<victim@example.net>\r\nDATA\r\nhi\r\n.\r\n"
    with serving(directory) as office:
        assert (
            send(directory, "kim@example.net", message=b"A: b\n\ntext" + end + second).returncode
            == 0
        )
        content = content_of(office.queue)
        assert second in content
        assert stored(office.queue) == 1
        stuffed = content.replace(b"\r\n.", b"\r\n..")
        assert b"\r\n.\r\n" not in stuffed
        assert not set(content.replace(b"\r\n", b"")) & set(b"\r\n")


@pytest.mark.parametrize("end", [b"\r\n\0.\r\n", b"\r\n.\0\r\n"])
def test_nul_smuggles_nothing_either(directory: Path, end: bytes) -> None:
    with serving(directory) as office:
        assert send(directory, "kim@example.net", message=b"A: b\n\ntext" + end).returncode == 65
        assert stored(office.queue) == 0


# -- where the message comes from ---


def test_a_redirected_file_is_read_from_where_it_stands(directory: Path) -> None:
    letter = directory / "letter"
    letter.write_bytes(b"skipped\nSubject: kept\n\n")
    with serving(directory) as office, letter.open("rb", buffering=0) as stdin:
        stdin.seek(8)
        done = subprocess.run(command(directory, "a@b.example"), stdin=stdin, check=False, cwd=ROOT)
        assert done.returncode == 0
        assert b"skipped" not in content_of(office.queue)
        assert b"Subject: kept" in content_of(office.queue)


def test_a_large_message_from_a_pipe_is_not_held_in_memory(directory: Path) -> None:
    """50 MB come in through a pipe; the service gets them piece by piece."""
    line = b"0123456789" * 7 + b"\n"
    count = 690_000
    script = (
        "import re, runpy, sys\n"
        "sys.argv = sys.argv[1:]\n"
        "try:\n    runpy.run_module('deliveryagent', run_name='__main__')\n"
        "finally:\n"
        "    status = open('/proc/self/status').read()\n"
        "    print(re.search(r'VmHWM:\\s+(\\d+) kB', status)[1], file=sys.stderr)\n"
    )
    words = [sys.executable, "-c", script, *command(directory, "kim@example.net")[2:]]
    with serving(directory, terms=TERMS_AS_USUAL) as office:
        process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
        )
        assert process.stdin is not None
        process.stdin.write(b"Subject: big\n\n")
        for _ in range(count // 1000):
            process.stdin.write(line * 1000)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert int(err) < 45_000  # KiB, of which an interpreter with its modules is 20 to 30
        size = rows(office.queue, "SELECT size FROM message")[0][0]
        assert size > count * 72
        assert rows(office.queue, "SELECT sum(length(data)) FROM content") == [(size,)]
        assert parse_queue_id(out.decode().strip())


def test_a_person_at_a_terminal_is_told_what_to_do(directory: Path) -> None:
    controller, terminal = pty.openpty()
    with serving(directory) as office:
        process = subprocess.Popen(
            command(directory, "kim@example.net"), stdin=terminal, stderr=subprocess.PIPE, cwd=ROOT
        )
        os.close(terminal)
        assert process.stderr is not None
        assert b"Ctrl-D" in process.stderr.readline()
        os.write(controller, b"Subject: typed\n\nhi\n\x04")
        assert process.wait(10) == 0
        process.stderr.close()
        os.close(controller)
        assert b"Subject: typed" in content_of(office.queue)


# -- waiting ---


def outcome(*states: str) -> dict[str, Any]:
    reply = {"code": 250, "enhanced": "2.0.0", "text": "ok\x1b[31m", "stage": "dot"}
    return {
        "recipients": [
            {"address": f"r{n}@example.net", "status": state, "last_reply": reply if n else None}
            for n, state in enumerate(states)
        ]
    }


@pytest.mark.parametrize(
    ("states", "code"),
    [
        (["delivered", "delivered"], ExitStatus.DONE),
        (["delivered", "bounced"], ExitStatus.PARTLY_DONE),
        (["bounced", "expired"], ExitStatus.FAILED),
        (["delivered", "deferred"], ExitStatus.TRY_LATER),
    ],
)
def test_the_outcome_is_the_exit_status(directory: Path, states: list[str], code: int) -> None:
    asked: list[Any] = []

    async def wait(fields: dict[str, Any], _: Peer) -> dict[str, Any]:
        asked.append(fields)
        return {"message": outcome(*states)}

    with serving(directory, open_orders={"wait": wait}):
        done = send(directory, "--wait", "5s", "kim@example.net")
        assert done.returncode == code
        assert parse_queue_id(done.stdout.decode().strip())
        assert [line.split()[:2] for line in done.stderr.decode().splitlines()] == [
            [f"r{n}@example.net:", state] for n, state in enumerate(states)
        ]
        assert b"\x1b" not in done.stderr
        assert 4 < asked[0]["timeout"] <= 5
        done = send(directory, "--json", "--wait", "5s", "kim@example.net")
        assert done.returncode == code
        assert json.loads(done.stdout) == outcome(*states)


def test_an_address_behind_wait_is_a_recipient(directory: Path) -> None:
    async def wait(fields: dict[str, Any], _: Peer) -> dict[str, Any]:
        return {"message": outcome("delivered")}

    with serving(directory, open_orders={"wait": wait}) as office:
        assert send(directory, "--wait", "kim@example.net").returncode == 0
        assert send(directory, "kim@example.net", "--wait").returncode == 0
        assert rows(office.queue, "SELECT address FROM recipient") == [("kim@example.net",)] * 2


def test_the_id_is_printed_even_when_the_outcome_stays_unknown(directory: Path) -> None:
    async def wait(fields: dict[str, Any], _: Peer) -> dict[str, Any]:
        raise ServiceError(75, "busy")

    with serving(directory, open_orders={"wait": wait}):
        for words in (["--wait"], ["--json", "--wait"]):
            done = send(directory, "kim@example.net", *words)
            assert done.returncode == 75
            assert len(done.stdout.decode().strip().strip('{}"').split('"')[-1]) == 13
            assert b"its outcome is not known: busy" in done.stderr
    done = send(directory, "--wait", "1s", "kim@example.net")
    assert done.returncode == 3
    assert b"is in the queue" in done.stderr


# -- speed ---


_SHOW_MODULES = """
import atexit, sys
from deliveryagent.__main__ import main
atexit.register(lambda: print(*sys.modules, file=sys.stderr))
main()
"""


def test_with_a_service_nothing_heavy_is_imported(directory: Path) -> None:
    with serving(directory):
        words = command(directory, "kim@example.net")
        done = subprocess.run(
            [words[0], "-S", "-c", _SHOW_MODULES, *words[3:]],
            input=LETTER,
            capture_output=True,
            check=False,
            cwd=ROOT,
        )
    assert done.returncode == 0
    imported = {name.partition(".")[0] for name in done.stderr.decode().split()}
    assert "deliveryagent" in imported
    heavy = (
        "sqlalchemy alembic dns aiosmtplib asyncio msgspec email ssl sqlite3 click tomllib json re enum "
        "typing dataclasses inspect collections functools contextlib socket threading"
    )
    assert not imported & set(heavy.split())


def test_many_at_once_are_all_taken(directory: Path) -> None:
    """Without a service they take turns at the lock."""
    found: list[Done] = []
    threads = [
        threading.Thread(target=lambda n=n: found.append(run(directory, f"u{n}@example.net")))
        for n in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [(done.returncode, done.stderr) for done in found] == [(0, b"")] * 2
    assert stored(directory / "queue.sqlite3") == 2
