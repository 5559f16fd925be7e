"""The event log: its three forms, and what happens when nobody takes its lines."""

import fcntl
import json
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deliveryagent.log import (
    PENDING_LIMIT,
    Attempt,
    Delays,
    EventLog,
    Format,
    LogSettings,
    Target,
    in_journal,
)

NOW = 1762778407.25
RESULT_LINE = re.compile(
    r"[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \S+ postfix/smtp\[\d+\]: (?P<id>[0-9A-Z]{6,}): "
    r"to=<(?P<to>.*)>, (?:orig_to=<.*>, )?relay=(?P<relay>none|[^ ]+\[.*\](?::\d+)?), "
    r"(?:conn_use=\d+, )?delay=[\d.]+, "
    r"delays=[\d.]+/[\d.]+/[\d.]+/[\d.]+, dsn=(?P<dsn>[245]\.\d+\.\d+), "
    r"status=(?P<status>sent|deferred|bounced) \((?P<text>.*)\)"
)


def attempt(**facts: Any) -> Attempt:
    defaults: dict[str, Any] = {
        "now": NOW,
        "event": "delivered",
        "id": "0C7QK4M2V9XTB",
        "sender": "shop@example.org",
        "recipient": "kim@example.net",
        "attempt": 1,
        "host": "mx.example.net",
        "ip": "192.0.2.1",
        "port": 25,
        "stage": "dot",
        "code": 250,
        "enhanced": "2.0.0",
        "reply": "queued as 12345",
        "decision": "delivered",
        "tls": "",
        "delay": 1.2345,
        "delays": Delays(0.002, 0.01, 0.02, 0.5),
    }
    return Attempt(**{**defaults, **facts})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.log"


def lines(path: Path, form: Format, *attempts: Attempt) -> list[str]:
    log = EventLog(LogSettings(format=form, file=str(path)), hostname="mail.example.org")
    log.write(attempts)
    log.close()
    return path.read_text().splitlines()


def test_json_has_every_field_of_the_contract(path: Path) -> None:
    (line,) = lines(path, "json", attempt())
    record = json.loads(line)
    assert record["ts"] == "2025-11-10T12:40:07.250Z"
    assert record["delays"] == {"queue": 0.002, "connect": 0.01, "setup": 0.02, "transfer": 0.5}
    for name in record.keys() - {"ts", "delays"}:
        assert record[name] == getattr(attempt(), name)
    assert {"event", "id", "sender", "recipient", "attempt", "host", "ip", "port"} < record.keys()
    assert {"stage", "code", "enhanced", "reply", "decision", "tls", "delay"} < record.keys()


def test_text_tells_everything_on_one_line(path: Path) -> None:
    (line,) = lines(
        path,
        "text",
        attempt(
            event="deferred",
            decision="in_doubt",
            code=0,
            enhanced="4.4.2",
            reply='lost "connection"',
            tls="TLSv1.3 X",
            next_attempt=NOW + 300,
        ),
    )
    assert line == (
        "2025-11-10T12:40:07.250Z deferred 0C7QK4M2V9XTB "
        "from=<shop@example.org> to=<kim@example.net> "
        'attempt=1 host=mx.example.net[192.0.2.1]:25 stage=dot reply="4.4.2 lost \\"connection\\"" '
        "delay=1.2 queue=0 connect=0.01 setup=0.02 transfer=0.5 "
        'tls="TLSv1.3 X" decision=in_doubt next=2025-11-10T12:45:07Z'
    )


def test_postfix_form_has_the_line_that_log_tools_look_for(path: Path) -> None:
    (line,) = lines(path, "postfix", attempt(uses=3, original="list@example.org"))
    assert line.endswith(
        ": 0C7QK4M2V9XTB: to=<kim@example.net>, orig_to=<list@example.org>, "
        "relay=mx.example.net[192.0.2.1]:25, conn_use=3, delay=1.2, "
        "delays=0.7/0/0.03/0.5, dsn=2.0.0, "
        "status=sent (250 2.0.0 queued as 12345)"
    )
    assert RESULT_LINE.fullmatch(line)


@pytest.mark.parametrize(
    ("facts", "status", "text"),
    [
        (
            {
                "decision": "deferred",
                "stage": "rcpt",
                "code": 450,
                "enhanced": "4.7.1",
                "reply": "later",
            },
            "deferred",
            "host mx.example.net[192.0.2.1] said: 450 4.7.1 later (in reply to RCPT TO command)",
        ),
        (
            {
                "decision": "bounced",
                "stage": "greeting",
                "code": 554,
                "enhanced": "5.0.0",
                "reply": "no",
            },
            "bounced",
            "host mx.example.net[192.0.2.1] said: 554 5.0.0 no",
        ),
        (
            {
                "decision": "deferred",
                "stage": "connect",
                "code": 0,
                "enhanced": "4.4.1",
                "reply": "refused",
            },
            "deferred",
            "refused",
        ),
        (
            {"decision": "held", "code": 0, "enhanced": "4.3.0", "reply": "corrupt"},
            "deferred",
            "corrupt",
        ),
    ],
)
def test_postfix_form_knows_three_outcomes(
    path: Path, facts: dict[str, Any], status: str, text: str
) -> None:
    (line,) = lines(path, "postfix", attempt(**facts))
    match = RESULT_LINE.fullmatch(line)
    assert match is not None
    assert (match["status"], match["text"]) == (status, text)


