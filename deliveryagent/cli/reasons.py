"""Tells why recipients are where they are: the verdict first, then tries, what comes next, who else, advice.

``agent.explain`` decides what is true, this decides how it reads. Guarantees: remote text is escaped; a long
history is shortened and says so. Changes nothing.
"""

from collections.abc import Iterator
from itertools import groupby
from typing import Any, NamedTuple

import msgspec

from deliveryagent.agent.explain import Cause, Explanation, Known, explain
from deliveryagent.agent.records import (
    attempt_record,
    earlier_hosts,
    message_record,
    rfc3339,
)
from deliveryagent.cli import view
from deliveryagent.cli.command import Invocation
from deliveryagent.cli.facts import Facts
from deliveryagent.cli.faults import CommandError, ExitStatus
from deliveryagent.cli.screen import Screen, Tone, clean, clock, count, span, until
from deliveryagent.cli.screen import size as sized
from deliveryagent.cli.view import View
from deliveryagent.mail.envelope import FINAL_STATUSES, RecipientStatus, format_queue_id
from deliveryagent.policy.gates import GateKind
from deliveryagent.policy.retry import RetrySettings
from deliveryagent.protocol.diagnosis import asked, plain, quoted
from deliveryagent.protocol.headers import header_section, split_fields
from deliveryagent.queue import search
from deliveryagent.queue.overview import CAP, COMPARED
from deliveryagent.queue.search import Found, FoundRecipient, Shown, Tried

_MESSAGES = 3  # of an address
_RECIPIENTS = 5  # of a message
_TRIES = 3  # first and last kinds of attempt shown


class Case(NamedTuple):
    """One recipient and everything to be told of it."""

    message: Found
    recipient: FoundRecipient
    known: Known
    explained: Explanation
    tried: tuple[Tried, ...]


def tell(invocation: Invocation, subject: str, *, every: bool) -> None:
    """Explain a message, or the latest messages to an address; ``every`` attempt if wished."""
    screen = invocation.screen()
    settings = invocation.schedule()
    with view.opened(invocation) as found:
        facts = Facts(found)
        for place, shown in enumerate(_subjects(found, subject)):
            for number, one in enumerate(_worth_telling(shown.message)):
                known = facts.known(shown.message, one)
                tried = shown.attempts.get(one.number, ())
                case = Case(shown.message, one, known, explain(known, settings), tried)
                if invocation.json:
                    screen.record(_record(case, settings))
                    continue
                if place or number:
                    screen.line()
                _tell(screen, found, case, facts.live(one.destination), every=every)
            left = shown.message.recipient_count - _RECIPIENTS
            if left > 0 and not invocation.json:
                identity = format_queue_id(shown.message.queue_id)
                screen.note(f"{count(left, 'more recipient')}: dagent queue show {identity}")
        if found.door.trouble and facts.running:
            screen.note(f"The service could not be asked: {clean(found.door.trouble)}")


def _subjects(found: View, subject: str) -> Iterator[Shown]:
    """The messages that are asked about, each with the recipients that are."""
    if "@" not in subject:
        shown = search.show(found.reader, found.resolve(subject), limit=1000)
        assert shown is not None
        yield shown
        return
    address = subject.strip().removeprefix("<").removesuffix(">")
    messages = search.history(found.reader, address, _MESSAGES)
    if not messages:
        raise CommandError(
            f"no message to {address} is known",
            code=ExitStatus.NOT_FOUND,
            hint="History is kept for [queue] history_retention.",
        )
    for message in messages:
        attempts: dict[int, tuple[Tried, ...]] = {}
        for one in message.recipients:
            page = search.show(found.reader, message.queue_id, limit=1, after=one.number - 1)
            attempts |= page.attempts if page is not None else {}
        yield Shown(
            message=msgspec.structs.replace(message, recipient_count=len(message.recipients)),
            attempts=attempts,
        )


def _worth_telling(message: Found) -> list[FoundRecipient]:
    """Those that live first, then those that failed; the first few."""
    order = {RecipientStatus.DELIVERED.value: 2, RecipientStatus.DELETED.value: 2}
    return sorted(
        message.recipients,
        key=lambda one: (order.get(one.status, 1) if one.finished is not None else 0, one.number),
    )[:_RECIPIENTS]


def _subject_of(found: View, message: Found) -> str:
    """The Subject field as it was written, as long as the content is kept."""
    head = search.beginning(found.reader, message.queue_id)
    if head is None:
        return ""
    for field in split_fields(header_section(head).replace(b"\r\n", b"\n")):
        if field.name == b"subject":
            value = field.raw.partition(b":")[2].decode("utf-8", "replace")
            return plain(value.strip(), limit=60)
    return ""


# -- for people ------------------------------------------------------------------------------------


def _tell(screen: Screen, found: View, case: Case, live: dict[str, Any], *, every: bool) -> None:
    message, known, explained = case.message, case.known, case.explained
    identity = screen.paint(known.queue_id, "strong")
    subject = _subject_of(found, message)
    title = f'  "{subject}"' if subject else ""
    way = f"{message.sender or '<>'} → {known.address}"
    age = f"{clock(known.arrival, found.now)} ({span(found.now - known.arrival)} ago)"
    screen.line(f"{identity}  {clean(way)}{clean(title)}  {sized(message.size)}B, queued {age}")
    verdict = clean(explained.verdict)
    screen.line(screen.paint(verdict, _tone(known)) + _others(known, explained.cause))
    if wishes := view.wishes(message):
        screen.line(f"wants  {'; '.join(wishes)}")
    _print_tries(screen, found, case.tried, every=every)
    _print_next(screen, found, known, explained)
    _print_site(screen, found, live)
    screen.line("do     " + " | ".join(clean(text) for text in explained.commands))


