"""The dialogue of a connection, for a debugged peer's log and for the notice about a broken protocol.

Guarantees: nothing secret is ever kept (what follows AUTH and its mechanism, and every answer to a challenge);
no content is kept, only its length; what the peer sent is kept in bounded amounts and comes out printable,
one line per line. Recording costs next to nothing until somebody reads.
"""

from collections import deque
from collections.abc import Callable

from deliveryagent.protocol.replies import printable

ENTRIES_KEPT = 64
"""Segments of the dialogue that are remembered when nobody listens."""

OCTETS_KEPT = 2048
"""Octets of each segment that are remembered."""

MASK = b"(hidden)"


class Transcript:
    """What was said, as lines that begin with ``C:`` (we), ``S:`` (the peer) or ``*`` (what happened).

    ``listener`` receives the lines as the dialogue goes on; they are not remembered then.
    """

    __slots__ = ("_entries", "_listener", "_secret")

    def __init__(self, listener: Callable[[str], None] | None = None) -> None:
        self._entries: deque[tuple[str, bytes]] = deque(maxlen=ENTRIES_KEPT)
        self._listener = listener
        self._secret = False

    def sent(self, data: bytes) -> None:
        """We wrote commands."""
        if self._secret:
            data = MASK
        elif data[:5].upper() == b"AUTH ":
            self._secret = True
            words = data.split()
            data = b" ".join([*words[:2], *[MASK for _ in words[2:3]]])
        self._add("C: ", data)

    def received(self, data: bytes) -> None:
        """The peer wrote octets."""
        if self._secret and data[:3] != b"334":
            self._secret = False
        self._add("S: ", data)

    def happened(self, text: str) -> None:
        """Something worth a line that is not dialogue, such as the handshake or a time-out."""
        self._add("* ", text.encode())

    def lines(self) -> list[str]:
        """The remembered dialogue, oldest first."""
        found: list[str] = []
        for mark, data in self._entries:
            found += _lines(mark, data)
        return found

    def _add(self, mark: str, data: bytes) -> None:
        if len(data) > OCTETS_KEPT:
            data = data[:OCTETS_KEPT] + b"..."
        if self._listener is None:
            self._entries.append((mark, data))
            return
        for line in _lines(mark, data):
            self._listener(line)


def _lines(mark: str, data: bytes) -> list[str]:
    return [mark + printable(line) for line in data.removesuffix(b"\n").split(b"\n")]
