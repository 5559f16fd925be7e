"""On which line of a TOML text each key stands, because the standard parser does not tell.

Works on text that ``tomllib`` has accepted, so the grammar is known to be sound and only its shape
matters: keys, tables, arrays of tables, strings of all four kinds, arrays and inline tables.
"""

import re
from bisect import bisect_right

Path = tuple[str | int, ...]

_SPACE = re.compile(r"[ \t]*")
_BLANK = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR = re.compile(r"[^,\]}#\r\n]*")
_STRINGS = (
    re.compile(r'"""(?:[^\\]|\\.)*?"{3,5}(?!")', re.DOTALL),
    re.compile(r"'''.*?'{3,5}(?!')", re.DOTALL),
    re.compile(r'"(?:[^"\\]|\\.)*"'),
    re.compile(r"'[^']*'"),
)


def positions(text: str) -> dict[Path, int]:
    """The line, counted from 1, of every key, table, array element and array of tables.

    A path is made of keys, and of indexes for what stands in arrays: ``("route", 0, "nexthop")``.
    """
    return _Scan(text).document()


class _Scan:
    """One pass over a text; ``at`` is where it stands."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.found: dict[Path, int] = {}
        self._lines = [0, *(match.end() for match in re.finditer("\n", text))]
        self._tables: dict[Path, int] = {}  # elements so far of each array of tables

    def document(self) -> dict[Path, int]:
        table: Path = ()
        self._skip(_BLANK)
        while self.at < len(self.text):
            if self.text.startswith("[", self.at):
                table = self._header()
            else:
                self._pair(table)
            self._skip(_BLANK)
        return self.found

    def _skip(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.at)
        if match is None:
            return ""
        self.at = match.end()
        return match[0]

    def _note(self, path: Path, start: int) -> None:
        self.found.setdefault(path, bisect_right(self._lines, start))

    def _header(self) -> Path:
        start = self.at
        many = self.text.startswith("[[", self.at)
        self.at += 2 if many else 1
        names = self._names()
        self.at += 2 if many else 1
        path: Path = ()
        for depth, name in enumerate(names):
            path = (*path, name)
            self._note(path, start)
            if depth < len(names) - 1 and path in self._tables:
                path = (*path, self._tables[path] - 1)
        if many:
            self._tables[path] = self._tables.get(path, 0) + 1
            path = (*path, self._tables[path] - 1)
            self._note(path, start)
        return path

    def _names(self) -> list[str]:
        names = []
        while True:
            self._skip(_SPACE)
            quoted = self._string()
            names.append(_unquoted(quoted) if quoted else self._skip(_BARE_KEY))
            self._skip(_SPACE)
            if not self.text.startswith(".", self.at):
                return names
            self.at += 1

    def _pair(self, table: Path) -> None:
        start = self.at
        path = table
        for name in self._names():
            path = (*path, name)
            self._note(path, start)
        self.at += 1  # the equals sign
        self._skip(_SPACE)
        self._value(path)

    def _value(self, path: Path) -> None:
        if self.text.startswith("[", self.at):
            self._items(path, "]")
        elif self.text.startswith("{", self.at):
            self._items(path, "}")
        elif not self._string():
            self._skip(_SCALAR)

    def _items(self, path: Path, end: str) -> None:
        self.at += 1
        self._skip(_BLANK)
        index = 0
        while self.at < len(self.text) and not self.text.startswith(end, self.at):
            if end == "]":
                self._note((*path, index), self.at)
                self._value((*path, index))
            else:
                self._pair(path)
            index += 1
            self._skip(_BLANK)
            if self.text.startswith(",", self.at):
                self.at += 1
            self._skip(_BLANK)
        self.at += 1

    def _string(self) -> str:
        for pattern in _STRINGS:
            found = self._skip(pattern)
            if found:
                return found
        return ""


def _unquoted(text: str) -> str:
    """A key without its quotes; escapes are resolved by the parser that knows them all."""
    if text.startswith("'"):
        return text[1:-1]
    if "\\" not in text:
        return text[1:-1]
    import tomllib

    return str(tomllib.loads(f"key = {text}")["key"])
