"""What each setting is: the catalogue behind ``dagent config explain`` and the manual pages.

Everything is read from the declarations; nothing is written down twice.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from difflib import get_close_matches
from functools import cache
from typing import Any, get_type_hints

from deliveryagent.config.sections import SECTIONS, Config, TopSettings, narrowable
from deliveryagent.config.values import choices_of, show, type_name
from deliveryagent.policy.routing import RouteSettings
from deliveryagent.setting import Key


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One setting. ``name`` is dotted; ``default`` is None when the file must give a value."""

    name: str
    kind: Any
    default: Any
    key: Key
    route: str = ""

    @property
    def section(self) -> str:
        """The section it stands in, empty at the top level."""
        return self.name.rpartition(".")[0]

    @property
    def type_name(self) -> str:
        """One word: text, number, time, size, yes/no, choice, list."""
        return type_name(self.kind)

    @property
    def choices(self) -> tuple[str, ...]:
        """What may be chosen from, for a choice."""
        return choices_of(self.kind)

    @property
    def default_text(self) -> str:
        """The default as the file would have it."""
        return show(self.kind, self.default)

    def text(self, value: Any) -> str:
        """A value of this setting as the file would have it; secrets are not shown."""
        return '"***"' if self.key.secret and value else show(self.kind, value)


def _declared(group: Any, prefix: str) -> dict[str, Entry]:
    """The entries of one group, in the order of declaration."""
    hints = get_type_hints(group, include_extras=True)
    short = {name: route for route, name in narrowable().items()}
    entries = {}
    for item in fields(group):
        hint = hints[item.name]
        notes = [note for note in getattr(hint, "__metadata__", ()) if isinstance(note, Key)]
        if not notes:
            raise TypeError(f"{group.__name__}.{item.name} is declared without a Key")
        name = f"{prefix}{item.name}"
        narrows = short.get(item.name, "") if prefix in {"smtp.", "lmtp.", "delivery."} else ""
        entries[name] = Entry(
            name=name, kind=hint.__origin__, default=item.default, key=notes[0], route=narrows
        )
    return entries


@cache
def catalogue() -> Mapping[str, Entry]:
    """Every setting of the sections and the top level, by dotted name, in the order of the
    manual."""
    found = _declared(TopSettings, "")
    for name, group in SECTIONS.items():
        if is_dataclass(group):
            found |= _declared(group, f"{name}.")
    return found


@cache
def route_catalogue() -> Mapping[str, Entry]:
    """What may stand in a ``[[route]]``, by its name there."""
    found = _declared(RouteSettings, "")
    for short, name in narrowable().items():
        whole = catalogue().get(f"smtp.{name}") or catalogue()[f"delivery.{name}"]
        found[short] = whole
    return found


def lookup(name: str) -> list[Entry]:
    """The settings a person may mean: by dotted name, by its last part, or by Postfix's name."""
    entries = catalogue()
    if name in entries:
        return [entries[name]]
    if name.startswith("route."):
        entry = route_catalogue().get(name.removeprefix("route."))
        return [entry] if entry else []
    by_part = [entry for entry in entries.values() if entry.name.rpartition(".")[2] == name]
    by_postfix = [
        entry
        for entry in entries.values()
        if name and name in (entry.key.postfix, _lmtp_name(entry))
    ]
    return by_part or by_postfix


def similar(name: str) -> list[str]:
    """Names of settings that look like a misspelled one."""
    entries = catalogue()
    parts = {entry.rpartition(".")[2]: entry for entry in entries}
    near = get_close_matches(name, entries, n=3)
    return near or [parts[part] for part in get_close_matches(name, parts, n=3)]


def value_of(config: Config, entry: Entry) -> Any:
    """What a setting is in a configuration."""
    section, _, field = entry.name.rpartition(".")
    return getattr(getattr(config, section) if section else config, field)


def _lmtp_name(entry: Entry) -> str:
    """Postfix has a parameter of its own for LMTP wherever it has one for SMTP."""
    if entry.section != "lmtp" or not entry.key.postfix.startswith("smtp_"):
        return entry.key.postfix
    return "lmtp_" + entry.key.postfix.removeprefix("smtp_")
