"""The event log: one line per event, above all one per attempt and recipient, complete in itself.

Formats: ``text`` (key=value, for people and grep), ``json`` (one object a line), ``postfix`` (the
lines Postfix's log would have, so that programs reading it keep working). Target: standard error,
or a file that is appended to and opened again on request (log rotation). Under journald every line
gets its priority.

Guarantees: the caller is never stopped and never sees an exception because the target is full,
blocked or gone. Lines then wait in memory up to ``PENDING_LIMIT`` octets; later ones are dropped
whole, counted, and the number is logged as soon as lines get through again. A line is one line,
whatever a peer sent: remote text is escaped. Never logs content, credentials or configuration.
"""

import fcntl
import os
import select
import socket
import stat
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec

from deliveryagent.protocol.diagnosis import command_name, plain
from deliveryagent.setting import key

PENDING_LIMIT = 1024 * 1024
_STDERR = 2

Format = Literal["text", "json", "postfix"]


@dataclass(frozen=True, kw_only=True)
class LogSettings:
    """Where events go and what they look like."""

    format: Annotated[
        Format,
        key(
            'Form of the event log: "text" for people, "json" for programs, "postfix" for tools '
            "made for Postfix's log."
        ),
    ] = "text"
    file: Annotated[
        str,
        key(
            "File the event log is appended to, opened again on reload; empty: standard error.",
            postfix="maillog_file",
        ),
    ] = ""


class Delays(msgspec.Struct, frozen=True, gc=False):
    """Seconds beyond the due time, until the greeting, in EHLO and TLS, and in the transaction."""

    queue: float
    connect: float
    setup: float
    transfer: float


