"""From a worker's answer to what the store records and the log says.

Guarantees: every recipient of a result that is over gets exactly one settlement; an untried recipient gets
none. The decisions are ``policy``'s: retry time, expiry, what the sender is owed. Never reads a clock.
"""

import random
from collections.abc import Sequence

import msgspec

from deliveryagent.log import Attempt, Delays
from deliveryagent.mail.delivery import (
    DeliveryResult,
    HostTry,
    Pressure,
    RecipientResult,
    Stage,
    Trouble,
    Verdict,
)
from deliveryagent.mail.envelope import (
    Notify,
    RecipientStatus,
    arrival_of,
    format_queue_id,
    lifetime_start,
)
from deliveryagent.policy import deadline, notices, precedence, retry
from deliveryagent.policy.retry import RetrySettings
from deliveryagent.queue.claims import Claimed
from deliveryagent.queue.outcomes import Settlement

_NOWHERE = HostTry("", "", 0, "", 0, 0.0, 0.0, 0.0, "", 0, "", "")
_DELIVERED, _RETURNED = Verdict.DELIVERED.value, Verdict.RETURNED.value
_json = msgspec.json.Encoder()


def settlements(
    result: DeliveryResult,
    claimed: Sequence[Claimed],
    *,
    now: float,
    settings: RetrySettings,
    rng: random.Random,
) -> list[tuple[Claimed, RecipientResult, Settlement]]:
    """What to record for each recipient that was attempted, with the recipient and its result."""
    numbers = {recipient.number: recipient for recipient in claimed}
    settled = []
    for outcome in result.recipients:
        recipient = numbers.get(outcome.number)
        if recipient is None or outcome.verdict == _RETURNED:
            continue
        row = _settlement(result, recipient, outcome, now=now, settings=settings, rng=rng)
        settled.append((recipient, outcome, row))
    return settled


def _settlement(
    result: DeliveryResult,
    recipient: Claimed,
    outcome: RecipientResult,
    *,
    now: float,
    settings: RetrySettings,
    rng: random.Random,
) -> Settlement:
    tries, place = result.tries, outcome.host
    host = tries[place] if 0 <= place < len(tries) else _NOWHERE
    if outcome.verdict == _DELIVERED and not outcome.relayed:
        # The usual case: nothing to decide, nothing owed.
        status, due, owed, decision = "delivered", None, "", "delivered"
    else:
        state, due = _next_state(recipient, outcome, now=now, settings=settings, rng=rng)
        owed = _owed(recipient, outcome, state, now=now, settings=settings)
        status = state.value
        decision = _DECISIONS.get(Verdict(outcome.verdict), status)
    return Settlement(
        message_id=recipient.message_id,
        number=recipient.number,
        attempt=recipient.attempts + 1,
        status=status,
        due=due,
        owed=owed,
        destination=recipient.destination,
        updated=now,
        started=result.started,
        decision=decision,
        stage=outcome.stage,
        code=outcome.code,
        enhanced=outcome.enhanced,
        text=outcome.text,
        host=host.host,
        ip=host.ip,
        port=host.port,
        tls=host.tls,
        queue_time=max(
            0.0,
            result.started
            - precedence.due_since(recipient.due, recipient.message_id, recipient.priority),
        ),
        connect_time=host.connect,
        setup_time=host.setup,
        transfer_time=host.transfer,
        trail="" if len(tries) == 1 and host is not _NOWHERE else _trail(tries, place),
    )


def _owed(
    recipient: Claimed,
    outcome: RecipientResult,
    status: RecipientStatus,
    *,
    now: float,
    settings: RetrySettings,
) -> str:
    return notices.owed(
        status=status,
        sender=recipient.sender,
        notify=Notify(recipient.notify),
        relayed=outcome.relayed,
        warned=recipient.warned is not None,
        arrival=lifetime_start(recipient.message_id, recipient.not_before),
        now=now,
        settings=settings,
        deliver_by=recipient.deliver_by,
        by_mode=recipient.by_mode,
    ).value


_DECISIONS = {Verdict.IN_DOUBT: "in_doubt"}


def _next_state(
    recipient: Claimed,
    outcome: RecipientResult,
    *,
    now: float,
    settings: RetrySettings,
    rng: random.Random,
) -> tuple[RecipientStatus, float | None]:
    match Verdict(outcome.verdict):
        case Verdict.DELIVERED:
            return RecipientStatus.DELIVERED, None
        case Verdict.BOUNCED:
            return RecipientStatus.BOUNCED, None
        case Verdict.HELD:
            return RecipientStatus.HELD, None
        case _:
            arrival = lifetime_start(recipient.message_id, recipient.not_before)
            expires = retry.expires(arrival=arrival, sender=recipient.sender, settings=settings)
            if now >= deadline.ends(expires, recipient.deliver_by, recipient.by_mode):
                return RecipientStatus.EXPIRED, None
            due = retry.next_due(
                now=now,
                arrival=arrival,
                attempts=recipient.attempts + 1,
                retry_after=outcome.retry_after,
                settings=settings,
                rng=rng,
            )
            return RecipientStatus.DEFERRED, due


def _trail(tries: Sequence[HostTry], decided: int) -> str:
    """The hosts tried before the one that decided, as a JSON list; empty when there was none."""
    earlier = [
        {
            "host": host.host,
            "ip": host.ip,
            "port": host.port,
            "stage": host.stage,
            "code": host.code,
            "enhanced": host.enhanced,
            "text": host.text,
        }
        for index, host in enumerate(tries)
        if index != decided
    ]
    return _json.encode(earlier).decode() if earlier else ""


def record(recipient: Claimed, row: Settlement, uses: int) -> Attempt:
    """The line of the event log for one settled recipient."""
    return Attempt(
        now=row.updated,
        event=row.status,
        id=format_queue_id(row.message_id),
        sender=recipient.sender,
        recipient=recipient.address,
        attempt=row.attempt,
        host=row.host,
        ip=row.ip,
        port=row.port,
        stage=row.stage,
        code=row.code,
        enhanced=row.enhanced,
        reply=row.text,
        decision=row.decision,
        tls=row.tls,
        delay=max(0.0, row.updated - arrival_of(row.message_id)),
        delays=Delays(row.queue_time, row.connect_time, row.setup_time, row.transfer_time),
        uses=uses,
        next_attempt=row.due,
    )


def verdict_for_all(
    claimed: Sequence[Claimed], *, verdict: Verdict, trouble: Trouble, text: str, now: float
) -> DeliveryResult:
    """A result made here because no worker can make it: a crash, a dot without an answer."""
    enhanced = {Verdict.IN_DOUBT: "4.4.2", Verdict.HELD: "4.3.0"}.get(verdict, "4.3.0")
    stage = Stage.DOT if verdict is Verdict.IN_DOUBT else Stage.ROUTE
    results = tuple(
        RecipientResult(recipient.number, verdict, stage, 0, enhanced, f"{trouble.value}: {text}")
        for recipient in claimed
    )
    return DeliveryResult(
        0, claimed[0].message_id, results, (), Pressure.NONE, "", started=now, sequence=0
    )
