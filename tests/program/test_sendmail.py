"""``deliveryagent-sendmail`` as its callers run it, and what the service gets from it."""

import functools
import importlib
import os
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from deliveryagent.cli.sendmail import submission
from deliveryagent.cli.sendmail.program import run
from deliveryagent.client import Client
from deliveryagent.intake.admission import Peer, SubmitSettings
from deliveryagent.intake.submit import Terms
from deliveryagent.mail.envelope import format_queue_id
from deliveryagent.protocol.arrival import LimitSettings
from deliveryagent.protocol.local import ServiceError
from deliveryagent.queue.lock import QueueLock
from deliveryagent.setting import ByteSize
from tests.doors.office import (
    ME,
    UNAVAILABLE,
    Office,
    content_of,
    fresh_queue,
    leftovers,
    open_office,
    rows,
    stored,
)
from tests.program.whole_agent import ROOT, Background, WholeAgent, eventually

Done = subprocess.CompletedProcess[bytes]
PROGRAM = "import sys; from deliveryagent.cli.sendmail.program import {0}; {0}()"
LETTER = b"Subject: test\n\nhello\n"
MYSELF = f"{ME.user}@mail.example.org"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where the queue is, with a configuration file that says so."""
    fresh_queue(tmp_path)
    (tmp_path / "agent.toml").write_text(
        f'hostname = "mail.example.org"\nrun_dir = "{tmp_path}"\n'
        f'[queue]\nurl = "sqlite:///{tmp_path}/queue.sqlite3"\n'
    )
    return tmp_path


def command(*words: str, program: str = "sendmail") -> list[str]:
    return [sys.executable, "-c", PROGRAM.format(program), *words]


def environment(directory: Path, **variables: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name != "NAME"}
    config = {"DELIVERYAGENT_CONFIG": str(directory / "agent.toml"), "PYTHONPATH": str(ROOT)}
    return inherited | config | variables


def sendmail(
    directory: Path,
    *words: str,
    message: bytes = LETTER,
    program: str = "sendmail",
    variables: Mapping[str, str] | None = None,
) -> Done:
    """The command as a process of its own."""
    return subprocess.run(
        command(*words, program=program),
        input=message,
        capture_output=True,
        check=False,
        env=environment(directory, **(variables or {})),
        cwd=directory,
        timeout=60,
    )


@contextmanager
def serving(directory: Path, **options: Any) -> Iterator[Office]:
    """A service's socket, in another thread; the lock of the queue is held as well."""
    with (
        QueueLock(directory / "queue.sqlite3"),
        Background(lambda: open_office(directory, **options)) as office,
    ):
        yield office


def envelope(office: Office) -> tuple[str, list[str]]:
    """Sender and recipients of the one message that was taken."""
    ((sender,),) = rows(office.queue, "SELECT sender FROM message")
    found = rows(office.queue, "SELECT address FROM recipient ORDER BY number")
    return sender, [address for (address,) in found]


def body_of(office: Office) -> bytes:
    return content_of(office.queue).partition(b"\r\n\r\n")[2]


def head_of(office: Office) -> bytes:
    return content_of(office.queue).partition(b"\r\n\r\n")[0]


# -- real callers ---

MAIL = (
    b"To: Kim <kim@example.net>\nCc: lee@example.net\nBcc: ann@example.net\nSubject: hi\n\nhello\n"
)
CRON = b"From: root (Cron Daemon)\nTo: root\nSubject: Cron <root@web> true\n\nout\n.\nmore\n"
IN_MAIL = ["kim@example.net", "lee@example.net", "ann@example.net"]


