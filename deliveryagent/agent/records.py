"""The queue as JSON: messages, recipients and attempts as commands print them and ``wait`` answers them.

Field names are a contract with programs: they are only ever added. Times are RFC 3339 in UTC, durations
seconds, sizes octets. Guarantees: the same message gives the same record whether the service or a command
builds it, apart from what is in flight. Never reads a clock or the store.
"""

import json
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any

from deliveryagent.mail.envelope import (
    FINAL_STATUSES,
    MOST_ALIVE,
    RecipientStatus,
    format_queue_id,
    parse_queue_id,
)
from deliveryagent.policy import deadline, precedence, retry
from deliveryagent.policy.retry import RetrySettings
from deliveryagent.queue.search import Found, FoundRecipient, Shown, Tried

Places = Collection[tuple[int, int]]
"""Recipients by queue id and number: those whose attempt is in flight."""


def rfc3339(moment: float) -> str:
    """A moment with milliseconds, in UTC.

    >>> rfc3339(1762778407.25)
    '2025-11-10T12:40:07.250Z'
    """
    stamp = datetime.fromtimestamp(round(moment * 1000) / 1000, UTC)
    return stamp.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def status_of(found: Found, recipient: FoundRecipient, active: Places) -> str:
    """A recipient's status, with what only the service knows: whether it is in flight."""
    in_flight = (found.queue_id, recipient.number) in active
    return RecipientStatus.ACTIVE.value if in_flight else recipient.status


def due_of(found: Found, recipient: FoundRecipient) -> float | None:
    """When the next attempt is due, or since when, whatever place a priority gives it in its line."""
    if recipient.due is None:
        return None
    return precedence.due_since(recipient.due, found.queue_id, found.priority)


def message_status(found: Found, active: Places) -> str:
    """The most alive status of a message."""
    states = {found.status, *(status_of(found, one, active) for one in found.recipients)}
    return next(status.value for status in MOST_ALIVE if status in states)


def message_record(found: Found, settings: RetrySettings, *, active: Places = ()) -> dict[str, Any]:
    """A message with the recipients that were asked for."""
    expires = retry.expires(arrival=found.lifetime_start, sender=found.sender, settings=settings)
    expires = deadline.ends(expires, found.deliver_by, found.by_mode)
    status = message_status(found, active)
    ended = status in {final.value for final in FINAL_STATUSES}
    return {
        "id": format_queue_id(found.queue_id),
        "sender": found.sender,
        "size": found.size,
        "arrival": rfc3339(found.arrival),
        "expires": None if ended else rfc3339(expires),
        "status": status,
        "recipient_count": found.recipient_count,
        "recipients": [recipient_record(found, one, active=active) for one in found.recipients],
        **_wishes(found),
    }


def _wishes(found: Found) -> dict[str, Any]:
    """What the message asks of its way, if it asks for anything."""
    wishes: dict[str, Any] = {}
    if found.priority:
        wishes["priority"] = found.priority
    if found.deliver_by:
        wishes["deliver_by"] = rfc3339(found.deliver_by)
        wishes["by_mode"] = found.by_mode
    if found.require_tls:
        wishes["require_tls"] = True
    return wishes


def recipient_record(
    found: Found, recipient: FoundRecipient, *, active: Places = ()
) -> dict[str, Any]:
    """One recipient with its last answer."""
    reply = None
    due = due_of(found, recipient)
    if recipient.stage or recipient.text:
        reply = {
            "code": recipient.code,
            "enhanced": recipient.enhanced,
            "text": recipient.text,
            "stage": recipient.stage,
        }
    return {
        "number": recipient.number,
        "address": recipient.address,
        "status": status_of(found, recipient, active),
        "attempts": recipient.attempts,
        "next_attempt": None if due is None else rfc3339(due),
        "last_reply": reply,
        "host": recipient.host,
        "updated": rfc3339(recipient.updated),
        "finished": rfc3339(recipient.finished) if recipient.finished is not None else None,
        "reported": format_queue_id(recipient.reported) if recipient.reported else None,
    }


def shown_record(shown: Shown, settings: RetrySettings, *, active: Places = ()) -> dict[str, Any]:
    """A message with everything that is known, the attempts under ``history``."""
    found = shown.message
    record = message_record(found, settings, active=active)
    record |= {
        "origin": found.origin,
        "tags": _decoded(found.tags, {}),
        "ret": found.ret,
        "envid": found.envid,
    }
    for recipient, one in zip(record["recipients"], found.recipients, strict=True):
        recipient["history"] = [
            attempt_record(tried) for tried in shown.attempts.get(one.number, ())
        ]
    return record


def attempt_record(tried: Tried) -> dict[str, Any]:
    """One attempt; ``earlier_hosts`` are those tried before the one that decided."""
    return {
        "number": tried.attempt,
        "started": rfc3339(tried.started),
        "host": tried.host,
        "ip": tried.ip,
        "port": tried.port,
        "stage": tried.stage,
        "reply": {"code": tried.code, "enhanced": tried.enhanced, "text": tried.text},
        "tls": tried.tls,
        "timings": {
            "queue": tried.queue_time,
            "connect": tried.connect_time,
            "setup": tried.setup_time,
            "transfer": tried.transfer_time,
        },
        "decision": tried.decision,
        "earlier_hosts": earlier_hosts(tried),
    }


def earlier_hosts(tried: Tried) -> list[dict[str, Any]]:
    """The hosts an attempt tried before the one that decided: host, ip, port, stage and answer."""
    found: list[dict[str, Any]] = _decoded(tried.trail, [])
    return found


def _decoded(text: str, default: Any) -> Any:
    """JSON that was stored by this program; the default when there is none."""
    return json.loads(text) if text else default


def active_places(answer: Mapping[str, Any] | None) -> dict[tuple[int, int], float]:
    """What the service says is in flight, with the time since when (the order ``active``)."""
    if answer is None:
        return {}
    return {
        (parse_queue_id(queue_id), number): since
        for queue_id, number, since in answer.get("recipients", [])
    }
