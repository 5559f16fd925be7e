"""``dagent send``: hand over one message.

Prints the queue id alone on standard output, after the message is on stable storage. Starts fast:
while a service runs this needs a socket and little else, no SQL, no event loop.
"""

import json
import os
import re
import stat
import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from deliveryagent.cli.command import Invocation, command
from deliveryagent.cli.faults import CommandError, ExitStatus
from deliveryagent.client import PATIENCE, Client, ServiceError

if TYPE_CHECKING:
    from deliveryagent.intake.outgoing import Readable, Wishes

_IN_MEMORY = 1 << 20  # octets of a message from a pipe; larger ones go to a temporary file
_WAIT = 60.0
_DURATION = re.compile(r"[0-9][0-9.]*[a-z]*", re.IGNORECASE)
_IN = re.compile(r"(?:in\s+|\+)(.+)", re.IGNORECASE)


@command(
    "send",
    examples=[
        "dagent send -f shop@example.org kim@example.net < message.eml",
        "dagent send -t --key order-4711 --file message.eml",
        "dagent send --at 'in 2h' --dsn success,failure --wait 30s kim@example.net < message.eml",
    ],
)
@click.option(
    "-f",
    "--from",
    "sender",
    metavar="FROM",
    help="Envelope sender; <> is the null sender. Default: you.",
)
@click.option("-t", "--from-headers", is_flag=True, help="Take recipients from To, Cc and Bcc too.")
@click.option("--file", metavar="FILE", help="The message; default, or -: standard input.")
@click.option(
    "--at", metavar="TIME", help="Not before this time: 2026-01-31T08:00:00Z, or 'in 2h'."
)
@click.option("--hold", is_flag=True, help="Keep the message until it is released.")
@click.option(
    "--dsn", metavar="WHEN", help="Reports wanted: never, or some of success,failure,delay."
)
@click.option("--ret", type=click.Choice(["full", "hdrs"]), help="What a report returns of it.")
@click.option("--envid", metavar="TEXT", help="An identifier that reports repeat.")
@click.option(
    "--tag", "tags", metavar="K=V", multiple=True, help="A name and value to keep with it."
)
@click.option("--key", metavar="KEY", help="Sent again with the same key, it is the same message.")
@click.option(
    "--wait",
    metavar="[TIME]",
    is_flag=False,
    flag_value="",
    help="Wait for the outcome, 60s unless a time is given.",
)
@click.option(
    "--patience",
    metavar="TIME",
    help="How long to look for a service that is restarting; default 10s.",
)
@click.argument("recipients", metavar="[RCPT]...", nargs=-1)
@click.pass_obj
def send(invocation: Invocation, /, recipients: tuple[str, ...], **options: Any) -> int | None:
    """Enqueue one message (RFC 5322) from standard input.

    Lines may end in LF or CRLF. Date, Message-ID and From are added when missing, Bcc is removed.
    Prints the queue id once the message is safe. With --wait, exits 0 when it was delivered to
    everybody, 1 when to nobody, 6 when to some, 75 when some still wait.
    """
    wait, recipients = _wait(options["wait"], recipients)
    if not recipients and not options["from_headers"]:
        raise click.UsageError("Name recipients, or take them from the header section with -t.")
    wishes: Wishes = {
        "key": options["key"],
        "at": _moment(options["at"], time.time()),
        "tags": _tags(options["tags"]),
        "dsn": options["dsn"],
        "ret": options["ret"],
        "envid": options["envid"],
        "hold": options["hold"],
        "from_headers": options["from_headers"],
    }
    patience = _span(options["patience"], "--patience") if options["patience"] else PATIENCE
    with (
        ExitStack() as files,
        Client(invocation.config_path, overrides=invocation.overrides, patience=patience) as client,
    ):
        content = _content(options["file"], files)
        queue_id = client.enqueue(options["sender"], recipients, content, **wishes)
        if wait is None or not invocation.json:
            print(json.dumps({"id": queue_id}) if invocation.json else queue_id, flush=True)
        if wait is None:
            return None
        try:
            message = client.wait(queue_id, wait)
        except ServiceError as error:
            if invocation.json:
                print(json.dumps({"id": queue_id}))
            text = f"{queue_id} is in the queue, but its outcome is not known: {error.text}"
            raise CommandError(text, code=error.code, hint=error.hint) from None
    if invocation.json:
        print(json.dumps(message))
    else:
        _tell(message)
    return _status(message)


def _wait(value: str | None, recipients: tuple[str, ...]) -> tuple[float | None, tuple[str, ...]]:
    """How long to wait; an address that followed ``--wait`` without a time is a recipient."""
    if not value:
        return (None if value is None else _WAIT), recipients
    if _DURATION.fullmatch(value):
        return _span(value, "--wait"), recipients
    return _WAIT, (value, *recipients)


def _span(value: str, option: str) -> float:
    from deliveryagent.setting import parse_duration

    try:
        return float(parse_duration(value))
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=option) from None


def _moment(value: str | None, now: float) -> float | None:
    """Seconds since the epoch from RFC 3339, ``in 2h`` or ``+2h``."""
    if value is None:
        return None
    if match := _IN.fullmatch(value.strip()):
        return now + _span(match[1].strip(), "--at")
    from datetime import datetime

    try:
        moment = datetime.fromisoformat(value.strip())
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise click.BadParameter(
            f'"{value}" is not a time; write it like 2026-01-31T08:00:00Z, or "in 2h"',
            param_hint="--at",
        )
    return moment.timestamp()


def _tags(pairs: tuple[str, ...]) -> dict[str, str]:
    tags = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise click.BadParameter(f'"{pair}" is not NAME=VALUE', param_hint="--tag")
        tags[name] = value
    return tags


def _content(path: str | None, files: ExitStack) -> "bytes | Readable":
    """The message in a form that can be sent again when the service restarts meanwhile."""
    if path is not None and path != "-":
        from pathlib import Path

        try:
            return files.enter_context(Path(path).open("rb"))
        except OSError as error:
            text = f"{path}: {error.strerror}"
            raise CommandError(text, code=ExitStatus.FAILED) from None
    source = sys.stdin.buffer
    if stat.S_ISREG(os.fstat(source.fileno()).st_mode):
        return source
    if source.isatty():
        print("Type the message, header section first; end it with Ctrl-D.", file=sys.stderr)
    first = source.read(_IN_MEMORY)
    return first if len(first) < _IN_MEMORY else _spooled(first, source, files)


def _spooled(first: bytes, source: BinaryIO, files: ExitStack) -> "Readable":
    from shutil import copyfileobj
    from tempfile import TemporaryFile

    spool = files.enter_context(TemporaryFile())  # noqa: SIM115 - it is entered here
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
    states = [recipient["status"] for recipient in message["recipients"]]
    if all(state == "delivered" for state in states):
        return ExitStatus.DONE
    if any(state in {"queued", "active", "deferred", "held"} for state in states):
        return ExitStatus.TRY_LATER
    return ExitStatus.PARTLY_DONE if "delivered" in states else ExitStatus.FAILED