@pytest.mark.parametrize(
    ("words", "message", "sender", "recipients"),
    [
        pytest.param(["-t", "-i"], MAIL, MYSELF, IN_MAIL, id="PHP"),
        pytest.param(
            ["-t", "-i", "-fwww@example.org"], MAIL, "www@example.org", IN_MAIL, id="PHP, with -f"
        ),
        pytest.param(
            ["-FCronDaemon", "-i", "-odi", "-oem", "-oi", "-t", "-f", "root"],
            *(CRON, "root@mail.example.org", ["root@mail.example.org"]),
            id="cronie",
        ),
        pytest.param(
            ["-i", "-FCronDaemon", "-B8BITMIME", "-oem", "root"],
            *(CRON, MYSELF, ["root@mail.example.org"]),
            id="Debian cron",
        ),
        pytest.param(
            ["-oem", "-oi", "-N", "failure,delay", "-R", "full", "--", "kim@example.net"],
            *(MAIL, MYSELF, ["kim@example.net"]),
            id="mutt",
        ),
        pytest.param(
            ["-oi", "-f", "shop@example.org", "-t"],
            MAIL,
            "shop@example.org",
            IN_MAIL,
            id="mailutils",
        ),
        pytest.param(
            ["-i", "kim@example.net", "lee@example.net"],
            *(MAIL, MYSELF, ["kim@example.net", "lee@example.net"]),
            id="git send-email",
        ),
        pytest.param(["-ti"], CRON, MYSELF, ["root@mail.example.org"], id="busybox crond"),
        pytest.param(
            ["-oi", "-f", "list@example.org", "--", "-odd@example.net"],
            *(MAIL, "list@example.org", ["-odd@example.net"]),
            id="an address like an option",
        ),
    ],
)
def test_real_callers_are_understood(
    directory: Path, words: list[str], message: bytes, sender: str, recipients: list[str]
) -> None:
    with serving(directory) as office:
        done = sendmail(directory, *words, message=message)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
        assert envelope(office) == (sender, recipients)
        assert body_of(office) == message.partition(b"\n\n")[2].replace(b"\n", b"\r\n")
        assert b"Bcc:" not in head_of(office)


def test_what_a_sender_wants_to_hear_arrives(directory: Path) -> None:
    with serving(directory) as office:
        words = ["-N", "success,delay", "-R", "hdrs", "-V", "e 1", "-O", "requiretls=yes"]
        done = sendmail(directory, *words, "-f", "<>", "a@b.example")
        assert done.returncode == 0, done.stderr
        assert office.desk.submitted[0].envelope.require_tls
        assert rows(office.queue, "SELECT sender, ret, envid FROM message") == [("", "HDRS", "e 1")]
        assert rows(office.queue, "SELECT notify FROM recipient") == [(2 | 8,)]


@pytest.mark.parametrize("null", ["", "<>"])
def test_the_null_sender_may_be_written_either_way(directory: Path, null: str) -> None:
    with serving(directory) as office:
        assert sendmail(directory, "-f", null, "a@b.example").returncode == 0
        assert envelope(office) == ("", ["a@b.example"])
        assert b"From: MAILER-DAEMON@mail.example.org" in head_of(office)


def test_a_sender_may_have_a_name(directory: Path) -> None:
    with serving(directory) as office:
        assert sendmail(directory, "-fShop <shop@example.org>", "a@b.example").returncode == 0
        assert envelope(office) == ("shop@example.org", ["a@b.example"])


def test_recipients_of_header_and_arguments_are_merged(directory: Path) -> None:
    with serving(directory) as office:
        done = sendmail(directory, "-t", "KIM@example.net", "zoe@example.net", message=MAIL)
        assert done.returncode == 0, done.stderr
        found = ["KIM@example.net", "zoe@example.net", *IN_MAIL]
        assert envelope(office)[1] == found


def test_of_a_resent_message_only_the_resent_fields_count(directory: Path) -> None:
    message = b"Resent-To: zoe@example.net\nResent-Bcc: ian@example.net\n" + MAIL
    with serving(directory) as office:
        assert sendmail(directory, "-t", message=message).returncode == 0
        assert envelope(office)[1] == ["zoe@example.net", "ian@example.net"]
        assert b"ian@" not in content_of(office.queue)


# -- the content ---


@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
def test_a_lone_dot_ends_the_message(directory: Path, ending: bytes) -> None:
    message = b"A: b\n\none\n..\n .\n.x\n.\nnot this\n".replace(b"\n", ending)
    with serving(directory) as office:
        assert sendmail(directory, "a@b.example", message=message).returncode == 0
        assert body_of(office) == b"one\r\n..\r\n .\r\n.x\r\n"


