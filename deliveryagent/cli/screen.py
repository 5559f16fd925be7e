"""What commands print: tables, colour, JSON lines, and the writing of times, sizes and remote text.

Guarantees: nothing a stranger wrote reaches a terminal unescaped (:func:`clean`); data go to
standard output, messages to standard error; colour only repeats what a word already says; output
that is not for a terminal is never cut; JSON is plain ASCII, times RFC 3339 UTC, durations seconds,
sizes bytes.
"""

import json
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Literal, NamedTuple, TextIO
from unicodedata import east_asian_width

Tone = Literal["plain", "good", "warn", "bad", "strong", "faint"]

_SGR: dict[Tone, str] = {
    "plain": "",
    "good": "32",
    "warn": "33",
    "bad": "31",
    "strong": "1",
    "faint": "2",
}
_MEASURED = 200  # rows of a table that decide how wide its columns are
_SHORT_ESCAPES = {"\t": " ", "\r": "", "\n": " "}


def clean(text: str) -> str:
    """One line of printable characters: line ends become spaces, anything invisible a visible
    escape.

    >>> clean("550 no\\r\\nsuch \\x1b[31muser")
    '550 no such \\\\x1b[31muser'
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _SHORT_ESCAPES.get(c, _escape(c)) for c in text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def utc(seconds: float) -> str:
    """A moment as RFC 3339 UTC, with milliseconds when there are any.

    >>> utc(1762778407), utc(1762778407.25)
    ('2025-11-10T12:40:07Z', '2025-11-10T12:40:07.250Z')
    """
    moment = datetime.fromtimestamp(round(seconds * 1000) / 1000, UTC)
    spec = "milliseconds" if moment.microsecond else "seconds"
    return moment.isoformat(timespec=spec).replace("+00:00", "Z")


def clock(seconds: float, now: float) -> str:
    """A moment for people: the time of day when it is within a day of now, else with its date.

    >>> clock(1762778407, now=1762778000), clock(1762778407, now=1763000000)
    ('12:40:07Z', '10 Nov 12:40Z')
    """
    moment = datetime.fromtimestamp(round(seconds), UTC)
    near = abs(seconds - now) < 86400 and moment.date() == datetime.fromtimestamp(now, UTC).date()
    if near:
        return f"{moment:%H:%M:%S}Z"
    year = "" if abs(seconds - now) < 180 * 86400 else f" {moment:%Y}"
    return f"{moment.day} {moment:%b}{year} {moment:%H:%M}Z"


def span(seconds: float) -> str:
    """A length of time in at most two units, rounded down.

    >>> span(0.25), span(45), span(4920), span(266400)
    ('0.2s', '45s', '1h22m', '3d2h')
    """
    if 0 < seconds < 10 and seconds != int(seconds):
        return f"{int(seconds * 10) / 10}s"
    rest = max(0, int(seconds))
    parts: list[str] = []
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, rest = divmod(rest, length)
        if count:
            parts.append(f"{count}{unit}")
        elif parts:
            break
    return "".join(parts[:2]) or "0s"


def until(moment: float | None, now: float) -> str:
    """How far ahead a moment is: ``in 11m``, ``now``, or ``-`` when there is none.

    >>> until(1060, now=400), until(100, now=400), until(None, now=0)
    ('in 11m', 'now', '-')
    """
    if moment is None:
        return "-"
    return f"in {span(moment - now)}" if moment - now >= 1 else "now"


def size(octets: int) -> str:
    """A size in two or three significant digits, decimal units.

    >>> size(512), size(1400), size(14_300), size(31_000_000)
    ('512', '1.4K', '14K', '31M')
    """
    amount = float(octets)
    for unit in ("", "K", "M", "G"):
        if amount < 999.5 or unit == "G":
            break
        amount /= 1000
    if not unit:
        return str(octets)
    return f"{amount:.1f}{unit}" if amount < 9.95 else f"{amount:.0f}{unit}"


def count(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun.

    >>> count(1, "message"), count(1284, "message"), count(2, "address", "addresses")
    ('1 message', '1 284 messages', '2 addresses')
    """
    word = noun if number == 1 else plural or f"{noun}s"
    return f"{number:,} {word}".replace(",", " ")


