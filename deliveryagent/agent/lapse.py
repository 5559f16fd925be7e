"""The end of a recipient whose time is over by its sender's own word (RFC 2852).

It expires with 5.4.7, and that is reported like any failure: where it waits outside (``upkeep``), and in the
moment its request would leave (``recorder``). Never decides what too late is: that is ``policy.deadline``.
"""

from deliveryagent.mail.envelope import Notify, RecipientStatus, lifetime_start
from deliveryagent.policy import deadline, notices
from deliveryagent.policy.retry import RetrySettings
from deliveryagent.queue.deadlines import LateRecipient
from deliveryagent.queue.lines import Claimed
from deliveryagent.queue.overdue import Expiry


def expiry(
    of: Claimed | LateRecipient, *, agent: int, now: float, settings: RetrySettings
) -> Expiry:
    """The end of a recipient that was to be delivered by now; ``agent`` is who says so."""
    return Expiry(
        message_id=of.message_id,
        number=of.number,
        now=now,
        destination=of.destination,
        agent=agent,
        enhanced=deadline.RETURNED,
        text=deadline.TOO_LATE,
        owed=notices.owed(
            status=RecipientStatus.EXPIRED,
            sender=of.sender,
            notify=Notify(of.notify),
            relayed=False,
            warned=False,
            arrival=lifetime_start(of.message_id, of.not_before),
            now=now,
            settings=settings,
        ),
    )
