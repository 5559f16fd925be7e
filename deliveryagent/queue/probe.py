"""A write of our own, to find out whether a store in trouble takes writes again.

Guarantees: needs about as much room as a small message, so that success means something; leaves nothing
behind but one row that it reuses.
"""

from sqlalchemy import Connection, bindparam, delete, insert

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