def test_postfix_form_without_a_host_has_no_relay(path: Path) -> None:
    (line,) = lines(
        path, "postfix", attempt(host="", ip="", port=0, code=0, enhanced="", decision="deferred")
    )
    assert "relay=none, " in line
    assert "dsn=4.0.0, " in line


def test_postfix_form_of_a_local_socket_has_no_port(path: Path) -> None:
    (line,) = lines(path, "postfix", attempt(host="/run/lmtp", ip="", port=0))
    assert "relay=/run/lmtp[/run/lmtp], " in line


@pytest.mark.parametrize(
    ("kind", "fields", "end"),
    [
        (
            "queued",
            {"id": "Q", "sender": "a@b", "size": 12, "recipients": 2},
            "postfix/qmgr[{pid}]: Q: from=<a@b>, size=12, nrcpt=2 (queue active)",
        ),
        ("removed", {"id": "Q"}, "postfix/qmgr[{pid}]: Q: removed"),
        (
            "expired",
            {"id": "Q", "sender": ""},
            "postfix/qmgr[{pid}]: Q: from=<>, status=expired, returned to sender",
        ),
        (
            "dsn",
            {"id": "Q", "kind": "failure", "report": "R"},
            "postfix/bounce[{pid}]: Q: sender non-delivery notification: R",
        ),
        ("held", {"id": "Q", "by": "anna k"}, 'postfix/master[{pid}]: held id=Q by="anna k"'),
    ],
)
def test_postfix_form_of_events(path: Path, kind: str, fields: dict[str, Any], end: str) -> None:
    log = EventLog(LogSettings(format="postfix", file=str(path)), hostname="mail")
    log.event(kind, fields, now=NOW)
    assert path.read_text().rstrip("\n").endswith(f" mail {end.format(pid=os.getpid())}")


def test_events_in_text_and_json(path: Path) -> None:
    for form in FORMATS[:2]:
        log = EventLog(LogSettings(format=form, file=str(path)), hostname="mail")
        log.event("released", {"id": "Q", "count": 2, "by": ""}, now=NOW)
    text, record = path.read_text().splitlines()
    assert text == '2025-11-10T12:40:07.250Z released id=Q count=2 by=""'
    assert json.loads(record) == {
        "ts": "2025-11-10T12:40:07.250Z",
        "event": "released",
        "id": "Q",
        "count": 2,
        "by": "",
    }


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.009, "0"), (0.01, "0.01"), (1.26, "1.3"), (12.6, "13"), (99.6, "100"), (4321.5, "4322")],
)
def test_delays_have_two_significant_digits(path: Path, seconds: float, shown: str) -> None:
    (line,) = lines(path, "text", attempt(delay=seconds))
    assert f" delay={shown} " in line


FORMATS: list[Format] = ["text", "json", "postfix"]


@given(st.text(), st.text(), st.sampled_from(FORMATS))
def test_a_line_is_one_line_whatever_the_peer_says(reply: str, host: str, form: Format) -> None:
    ours, theirs = os.pipe()
    with os.fdopen(ours, "rb") as reader, os.fdopen(theirs, "wb", buffering=0) as writer:
        log = EventLog(LogSettings(format=form, file=f"/dev/fd/{writer.fileno()}"), hostname="mail")
        log.write([attempt(reply=reply, host=host, code=450, enhanced="", decision="deferred")])
        log.event("connect_failed", {"host": host, "text": reply}, now=NOW)
        log.close()
        writer.close()
        written = reader.read().decode()
    assert written.count("\n") == 2
    assert all(
        line.isprintable() for line in written.removesuffix("\n").split("\n") if form != "json"
    )


def test_lines_of_later_logs_are_appended(path: Path) -> None:
    lines(path, "text", attempt())
    assert len(lines(path, "text", attempt())) == 2


def test_reopening_follows_a_rotated_file(path: Path) -> None:
    log = EventLog(LogSettings(file=str(path)), hostname="mail")
    log.write([attempt()])
    path.rename(path.with_suffix(".1"))
    log.reopen()
    log.write([attempt(), attempt()])
    assert len(path.read_text().splitlines()) == 2