class Attempt(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One attempt for one recipient; ``now`` is its end, ``next_attempt`` the next due time if any.

    ``now`` stands first, and is replaced by the time as people read it where lines are made of the rest.

    Times are seconds since the epoch; ``delay`` is seconds since arrival. ``reply`` is the text of
    the answer without its codes; ``code`` is 0 when no peer answered. ``uses`` counts the
    transactions of the session.
    """

    now: float
    event: str
    id: str
    sender: str
    recipient: str
    attempt: int
    host: str
    ip: str
    port: int
    stage: str
    code: int
    enhanced: str
    reply: str
    decision: str
    tls: str
    delay: float
    delays: Delays
    uses: int = 0
    original: str = ""
    next_attempt: float | None = None


Value = str | int | float | bool

_KINDS = {  # by priority, as syslog numbers them; others are 5
    3: ("worker_died", "listener_died", "listener_failed", "store_failed", "corrupt"),
    4: ("log_dropped", "protocol", "expired", "socket_unused"),
    6: ("delivered", "queued", "removed", "released", "dsn"),
    7: ("dialogue",),
}
_PRIORITIES = {kind: b"<%d>" % number for number, kinds in _KINDS.items() for kind in kinds}
_LENIENT = ("utf-8", "backslashreplace")
_json = msgspec.json.Encoder()


class EventLog:
    """Writes events; one per process. ``hostname`` is for the ``postfix`` format."""

    def __init__(
        self,
        settings: LogSettings,
        *,
        hostname: str,
        environ: Mapping[str, str] = os.environ,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._environ = environ
        self._clock = clock
        self._hostname = hostname
        self._target = Target(settings.file)
        self._journal = not settings.file and in_journal(_STDERR, environ)
        self._moment = -1.0
        self._stamp = ""

    def write(self, attempts: Iterable[Attempt]) -> None:
        """Log attempts; a whole batch leaves in one write."""
        style = self._settings.format
        if style == "json":
            lines = self._json_attempts(attempts)
        else:
            form = self._postfix_attempt if style == "postfix" else self._text_attempt
            lines = [(a.event, form(a).encode(*_LENIENT)) for a in attempts]
        if lines:
            self._send(lines, self._clock())

    def event(self, kind: str, fields: Mapping[str, Value], *, now: float) -> None:
        """Log something else: ``queued``, ``removed``, ``held``, ``dsn``, ``connect_failed``, …"""
        self.events(kind, (fields,), now=now)

    def events(self, kind: str, several: Iterable[Mapping[str, Value]], *, now: float) -> None:
        """Log many of a kind; they leave in one write."""
        lines = [self._event_line(kind, one, now).encode(*_LENIENT) for one in several]
        self._send([(kind, line) for line in lines], now)

    @property
    def dropped(self) -> int:
        """Lines lost since the last one that got through."""
        return self._target.dropped

    def reopen(self, settings: LogSettings | None = None) -> None:
        """Open the file again, or another; when that fails the old one stays and tells why."""
        settings = settings or self._settings
        now = self._clock()
        try:
            target = Target(settings.file)
        except OSError as error:
            fields = {"file": settings.file, "error": error.strerror or str(error)}
            self.event("log_not_opened", fields, now=now)
            return
        self._target.close()
        self._target, self._settings = target, settings
        self._journal = not settings.file and in_journal(_STDERR, self._environ)

    def close(self) -> None:
        """Write what waits, as far as that needs no waiting, and close the file."""
        self._target.close()

    def _send(self, lines: Sequence[tuple[str, bytes]], now: float) -> None:
        heads = _PRIORITIES if self._journal else {}
        usual = b"<5>" if self._journal else b""
        target = self._target
        target.write([b"%b%b\n" % (heads.get(kind, usual), line) for kind, line in lines])
        if target.dropped and not target.pending:
            dropped, target.dropped = target.dropped, 0
            self.event("log_dropped", {"lines": dropped}, now=now)

    # -- forms -------------------------------------------------------------------------------------

    def _time(self, now: float) -> str:
        """RFC 3339 with milliseconds."""
        if now != self._moment:
            second = int(now)
            whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            self._moment, self._stamp = now, f"{whole}.{int((now - second) * 1000):03d}Z"
        return self._stamp

    def _event_line(self, kind: str, fields: Mapping[str, Value], now: float) -> str:
        match self._settings.format:
            case "json":
                return _json.encode({"ts": self._time(now), "event": kind, **fields}).decode()
            case "postfix":
                return self._syslog(now, *_postfix_event(kind, fields))
            case _:
                words = " ".join(f"{name}={_quote(value)}" for name, value in fields.items())
                return f"{self._prefix(now)}{kind} {words}".rstrip()

    def _prefix(self, now: float) -> str:
        return "" if self._journal else f"{self._time(now)} "

    def _json_attempts(self, attempts: Iterable[Attempt]) -> list[tuple[str, bytes]]:
        lines = []
        for a in attempts:
            line = _json.encode(a)  # it begins with "now", a number
            stamp = self._time(a.now).encode()
            lines.append((a.event, b'{"ts":"%b"%b' % (stamp, line[line.index(b",") :])))
        return lines

    def _text_attempt(self, a: Attempt) -> str:
        where = f"{_quote(a.host)}[{a.ip}]:{a.port}" if a.host else "-"
        reply = _quote(f"{a.code or ''} {a.enhanced} {a.reply}".strip())
        d = a.delays
        line = (
            f"{self._prefix(a.now)}{a.event} {a.id} "
            f"from=<{plain(a.sender)}> to=<{plain(a.recipient)}> "
            f"attempt={a.attempt} host={where} stage={a.stage} reply={reply} "
            f"delay={_rounded(a.delay)} queue={_rounded(d.queue)} connect={_rounded(d.connect)} "
            f"setup={_rounded(d.setup)} transfer={_rounded(d.transfer)}"
        )
        if a.tls:
            line += f" tls={_quote(a.tls)}"
        if a.decision != a.event:
            line += f" decision={a.decision}"
        if a.next_attempt is not None:
            line += f" next={time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime(a.next_attempt))}"
        return line

    def _postfix_attempt(self, a: Attempt) -> str:
        original = f", orig_to=<{plain(a.original)}>" if a.original else ""
        uses = f", conn_use={a.uses}" if a.uses > 1 else ""
        d = a.delays
        setup = d.connect + d.setup
        before = max(0.0, a.delay - d.queue - setup - d.transfer)
        delays = "/".join(map(_rounded, (before, d.queue, setup, d.transfer)))
        return self._syslog(
            a.now,
            "smtp",
            f"{a.id}: to=<{plain(a.recipient)}>{original}, relay={_relay(a)}{uses}, "
            f"delay={_rounded(a.delay)}, delays={delays}, dsn={a.enhanced or '4.0.0'}, "
            f"status={_POSTFIX_STATUS.get(a.decision, 'deferred')} ({_postfix_reason(a)})",
        )

    def _syslog(self, now: float, daemon: str, body: str) -> str:
        if self._journal:
            return body
        moment = time.localtime(now)
        stamp = (
            f"{_MONTHS[moment.tm_mon - 1]} {moment.tm_mday:2d} {time.strftime('%H:%M:%S', moment)}"
        )
        return f"{stamp} {self._hostname} postfix/{daemon}[{os.getpid()}]: {body}"


_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_POSTFIX_STATUS = {"delivered": "sent", "bounced": "bounced"}
_REPORT_NAMES = {"failure": "non-delivery", "delay": "delay", "success": "delivery status"}


def _rounded(seconds: float) -> str:
    """Two significant digits as Postfix logs delays (delay_logging_resolution_limit)."""
    if seconds < 0.01:
        return "0"
    return f"{seconds:.0f}" if seconds >= 99.5 else f"{seconds:.2g}"


def _relay(a: Attempt) -> str:
    if not a.host:
        return "none"
    return f"{plain(a.host)}[{a.ip or plain(a.host)}]" + (f":{a.port}" if a.port else "")


def _postfix_reason(a: Attempt) -> str:
    reply = " ".join(part for part in (a.enhanced, plain(a.reply)) if part)
    if not a.code:
        return plain(a.reply)
    if a.decision == "delivered":
        return f"{a.code} {reply}"
    answered = command_name(a.stage)
    suffix = f" (in reply to {answered})" if answered else ""
    return f"host {plain(a.host)}[{a.ip or plain(a.host)}] said: {a.code} {reply}{suffix}"


def _postfix_event(kind: str, fields: Mapping[str, Value]) -> tuple[str, str]:
    """Daemon and text of the line Postfix would write; our own words where it has none."""
    queue_id = fields.get("id", "")
    sender = plain(str(fields.get("sender", "")))
    match kind:
        case "queued":
            size, recipients = fields.get("size", 0), fields.get("recipients", 0)
            line = f"from=<{sender}>, size={size}, nrcpt={recipients} (queue active)"
            return "qmgr", f"{queue_id}: {line}"
        case "removed":
            return "qmgr", f"{queue_id}: removed"
        case "expired":
            return "qmgr", f"{queue_id}: from=<{sender}>, status=expired, returned to sender"
        case "dsn":
            name = _REPORT_NAMES.get(str(fields.get("kind", "")), "delivery status")
            return "bounce", f"{queue_id}: sender {name} notification: {fields.get('report', '')}"
        case _:
            words = " ".join(f"{name}={_quote(value)}" for name, value in fields.items())
            return "master", f"{kind} {words}".rstrip()


def _quote(value: Value) -> str:
    """A value as one word, in quotes when it needs them."""
    text = value if isinstance(value, str) else str(value)
    if text.isalnum() and text.isascii():
        return text
    text = plain(text)
    if text and not (" " in text or '"' in text or "=" in text or "\\" in text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def in_journal(descriptor: int, environ: Mapping[str, str]) -> bool:
    """Whether a file descriptor is the journal's, as systemd says by ``$JOURNAL_STREAM``."""
    try:
        facts = os.fstat(descriptor)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{facts.st_dev}:{facts.st_ino}"


class Target:
    """A file, or standard error for an empty path, written without ever waiting for its reader.

    Raises ``OSError`` when the file cannot be opened, and never afterwards.
    """

    def __init__(self, path: str) -> None:
        self.dropped = 0
        self.pending = bytearray()
        if path:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            self._descriptor = os.open(path, flags, 0o640)
        else:
            self._descriptor = fcntl.fcntl(_STDERR, fcntl.F_DUPFD_CLOEXEC, 3)
        mode = os.fstat(self._descriptor).st_mode
        self._regular = stat.S_ISREG(mode)
        self._socket: socket.socket | None = None
        self._poll = select.poll()
        if stat.S_ISSOCK(mode):
            self._socket = socket.socket(fileno=self._descriptor)
        else:
            self._poll.register(self._descriptor, select.POLLOUT)

    def write(self, lines: Sequence[bytes]) -> None:
        """Take lines and write as much as goes without waiting."""
        data = b"".join(lines)
        if len(self.pending) + len(data) <= PENDING_LIMIT:
            self.pending += data
        else:
            for line in lines:
                if len(self.pending) + len(line) <= PENDING_LIMIT:
                    self.pending += line
                else:
                    self.dropped += 1
        self.flush()

    def flush(self) -> None:
        """Write what waits, as far as the target takes it now."""
        pending = self.pending
        try:
            while pending:
                written = self._put(pending)
                if not written:
                    return
                del pending[:written]
        except OSError:
            return  # full, or nobody reads: it stays pending, and is dropped beyond the limit

    def _put(self, data: bytearray) -> int:
        if self._socket is not None:
            try:
                return self._socket.send(data, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return 0
        if self._regular:
            return os.write(self._descriptor, data)
        # A writable pipe takes this much at once. O_NONBLOCK is not ours to set: others share it.
        if not self._poll.poll(0):
            return 0
        return os.write(self._descriptor, data[: select.PIPE_BUF])

    def close(self) -> None:
        """Flush and close."""
        self.flush()
        if self._socket is not None:
            self._socket.close()
        else:
            os.close(self._descriptor)
