"""A write of our own, to find out whether a store in trouble takes writes again; and who is in the way.

Guarantees: needs about as much room as a small message, so that success means something; leaves nothing
behind but one row that it reuses.
"""

from sqlalchemy import Connection, bindparam, delete, insert, text

from queue_schema.tables import meta

_NAME = "probe"
_SIZE = 64 * 1024

_CLEAR = delete(meta).where(meta.c.name == _NAME)
_FILL = insert(meta).values(name=_NAME, value=bindparam("filling"))


def write(connection: Connection) -> None:
    """Write, commit, and clear away; raises what the database raises."""
    with connection.begin():
        connection.execute(_CLEAR)
        connection.execute(_FILL, {"filling": bytes(_SIZE)})
    with connection.begin():
        connection.execute(_CLEAR)


_BLOCKER = text("""
SELECT a.pid, a.usename, a.application_name,
    CAST(EXTRACT(EPOCH FROM clock_timestamp() - a.xact_start) AS INTEGER) AS age
FROM pg_stat_activity AS a
WHERE a.pid <> pg_backend_pid() AND a.xact_start IS NOT NULL AND EXISTS (
    SELECT 1 FROM pg_locks AS l
    WHERE l.pid = a.pid AND l.granted AND l.locktype = 'relation' AND l.mode <> 'AccessShareLock'
        AND l.relation IN (CAST('recipient' AS regclass), CAST('destination' AS regclass),
            CAST('message' AS regclass), CAST('content' AS regclass), CAST('attempt' AS regclass)))
ORDER BY a.xact_start LIMIT 1""")


def blocker(connection: Connection) -> str:
    """Who holds locks on the queue's tables for longest, as a sentence; empty when nobody does.

    PostgreSQL only.
    """
    with connection.begin():
        row = connection.execute(_BLOCKER).one_or_none()
    if row is None:
        return ""
    name = row.application_name or "without a name"
    return (
        f"process {row.pid} ({name}, user {row.usename}) has had a transaction open for {row.age} s"
    )