def _tone(known: Known) -> Tone:
    match known.situation.status:
        case RecipientStatus.DELIVERED:
            return "good"
        case RecipientStatus.BOUNCED | RecipientStatus.EXPIRED:
            return "bad"
        case RecipientStatus.DELETED:
            return "plain"
        case _:
            return "warn"


def _others(known: Known, cause: Cause) -> str:
    if known.situation.status in FINAL_STATUSES or not known.waiting:
        return ""
    if cause is not Cause.NONE and known.same_answer:
        verb = "waits" if known.same_answer == 1 else "wait"
        return f" {_capped(known.same_answer, COMPARED)} {verb} there for the same reason."
    verb = "waits" if known.waiting == 1 else "wait"
    return f" {_capped(known.waiting, CAP)} {verb} there, for other reasons."


def _capped(number: int, most: int) -> str:
    counted = count(number, "other recipient")
    return f"At least {counted}" if number >= most - 1 else counted


def _print_tries(screen: Screen, found: View, tried: tuple[Tried, ...], *, every: bool) -> None:
    """The attempts in order; unless all are wanted, those like the one before are only counted."""
    runs = [[one] for one in tried] if every else _runs(tried)
    gap = len(runs) - 2 * _TRIES if not every else 0
    for place, run in enumerate(runs):
        if _TRIES <= place < _TRIES + gap:
            if place == _TRIES:
                screen.line(f"       … {count(gap, 'more', 'more')}; --tries shows them")
            continue
        label = "tries" if place == 0 else ""
        screen.line(f"{label:6} {run[0].attempt:2} {clean(_tried(found, run[0]))}")
        for host in earlier_hosts(run[0]):
            screen.line(f"          after {clean(_earlier(host))}")
        if len(run) > 1:
            last = f"the last {clock(run[-1].started, found.now)}"
            screen.line(f"          {count(len(run) - 1, 'more', 'more')} like it, {last}")
    if not tried:
        screen.line("tries  none yet")


def _kind_of(one: Tried) -> tuple[object, ...]:
    return one.host, one.stage, one.code, one.enhanced, one.text


def _runs(tried: tuple[Tried, ...]) -> list[list[Tried]]:
    """Attempts that follow each other with the same host and answer, together."""
    grouped = groupby(tried, key=_kind_of)
    return [list(run) for _, run in grouped]


def _earlier(host: dict[str, Any]) -> str:
    """A host that was tried before the one that decided."""
    said = quoted(host.get("code", 0), host.get("enhanced", ""), host.get("text", ""))
    return f"{host.get('host', '')} {host.get('ip', '')}  {host.get('stage', '')} → {said}"


def _tried(found: View, one: Tried) -> str:
    where = f"{one.host} {one.ip}".strip() if one.host else "nobody was asked"
    words = [clock(one.started, found.now), where]
    if one.tls:
        words.append(one.tls)
    elif one.host and one.stage not in {"connect", "greeting", "ehlo"}:
        words.append("in clear")
    question = asked(one.stage) if one.code else one.stage
    said = quoted(one.code, one.enhanced, one.text)
    words.append(f"{question} → {said}" if question else said)
    return "  ".join(words)


def _print_next(screen: Screen, found: View, known: Known, explained: Explanation) -> None:
    now = found.now
    if explained.expires is None:
        return
    sentences = []
    if explained.next_attempt is not None:
        when = f"{clock(explained.next_attempt, now)} ({until(explained.next_attempt, now)})"
        again = f", then about every {span(explained.interval)}" if known.attempts else ""
        sentences.append(f"attempt {when}{again}")
    elif any(gate.kind is GateKind.ACTIVE for gate in explained.gates):
        sentences.append("the answer of the attempt in flight decides")
    else:
        sentences.append("nothing until somebody acts")
    if explained.warning is not None and explained.warning < explained.expires:
        sentences.append(f"the sender is told of the delay at {clock(explained.warning, now)}")
    held = known.situation.status is RecipientStatus.HELD
    sentences.append(
        "not given up while on hold" if held else f"given up {clock(explained.expires, now)}"
    )
    screen.line(f"next   {'; '.join(sentences)}")
    for gate in explained.gates:
        opens = f" (until {clock(gate.until, now)})" if gate.until is not None else ""
        screen.line(f"gate   {clean(gate.text)}{opens}")


def _print_site(screen: Screen, found: View, live: dict[str, Any]) -> None:
    if not live:
        return
    words = f"{live['name']}: {live['busy']} in flight, window {live['window']}"
    if live.get("closed_until"):
        words += f", closed until {clock(live['closed_until'], found.now)}"
    screen.line(f"site   {clean(words)}")


# -- for programs ----------------------------------------------------------------------------------


def _record(case: Case, settings: RetrySettings) -> dict[str, Any]:
    known, explained = case.known, case.explained
    single = msgspec.structs.replace(case.message, recipients=(case.recipient,))
    record = message_record(single, settings)
    (recipient,) = record.pop("recipients")
    history = [attempt_record(attempt) for attempt in case.tried]
    moments = ("next_attempt", "warning", "expires")
    return {
        **record,
        "recipient": {**recipient, "history": history},
        "verdict": explained.verdict,
        "cause": explained.cause.value,
        "gates": [
            {
                "kind": gate.kind.value,
                "until": None if gate.until is None else rfc3339(gate.until),
                "text": gate.text,
            }
            for gate in explained.gates
        ],
        **{name: _moment(getattr(explained, name)) for name in moments},
        "interval": explained.interval,
        "others": {"waiting": known.waiting, "same_answer": known.same_answer},
        "running": known.running,
        "commands": list(explained.commands),
    }


def _moment(moment: float | None) -> str | None:
    return None if moment is None else rfc3339(moment)
