"""What the receiving hosts of the lab took in: an account that tests can hold against what was
sent.

Every content whose final dot came in is one ``Arrival``, whether or not the sender lived to read
the reply. With a directory, each is also appended to ``arrivals.jsonl`` and its content kept as
``NNNNNN.eml``.

Guarantees: an arrival is on record before its reply is written. Never rewrites a record: what
became of the reply is only known in memory (``Arrival.replied``).
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

_MESSAGE_ID = re.compile(
    rb"^message-id:[ \t]*(?:\r\n[ \t]+)?([^\r\n]*)", re.IGNORECASE | re.MULTILINE
)
_SUBJECT = re.compile(rb"^subject:[ \t]*([^\r\n]*)", re.IGNORECASE | re.MULTILINE)


@dataclass
class Envelope:
    """A transaction before its content: who talks, from whom, to whom and how.

    ``parameters`` are those of MAIL as sent; ``transaction`` counts from 1 within the session.
    """

    host: str
    peer: str
    helo: str
    tls: bool
    sender: str
    parameters: str
    recipients: tuple[str, ...]
    transaction: int


@dataclass
class Arrival(Envelope):
    """One content with its envelope.

    ``accepted`` are the recipients that got a 2xx final reply. ``digest`` is the SHA-256 of the
    content after removing dot-stuffing; ``crlf_only`` is false when a CR or LF stood alone.
    ``dotted`` and ``replied`` are times of the ledger's clock, ``replied`` 0 as long as no reply
    was written.
    """

    accepted: tuple[str, ...]
    message_id: str
    subject: str
    size: int
    digest: str
    crlf_only: bool
    dotted: float
    replied: float = 0.0


class Ledger:
    """The account of one or several receiving hosts. ``notify`` is called with each arrival and its
    content.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        directory: Path | None = None,
        notify: Callable[[Arrival, bytes], None] | None = None,
    ) -> None:
        self.clock = clock
        self.arrivals: list[Arrival] = []
        self._directory = directory
        self._notify = notify
        if directory is not None:
            directory.mkdir(parents=True, exist_ok=True)

    def enter(self, envelope: Envelope, accepted: tuple[str, ...], stuffed: bytes) -> Arrival:
        """Record a content as it came over the wire, without its final dot line."""
        content = unstuffed(stuffed)
        head = content[: content.find(b"\r\n\r\n") + 2]
        arrival = Arrival(
            **vars(envelope),
            accepted=accepted,
            message_id=_found(_MESSAGE_ID, head),
            subject=_found(_SUBJECT, head),
            size=len(content),
            digest=hashlib.sha256(content).hexdigest(),
            crlf_only=content.count(b"\n") == content.count(b"\r\n") == content.count(b"\r"),
            dotted=self.clock(),
        )
        self.arrivals.append(arrival)
        if self._directory is not None:
            number = len(self.arrivals)
            (self._directory / f"{number:06}.eml").write_bytes(content)
            with (self._directory / "arrivals.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps({"number": number, **asdict(arrival)}) + "\n")
        if self._notify is not None:
            self._notify(arrival, content)
        return arrival

    def deliveries(self) -> Counter[tuple[str, str]]:
        """How often each (Message-ID, recipient) was accepted: exactly once is a value of 1."""
        return Counter(
            (arrival.message_id, recipient)
            for arrival in self.arrivals
            for recipient in arrival.accepted
        )


def unstuffed(content: bytes) -> bytes:
    """The content with RFC 5321 4.5.2 transparency undone.

    >>> unstuffed(b"..a\\r\\n..\\r\\n.b\\r\\n")
    b'.a\\r\\n.\\r\\nb\\r\\n'
    """
    plain = content.replace(b"\r\n.", b"\r\n") if b"\r\n." in content else content
    return plain[1:] if plain.startswith(b".") else plain


def _found(pattern: re.Pattern[bytes], head: bytes) -> str:
    match = pattern.search(head)
    return match[1].decode("utf-8", "replace").strip() if match else ""
