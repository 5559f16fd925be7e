"""The mark of a queue that is being copied elsewhere, that was, or that is not complete yet.

It stands in ``meta`` of both queues from before the first row is copied, and keeps every agent and every other
program of ours out (``upgrade.ensure``). Guarantees: of two queues with the same mail at most one can be worked
on. Never copies anything: that is ``copy``.
"""

from typing import Literal

import msgspec
from sqlalchemy import Connection, bindparam, delete, insert, select

from deliveryagent.queue.engine import StoreError
from queue_schema.tables import meta

_NAME = "copy"

_read = select(meta.c.value).where(meta.c.name == _NAME)
_remove = delete(meta).where(meta.c.name == _NAME)
_write = insert(meta).values(name=_NAME, value=bindparam("mark"))


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """What a queue is to a copy: its ``source``, its ``target``, or the source of one that is done (``moved``).

    ``other`` is the address of the other queue without its password. ``token`` is the same on both sides. A
    target notes how far it is: the table, and the key of its last row; an empty table means that all is there.
    """

    role: Literal["source", "target", "moved"]
    other: str
    token: str
    table: str = ""
    after: tuple[int | float | str, ...] = ()


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Mark).decode


def mark_of(connection: Connection) -> Mark | None:
    """The mark of a queue, None for one that nobody copies."""
    found = connection.scalar(_read)
    return None if found is None else _decode(bytes(found))


def set_mark(connection: Connection, mark: Mark | None) -> None:
    """Change the mark in the caller's transaction; None removes it."""
    connection.execute(_remove)
    if mark is not None:
        connection.execute(_write, {"mark": _encode(mark)})


def demand_unmarked(connection: Connection) -> None:
    """Raise ``StoreError`` for a queue that must not be worked on."""
    mark = mark_of(connection)
    if mark is None:
        return
    if mark.role == "moved":
        raise StoreError(f"this queue was moved to {mark.other}", "set [queue] url to that address")
    if mark.role == "source":
        raise StoreError(
            f"this queue is being copied to {mark.other}",
            f"finish that with dagent db copy --to {mark.other}, "
            "or give it up with dagent db copy --abandon",
        )
    raise StoreError(
        f"this queue is an incomplete copy of {mark.other}",
        "run dagent db copy again where it is copied from",
    )
