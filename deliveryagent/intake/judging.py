"""What hooks make of a message that has come completely.

Guarantees: a verdict on the whole message ends the matter; over LMTP recipients may have verdicts of their
own, and those who are refused are taken out of the message. Never stores anything.
"""

import asyncio
import inspect

import msgspec

from deliveryagent.intake.hooks import Hooks
from deliveryagent.intake.message import Message
from deliveryagent.mail.verdict import (
    Accept,
    Decision,
    Discard,
    Refusal,
    Reject,
    Tempfail,
)
from deliveryagent.protocol.smtpd_steps import Kept, Outcome

STAGES = ("headers", "message")
"""The stages at the end of a message, in order."""


class Judgement(msgspec.Struct, frozen=True):
    """``outcome`` is there when nothing is left to be stored; ``text`` is what a yes says, if a hook cares."""

    outcome: Outcome | None = None
    refused: dict[str, Refusal] = {}
    text: str = ""


async def judge(hooks: Hooks, message: Message, now: float) -> Judgement:
    """Ask the hooks about a message, and do to it what they say."""
    text = ""
    for stage in STAGES:
        verdict = await _opinion(hooks, stage, message)
        if isinstance(verdict, Reject | Tempfail):
            return Judgement(Outcome(verdict))
        if isinstance(verdict, Accept) and stage == "message":
            text = verdict.text
        message.transaction.heed(verdict, now)
    refused = _take_out(message)
    if message.transaction.discard or not message.transaction.recipients:
        return Judgement(Outcome(Kept(text or "Ok"), refused), refused)
    return Judgement(None, refused, text)


async def _opinion(hooks: Hooks, stage: str, message: Message) -> Decision | None:
    if stage not in hooks.asked:
        return None
    answer = hooks.ask(stage, message.session, message)
    verdict = await answer if inspect.isawaitable(answer) else answer
    if verdict is not None and verdict.delay:
        await asyncio.sleep(verdict.delay)
    return verdict


def _take_out(message: Message) -> dict[str, Refusal]:
    """Take those out who have a verdict of their own (LMTP); returns who of them is refused."""
    refused: dict[str, Refusal] = {}
    recipients = message.transaction.recipients
    for recipient in list(recipients):
        verdict = message.refused.get(recipient.address)
        if isinstance(verdict, Reject | Tempfail):
            refused[recipient.address] = verdict
        if isinstance(verdict, Reject | Tempfail | Discard):
            recipients.remove(recipient)
    return refused
