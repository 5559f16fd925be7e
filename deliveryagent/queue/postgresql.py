"""Rows on their way to PostgreSQL: as arrays inside a statement, or as a COPY.

The driver writes value by value, in Python where there are lists. For numbers, truth values and most texts
the JSON that msgspec writes in one go is, but for its brackets, what the server reads anyway: the notation of
an array, or the lines of a CSV file. Texts with a character that JSON escapes take the driver's way.

Guarantees: the server gets exactly the values given; a value is never part of a statement's text. Never
begins or ends a transaction.
"""

from collections.abc import Sequence
from itertools import chain
from math import isfinite
from typing import Any

import msgspec

_encode = msgspec.json.Encoder().encode


def array(values: Sequence[Any]) -> str | list[Any]:
    r"""What to hand to the driver as the array of these values. Not for octets, which JSON does not know.

    >>> array([1, None, 3]), array(["a", "b c"]), array(["a", 'say "b"'])
    ('{1,null,3}', '{"a","b c"}', ['a', 'say "b"'])
    """
    text = _encode(values)
    if b"\\" in text or (b"null" in text and not all(map(_exact, values))):
        return list(values)
    return f"{{{text[1:-1].decode()}}}"


def lines(rows: Sequence[Sequence[Any]]) -> bytes | None:
    r"""Rows as CSV in which ``null`` without quotes is no value; None when that cannot be told from JSON.

    >>> lines([(1, "a", None), (2, "b, c", True)]), lines([(1, 'say "b"')])
    (b'1,"a",null\n2,"b, c",true\n', None)
    """
    text = _encode(rows)
    if b"\\" in text or text.count(b"],[") != len(rows) - 1:
        return None
    if b"null" in text and not all(map(_exact, chain.from_iterable(rows))):
        return None
    return text[2:-2].replace(b"],[", b"\n") + b"\n"


def _exact(value: object) -> bool:
    """Whether JSON has a notation for it; it says null for numbers without one."""
    return not isinstance(value, float) or isfinite(value)


def copy_lines(driver: Any, statement: str, data: bytes) -> None:
    """Run a ``COPY … FROM STDIN`` with all its data."""
    with driver.cursor() as cursor, cursor.copy(statement) as copy:
        copy.write(data)
