"""What each setting is: the catalogue behind ``dagent config explain`` and the manual pages.

Everything is read from the declarations; nothing is written down twice.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from difflib import get_close_matches
from functools import cache
from typing import Any, get_type_hints

from deliveryagent.config.sections import SECTIONS, Config, TopSettings, narrowable
from deliveryagent.config.values import choices_of, show, type_name
from deliveryagent.intake.listener_settings import ListenerSettings
from deliveryagent.policy.routing import RouteSettings
from deliveryagent.setting import Key


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One setting. ``name`` is dotted; ``route`` is its name in ``[[route]]``, if it may stand there."""

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
    defaults = {item.name: item.default for item in fields(group)}
    for field in _in_order(group):
        hint = hints[field]
        notes = [note for note in getattr(hint, "__metadata__", ()) if isinstance(note, Key)]
        if not notes:
            raise TypeError(f"{group.__name__}.{field} is declared without a Key")
        name = f"{prefix}{field}"
        narrows = short.get(field, "") if prefix in {"smtp.", "lmtp.", "delivery."} else ""
        entries[name] = Entry(
            name=name, kind=hint.__origin__, default=defaults[field], key=notes[0], route=narrows
        )
    return entries


def _in_order(group: type) -> list[str]:
    """The names of a group's fields, in the order its parts are listed and declared."""
    names = [name for base in group.__bases__ for name in _in_order(base)]
    return list(dict.fromkeys([*names, *inspect.get_annotations(group)]))


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


@cache
def listener_catalogue() -> Mapping[str, Entry]:
    """What may stand in a ``[[listener]]``, by its name there."""
    declared = _declared(ListenerSettings, "listener.")
    return {name.partition(".")[2]: entry for name, entry in declared.items()}


def lookup(name: str) -> list[Entry]:
    """The settings a person may mean: by dotted name, by its last part, or by Postfix's name."""
    entries = catalogue()
    if name in entries:
        return [entries[name]]
    if name.startswith("route."):
        entry = route_catalogue().get(name.removeprefix("route."))
        return [entry] if entry else []
    every = [*entries.values(), *listener_catalogue().values()]
    if name.startswith("listener."):
        return [entry for entry in every if entry.name == name]
    by_part = [
        entry for entry in every if name in {entry.name.rpartition(".")[2], entry.route} and name
    ]
    by_postfix = [e for e in every if name and name in postfix_name(e).split(", ")]
    return by_part or by_postfix


def similar(name: str) -> list[str]:
    """Names of settings that look like a misspelled one."""
    entries = [*catalogue(), *(entry.name for entry in listener_catalogue().values())]
    parts = {entry.rpartition(".")[2]: entry for entry in reversed(entries)}
    near = get_close_matches(name, entries, n=3)
    return near or [parts[part] for part in get_close_matches(name, parts, n=3)]


def value_of(config: Config, entry: Entry) -> Any:
    """What a setting is in a configuration."""
    section, _, field = entry.name.rpartition(".")
    return getattr(getattr(config, section) if section else config, field)


def postfix_name(entry: Entry) -> str:
    """Postfix's parameter, several separated by commas; for ``[lmtp]`` the one of its LMTP client."""
    if entry.section != "lmtp" or not entry.key.postfix.startswith("smtp_"):
        return entry.key.postfix
    return "lmtp_" + entry.key.postfix.removeprefix("smtp_")
