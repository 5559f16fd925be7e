"""Looks into the queue for ``dagent queue``: its lists, one message, its shape.

Guarantees: what is shown is what the store and the service said when asked, page by page; remote text is
escaped. Changes nothing.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, Literal, NamedTuple

import msgspec

from deliveryagent.agent.records import (
    due_of,
    earlier_hosts,
    message_record,
    shown_record,
    status_of,
)
from deliveryagent.cli import view
from deliveryagent.cli.command import Invocation
from deliveryagent.cli.filters import selection
from deliveryagent.cli.screen import (
    Cell,
    Column,
    Screen,
    Tone,
    clean,
    count,
    span,
    until,
    utc,
)
from deliveryagent.cli.screen import size as sized
from deliveryagent.cli.view import View
from deliveryagent.mail.envelope import RecipientStatus, format_queue_id
from deliveryagent.protocol.diagnosis import quoted
from deliveryagent.protocol.headers import header_section
from deliveryagent.queue import search, shape
from deliveryagent.queue.search import Filter, Found, FoundRecipient, Shown, Tried

_SHOWN_RECIPIENTS = 50
_TONES: dict[str, Tone] = {
    "active": "strong",
    "deferred": "warn",
    "held": "warn",
    "delivered": "good",
    "bounced": "bad",
    "expired": "bad",
    "deleted": "faint",
}


def print_list(
    invocation: Invocation, given: dict[str, Any], limit: int | None, *, rows: int
) -> None:
    """Messages that a filter means; ``rows`` is the limit for people who named none."""
    screen = invocation.screen()
    with view.opened(invocation) as found:
        wanted = selection(given, now=found.now)
        wanted = _with_finished(_with_ids(found, wanted))
        if invocation.json:
            settings = invocation.schedule()
            for message in _first(found.find(wanted), limit or 0):
                screen.record(message_record(message, settings, active=found.active))
            return
        lines = (row for message in found.find(wanted) for row in _rows(found, message))
        _print_rows(found, screen, lines, rows if limit is None else limit)


def _with_ids(found: View, wanted: Filter) -> Filter:
    if not wanted.ids:
        return wanted
    ids = tuple(format_queue_id(found.resolve(word)) for word in wanted.ids)
    return msgspec.structs.replace(wanted, ids=ids)


def _with_finished(wanted: Filter) -> Filter:
    """For a list, ``--all`` means finished recipients too."""
    if not wanted.all:
        return wanted
    states = tuple(s.value for s in RecipientStatus if s is not RecipientStatus.ACTIVE)
    return msgspec.structs.replace(
        wanted, all=False, status=(*states, RecipientStatus.ACTIVE.value)
    )


def _first(messages: Iterable[Found], limit: int) -> Iterator[Found]:
    for place, message in enumerate(messages, 1):
        yield message
        if place == limit:
            return


class Row(NamedTuple):
    """A line of the list: recipients of a message that share everything shown but their address."""

    message: Found
    status: str
    recipients: list[FoundRecipient]


def _rows(found: View, message: Found) -> Iterator[Row]:
    alike: dict[tuple[object, ...], Row] = {}
    for one in message.recipients:
        status = status_of(message, one, found.active)
        due = round(one.due) if one.due is not None else None
        facts = (status, one.destination, one.attempts, due, one.code, one.enhanced, one.text)
        alike.setdefault(facts, Row(message, status, [])).recipients.append(one)
    yield from alike.values()


def _print_rows(found: View, screen: Screen, rows: Iterator[Row], limit: int) -> None:
    first = next(rows, None)
    if first is None:
        screen.note("Nothing matches.")
        return
    coming = chain([first], rows)
    shown = islice(coming, limit) if limit else coming
    columns = [
        Column("ID"),
        Column("AGE", right=True),
        Column("SIZE", right=True),
        Column("STATE"),
        Column("TRIES", right=True),
        Column("NEXT"),
        Column("FROM"),
        Column("TO"),
        Column("LAST ANSWER"),
    ]
    screen.table(columns, (_cells(found, row) for row in shown))
    if next(coming, None) is not None:
        screen.note(f"The first {count(limit, 'line')}, oldest first; --limit 0 shows all.")


def _cells(found: View, row: Row) -> Sequence[str | Cell]:
    message, first = row.message, row.recipients[0]
    others = f" +{len(row.recipients) - 1}" if len(row.recipients) > 1 else ""
    waits = row.status in {"queued", "deferred"}
    return [
        format_queue_id(message.queue_id),
        span(found.now - message.arrival),
        sized(message.size),
        Cell(row.status, _TONES.get(row.status, "plain")),
        str(first.attempts),
        until(due_of(message, first), found.now) if waits else "-",
        message.sender or "<>",
        first.address + others,
        quoted(first.code, first.enhanced, first.text),
    ]


def print_message(invocation: Invocation, identity: str, *, headers: bool) -> None:
    """One message with all its recipients and attempts, and its header section if wished."""
    screen = invocation.screen()
    with view.opened(invocation) as found:
        queue_id = found.resolve(identity)
        shown = _whole(found, queue_id, 0 if invocation.json else _SHOWN_RECIPIENTS)
        head = search.beginning(found.reader, queue_id) if headers else None
        if invocation.json:
            record = shown_record(shown, invocation.schedule(), active=found.active)
            if headers:
                text = header_section(head or b"").decode("utf-8", "backslashreplace")
                record["headers"] = text
            screen.record(record)
            return
        _print_message(found, screen, shown)
        if headers:
            _print_headers(screen, head)


def _whole(found: View, queue_id: int, limit: int) -> Shown:
    """The message with its first recipients; all of them when ``limit`` is 0."""
    page = search.show(found.reader, queue_id, limit=limit or 1000)
    assert page is not None  # resolve() saw it
    message, attempts = page.message, dict(page.attempts)
    while not limit and len(message.recipients) < message.recipient_count:
        after = message.recipients[-1].number
        rest = search.show(found.reader, queue_id, limit=1000, after=after)
        if rest is None:
            break
        attempts |= rest.attempts
        message = msgspec.structs.replace(
            message, recipients=(*message.recipients, *rest.message.recipients)
        )
    return Shown(message=message, attempts=attempts)


def _print_message(found: View, screen: Screen, shown: Shown) -> None:
    message = shown.message
    identity = screen.paint(format_queue_id(message.queue_id), "strong")
    screen.line(f"{identity}  from {clean(message.sender or '<>')}  {sized(message.size)}B")
    age = span(found.now - message.arrival)
    screen.line(f"  queued  {utc(message.arrival)}, {age} ago, by {clean(message.origin)}")
    for name, value in (("envid", message.envid), ("ret", message.ret), ("tags", message.tags)):
        if value and value != "{}":
            screen.line(f"  {name:7} {clean(value)}")
    if wishes := view.wishes(message):
        screen.line(f"  wants   {'; '.join(wishes)}")
    for one in message.recipients:
        screen.line()
        _print_recipient(found, screen, message, one)
        for tried in shown.attempts.get(one.number, ()):
            _print_attempt(screen, tried)
    left = message.recipient_count - len(message.recipients)
    if left > 0:
        screen.note(f"{count(left, 'more recipient')}: dagent --json queue show shows all.")


def _print_recipient(found: View, screen: Screen, message: Found, one: FoundRecipient) -> None:
    status = status_of(message, one, found.active)
    painted = screen.paint(status, _TONES.get(status, "plain"))
    words = f"{clean(one.address)}  {painted}"
    if status in {"queued", "deferred"}:
        words += f", next try {until(due_of(message, one), found.now)}"
    elif one.finished is not None:
        words += f" {utc(one.finished)}"
    screen.line(words)
    if one.reported:
        screen.line(f"  reported to the sender by {format_queue_id(one.reported)}")
    if one.stage == "route" and one.text:
        screen.line(f"  {clean(quoted(one.code, one.enhanced, one.text))}")


def _print_attempt(screen: Screen, tried: Tried) -> None:
    where = f"{tried.host}[{tried.ip}]:{tried.port}" if tried.ip else tried.host or "-"
    took = tried.connect_time + tried.setup_time + tried.transfer_time
    facts = [utc(tried.started), tried.decision, where, tried.stage, f"{took:.2f}s"]
    if tried.tls:
        facts.append(tried.tls)
    screen.line(f"  {tried.attempt:3}  {clean('  '.join(facts))}")
    screen.line(f"       {clean(quoted(tried.code, tried.enhanced, tried.text))}")
    for host in earlier_hosts(tried):
        said = quoted(host.get("code", 0), host.get("enhanced", ""), host.get("text", ""))
        screen.line(f"       after {clean(str(host.get('host', '')))}: {clean(said)}")


def _print_headers(screen: Screen, head: bytes | None) -> None:
    screen.line()
    if head is None:
        screen.line("The content is not kept any more: no recipient needs it.")
        return
    for line in header_section(head).decode("utf-8", "backslashreplace").splitlines():
        screen.line(clean(line.replace("\t", "    ")))


def print_shape(
    invocation: Invocation, by: Literal["destination", "site", "sender"], limit: int
) -> None:
    """How much waits, by age."""
    screen = invocation.screen()
    buckets = [str(minutes) for minutes in shape.SHAPE_MINUTES]
    buckets.append(f"{buckets[-1]}+")
    with view.opened(invocation) as found:
        rows = shape.shape(found.reader, found.now, by, limit)
    if invocation.json:
        for row in rows:
            ages = dict(zip(buckets, row.buckets, strict=True))
            screen.record({"name": row.name, "total": row.total, "buckets": ages})
        return
    if not rows:
        screen.note("Nothing waits.")
        return
    columns = [Column(by.upper()), Column("T", right=True)]
    columns += [Column(bucket, right=True) for bucket in buckets]
    sums = [sum(values) for values in zip(*(row.buckets for row in rows), strict=True)]
    total = ["TOTAL", str(sum(sums)), *map(str, sums)]
    lines = [[row.name or "-", str(row.total), *map(str, row.buckets)] for row in rows]
    screen.table(columns, [total, *lines])
