"""The dialogue of a connection, for a debugged peer's log and for the notice about a broken protocol.

Guarantees: nothing secret is ever kept (what follows AUTH and its mechanism, and every answer to a challenge);
no content is kept; what the peer sent is kept in bounded amounts and comes out printable,
one line per line. Recording costs next to nothing until somebody reads.
"""

from collections import deque
from collections.abc import Callable
from itertools import groupby
from operator import itemgetter

from deliveryagent.protocol.replies import printable

ENTRIES_KEPT = 64
"""Segments of the dialogue that are remembered when nobody listens."""

OCTETS_KEPT = 2048
"""Octets of each segment that are remembered."""

MASK = b"(hidden)"
WE, PEER, EVENT = "C:", "S:", "*"


class Transcript:
    """What was said, as lines that begin with ``C:`` (we), ``S:`` (the peer) or ``*`` (what happened).

    ``listener`` receives the lines as the dialogue goes on; they are not remembered then.
    """

    __slots__ = ("_answer", "_entries", "_listener", "_partial", "_secret")

    def __init__(self, listener: Callable[[str], None] | None = None) -> None:
        self._entries: deque[tuple[str, bytes]] = deque(maxlen=ENTRIES_KEPT)
        self._listener = listener
        self._partial = b""  # of a line the listener has not heard yet
        self._secret = False  # an AUTH is under way: what we say is none of the reader's business
        self._answer = b""  # the last line of the peer's answer to it, as far as it is known

    def sent(self, data: bytes) -> None:
        """We wrote commands."""
        if self._listener is None and not self._secret and data[:1] not in b"Aa":
            self._entries.append((WE, _cut(data)))
            return
        if self._secret:
            data = MASK
        elif data[:5].upper() == b"AUTH ":
            words = data.split()
            data = b" ".join([*words[:2], *[MASK for _ in words[2:3]]])
            self._secret = True
        self._answer = b""
        self._add(WE, data)

    def received(self, data: bytes) -> None:
        """The peer wrote octets."""
        if self._listener is None and not self._secret:
            self._entries.append((PEER, _cut(data)))
            return
        if self._secret:
            self._answer = (self._answer + data)[-OCTETS_KEPT:]
            last = self._answer.removesuffix(b"\n").rpartition(b"\n")[2]
            self._secret = last[:3] == b"334"[: len(last)] or not self._answer.endswith(b"\n")
        self._add(PEER, data)

    def happened(self, text: str) -> None:
        """Something worth a line that is not dialogue, such as the handshake or a time-out."""
        self._add(EVENT, text.encode())

    def lines(self) -> list[str]:
        """The remembered dialogue, oldest first."""
        found: list[str] = []
        for mark, entries in groupby(self._entries, key=itemgetter(0)):
            # A line of the peer may have come in pieces; ours and events are whole.
            found += _lines(mark, b"".join([data for _, data in entries]))
        return found

    def _add(self, mark: str, data: bytes) -> None:
        data = _cut(data)
        if mark is not PEER and not data.endswith(b"\n"):
            data += b"\n"
        if self._listener is None:
            self._entries.append((mark, data))
            return
        whole = self._partial
        if mark is PEER:
            whole, _, self._partial = (self._partial + data).rpartition(b"\n")
        else:
            self._partial = b""
        for line in _lines(PEER, whole) if whole else []:
            self._listener(line)
        for line in _lines(mark, data) if mark is not PEER else []:
            self._listener(line)


def _cut(data: bytes) -> bytes:
    return data if len(data) <= OCTETS_KEPT else data[:OCTETS_KEPT] + b"...\n"


def _lines(mark: str, data: bytes) -> list[str]:
    return [f"{mark} {printable(line)}" for line in data.removesuffix(b"\n").split(b"\n")]
