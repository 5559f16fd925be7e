"""Writes manual pages in the man(7) macros: headings, paragraphs, tagged items, literal text.

Guarantees: whatever text comes in, nothing of it is taken for a request or an escape sequence.
"""

import re
from collections.abc import Iterable

_MARKED = re.compile(r"\*\*(.+?)\*\*|\*(\S.*?)\*")


def literal(text: str) -> str:
    """Text exactly as it stands; hyphens are minus signs, so that options can be copied."""
    return text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga")


def bold(text: str) -> str:
    """Literal text in bold: names of commands, options, settings, files."""
    return f"\\fB{literal(text)}\\fP"


def prose(text: str) -> str:
    """A sentence: ``**word**`` is bold literal text, ``*word*`` is a placeholder in italics."""
    parts, end = [], 0
    for match in _MARKED.finditer(text):
        parts.append(_words(text[end : match.start()]))
        parts.append(bold(match[1]) if match[1] else f"\\fI{literal(match[2])}\\fP")
        end = match.end()
    return "".join([*parts, _words(text[end:])])


def plain(text: str) -> str:
    """A sentence without any marks."""
    return _words(text)


def _words(text: str) -> str:
    text = text.replace("\\", "\\e").replace('"', "\\(dq")
    return re.sub(r"(?<!\w)-|-(?!\w)|--", lambda m: m[0].replace("-", "\\-"), text)


class Page:
    """A manual page under construction; ``text`` is the whole of it."""

    def __init__(self, name: str, section: int, *, version: str, book: str) -> None:
        self._lines = [
            '.\\" Written by man/write.py from the program itself: change that, then "make man".',
            f'.TH "{name.upper()}" "{section}" "" "deliveryagent {version}" "{book}"',
            ".nh",
            ".ad l",
        ]

    @property
    def text(self) -> str:
        """The source of the page."""
        return "\n".join(self._lines) + "\n"

    def _add(self, text: str) -> None:
        self._lines.append(f"\\&{text}" if text.startswith((".", "'")) else text)

    def section(self, title: str) -> None:
        """A main heading; the name of a configuration section stays as it is written."""
        self._lines.append(f".SH {literal(title if title.startswith('[') else title.upper())}")

    def named(self, names: str, purpose: str) -> None:
        """The NAME section, which whatis(1) reads."""
        self.section("Name")
        self._add(f"{literal(names)} \\- {purpose}")

    def part(self, title: str) -> None:
        """A heading inside a section."""
        self._lines.append(f'.SS "{literal(title)}"')

    def paragraph(self, text: str) -> None:
        """A paragraph of roff-ready text."""
        self._lines.append(".PP")
        self._add(text)

    def paragraphs(self, text: str) -> None:
        """Paragraphs separated by empty lines, with the marks of :func:`prose`."""
        for part in re.split(r"\n\s*\n", text.strip()):
            self.paragraph(prose(" ".join(part.split())))

    def item(self, tag: str, *lines: str) -> None:
        """A tagged paragraph; ``tag`` and ``lines`` are roff-ready."""
        self._lines.append(".TP")
        self._add(tag)
        for number, line in enumerate(lines):
            if number:
                self._lines.append(".br")
            self._add(line)

    def example(self, lines: Iterable[str]) -> None:
        """Literal text, indented."""
        self._lines += [".PP", ".RS 4", ".nf"]
        for line in lines:
            self._add(literal(line) or ".")
        self._lines += [".fi", ".RE"]
