"""The calling end of the local socket: one connection from a command or an application.

Plain blocking sockets, nothing that takes long to import. Small requests are gathered and written
together. Guarantees: what the service has answered is read even when it closed the connection; a
service that gives no sign of life for the time allowed counts as lost. Never connects anew: who
lost a connection knows best what to do about it.
"""

from __future__ import annotations

import os

try:  # what ``socket`` adds are names and files; loading them takes as long as sending a message
    import _socket as socket
except ImportError:
    import socket  # type: ignore[no-redef] # not every Python has the other

from deliveryagent.protocol.local import (
    END_OF_CONTENT,
    ExitCode,
    ServiceError,
    chunk,
    decode_line,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

_GATHERED = 1 << 16


class LostError(ServiceError):
    """The connection broke; it is not known whether the last requests were carried out."""

    def __init__(self, reason: object) -> None:
        super().__init__(ExitCode.TRY_LATER, f"the service went away before it answered: {reason}")


class Link:
    """A connection to the service; the constructor raises ``OSError`` when there is none."""

    def __init__(self, path: str, patience: float) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self._socket.settimeout(patience)
            self._socket.connect(path)
        except BaseException:
            self._socket.close()
            raise
        self._owner = os.getpid()
        self._unsent = bytearray()
        self._unread = b""  # the beginning of an answer
        self._answers: list[bytes] = []  # whole ones nobody has asked for, the next one last

    def close(self) -> None:
        """End the connection."""
        self._socket.close()

    @property
    def stale(self) -> bool:
        """Whether the other side closed an idle connection, or said what nobody asked for.

        Also in a forked process: there, answers would go to whoever reads first.
        """
        if self._owner != os.getpid():
            return True
        import select  # noqa: PLC0415 - whoever sends one message never asks

        poll = select.poll()  # a socket with a time limit would wait even for MSG_DONTWAIT
        poll.register(self._socket, select.POLLIN)
        return bool(self._answers or self._unread or poll.poll(0))

    def put(self, line: bytes, content: Iterable[bytes] | None = None) -> None:
        """Send a request, with the pieces of the content that belongs to it. Raises ``LostError``.

        Small ones wait until there is more to send, or an answer is asked for.
        """
        self._unsent += line
        if content is not None:
            for piece in content:
                self._unsent += chunk(piece)
                self._flush_full()
            self._unsent += END_OF_CONTENT
        self._flush_full()

    def answer(self, patience: float) -> dict[str, Any]:
        """The next answer; raises ``LostError`` when none comes within so many seconds."""
        if not self._answers:
            self._read(patience)
        line = self._answers.pop()
        try:
            return decode_line(line)
        except ValueError:
            raise LostError("it does not speak as the service does") from None

    def _read(self, patience: float) -> None:
        """Wait for the rest of an answer, and cut up everything that came with it."""
        self._flush()
        self._socket.settimeout(patience)
        pieces = [self._unread]
        while b"\n" not in pieces[-1]:
            try:
                piece = self._socket.recv(_GATHERED)
            except OSError as error:
                raise LostError(error.strerror or error) from None
            if not piece:
                raise LostError("it closed the connection")
            pieces.append(piece)
        *lines, self._unread = b"".join(pieces).split(b"\n")
        self._answers = lines[::-1]

    def _flush(self) -> None:
        unsent, self._unsent = self._unsent, bytearray()
        if not unsent:
            return
        try:
            self._socket.sendall(unsent)
        except OSError as error:
            raise LostError(error.strerror or error) from None

    def _flush_full(self) -> None:
        if len(self._unsent) >= _GATHERED:
            self._flush()
