"""``dagent config``: is the configuration good, what is in force and why, what does a setting
mean."""

from collections.abc import Iterator
from dataclasses import fields
from enum import Enum
from typing import Any

import click

from deliveryagent.cli.command import Invocation, group
from deliveryagent.cli.faults import CommandError, ExitStatus
from deliveryagent.cli.screen import Screen, clean, count
from deliveryagent.config.advice import advise
from deliveryagent.config.explain import (
    Entry,
    catalogue,
    listener_catalogue,
    lookup,
    postfix_name,
    route_catalogue,
    similar,
    value_of,
)
from deliveryagent.config.problems import ConfigError, Problem
from deliveryagent.config.read import Loaded, load_with_origins
from deliveryagent.config.sections import Route
from deliveryagent.config.values import expected


@group("config", examples=["dagent config check", "dagent config explain smtp.connect_timeout"])
def config() -> None:
    """Check, show and explain the configuration."""


@config.command("check", examples=["dagent config check", "dagent -c new.toml config check"])
@click.pass_obj
def check(invocation: Invocation) -> int:
    """Report everything that is wrong at once, each with its place.

    Exits 0 when the configuration can be used, with or without warnings, else 1.
    """
    screen = invocation.screen()
    errors: tuple[Problem, ...] = ()
    warnings: list[Problem] = []
    loaded = None
    try:
        loaded = _load(invocation)
        wrong, unseen = _files(loaded)
        errors, warnings = tuple(wrong), [*advise(loaded), *unseen]
    except ConfigError as error:
        errors = error.problems
    if screen.json:
        told = [("error", problem) for problem in errors]
        told += [("warning", problem) for problem in warnings]
        screen.record({"ok": not errors, "problems": [_as_json(*item) for item in told]})
        return ExitStatus.FAILED if errors else ExitStatus.DONE
    for problem in errors:
        screen.note(f"{screen.paint('error', 'bad')}: {clean(str(problem))}")
    for problem in warnings:
        screen.note(f"{screen.paint('warning', 'warn')}: {clean(str(problem))}")
    if loaded is None or errors:
        screen.note(f"{count(len(errors), 'error')}: this configuration cannot be used")
        return ExitStatus.FAILED
    source = loaded.path or "the built-in defaults"
    screen.line(f"ok: {clean(source)} can be used ({count(len(warnings), 'warning')})")
    return ExitStatus.DONE


@config.command("show", examples=["dagent config show", "dagent config show --origin --changed"])
@click.option("--origin", is_flag=True, help="Add where each value comes from.")
@click.option("--changed", is_flag=True, help="Only what differs from the built-in default.")
@click.pass_obj
def show(invocation: Invocation, origin: bool, changed: bool) -> None:
    """Print every setting in force, in the form of a configuration file."""
    screen = invocation.screen()
    loaded = _load(invocation)
    section = ""
    for entry in catalogue().values():
        value = value_of(loaded.config, entry)
        if changed and entry.name not in loaded.origins:
            continue
        if screen.json:
            screen.record(_setting(entry, value, loaded.origins.get(entry.name, "default")))
            continue
        if entry.section != section:
            section = entry.section
            screen.line(f"\n{screen.paint(f'[{section}]', 'strong')}")
        where = loaded.origins.get(entry.name, "default") if origin else ""
        _show_line(screen, entry.name.rpartition(".")[2], entry.text(value), where)
    for route in loaded.config.route:
        _show_route(screen, route, loaded)
    for number in range(len(loaded.config.listener)):
        _show_listener(screen, number, loaded, changed=changed, origin=origin)


@config.command(
    "explain", examples=["dagent config explain smtp.port", "dagent config explain relayhost"]
)
@click.argument("key")
@click.pass_obj
def explain(invocation: Invocation, key: str) -> None:
    """Say what a setting means: its default, unit, Postfix name, and its value now.

    KEY is SECTION.KEY, a key alone, or the name of the Postfix parameter.
    """
    screen = invocation.screen()
    entries = lookup(key)
    if not entries:
        near = similar(key)
        hint = (
            f"did you mean {', '.join(near)}?" if near else "dagent config show lists all settings"
        )
        raise CommandError(f'there is no setting "{key}"', code=ExitStatus.NOT_FOUND, hint=hint)
    loaded = None
    try:
        loaded = _load(invocation)
    except ConfigError as error:
        screen.note(
            f"{count(len(error.problems), 'error')} in the configuration: dagent config check"
        )
    for number, entry in enumerate(entries):
        value = value_of(loaded.config, entry) if loaded and entry.name in catalogue() else None
        where = loaded.origins.get(entry.name, "default") if loaded else ""
        if screen.json:
            screen.record(_setting(entry, value, where) | _meaning(entry))
            continue
        if number:
            screen.line()
        for line in _explained(screen, entry, value, where):
            screen.line(line)