@pytest.mark.parametrize("option", ["-i", "-oi"])
@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
def test_or_is_part_of_it_when_asked(directory: Path, option: str, ending: bytes) -> None:
    body = b"one\n.\ntwo\xc3\xa9\xff\n.\n".replace(b"\n", ending)
    with serving(directory) as office:
        done = sendmail(directory, option, "a@b.example", message=b"A: b" + ending * 2 + body)
        assert done.returncode == 0
        assert body_of(office) == b"one\r\n.\r\ntwo\xc3\xa9\xff\r\n.\r\n"


def test_nobody_waits_for_what_follows_the_dot(directory: Path) -> None:
    with serving(directory) as office:
        process = subprocess.Popen(
            command("a@b.example"), stdin=subprocess.PIPE, env=environment(directory)
        )
        assert process.stdin is not None
        process.stdin.write(b"A: b\n\nhello\n.\n")
        process.stdin.flush()  # and stays open
        assert process.wait(30) == 0
        process.stdin.close()
        assert body_of(office) == b"hello\r\n"


def test_a_large_message_arrives_whole(directory: Path) -> None:
    line = b"0123456789" * 7 + b"\n"
    usual = Terms(hostname="mail.example.org", limits=LimitSettings())
    with serving(directory, terms=usual) as office:
        done = sendmail(directory, "a@b.example", message=b"A: b\n\n" + line * 40_000 + b".\nx")
        assert done.returncode == 0, done.stderr
        assert body_of(office) == line.replace(b"\n", b"\r\n") * 40_000


def test_missing_fields_are_added(directory: Path) -> None:
    with serving(directory) as office:
        assert sendmail(directory, "-f", "shop@example.org", "a@b.example").returncode == 0
        head = head_of(office)
        ((number,),) = rows(office.queue, "SELECT id FROM message")
        assert b"\r\nFrom: shop@example.org\r\nDate: " in head
        assert f"Message-ID: <{format_queue_id(number)}@mail.example.org>".encode() in head


@pytest.mark.parametrize(
    ("words", "variables", "shown"),
    [
        (["-F", "Kim Doe"], {}, "Kim Doe"),
        (["-F", "Kim Doe"], {"NAME": "Lee"}, "Kim Doe"),
        ([], {"NAME": "Lee"}, "Lee"),
        (["-F", 'K. "x" Doe'], {}, '"K. \\"x\\" Doe"'),
        (["-F", "Zoë"], {}, "=?utf-8?q?Zo=C3=AB?="),
        (["-F", "two\nlines: \x1b"], {}, '"two lines: ?"'),
    ],
)
def test_a_full_name_stands_in_the_from_field(
    directory: Path, words: list[str], variables: dict[str, str], shown: str
) -> None:
    with serving(directory) as office:
        words = [*words, "-f", "kim@example.org", "a@b.example"]
        done = sendmail(directory, *words, variables=variables)
        assert done.returncode == 0, done.stderr
        assert f"\r\nFrom: {shown} <kim@example.org>\r\n".encode() in head_of(office)


def test_a_from_field_that_is_there_stays(directory: Path) -> None:
    with serving(directory) as office:
        done = sendmail(directory, "-F", "Kim", "a@b.example", message=b"From: lee@example.org\n\n")
        assert done.returncode == 0
        assert head_of(office).count(b"From:") == 1
        assert b"Kim" not in head_of(office)


def test_addresses_without_a_domain_get_the_origin(directory: Path) -> None:
    terms = Terms(hostname="web.example.org", limits=LimitSettings(), origin="example.org")
    with serving(directory, terms=terms) as office:
        assert sendmail(directory, "-f", "cron", "root").returncode == 0
        assert envelope(office) == ("cron@example.org", ["root@example.org"])
        assert b"Received: by web.example.org " in head_of(office)


# -- what goes wrong ---


