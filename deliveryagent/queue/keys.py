"""Idempotency keys: whoever comes first with one has it, whatever door or agent the others come by.

On PostgreSQL a key that a transaction has written and not committed is neither free nor taken, and the server
keeps everybody waiting who writes it too. Another agent's transaction is over in a moment; an application's
(``deliveryagent.enqueue``) may stay open as long as it likes. So there is a limit to that wait, and the keys
that are in the way are found by halves. Guarantees: with such keys among them, ``take`` waits for ``PATIENCE``
and some milliseconds for each of them, for no more than ``_LONGEST`` seconds together; all other keys are
written. Never ends the caller's transaction.
"""

from collections.abc import Sequence
from operator import itemgetter
from time import monotonic
from typing import Any, NamedTuple

from sqlalchemy import Connection, select

from deliveryagent.queue import faults
from deliveryagent.queue.bulk import Bulk, Row, insertion, item
from deliveryagent.queue.engine import LOCK_TIMEOUT
from queue_schema.tables import submission_key

PATIENCE = 30
"""Milliseconds to wait for others who are about to have keys: more than an agent's commit takes."""

_AGAIN = 2  # milliseconds for each further try: the others had their time
_LONGEST = 0.3  # seconds after which no further key is looked at on its own

_add = insertion(submission_key, "key", "message_id", "digest", "created")
_key = item(submission_key.c.key)
_holders = Bulk(
    select(submission_key.c.key, submission_key.c.message_id, submission_key.c.digest)
    .select_from(_key)
    .join(submission_key, submission_key.c.key == _key.c.key),
    _key,
)


class Keys(NamedTuple):
    """What became of keys: by key, the message that has it and its digest, as far as somebody else may; and
    the keys of transactions that are not finished."""

    holders: dict[str, tuple[int, bytes]]
    busy: frozenset[str]


def take(connection: Connection, rows: Sequence[Row]) -> Keys:
    """Write rows of (key, message id, digest, moment), as far as nobody has the keys."""
    # Always in the same order, so that two agents never wait for each other in a circle.
    rows = sorted(rows, key=itemgetter(0))
    if connection.dialect.name == "postgresql":
        added, busy = _add_patiently(connection, rows)
    else:
        added, busy = _add.run(connection, rows), set()
    if added == len(rows):
        return Keys({}, frozenset())
    known = _holders.answers(connection, [(key,) for key in dict.fromkeys(row[0] for row in rows)])
    return Keys(
        {key: (queue_id, bytes(digest)) for key, queue_id, digest in known}, frozenset(busy)
    )


def _add_patiently(connection: Connection, rows: Sequence[Row]) -> tuple[int, set[str]]:
    """How many were written, and the keys that others are about to have."""
    added, busy = 0, set[str]()
    left, patience, end = [rows], PATIENCE, monotonic() + _LONGEST
    while left:
        part = left.pop()
        try:
            added += _add_within(connection, part, patience)
        except Exception as error:
            if not faults.locked(error):
                raise
            patience = _AGAIN
            half = len(part) // 2
            if half and monotonic() < end:
                left += [part[half:], part[:half]]
            else:
                busy.update(row[0] for row in part)
    return added, busy


def _add_within(connection: Connection, rows: Sequence[Row], milliseconds: int) -> int:
    """Write all rows, or none and raise when that takes longer; returns how many were new."""
    driver: Any = connection.connection.driver_connection
    driver.execute(
        f"SAVEPOINT keys; SET LOCAL lock_timeout = {milliseconds:d}".encode(), prepare=False
    )
    try:
        added = _add.run(connection, rows)
    except Exception as error:
        if faults.locked(error):
            driver.execute(b"ROLLBACK TO SAVEPOINT keys; RELEASE SAVEPOINT keys", prepare=False)
        raise
    driver.execute(
        f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'; RELEASE SAVEPOINT keys".encode(), prepare=False
    )
    return added
