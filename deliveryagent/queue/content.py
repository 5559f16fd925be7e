"""Contents of waiting messages: small ones many at once, large ones part by part.

Guarantees: octets come back as they were put in. Never writes anything.
"""

from collections.abc import Sequence

import msgspec
from sqlalchemy import Connection, bindparam, func, select

from deliveryagent.queue.bulk import Bulk, Prepared, item, joined, json_rows
from deliveryagent.queue.operation import operation
from queue_schema.tables import content

JOINED = 8 * 1024  # octets of a content that is read together with others, as one piece

_wanted = item(content.c.message_id)
_first_parts = Bulk(
    select(json_rows(content.c.message_id, func.length(content.c.data)), joined(content.c.data))
    .select_from(_wanted)
    .join(content, content.c.message_id == _wanted.c.message_id)
    .where(content.c.part == 0),
    _wanted,
)
_each_part = Bulk(
    select(content.c.message_id, content.c.data)
    .select_from(_wanted)
    .join(content, content.c.message_id == _wanted.c.message_id)
    .where(content.c.part == 0),
    _wanted,
)
_part = Prepared(
    select(content.c.data).where(
        content.c.message_id == bindparam("message_id"), content.c.part == bindparam("part")
    )
)
_lengths = msgspec.json.Decoder(list[tuple[int, int]])


@operation(writes=False)
def contents(connection: Connection, items: Sequence[Sequence[int]]) -> list[dict[int, bytes]]:
    """The first parts of contents by queue id; a message whose content is gone is left out."""
    return [first_parts(connection, ids) for ids in items]


def first_parts(
    connection: Connection, ids: Sequence[int], *, apart: Sequence[int] = ()
) -> dict[int, bytes]:
    """The first parts of these messages' contents, as far as they are there.

    Those of ``apart`` are read one by one: to join large ones and cut them again costs more than it saves.
    """
    if connection.dialect.name == "postgresql":
        return dict(_each_part.answers(connection, [(one,) for one in (*ids, *apart)]))
    found = dict(_each_part.answers(connection, [(one,) for one in apart]))
    for lengths, data in _first_parts.answers(connection, [(one,) for one in ids]):
        listed = _lengths.decode(lengths) if lengths else []
        if len(data or b"") != sum(length for _, length in listed):
            # An SQLite that ends joined octets at the first zero octet: one by one, then.
            read = {one: _read_part(connection, one, 0) for one, _ in listed}
            found.update((one, alone) for one, alone in read.items() if alone is not None)
            continue
        start = 0
        for one, length in listed:
            found[one] = data[start : start + length]
            start += length
    return found


@operation(writes=False)
def part(connection: Connection, items: Sequence[tuple[int, int]]) -> list[bytes | None]:
    """Parts of contents by queue id and number (from 0); None where there is no such part."""
    return [_read_part(connection, message_id, number) for message_id, number in items]


def _read_part(connection: Connection, message_id: int, number: int) -> bytes | None:
    row = _part.run(connection, message_id=message_id, part=number).fetchone()
    return None if row is None else bytes(row[0])