@pytest.mark.parametrize(
    ("words", "message", "status", "text"),
    [
        ([], LETTER, 64, "recipients"),
        ([""], LETTER, 64, "recipients"),
        (["-t"], LETTER, 64, "no recipient"),
        (["-t"], b"To: kim lee\n\n", 65, "cannot read the recipients"),
        (["-Z", "a@b.example"], LETTER, 64, "-Z"),
        (["-f"], LETTER, 64, "-f"),
        (["-bd"], LETTER, 64, "dagent serve"),
        (["-XV", "a@b.example"], LETTER, 69, "VERP"),
        (["a b@example.net"], LETTER, 65, "recipient"),
        (["-f", "a@@b", "a@b.example"], LETTER, 65, "sender"),
        (["-f", "a@b.example, c@d.example", "a@b.example"], LETTER, 65, "sender"),
        (["a@b.example"], b"\0", 65, "NUL"),
        (["a@b.example"], b"\n" + b"x" * 30_000, 65, "larger than 20 kB"),
        (["\udcff@b.example"], LETTER, 65, "UTF-8"),
        (["-qI", "nonsense"], LETTER, 64, "not a queue id"),
        (["-bv"], LETTER, 64, "addresses"),
    ],
)
def test_errors_have_a_line_and_a_status(
    directory: Path, words: list[str], message: bytes, status: int, text: str
) -> None:
    small = Terms(hostname="h.example", limits=LimitSettings(message_size_limit=ByteSize(20_000)))
    with serving(directory, terms=small) as office:
        done = sendmail(directory, *words, message=message)
        assert done.returncode == status, done.stderr
        (line,) = done.stderr.decode().splitlines()
        assert text in line
        assert not done.stdout
        assert stored(office.queue) == 0
        assert not leftovers(office.queue)


def test_a_store_that_cannot_write_means_try_later(directory: Path) -> None:
    with serving(directory) as office:
        office.desk.failure = UNAVAILABLE
        done = sendmail(directory, "kim@example.net")
    assert done.returncode == 75
    assert b"the disk is full" in done.stderr


def test_a_fault_of_the_service_is_no_fault_of_the_message(directory: Path) -> None:
    with serving(directory) as office:
        office.desk.failure = ServiceError(1, "internal error")
        done = sendmail(directory, "kim@example.net")
    assert done.returncode == 70


