"""The vocabulary in which settings are declared beside the code that uses them.

A group of settings is a frozen, keyword-only dataclass; every field is annotated as
``Annotated[type, Key("meaning", postfix="its Postfix name")]``. ``config`` composes the groups into the
sections of the configuration file, and reads meaning, unit and default from here for
``dagent config explain``, the manual pages and its error messages.

Guarantees: parsing is exact and total; a value that cannot be understood raises ``ValueError`` with a
sentence that says what would be understood. Never reads a file or the environment.
"""

import re
from dataclasses import dataclass
from typing import NewType

Duration = NewType("Duration", float)
"""A length of time in seconds, fractions allowed."""

ByteSize = NewType("ByteSize", int)
"""A size in bytes."""

_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_SIZE_UNITS = {
    "": 1, "b": 1,
    "kb": 1000, "mb": 1000**2, "gb": 1000**3,
    "k": 1024, "m": 1024**2, "g": 1024**3,
    "kib": 1024, "mib": 1024**2, "gib": 1024**3,
}  # fmt: skip
_QUANTITY = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*")


@dataclass(frozen=True, kw_only=True)
class Key:
    """What people need to know of one setting.

    ``meaning`` is one or two sentences. ``postfix`` is the Postfix parameter it corresponds to, if any.
    ``secret`` values are never shown. ``single``: of a list that mostly has one element, that one may stand
    for it, and an empty text for none.
    """

    meaning: str
    postfix: str = ""
    secret: bool = False
    single: bool = False


def key(meaning: str, *, postfix: str = "", secret: bool = False, single: bool = False) -> Key:
    """Short form of :class:`Key`, for use inside ``Annotated``."""
    return Key(meaning=meaning, postfix=postfix, secret=secret, single=single)


def parse_duration(value: str | float) -> Duration:
    """Seconds from ``"5m"``, ``"1.5s"``, ``"1h30m"`` or a bare number of seconds.

    >>> parse_duration("1h30m"), parse_duration("250ms"), parse_duration(7)
    (5400.0, 0.25, 7.0)
    """
    if isinstance(value, bool):
        raise ValueError('expected a time such as "30s", "5m", "1h30m" or a number of seconds')  # noqa: TRY004
    if isinstance(value, int | float):
        if not 0 <= value < float("inf"):
            raise ValueError("a time cannot be negative or infinite")
        return Duration(float(value))
    total = position = 0.0
    text = value.strip()
    while position < len(text):
        match = _QUANTITY.match(text, int(position))
        if match is None or (not match[2] and match[0].strip() != text):
            break
        unit = match[2].lower() or "s"
        if unit not in _DURATION_UNITS:
            break
        total += float(match[1]) * _DURATION_UNITS[unit]
        position = match.end()
    if not text or position < len(text):
        raise ValueError(f'"{value}" is not a time; write it like "30s", "5m", "1h30m", "5d"')
    return Duration(total)


def parse_size(value: str | int) -> ByteSize:
    """Bytes from ``"50 MB"``, ``"64 KiB"`` or a bare number of bytes.

    >>> parse_size("50 MB"), parse_size("64 KiB"), parse_size(12)
    (50000000, 65536, 12)
    """
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError('expected a size such as "50 MB" or a number of bytes')  # noqa: TRY004
    if isinstance(value, int):
        if value < 0:
            raise ValueError("a size cannot be negative")
        return ByteSize(value)
    match = _QUANTITY.fullmatch(value)
    if match is None or match[2].lower() not in _SIZE_UNITS:
        raise ValueError(f'"{value}" is not a size; write it like "50 MB", "64 KiB" or 4096')
    return ByteSize(int(float(match[1]) * _SIZE_UNITS[match[2].lower()]))


def format_duration(seconds: float) -> str:
    """The shortest exact writing of a time, as the configuration file would have it.

    >>> format_duration(5400), format_duration(0.25), format_duration(432000), format_duration(4000)
    ('1h30m', '250ms', '5d', '1h6m40s')
    """
    if seconds == 0:
        return "0"
    parts, rest = [], round(seconds * 1000)
    for unit, size in (("d", 86400000), ("h", 3600000), ("m", 60000), ("s", 1000), ("ms", 1)):
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or f"{seconds}s"


def format_size(size: int) -> str:
    """The shortest exact writing of a size.

    >>> format_size(50_000_000), format_size(65536), format_size(12)
    ('50 MB', '64 KiB', '12')
    """
    for unit, factor in (
        ("GB", 1000**3), ("GiB", 1024**3), ("MB", 1000**2), ("MiB", 1024**2), ("kB", 1000), ("KiB", 1024),
    ):  # fmt: skip
        if size and size % factor == 0:
            return f"{size // factor} {unit}"
    return str(size)
