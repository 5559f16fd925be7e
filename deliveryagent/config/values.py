"""What a written value means, by the type its setting is declared with.

``read`` turns what TOML, the environment or ``--set`` gave into the declared type, or raises
``ValueError`` with a sentence saying what would be understood; ``show`` is the way back. Text from
outside TOML is read by the same rules, with commas or spaces between the elements of a list.
"""

import tomllib
from enum import StrEnum
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from deliveryagent.setting import (
    ByteSize,
    Duration,
    format_duration,
    format_size,
    parse_duration,
    parse_size,
)

_TRUTH = {
    "true": True,
    "yes": True,
    "on": True,
    "1": True,
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}


def expected(kind: Any) -> str:
    """What a value of this type looks like, for people."""
    choices = choices_of(kind)
    if choices:
        return "one of " + ", ".join(f'"{choice}"' for choice in choices)
    if get_origin(kind) is tuple:
        (item, *_) = get_args(kind)
        inner = choices_of(item)
        return f"a list of {expected(item)}" if inner else "a list of texts"
    known = {
        Duration: 'a time such as "30s", "5m", "1h30m" or a number of seconds',
        ByteSize: 'a size such as "50 MB", "64 KiB" or a number of bytes',
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "a text in quotes",
    }
    return known[kind]


def type_name(kind: Any) -> str:
    """One word for the manual: text, number, time, size, yes/no, choice, list."""
    if choices_of(kind):
        return "choice"
    if get_origin(kind) is tuple:
        return "list"
    names = {
        Duration: "time",
        ByteSize: "size",
        bool: "yes/no",
        int: "number",
        float: "number",
        str: "text",
    }
    return names[kind]


def choices_of(kind: Any) -> tuple[str, ...]:
    """The values a choice allows, empty for any other type."""
    if get_origin(kind) is Literal:
        return tuple(str(choice) for choice in get_args(kind))
    if get_origin(kind) in (Union, UnionType):
        return tuple(choice for part in get_args(kind) for choice in choices_of(part))
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return tuple(member.value for member in kind)
    return ()


def read(kind: Any, value: Any, *, textual: bool = False, single: bool = False) -> Any:
    """The value as its declared type; raises ``ValueError``.

    ``single``: one element may stand for a list, an empty text for an empty one.
    """
    if get_origin(kind) is tuple:
        if single and isinstance(value, str) and not textual:
            value = [value] if value else []
        return _read_list(kind, value, textual=textual)
    if choices_of(kind):
        return _read_choice(kind, value)
    if kind is Duration:
        return parse_duration(_quantity(kind, value))
    if kind is ByteSize:
        return parse_size(_quantity(kind, value))
    if textual and kind is not str:
        value = _from_text(kind, value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    # bool is an int to Python, but not to people.
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"expected {expected(kind)}, not {_told(value)}")
    if kind in (int, float) and value < 0:
        raise ValueError("cannot be negative")
    if kind is str and not value.isprintable():
        raise ValueError("contains a control character")
    return value


def show(kind: Any, value: Any) -> str:
    """A value as the configuration file would have it (TOML)."""
    if get_origin(kind) is tuple:
        return "[" + ", ".join(_quote(str(item)) for item in value) + "]"
    if kind is Duration:
        return _quote(format_duration(value))
    if kind is ByteSize:
        return (
            _quote(format_size(value)) if value and format_size(value) != str(value) else str(value)
        )
    if kind is bool:
        return "true" if value else "false"
    return _quote(str(value)) if isinstance(value, str) else str(value)


def _quantity(kind: Any, value: Any) -> Any:
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return value
    raise ValueError(f"expected {expected(kind)}, not {_told(value)}")


def _read_choice(kind: Any, value: Any) -> Any:
    choices = choices_of(kind)
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"expected {expected(kind)}, not {_told(value)}")
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return kind(value)
    for part in get_args(kind):
        if isinstance(part, type) and issubclass(part, StrEnum) and value in choices_of(part):
            return part(value)
    return value


def _read_list(kind: Any, value: Any, *, textual: bool) -> Any:
    if textual:
        value = _split(value)
    if not isinstance(value, list):
        raise ValueError(f"expected {expected(kind)}, not {_told(value)}")  # noqa: TRY004
    (item, *_) = get_args(kind)
    read_items = []
    for number, element in enumerate(value, 1):
        try:
            read_items.append(read(item, element, textual=textual))
        except ValueError as error:
            raise ValueError(f"element {number}: {error}") from None
    return tuple(read_items)


def _split(text: str) -> list[Any]:
    """A list written on the command line: TOML, or elements between commas or spaces.

    ``[127.0.0.1]:25`` starts like TOML but is none, hence the attempt.
    """
    if text.startswith("["):
        try:
            found = tomllib.loads(f"list = {text}")["list"]
        except tomllib.TOMLDecodeError:
            found = None
        if isinstance(found, list) and all(isinstance(element, str) for element in found):
            return found
    return text.replace(",", " ").split()


def _from_text(kind: Any, text: str) -> Any:
    if kind is bool:
        return _TRUTH.get(text.strip().lower(), text)
    try:
        return kind(text)
    except ValueError:
        return text


def _told(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _quote(value[:60])
    if isinstance(value, dict):
        return "a table"
    return "a list" if isinstance(value, list) else str(value)


def _quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in escaped) + '"'
