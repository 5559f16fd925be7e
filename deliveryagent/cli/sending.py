"""What ``dagent send`` does once its options are read, whoever read them.

Prints the queue id alone on standard output, after the message is on stable storage. Light: while a
service runs this needs a socket and little else, no SQL, no event loop, no click.
"""

from __future__ import annotations

import os
import stat
import sys
import time

from deliveryagent.client import PATIENCE, Client, ServiceError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, BinaryIO

    from deliveryagent.intake.wishes import Wishes

_IN_MEMORY = 1 << 20  # octets of a message from a pipe; larger ones go to a temporary file
_WAIT = 60.0


class MisuseError(Exception):
    """An option makes no sense; ``option`` names it, or is empty."""

    def __init__(self, text: str, option: str = "") -> None:
        super().__init__(text)
        self.option = option


class Order:
    """A message to be handed over, as the command line asks for it."""

    def __init__(
        self,
        given: Mapping[str, Any],
        recipients: tuple[str, ...],
        wishes: Wishes,
        *,
        wait: float | None,
        patience: float,
    ) -> None:
        self._config: str | None = given["config"]
        self._overrides: tuple[str, ...] = tuple(given["set"])
        self._json: bool = given["json"]
        self._sender: str | None = given["sender"]
        self._file: str | None = given["file"]
        self._recipients = recipients
        self._wishes = wishes
        self._wait = wait
        self._patience = patience

    def carry_out(self) -> int | None:
        """Hand the message over, print its id, wait for its outcome if wished; the exit status."""
        content = _content(self._file)
        client = Client(self._config, overrides=self._overrides, patience=self._patience)
        try:
            queue_id = client.enqueue(self._sender, self._recipients, content, **self._wishes)
            if self._wait is None:
                print(f'{{"id": "{queue_id}"}}' if self._json else queue_id, flush=True)
                return None
            if not self._json:
                print(queue_id, flush=True)
            return self._outcome(client, queue_id, self._wait)
        finally:
            client.close()
            if not isinstance(content, bytes) and content is not sys.stdin.buffer:
                content.close()

    def _outcome(self, client: Client, queue_id: str, wait: float) -> int:
        import json

        from deliveryagent.cli.faults import CommandError

        try:
            message = client.wait(queue_id, wait)
        except ServiceError as error:
            if self._json:
                print(json.dumps({"id": queue_id}))
            text = f"{queue_id} is in the queue, but its outcome is not known: {error.text}"
            raise CommandError(text, code=error.code, hint=error.hint) from None
        if self._json:
            print(json.dumps(message))
        else:
            _tell(message)
        return _status(message)


def understood(given: Mapping[str, Any]) -> Order:
    """What the options mean together; raises ``MisuseError``. Nothing has been done then."""
    wait, recipients = _waiting(given["wait"], given["recipients"])
    if not recipients and not given["from_headers"]:
        raise MisuseError("Name recipients, or take them from the header section with -t.")
    wishes: Wishes = {"hold": given["hold"], "from_headers": given["from_headers"]}
    for name in ("key", "dsn", "ret", "envid"):
        if given[name]:
            wishes[name] = given[name]
    if given["priority"] is not None:
        wishes["priority"] = _priority(given["priority"])
    if given["at"] is not None:
        wishes["at"] = _moment(given["at"], time.time())
    if given["tags"]:
        wishes["tags"] = _tags(given["tags"])
    patience = _span(given["patience"], "--patience") if given["patience"] else PATIENCE
    return Order(given, recipients, wishes, wait=wait, patience=patience)


def _waiting(
    value: str | None, recipients: tuple[str, ...]
) -> tuple[float | None, tuple[str, ...]]:
    """How long to wait; an address that followed ``--wait`` without a time is a recipient."""
    if not value:
        return (None if value is None else _WAIT), recipients
    import re

    if re.fullmatch(r"[0-9][0-9.]*[a-z]*", value, re.IGNORECASE):
        return _span(value, "--wait"), recipients
    return _WAIT, (value, *recipients)


def _span(value: str, option: str) -> float:
    from deliveryagent.setting import parse_duration

    try:
        return float(parse_duration(value))
    except ValueError as error:
        raise MisuseError(str(error), option) from None


def _priority(value: str) -> int:
    """From -9 to 9; whoever takes the message checks that."""
    digits = value.removeprefix("-").removeprefix("+")
    if not (digits.isascii() and digits.isdigit() and len(digits) == 1):
        raise MisuseError(f'"{value}" is no priority; write a number from -9 to 9', "--priority")
    return int(value)


def _moment(value: str, now: float) -> float:
    """Seconds since the epoch from RFC 3339, ``in 2h`` or ``+2h``."""
    import re
    from datetime import datetime

    if match := re.fullmatch(r"(?:in\s+|\+)(.+)", value.strip(), re.IGNORECASE):
        return now + _span(match[1].strip(), "--at")
    try:
        moment = datetime.fromisoformat(value.strip())
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise MisuseError(
            f'"{value}" is not a time; write it like 2026-01-31T08:00:00Z, or "in 2h"', "--at"
        )
    return moment.timestamp()


def _tags(pairs: tuple[str, ...]) -> dict[str, str]:
    tags = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise MisuseError(f'"{pair}" is not NAME=VALUE', "--tag")
        tags[name] = value
    return tags


def _content(path: str | None) -> bytes | BinaryIO:
    """The message in a form that can be sent again when the service restarts meanwhile."""
    if path is not None and path != "-":
        try:
            return open(path, "rb")  # noqa: PTH123 - pathlib costs 10 ms here
        except OSError as error:
            from deliveryagent.cli.faults import CommandError

            raise CommandError(f"{path}: {error.strerror}") from None
    source = sys.stdin.buffer
    if stat.S_ISREG(os.fstat(source.fileno()).st_mode):
        return source
    if source.isatty():
        print("Type the message, header section first; end it with Ctrl-D.", file=sys.stderr)
    first = source.read(_IN_MEMORY)
    return first if len(first) < _IN_MEMORY else _spooled(first, source)


def _spooled(first: bytes, source: BinaryIO) -> BinaryIO:
    from shutil import copyfileobj
    from tempfile import TemporaryFile

    spool: BinaryIO = TemporaryFile()  # noqa: SIM115 - closed by who sends it
    spool.write(first)
    copyfileobj(source, spool, _IN_MEMORY)
    spool.seek(0)
    return spool


def _tell(message: dict[str, Any]) -> None:
    """What became of each recipient, one line each, for people."""
    from deliveryagent.cli.screen import Screen, clean

    screen = Screen()
    for recipient in message["recipients"]:
        reply = recipient.get("last_reply") or {}
        answer = " ".join(
            str(reply[part]) for part in ("code", "enhanced", "text") if reply.get(part)
        )
        screen.note(clean(f"{recipient['address']}: {recipient['status']}  {answer}").rstrip())


def _status(message: dict[str, Any]) -> int:
    """The exit status that says what became of the message."""
    from deliveryagent.cli.faults import ExitStatus

    states = [recipient["status"] for recipient in message["recipients"]]
    if all(state == "delivered" for state in states):
        return ExitStatus.DONE
    if any(state in {"queued", "active", "deferred", "held"} for state in states):
        return ExitStatus.TRY_LATER
    return ExitStatus.PARTLY_DONE if "delivered" in states else ExitStatus.FAILED
