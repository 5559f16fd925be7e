"""Stands between a program and its PostgreSQL: cuts a connection at a chosen moment, or plays a pooler.

``Cutter`` passes everything on until a statement that contains a given word is sent; then it cuts that
connection, before the server gets the statement or after it has carried it out. ``Pooler`` answers logins
itself and lends one of a few server connections for each transaction, as PgBouncer does in transaction mode;
like its old versions it knows nothing of prepared statements.
"""

import contextlib
import os
import shutil
import socket
import struct
import tempfile
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from sqlalchemy import make_url

_SSL_REQUEST = 80877103
_GSS_REQUEST = 80877104
_CANCEL = 80877102


class _Line:
    """A socket with messages of the PostgreSQL protocol on it."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.muted = False  # gets no answers any more

    def exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self.socket.recv(size - len(data))
            if not more:
                raise EOFError
            data += more
        return data

    def opening(self) -> bytes:
        """The body of the first message, which has no type; what asks for encryption is declined."""
        while True:
            (size,) = struct.unpack(">i", self.exactly(4))
            body = self.exactly(size - 4)
            if struct.unpack(">i", body[:4])[0] in {_SSL_REQUEST, _GSS_REQUEST}:
                self.socket.sendall(b"N")
                continue
            return body

    def message(self) -> tuple[bytes, bytes]:
        """Type and body of a message."""
        kind = self.exactly(1)
        (size,) = struct.unpack(">i", self.exactly(4))
        return kind, self.exactly(size - 4)

    def say(self, kind: bytes, body: bytes) -> None:
        self.socket.sendall(kind + struct.pack(">i", len(body) + 4) + body)

    def answers(self, until: bytes = b"Z") -> Iterator[tuple[bytes, bytes]]:
        """Messages up to one of this type (or a COPY that waits for its data)."""
        while True:
            kind, body = self.message()
            yield kind, body
            if kind in until + b"G":
                return


class _Proxy(ABC):
    """Listens on a socket of its own for the database of a URL; ``url`` leads through it."""

    def __init__(self, url: str) -> None:
        target = make_url(url)
        host = target.query.get("host") or target.host
        assert isinstance(host, str)
        port = target.query.get("port") or target.port or 5432
        self._server = f"{host}/.s.PGSQL.{port}"
        self._place = Path(tempfile.mkdtemp(prefix="proxy-"))  # its path must be short
        query = {k: v for k, v in target.query.items() if k not in {"host", "port"}}
        through = target.set(host=None, port=None, query=query | {"host": str(self._place)})
        self.url = through.render_as_string(hide_password=False)
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(self._place / ".s.PGSQL.5432"))
        self._listening.listen()
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._cut(self._listening)
        for one in list(self._open):
            self._cut(one)
        shutil.rmtree(self._place, ignore_errors=True)

    def dial(self) -> _Line:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(self._server)
        self._open.add(connection)
        return _Line(connection)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                self._open.add(connection)
                threading.Thread(target=self._attend, args=[connection], daemon=True).start()

    def _attend(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError, EOFError):
            self.serve(_Line(connection))
        self._cut(connection)

    def _cut(self, connection: socket.socket) -> None:
        self._open.discard(connection)
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        connection.close()

    @abstractmethod
    def serve(self, client: _Line) -> None:
        """Talk to a program until it hangs up."""


class Cutter(_Proxy):
    """Cuts a connection when ``cut_at`` has been told to and its word comes by; ``cuts`` counts them."""

    def __init__(self, url: str) -> None:
        self.cuts = 0
        self._word = b""
        self._when: Literal["before", "after"] = "before"
        self._left = 0
        super().__init__(url)

    def cut_at(self, word: bytes, when: Literal["before", "after"], times: int = 1) -> None:
        """Cut the next connections on which a statement with this word is sent."""
        self._word, self._when, self._left = word, when, times

    def serve(self, client: _Line) -> None:
        server = self.dial()
        opening = client.opening()
        server.socket.sendall(struct.pack(">i", len(opening) + 4) + opening)
        back = threading.Thread(target=self._pump, args=[server, client], daemon=True)
        back.start()
        try:
            while True:
                kind, body = client.message()
                due = self._left and kind in b"QPB" and self._word in body
                if due and self._when == "before":
                    break
                client.muted = bool(due)
                server.say(kind, body)
                if due:
                    # The answer must not get through, but the server has to carry the statement out.
                    self._left -= 1
                    self.cuts += 1
                    self._silence(client, server)
                    return
        finally:
            self._cut(server.socket)
        self._left -= 1
        self.cuts += 1

    def _silence(self, client: _Line, server: _Line) -> None:
        self._cut(client.socket)
        with contextlib.suppress(OSError, EOFError, TimeoutError):
            server.socket.settimeout(5)
            server.say(b"X", b"")  # read after the statement, and then the server hangs up
            while server.socket.recv(65536):
                pass

    def _pump(self, server: _Line, client: _Line) -> None:
        with contextlib.suppress(OSError):
            while data := server.socket.recv(65536):
                if not client.muted:
                    client.socket.sendall(data)
        self._cut(client.socket)


class Pooler(_Proxy):
    """Lends ``size`` server connections, each for one transaction, in turn."""

    def __init__(self, url: str, size: int = 3) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._greeting: list[tuple[bytes, bytes]] = []
        self._next: Callable[[], _Line] | None = None
        super().__init__(url)

    def serve(self, client: _Line) -> None:
        opening = client.opening()
        with self._lock:
            if self._next is None:
                lines = [self._log_in(opening) for _ in range(self._size)]
                self._next = cycle(lines).__next__
        for kind, body in self._greeting:
            # The process id of a pooler's login means nothing.
            client.say(kind, os.urandom(8) if kind == b"K" else body)
        while True:
            kind, body = client.message()
            if kind == b"X":
                return
            with self._lock:  # one transaction at a time is enough here
                self._lend(client, self._next(), kind, body)

    def _log_in(self, opening: bytes) -> _Line:
        line = self.dial()
        line.socket.sendall(struct.pack(">i", len(opening) + 4) + opening)
        self._greeting = list(line.answers())
        return line

    def _lend(self, client: _Line, server: _Line, kind: bytes, body: bytes) -> None:
        while True:
            if kind == b"X":  # in the middle of a transaction
                server.say(b"Q", b"ROLLBACK\0")
                list(server.answers())
                raise EOFError
            server.say(kind, body)
            if kind in b"QScf":  # asks for an answer
                for answer, said in server.answers():
                    client.say(answer, said)
                    if answer == b"Z" and said == b"I":
                        return
            kind, body = client.message()
