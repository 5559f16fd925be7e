"""Until when a message is to be delivered, and what becomes of it then (RFC 2852).

In mode ``R`` it is returned: not tried any more, and reported as failed with 5.4.7. In mode ``N`` its sender is
told, once, that it is delayed (4.4.7), and delivery goes on; the time the sender named then takes the place of
the usual ``delay_warning_time``. A ``T`` behind the mode is passed on and means nothing here.

Guarantees: a message without such a time (``deliver_by`` 0) is judged as if there were none of this. Never
reads a clock.
"""

from deliveryagent.policy import retry
from deliveryagent.policy.retry import RetrySettings

RETURNED = "5.4.7"
DELAYED = "4.4.7"
TOO_LATE = "it could not be delivered in the time its sender allowed"


def returns(deliver_by: float, by_mode: str) -> bool:
    """Whether the message is given up when its time is over."""
    return deliver_by > 0 and by_mode[:1] == "R"


def notifies(deliver_by: float, by_mode: str) -> bool:
    """Whether the sender is told of a delay when its time is over."""
    return deliver_by > 0 and by_mode[:1] == "N"


def over(deliver_by: float, by_mode: str, now: float) -> bool:
    """Whether nothing may be tried any more.

    >>> over(100.0, "R", 100.0), over(100.0, "R", 99.0), over(100.0, "N", 200.0), over(0.0, "", 200.0)
    (True, False, False, False)
    """
    return returns(deliver_by, by_mode) and now >= deliver_by


def ends(expires: float, deliver_by: float, by_mode: str) -> float:
    """When delivery is given up, from when that would be without a deadline; seconds since the epoch."""
    return min(expires, deliver_by) if returns(deliver_by, by_mode) else expires


def warning_due(
    *, arrival: float, deliver_by: float, by_mode: str, settings: RetrySettings
) -> float | None:
    """When the sender is told of a delay, None for never."""
    if notifies(deliver_by, by_mode):
        return deliver_by
    return retry.warning_due(arrival=arrival, settings=settings)
