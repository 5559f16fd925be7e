"""The content of one message while it comes: in memory while it is small, in a file without a name when not.

Guarantees: at most ``SMALL`` octets are held in memory; the file vanishes with the process. A full disk is an
``OSError`` to whoever writes. Never looks at what it holds.
"""

import tempfile
from typing import BinaryIO

SMALL = 64 * 1024


class Spool:
    """Write pieces, then take the whole."""

    __slots__ = ("_file", "_pieces", "size")

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._file: BinaryIO | None = None
        self.size = 0

    def write(self, piece: bytes) -> None:
        """Add octets. Raises ``OSError``."""
        self.size += len(piece)
        if self._file is None:
            self._pieces.append(piece)
            if self.size <= SMALL and len(self._pieces) < 64:
                return
            if self.size <= SMALL:
                self._pieces = [b"".join(self._pieces)]
                return
            # Not a context manager: it outlives this call, until ``close``.
            self._file = tempfile.TemporaryFile(prefix="deliveryagent-")  # noqa: SIM115
            piece = b"".join(self._pieces)
            self._pieces = []
        self._file.write(piece)

    def flush(self) -> None:
        """Let nothing remain that could still find the disk full. Raises ``OSError``."""
        if self._file is not None:
            self._file.flush()

    def whole(self) -> bytes | BinaryIO:
        """Everything: octets, or a file that can be read from its beginning."""
        if self._file is None:
            pieces = self._pieces
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)
        self._file.seek(0)
        return self._file

    def close(self) -> None:
        """Forget it."""
        self._pieces = []
        if self._file is not None:
            self._file.close()
            self._file = None
