"""Reads two settings out of a TOML text by looking at its lines; the parser takes longer to load than to run.

Guarantees: of a text that is TOML, either exactly what the parser would find, or nothing. Whatever
is written in an unusual way (quoted keys, dotted keys, strings with escapes or of several lines) is
left to the parser. Imports nothing.
"""

from __future__ import annotations

_BARE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
_PLAIN_STARTS = _BARE | frozenset("#]{},+")
_VALUES = frozenset({"true", "false", "inf", "nan"})  # may stand in brackets, as a list
_WANTED = {("", "run_dir"): "run_dir", ("queue", "url"): "queue.url"}


def glance(text: str) -> dict[str, str] | None:
    """``run_dir`` and ``queue.url``, as far as they are set; None when only the parser can tell.

    >>> glance('run_dir = "/run/mail"  # here\\n[queue]\\nurl = "sqlite:///q"\\n[smtp]\\nport = 25\\n')
    {'run_dir': '/run/mail', 'queue.url': 'sqlite:///q'}
    """
    if '"""' in text or "'''" in text:
        return None
    section, found = "", {}
    for whole in text.split("\n"):
        line = whole.strip(" \t\r")
        if line.startswith("["):
            section = line.lstrip("[").partition("]")[0].strip(" \t")
            # A table where a text belongs is a mistake that the parser's caller explains.
            odd = line.startswith("[[queue") or section.startswith(("queue.", "run_dir"))
            if odd or not _is_name(section):
                return None
        elif line.startswith(('"', "'")):
            if "=" in line:
                return None
        elif line:
            if line[0] not in _PLAIN_STARTS:
                return None
            name = _leading_name(line)
            key = _WANTED.get((section, name))
            if key is not None:
                value = _text(line[len(name) :])
                if value is None or key in found:
                    return None
                found[key] = value
            elif name == "queue" and not section:
                return None
    return found


def _is_name(text: str) -> bool:
    """Whether what stands in brackets is certainly the name of a table."""
    parts = text.split(".")
    return text not in _VALUES and all(
        part and part[0].isalpha() and _BARE.issuperset(part) for part in parts
    )


def _leading_name(line: str) -> str:
    for place, character in enumerate(line):
        if character not in _BARE:
            return line[:place]
    return line


def _text(rest: str) -> str | None:
    """The text behind an equals sign, if it is a simple one."""
    equals, value = rest.lstrip(" \t")[:1], rest.lstrip(" \t")[1:].lstrip(" \t")
    quote = value[:1]
    end = value.find(quote, 1) if quote and quote in "\"'" else -1
    if equals != "=" or end < 0:
        return None
    text, behind = value[1:end], value[end + 1 :].lstrip(" \t")
    if "\\" in text or not text.isprintable() or (behind and not behind.startswith("#")):
        return None
    return text
