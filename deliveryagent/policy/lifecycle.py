"""Which states a recipient may pass through.

    queued ──> active ──> delivered | bounced | expired
      │ ^        │ ^
      v │        v │
     held <── deferred ──> bounced | expired | deleted

Guarantees: a final state is never left, nothing returns to ``queued`` but what was never attempted or was
held, and mail on hold does not expire. The store's every write of a status is a step allowed here.
"""

from deliveryagent.mail.envelope import RecipientStatus

_QUEUED, _ACTIVE, _DEFERRED, _HELD, _DELIVERED, _BOUNCED, _EXPIRED, _DELETED = RecipientStatus

STEPS: dict[RecipientStatus, frozenset[RecipientStatus]] = {
    # A waiting recipient may be recorded as waiting again: a new due time, an order to try now. Its attempt is
    # recorded by its outcome alone, for active is never stored.
    _QUEUED: frozenset(
        {_QUEUED, _ACTIVE, _DEFERRED, _HELD, _DELIVERED, _BOUNCED, _EXPIRED, _DELETED}
    ),
    _DEFERRED: frozenset({_ACTIVE, _DEFERRED, _HELD, _DELIVERED, _BOUNCED, _EXPIRED, _DELETED}),
    _ACTIVE: frozenset({_QUEUED, _DEFERRED, _HELD, _DELIVERED, _BOUNCED, _EXPIRED, _DELETED}),
    _HELD: frozenset({_QUEUED, _DEFERRED, _HELD, _BOUNCED, _DELETED}),
    _DELIVERED: frozenset(),
    _BOUNCED: frozenset(),
    _EXPIRED: frozenset(),
    _DELETED: frozenset(),
}


def allowed(old: RecipientStatus, new: RecipientStatus) -> bool:
    """Whether a recipient may go from one state to the other in one step."""
    return new in STEPS[old]