def test_a_user_who_may_not_send_is_told(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    peer = Peer(uid=12345, gid=12345, pid=1, groups=frozenset(), user="anna")
    monkeypatch.setattr("deliveryagent.intake.local_socket.peer_of", lambda _: peer)
    with serving(directory, submit=SubmitSettings(allow=("daemon",))):
        done = sendmail(directory, "kim@example.net")
    assert done.returncode == 77
    assert b"submit.allow" in done.stderr


def test_a_bad_configuration_is_told(directory: Path) -> None:
    (directory / "agent.toml").write_text("nonsense")
    done = sendmail(directory, "kim@example.net")
    assert done.returncode == 78
    assert b"Traceback" not in done.stderr


def test_an_input_that_cannot_be_read_is_told(directory: Path) -> None:
    with serving(directory) as office:
        words = ["sh", "-c", 'exec "$@" <&-', "sh", *command("kim@example.net")]
        done = subprocess.run(
            words, env=environment(directory), capture_output=True, check=False, timeout=60
        )
        assert done.returncode == 74
        assert stored(office.queue) == 0


# -- when no service runs ---


def test_without_any_socket_the_caller_is_told_to_try_later(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DELIVERYAGENT_CONFIG", str(directory / "agent.toml"))
    monkeypatch.setattr(submission, "Client", functools.partial(Client, patience=0.1))
    monkeypatch.setattr(submission, "_pieces", lambda _: iter([LETTER]))
    with QueueLock(directory / "queue.sqlite3"):  # whoever has it, the queue is not ours to write
        assert run("sendmail", ["kim@example.net"]) == 75
    assert "cannot be reached" in capfd.readouterr().err


def test_who_may_write_the_queue_does_so(directory: Path) -> None:
    assert sendmail(directory, "-FKim", "kim@example.net").returncode == 0
    assert stored(directory / "queue.sqlite3") == 1
    assert b"From: Kim <" in content_of(directory / "queue.sqlite3")


def test_a_socket_that_systemd_keeps_open_takes_the_call_meanwhile(directory: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening, QueueLock(directory / "queue.sqlite3"):
        listening.bind(str(directory / "deliveryagent.sock"))
        listening.listen()
        with subprocess.Popen(
            command("kim@example.net"), stdin=subprocess.PIPE, env=environment(directory)
        ) as process:
            assert process.stdin is not None
            process.stdin.write(LETTER)
            process.stdin.close()
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.3)
            with Background(lambda: open_office(directory, inherited=listening)) as office:
                assert process.wait(30) == 0
                assert stored(office.queue) == 1


# -- the other modes ---


def test_new_aliases_are_no_work(directory: Path) -> None:
    for words, program in ((["-bi"], "sendmail"), (["-I"], "sendmail"), ([], "newaliases")):
        done = sendmail(directory, *words, program=program)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_the_name_says_what_is_asked_for(tmp_path: Path) -> None:
    assert run("/usr/bin/newaliases", []) == 0
    assert run("deliveryagent-newaliases", ["-v"]) == 0


def test_a_flush_needs_the_service(directory: Path) -> None:
    done = sendmail(directory, "-q")
    assert done.returncode == 69
    assert b"no service is running" in done.stderr


def test_a_running_service_takes_lists_and_flushes(tmp_path: Path) -> None:
    with WholeAgent(tmp_path, _nowhere(tmp_path)) as agent, agent.serving():
        for address in ("kim@example.net", "lee@example.com"):
            assert sendmail(tmp_path, "-f", "shop@example.org", address).returncode == 0

        def tried(address: str = "@") -> int:
            found = agent.recipients().items()
            return sum(int(one["attempts"]) for name, one in found if address in name)

        def again(*words: str, who: str = "@") -> None:
            before = tried(who)
            done = sendmail(tmp_path, *words)
            assert done.returncode == 0, done.stderr
            eventually(lambda: tried(who) > before)

        eventually(lambda: tried() >= 1)
        again("-qRexample.net", who="kim@example.net")
        by_address = {
            one["recipients"][0]["address"]: name for name, one in agent.messages().items()
        }
        again("-qI", by_address["lee@example.com"], who="lee@example.com")
        again("-q")  # the host is tried once, and is still not there
        done = sendmail(tmp_path, "-qR", "example.org")
        assert done.returncode == 0
        assert b"nothing of example.org waits" in done.stderr
        listed = sendmail(tmp_path, "-bp").stdout.decode()
        assert listed.endswith(" Kbytes in 2 Requests.\n")


def test_a_way_is_tried_without_sending(tmp_path: Path) -> None:
    (tmp_path / "agent.toml").write_text(_nowhere(tmp_path))
    done = sendmail(tmp_path, "-bv", "-f", "shop@example.org", "kim@example.net")
    assert done.returncode == 69
    assert b"Connection refused" in done.stdout


def _nowhere(directory: Path) -> str:
    """The configuration of an agent whose smart host is not there."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (directory / "run").mkdir(exist_ok=True)
    return (
        f'hostname = "mail.example.org"\nrun_dir = "{directory}/run"\n'
        f'[queue]\nurl = "sqlite:///{directory}/queue.sqlite3"\n'
        f'[relay]\nhost = "[127.0.0.1]:{port}"\n'
    )


@pytest.mark.parametrize("name", ["sendmail", "mailq", "newaliases"])
def test_the_commands_are_there_once_installed(name: str) -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["scripts"]
    module, _, function = scripts[f"deliveryagent-{name}"].partition(":")
    assert callable(getattr(importlib.import_module(module), function))


# -- speed ---

_SHOW_MODULES = """
import os, sys
os._exit = lambda status: (print(*sys.modules, file=sys.stderr), print(status))
from deliveryagent.cli.sendmail.program import sendmail
sendmail()
"""


def test_with_a_service_nothing_heavy_is_imported(directory: Path) -> None:
    with serving(directory) as office:
        done = subprocess.run(
            [sys.executable, "-S", "-c", _SHOW_MODULES, "-i", "-f", "a@b.example", "c@d.example"],
            input=LETTER,
            capture_output=True,
            check=False,
            cwd=ROOT,
            env=environment(directory),
        )
        assert done.stdout == b"0\n"
        assert envelope(office) == ("a@b.example", ["c@d.example"])
    imported = done.stderr.decode().split()
    rooms = {name.partition(".")[0] for name in imported}
    heavy = (
        "sqlalchemy alembic dns aiosmtplib asyncio msgspec email ssl sqlite3 click tomllib json re enum "
        "typing dataclasses inspect collections functools contextlib socket threading subprocess argparse"
    )
    assert not rooms & set(heavy.split())
    assert len([name for name in imported if name.startswith("deliveryagent")]) < 20