def width(text: str) -> int:
    """How many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    return sum(2 if east_asian_width(c) in "WF" else 1 for c in text)


def cut(text: str, columns: int) -> str:
    """A text shortened to so many columns, with an ellipsis where something is missing.

    >>> cut("rate limited", 8), cut("short", 8)
    ('rate li…', 'short')
    """
    if width(text) <= columns:
        return text
    kept, used = [], 1
    for character in text:
        used += width(character)
        if used > columns:
            break
        kept.append(character)
    return "".join(kept) + "…" if columns > 0 else ""


class Column(NamedTuple):
    """A column of a table; numbers stand to the right."""

    title: str
    right: bool = False


class Cell(NamedTuple):
    """A cell with a tone; the text alone must already say it."""

    text: str
    tone: Tone


@dataclass(frozen=True, kw_only=True)
class Screen:
    """Where a command prints. ``out`` and ``err`` default to the standard streams."""

    json: bool = False
    color: bool = False
    out: TextIO | None = None
    err: TextIO | None = None

    def paint(self, text: str, tone: Tone) -> str:
        """The text in a colour, where colours are wanted."""
        sequence = _SGR[tone]
        return f"\x1b[{sequence}m{text}\x1b[0m" if self.color and sequence and text else text

    def line(self, text: str = "") -> None:
        """A line of data. The caller has cleaned what strangers wrote."""
        print(text, file=self.out or sys.stdout)

    def note(self, text: str) -> None:
        """A line to the person, on standard error."""
        print(text, file=self.err or sys.stderr)

    def record(self, value: Any) -> None:
        """One JSON object on one line; ASCII only, so that no terminal can be fooled by it."""
        print(json.dumps(value, separators=(",", ":")), file=self.out or sys.stdout)

    def table(self, columns: Sequence[Column], rows: Iterable[Sequence[str | Cell]]) -> None:
        """Aligned columns under their titles; on a terminal the last column is cut to fit its
        width.

        Cells are cleaned here. A long table appears as it comes: its first rows decide how wide the
        columns are.
        """
        coming = ([_cell(cell) for cell in row] for row in rows)
        body = list(islice(coming, _MEASURED))
        widths = [
            max([width(column.title), *(width(row[place].text) for row in body)])
            for place, column in enumerate(columns)
        ]
        room = self._room(widths)
        self.line(self._row(columns, [Cell(c.title, "strong") for c in columns], widths, room))
        for row in body:
            self.line(self._row(columns, row, widths, room))
        if len(body) == _MEASURED:
            (self.out or sys.stdout).flush()
            for row in coming:
                self.line(self._row(columns, row, widths, room))

    def _room(self, widths: Sequence[int]) -> int | None:
        """Columns left for the last one; None when the output is not a terminal."""
        stream = self.out or sys.stdout
        if not stream.isatty():
            return None
        return max(8, shutil.get_terminal_size().columns - sum(widths[:-1]) - 2 * (len(widths) - 1))

    def _row(
        self,
        columns: Sequence[Column],
        cells: Sequence[Cell],
        widths: Sequence[int],
        room: int | None,
    ) -> str:
        parts = []
        for place, (column, cell) in enumerate(zip(columns, cells, strict=True)):
            last = place == len(columns) - 1
            text = cut(cell.text, room) if last and room is not None else cell.text
            padding = " " * max(0, widths[place] - width(text))
            shown = self.paint(text, cell.tone)
            parts.append(f"{padding}{shown}" if column.right else f"{shown}{padding}")
        return "  ".join(parts).rstrip()


def _cell(cell: str | Cell) -> Cell:
    if isinstance(cell, Cell):
        return Cell(clean(cell.text), cell.tone)
    return Cell(clean(cell), "plain")