def test_when_the_file_cannot_be_reopened_the_old_one_stays(path: Path, tmp_path: Path) -> None:
    log = EventLog(LogSettings(file=str(path)), hostname="mail")
    log.reopen(LogSettings(file=str(tmp_path / "nowhere" / "log")))
    log.write([attempt()])
    first, second = path.read_text().splitlines()
    assert "log_not_opened" in first
    assert " delivered " in second


def test_a_file_that_cannot_be_opened_at_the_start_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        EventLog(LogSettings(file=str(tmp_path / "nowhere" / "log")), hostname="mail")


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 8192)
    yield reader, writer
    os.close(reader)
    os.close(writer)


def drain(descriptor: int) -> bytes:
    os.set_blocking(descriptor, False)
    got = b""
    while True:
        try:
            piece = os.read(descriptor, 65536)
        except BlockingIOError:
            return got
        if not piece:
            return got
        got += piece


def test_a_blocked_pipe_never_stops_the_caller_and_loses_nothing_at_first(
    pipe: tuple[int, int],
) -> None:
    reader, writer = pipe
    target = Target(f"/dev/fd/{writer}")
    expected = [f"{n:099d}\n".encode() for n in range(500)]
    for line in expected:
        target.write([line])
    assert target.pending
    got = b""
    while target.pending:
        got += drain(reader)
        target.flush()
    got += drain(reader)
    target.close()
    assert got == b"".join(expected)
    assert target.dropped == 0


def test_lines_beyond_the_limit_are_dropped_whole_and_counted(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    log = EventLog(LogSettings(file=f"/dev/fd/{writer}"), hostname="mail")
    many = [attempt(reply="x" * 900) for _ in range(PENDING_LIMIT // 1000 + 200)]
    log.write(many)
    lost = log.dropped
    assert 0 < lost < len(many)
    got = b""
    while log._target.pending:
        got += drain(reader)
        log._target.flush()
    got += drain(reader)
    log.event("after", {}, now=NOW)
    got += drain(reader)
    written = got.decode().splitlines()
    assert [line.split(" ", 1)[1] for line in written[-2:]] == [
        "after",
        f"log_dropped lines={lost}",
    ]
    assert len(written) == len(many) - lost + 2
    assert log.dropped == 0


def test_a_full_disk_never_raises() -> None:
    log = EventLog(LogSettings(file="/dev/full"), hostname="mail")
    log.write([attempt()] * 10_000)
    log.event("x", {}, now=NOW)
    assert log.dropped > 0
    log.close()


def test_a_reader_that_went_away_never_raises() -> None:
    reader, writer = os.pipe()
    target = Target(f"/dev/fd/{writer}")
    os.close(reader)
    os.close(writer)
    target.write([b"x\n"])
    target.close()


def test_standard_error_is_the_default_and_stays_open(capfd: pytest.CaptureFixture[str]) -> None:
    log = EventLog(LogSettings(), hostname="mail", environ={})
    log.write([attempt()])
    log.close()
    os.fstat(2)
    assert " delivered 0C7QK4M2V9XTB " in capfd.readouterr().err


def test_in_the_journal_lines_have_priorities_and_no_time() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        saved = os.dup(2)
        try:
            os.dup2(theirs.fileno(), 2)
            facts = os.fstat(2)
            environ = {"JOURNAL_STREAM": f"{facts.st_dev}:{facts.st_ino}"}
            log = EventLog(LogSettings(), hostname="mail", environ=environ)
            log.write([attempt(), attempt(event="deferred", decision="deferred")])
            log.close()
        finally:
            os.dup2(saved, 2)
            os.close(saved)
        first, second = ours.recv(65536).decode().splitlines()
    assert first.startswith("<6>delivered 0C7QK4M2V9XTB ")
    assert second.startswith("<5>deferred 0C7QK4M2V9XTB ")


def test_a_blocked_socket_keeps_lines_pending() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        saved = os.dup(2)
        try:
            os.dup2(theirs.fileno(), 2)
            target = Target("")
        finally:
            os.dup2(saved, 2)
            os.close(saved)
        target.write([b"x" * 1000 + b"\n"] * 900)
        assert target.pending
        target.close()
        assert theirs.getblocking()


def test_only_the_journal_s_own_stream_counts_as_the_journal(path: Path) -> None:
    with path.open("w") as file:
        facts = os.fstat(file.fileno())
        assert in_journal(file.fileno(), {"JOURNAL_STREAM": f"{facts.st_dev}:{facts.st_ino}"})
        assert not in_journal(file.fileno(), {"JOURNAL_STREAM": f"{facts.st_dev}:1"})
        assert not in_journal(file.fileno(), {})
    assert not in_journal(9999, {"JOURNAL_STREAM": "1:1"})
