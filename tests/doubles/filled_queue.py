"""A queue with mail in it, and a service that answers what a test wants, for the commands that look.

``FilledQueue`` is a real SQLite queue with a configuration file beside it, filled by the store's own
functions. ``Answering`` listens on the service's socket and gives prepared answers.
"""

import json
import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from deliveryagent.mail.address import destination_of
from deliveryagent.mail.envelope import (
    ContentFacts,
    Envelope,
    NewRecipient,
    Notify,
    QueueId,
    format_queue_id,
    new_queue_id,
    parse_queue_id,
)
from deliveryagent.mail.submission import Submission
from deliveryagent.queue import orders, outcomes, sites, submissions
from deliveryagent.queue.engine import open_writer
from deliveryagent.queue.outcomes import Settlement
from deliveryagent.queue.sites import SiteState
from deliveryagent.queue.upgrade import ensure

CONTENT = b"From: <shop@example.org>\r\nSubject: Order 4711\r\n\r\nhello\r\n"


class FilledQueue:
    """A queue in a directory; ``config`` is its configuration file."""

    def __init__(self, directory: Path) -> None:
        self.now = time.time()
        self.config = str(directory / "agent.toml")
        self.socket = directory / "deliveryagent.sock"
        self._random = 0
        url = f"sqlite:///{directory / 'queue.sqlite3'}"
        Path(self.config).write_text(
            'hostname = "mail.example.org"\npostmaster = "postmaster@example.org"\n'
            f'run_dir = "{directory}"\n[queue]\nurl = "{url}"\n'
        )
        self._engine = open_writer(url)
        ensure(self._engine)

    def change(self, operation: Callable[[Any, Any], Any], item: Any) -> Any:
        """Carry out one operation of the store."""
        with self._engine.begin() as connection:
            (answer,) = operation(connection, [item])
        return answer

    def add(
        self,
        *recipients: str,
        age: float = 3600.0,
        sender: str = "shop@example.org",
        content: bytes = CONTENT,
        notify: Notify = Notify.DEFAULT,
        **wishes: Any,
    ) -> str:
        """A message that arrived ``age`` seconds ago; returns its id."""
        self._random += 1
        queue_id = new_queue_id(self.now - age, self._random)
        submission = Submission(
            queue_id=queue_id,
            envelope=Envelope(
                sender=sender,
                recipients=tuple(NewRecipient(address=a, notify=notify) for a in recipients),
                **wishes,
            ),
            facts=ContentFacts(size=len(content)),
            parts=(content,),
            arrival=self.now - age,
            origin="uid=1000",
        )
        self.change(submissions.add, submission)
        return format_queue_id(queue_id)

    def settle(self, queue_id: str, address: str, *, number: int = 1, **facts: Any) -> None:
        """The outcome of an attempt; without words, a temporary refusal of RCPT."""
        attempt = int(facts.pop("attempt", 1))
        values: dict[str, Any] = {
            "status": "deferred",
            "due": self.now + 660,
            "owed": "",
            "updated": self.now - 60,
            "started": self.now - 61,
            "decision": facts.get("status", "deferred"),
            "stage": "rcpt",
            "code": 450,
            "enhanced": "4.7.1",
            "text": "try again",
            "host": "mx1.example.net",
            "ip": "192.0.2.10",
            "port": 25,
            "connect_time": 0.02,
            "setup_time": 0.03,
        }
        values |= facts
        if values["status"] != "deferred":
            values["due"] = None
        settlement = Settlement(
            message_id=_number(queue_id),
            number=number,
            destination=destination_of(address),
            attempt=attempt,
            **values,
        )
        assert self.change(outcomes.settle, settlement)

    def hold(self, queue_id: str, text: str) -> None:
        """Put a message on hold."""
        order = outcomes.HoldOrder(message_id=_number(queue_id), now=self.now, text=text)
        self.change(outcomes.hold, order)

    def site(self, name: str, destination: str, **facts: Any) -> None:
        """Remember a site, and that a destination belongs to it."""
        values = {"concurrency": 5.0, "closed_until": None, "reason": "", "updated": self.now}
        self.change(sites.save, SiteState(name=name, **(values | facts)))
        self.change(sites.destination_site, (destination, name))

    def pause(self, name: str, *, until: float = orders.FOREVER, note: str = "") -> None:
        """Pause a destination."""
        order = orders.Pause(name=name, until=until, note=note, by="anna")
        self.change(orders.pause, order)

    def close(self) -> None:
        """Let go of the file."""
        self._engine.dispose()


def _number(queue_id: str) -> QueueId:
    return parse_queue_id(queue_id)


Answers = Mapping[str, dict[str, Any] | Callable[[dict[str, Any]], dict[str, Any]]]

STATUS: dict[str, Any] = {
    "pid": 4711,
    "started": 0.0,
    "version": "0.1.0",
    "draining": False,
    "store": {"writable": True, "reason": ""},
    "active": 0,
    "workers": [{"pid": 4712, "in_flight": 0, "sessions": 3, "lag": 0.0, "restarts": 0}],
    "sites": [],
}
"""What a healthy service says of itself."""


class Answering:
    """A service on a socket, as a context manager; ``asked`` are the requests it got."""

    def __init__(self, path: Path, **answers: Any) -> None:
        self.asked: list[dict[str, Any]] = []
        self._answers: Answers = {"status": STATUS, "active": {"recipients": []}, **answers}
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        self._listening.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._path = path

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._listening.close()
        self._path.unlink()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            with connection, connection.makefile("rwb") as stream:
                for line in stream:
                    request = json.loads(line)
                    self.asked.append(request)
                    stream.write(json.dumps(self._answer(request)).encode() + b"\n")
                    stream.flush()

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        answer = self._answers.get(request["op"])
        if answer is None:
            return {"ok": False, "code": 2, "error": f"no {request['op']}", "hint": ""}
        found = answer(request) if callable(answer) else answer
        return {"ok": True, **found}