def _load(invocation: Invocation) -> Loaded:
    return load_with_origins(invocation.config_path, invocation.overrides)


def _show_line(screen: Screen, name: str, value: str, where: str) -> None:
    remark = f"  {screen.paint(f'# {clean(where)}', 'faint')}" if where else ""
    screen.line(f"{name} = {value}{remark}")


def _show_route(screen: Screen, route: Route, loaded: Loaded) -> None:
    narrowed = _narrowed(route, loaded)
    if screen.json:
        screen.record({"key": "route", "match": route.match, "nexthop": route.nexthop, **narrowed})
        return
    screen.line(f"\n{screen.paint('[[route]]', 'strong')}")
    known = route_catalogue()
    for name, value in [("match", route.match), ("nexthop", route.nexthop), *narrowed.items()]:
        _show_line(screen, name, known[name].text(value), "")


def _show_listener(
    screen: Screen, number: int, loaded: Loaded, *, changed: bool, origin: bool
) -> None:
    listener = loaded.config.listener[number]
    entries = [
        entry
        for name, entry in listener_catalogue().items()
        if not changed or f"listener.{number}.{name}" in loaded.origins
    ]
    names = [entry.name.partition(".")[2] for entry in entries]
    values = [getattr(listener, name) for name in names]
    if screen.json:
        shown = [
            None if entry.key.secret else _plain(value)
            for entry, value in zip(entries, values, strict=True)
        ]
        screen.record({"key": "listener", **dict(zip(names, shown, strict=True))})
        return
    screen.line(f"\n{screen.paint('[[listener]]', 'strong')}")
    for entry, name, value in zip(entries, names, values, strict=True):
        where = loaded.origins.get(f"listener.{number}.{name}", "default") if origin else ""
        _show_line(screen, name, entry.text(value), where)


def _files(loaded: Loaded) -> tuple[list[Problem], list[Problem]]:
    """What is wrong with files, and what this user cannot look at."""
    if not loaded.config.listener:
        return [], []
    from deliveryagent.config.listener_files import file_problems  # it imports ssl

    return file_problems(loaded)


def _narrowed(route: Route, loaded: Loaded) -> dict[str, Any]:
    """What a route changes of the settings it inherits, by its name there."""
    changes: dict[str, Any] = {}
    for short, entry in route_catalogue().items():
        section, _, field = entry.name.rpartition(".")
        if not section:
            continue
        own = getattr(getattr(route, section), field)
        if own != getattr(getattr(loaded.config, section), field):
            changes[short] = own
    return changes


def _explained(screen: Screen, entry: Entry, value: Any, where: str) -> Iterator[str]:
    yield f"{screen.paint(entry.name, 'strong')}  ({entry.type_name})"
    yield f"  {entry.key.meaning}"
    rows = [("default", entry.default_text)]
    if value is not None:
        rows.append(("now", f"{entry.text(value)}   {clean(where)}"))
    if entry.choices:
        rows.append(("choices", expected(entry.kind).removeprefix("one of ")))
    elif entry.type_name in {"time", "size"}:
        rows.append(("written as", expected(entry.kind).removeprefix(f"a {entry.type_name} ")))
    if entry.key.postfix:
        rows.append(("Postfix", postfix_name(entry)))
    if entry.route:
        rows.append(("route", f"may be narrowed in [[route]] as {entry.route}"))
    for title, text in rows:
        yield f"  {title:<11} {text}"


def _setting(entry: Entry, value: Any, where: str) -> dict[str, Any]:
    return {
        "key": entry.name,
        "value": None if entry.key.secret else _plain(value),
        "default": _plain(entry.default),
        "origin": where,
    }


def _meaning(entry: Entry) -> dict[str, Any]:
    return {
        "type": entry.type_name,
        "meaning": entry.key.meaning,
        "postfix": postfix_name(entry),
        "choices": list(entry.choices),
        "route": entry.route,
    }


def _as_json(severity: str, problem: Problem) -> dict[str, str]:
    facts = {field.name: getattr(problem, field.name) for field in fields(problem)}
    return {"severity": severity} | facts


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, Enum) else value
