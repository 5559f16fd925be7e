"""Plays the server's side of SMTP without sockets and event loop: octets in, cut in any way, replies out.

What the conversation asks for is answered from what a test wrote down beforehand, and noted.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from types import GeneratorType
from typing import Any, cast

import msgspec

from deliveryagent.mail.verdict import Decision, Refusal
from deliveryagent.protocol import sasl, scram
from deliveryagent.protocol.session import Client, Session, TlsFacts, Transaction
from deliveryagent.protocol.smtpd import Conversation, serve
from deliveryagent.protocol.smtpd_input import MISSING, Input
from deliveryagent.protocol.smtpd_steps import (
    Ask,
    Attempt,
    Chunk,
    Failed,
    Forget,
    Keep,
    Kept,
    Line,
    Outcome,
    Over,
    Peek,
    Read,
    Secure,
    Sender,
    Succeeded,
    Terms,
    Wait,
)

NOW = 1_800_000_000.0
USER, PASSWORD, SECRET = "kim", "pencil", b"crayon"
TERMS = Terms(kind="smtp", hostname="mx.host.dev", check_sender_domain=False)
SUBMISSION = msgspec.structs.replace(TERMS, kind="submission")
LMTP = msgspec.structs.replace(TERMS, kind="lmtp")
_ENHANCED = re.compile(r"([245])\.\d{1,3}\.\d{1,3}(?: |$)")


class Answer(msgspec.Struct, frozen=True):
    """One reply: its code, its enhanced code or nothing, and its lines without both."""

    code: int
    enhanced: str
    lines: tuple[str, ...]


class Message(msgspec.Struct, frozen=True):
    """A message that the conversation wanted to be stored."""

    transaction: Transaction
    recipients: tuple[str, ...]
    content: bytes


class Guard:
    """Trusts a network by its beginning; lets everybody send as anybody, but those in ``senders``."""

    def __init__(self, trusted: str = "10.", senders: Mapping[str, set[str]] | None = None) -> None:
        self.trusted = trusted
        self.senders = senders or {}

    def trusts(self, client: Client) -> bool:
        return client.address.startswith(self.trusted)

    def may_send_as(self, user: str, sender: str) -> bool:
        return not sender or user not in self.senders or sender in self.senders[user]


class Talk:
    """One session. ``hooks`` answers by stage, with a decision or a function of what is asked about."""

    def __init__(
        self,
        terms: Terms = TERMS,
        *,
        address: str = "10.0.0.1",
        hooks: Mapping[str, Decision | Callable[..., Decision | None] | None] | None = None,
        senders: Mapping[str, Refusal] | None = None,
        guard: Guard | None = None,
        outcome: Callable[[Message], Outcome] | None = None,
        xclient: bool = False,
        tls: TlsFacts | None = None,
    ) -> None:
        self.hooks = dict(hooks or {})
        self.senders = senders or {}
        self.outcome = outcome
        self.guard = guard or Guard()
        client = Client(address=address)
        self.session = Session(
            kind=terms.kind,
            client=client,
            hostname=terms.hostname,
            trusted=self.guard.trusts(client),
            tls=tls,
        )
        self.talk = Conversation(
            terms,
            self.session,
            guard=self.guard,
            clock=lambda: NOW,
            nonce=lambda: "a-nonce-that-nobody-guesses",
            asked=frozenset(self.hooks),
            admits="rcpt" in self.hooks,
            xclient=xclient,
        )
        self.kept: list[Message] = []
        self.asked: list[tuple[Any, ...]] = []
        self.waited: list[float] = []
        self.failed: list[str] = []
        self.barred: Refusal | None = None
        self.closed = False
        self.logged_in = False  # at any time
        self.most_held = 0  # octets of a content that were there at once
        self._spool = bytearray()
        self._input = Input()
        self._steps = serve(self.talk)
        self._wanted: Line | Read | Chunk | None = None
        self._drive(None)

    # -- what tests do --------------------------------------------------------------------------------

    def hear(self, *pieces: bytes) -> bytes:
        """Everything that is said until the last of these octets is understood."""
        for piece in pieces:
            if self.closed:
                break
            self._input.buffer += piece
            if self._wanted is not None:
                value = self._play(self._wanted)
                if value is not MISSING:
                    self._drive(value)
        return self.said()

    def said(self) -> bytes:
        """What was said since the last look."""
        out = bytes(self.talk.out)
        self.talk.out.clear()
        return out

    def say(self, *lines: str | bytes) -> list[Answer]:
        """The replies to some lines, which get their CRLF."""
        octets = [line.encode() if isinstance(line, str) else line for line in lines]
        return answers(self.hear(b"".join(line + b"\r\n" for line in octets)))

    def codes(self, *lines: str | bytes) -> list[str]:
        """The replies to some lines, each as code and enhanced code."""
        return [f"{one.code} {one.enhanced}".strip() for one in self.say(*lines)]

    def code(self, line: str | bytes) -> str:
        """The only reply to a line."""
        (only,) = self.codes(line)
        return only

    @property
    def listens(self) -> bool:
        """Whether it waits for a command, with nothing half said."""
        within = cast("GeneratorType[Any, Any, Any]", self._steps).gi_yieldfrom is not None
        return not (self.closed or within or self._input.buffer)

    def end(self, enhanced: str = "4.3.2", text: str = "Shutting down") -> bytes:
        """End the session from outside."""
        try:
            self._steps.throw(Over(enhanced, text))
        except StopIteration:
            self.closed = True
        return self.said()

    # -- what the conversation asks -------------------------------------------------------------------

    def _drive(self, value: Any) -> None:
        self._wanted = None
        try:
            while True:
                step = self._steps.send(value)
                value = self._play(step)
                if value is MISSING:
                    self._wanted = step  # type: ignore[assignment] # only input can be missing
                    return
        except StopIteration:
            self.closed = True

    def _play(self, step: Any) -> Any:
        match step:
            case Line():
                return self._input.line(step)
            case Read():
                return self._input.read(step, self._store)
            case Chunk():
                return self._input.chunk(step, self._store)
            case Keep():
                return self._keep()
            case Forget():
                self._spool.clear()
            case Ask(stage, about):
                self.asked.append((stage, *about))
                answer = self.hooks[stage]
                return answer(*about) if callable(answer) else answer
            case Sender(address):
                return self.senders.get(address.rpartition("@")[2])
            case Peek():
                return bool(self._input.buffer)
            case Secure():
                assert not self._input.buffer
                return TlsFacts(version="TLSv1.3", cipher="TLS_AES_256_GCM_SHA384", bits=256)
            case Wait(seconds):
                self.waited.append(seconds)
            case Attempt():
                return self.barred
            case Failed(user):
                self.failed.append(user)
                return 0.25
            case Succeeded(user):
                assert self.session.user == user
                self.logged_in = True
            case _:
                return self._login(step)
        return None

    def _login(self, question: Any) -> Any:
        match question:
            case sasl.CheckPassword(user, password):
                return user if (user, password) == (USER, PASSWORD) else None
            case sasl.CheckToken(user, token):
                return user if token == "good" else None
            case sasl.CramSecret(user):
                return SECRET if user == USER else None
            case sasl.ScramKeys(user):
                return scram.made_up(user, b"secret")
        raise AssertionError(f"nobody knows what to do with {question!r}")

    def _store(self, piece: bytes) -> None:
        self._spool += piece
        self.most_held = max(self.most_held, len(self._spool) + len(self._input.buffer))

    def _keep(self) -> Outcome:
        transaction = self.session.transaction
        assert transaction is not None
        addresses = tuple(one.address for one in transaction.recipients)
        message = Message(transaction, addresses, bytes(self._spool))
        self._spool.clear()
        self.kept.append(message)
        if self.outcome is not None:
            return self.outcome(message)
        return Outcome(Kept(f"Ok: queued as {len(self.kept)}"))


def answers(octets: bytes) -> list[Answer]:
    """Replies, taken apart; fails for what is no reply."""
    found: list[Answer] = []
    lines: list[tuple[str, bool]] = []
    text = octets.decode("ascii")
    assert text == "" or text.endswith("\r\n"), text[-80:]
    for line in text.split("\r\n")[:-1]:
        assert len(line) <= 510, line
        assert line.isprintable(), line
        assert re.fullmatch(r"[2345]\d\d[ -].*", line), line
        lines.append((line, line[3] == " "))
        if line[3] == " ":
            found.append(_answer([one for one, _ in lines]))
            lines = []
    assert not lines, "a reply without its last line"
    return found


def _answer(lines: list[str]) -> Answer:
    codes = {line[:3] for line in lines}
    assert len(codes) == 1, lines
    match = [_ENHANCED.match(line[4:]) for line in lines]
    status = {one[0].strip() if one else "" for one in match}
    assert len(status) == 1 or "" in status, lines
    enhanced = status.pop() if len(status) == 1 else ""
    start = 4 + (len(enhanced) + 1 if enhanced else 0)
    return Answer(int(lines[0][:3]), enhanced, tuple(line[start:] for line in lines))


def check_statuses(replies: Iterable[Answer], hostname: str = TERMS.hostname) -> None:
    """RFC 2034: every reply has an enhanced code of its class, but those that may not."""
    for one in replies:
        first = str(one.code)[0]
        if one.code in {220, 250} and one.lines[0].split(" ")[0] == hostname and not one.enhanced:
            continue
        if first == "3":
            assert not one.enhanced, one
        else:
            assert one.enhanced.startswith(f"{first}."), one
