"""What dead processes were at, from their journals: settled, in doubt, or tried again.

A reply that was seen is settled as if it had been reported. A final dot without a reply is in doubt: deferred
with 4.4.2 "may be sent more than once". A request that was merely started is tried again, and counts towards
the poison rule: a message during whose delivery a process died ``POISON`` times is put on hold.

Guarantees: a journal is removed only after everything it says is recorded; dealing with one twice changes
nothing, because outcomes carry their attempt's number.
"""

import asyncio
import os
import random
import signal
from collections.abc import Sequence
from pathlib import Path

from deliveryagent.agent import journal, settlement
from deliveryagent.agent.journal import Entry, State
from deliveryagent.mail.delivery import DeliveryResult, Trouble, Verdict
from deliveryagent.policy.retry import RetrySettings
from deliveryagent.queue import outcomes
from deliveryagent.queue.aftermath import recall
from deliveryagent.queue.claims import Claimed
from deliveryagent.queue.thread import Database

POISON = 3
_ORPHAN_PATIENCE = (
    5.0  # seconds a worker of a dead manager may take to hear the answer to its final dot
)

IN_DOUBT_TEXT = (
    "the process died after the final dot was sent; the message may be sent more than once"
)
POISON_TEXT = f"processes died {POISON} times while they delivered this message; put on hold"


def judged(entry: Entry | None, claimed: Sequence[Claimed], *, now: float) -> DeliveryResult | None:
    """The result an entry amounts to; None when the recipients are simply to be tried again."""
    if entry is None:
        return None
    if entry.state is State.REPLIED and entry.result is not None:
        return entry.result
    if entry.state in (State.DOT, State.REPLIED):
        return settlement.verdict_for_all(
            claimed, verdict=Verdict.IN_DOUBT, trouble=Trouble.CRASHED, text=IN_DOUBT_TEXT, now=now
        )
    return None


def poisoned(claimed: Sequence[Claimed], *, now: float) -> DeliveryResult:
    """The result that puts a message on hold."""
    return settlement.verdict_for_all(
        claimed, verdict=Verdict.HELD, trouble=Trouble.CRASHED, text=POISON_TEXT, now=now
    )


async def outlive(path: Path) -> None:
    """Wait until no worker of an earlier manager writes this journal any more, with force if need be."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _ORPHAN_PATIENCE
    while (pid := journal.writer(path)) is not None:
        if loop.time() > deadline:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                return
        await asyncio.sleep(0.02)


async def replay(
    path: Path,
    *,
    identity: bytes,
    database: Database,
    now: float,
    retry: RetrySettings,
    rng: random.Random,
) -> list[int]:
    """Settle everything an earlier run's journal says; returns the messages that may owe a report."""
    await outlive(path)
    owing: list[int] = []
    for entry in journal.read(path, identity):
        found = await asyncio.gather(
            *(database.submit(recall, (entry.queue_id, number)) for number, _ in entry.recipients)
        )
        attempts = dict(entry.recipients)
        claimed = [c for c in found if c is not None and attempts[c.number] == c.attempts + 1]
        if not claimed:
            continue
        result = judged(entry, claimed, now=now)
        if result is None:
            crashes = await database.submit(outcomes.crashed, entry.queue_id)
            if crashes < POISON:
                continue
            result = poisoned(claimed, now=now)
        rows = settlement.settlements(result, claimed, now=now, settings=retry, rng=rng)
        await asyncio.gather(*(database.submit(outcomes.settle, row[2]) for row in rows))
        owing.append(entry.queue_id)
    path.unlink(missing_ok=True)  # noqa: ASYNC240 - one call, on a local file
    return owing
