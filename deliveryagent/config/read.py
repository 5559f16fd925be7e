"""From what people wrote to a :class:`Config`: every value read, every name looked up, every
problem told.

Guarantees: ``load`` either returns a configuration that is sound in itself, or raises
``ConfigError`` with all problems of all sources, each with its place and a hint for misspelled
names. Never asks the network.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

from deliveryagent.config.explain import (
    Entry,
    catalogue,
    listener_catalogue,
    route_catalogue,
)
from deliveryagent.config.listeners import CHECKS, overlaps
from deliveryagent.config.location import resolve
from deliveryagent.config.ownname import mail_name, own_hostname
from deliveryagent.config.problems import ConfigError, Problem
from deliveryagent.config.references import CROSS_CHECKS, check_value
from deliveryagent.config.sections import SECTIONS, Config, Route, narrowed
from deliveryagent.config.sources import Gathered, Given, gather
from deliveryagent.config.values import read
from deliveryagent.intake.listener_settings import ListenerSettings


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A configuration and where each value that is not a built-in default comes from, by dotted key.

    What stands in the third ``[[listener]]`` is called ``listener.2.KEY``, and ``listener.2.`` its heading.
    """

    config: Config
    origins: Mapping[str, str]
    path: str | None


def load(
    path: str | os.PathLike[str] | None = None,
    overrides: Iterable[str] = (),
    *,
    environ: Mapping[str, str] = os.environ,
    hostname: Callable[[], str] = own_hostname,
) -> Config:
    """The configuration of this process; raises ``ConfigError`` with every problem found.

    ``path`` names the file (default: see ``sources``), ``overrides`` are ``SECTION.KEY=VALUE``
    texts. ``hostname`` is asked for this host's name only when the configuration does not give one.
    """
    return load_with_origins(path, overrides, environ=environ, hostname=hostname).config


def load_with_origins(
    path: str | os.PathLike[str] | None = None,
    overrides: Iterable[str] = (),
    *,
    environ: Mapping[str, str] = os.environ,
    hostname: Callable[[], str] = own_hostname,
) -> Loaded:
    """As ``load``, and where each value comes from."""
    gathered = gather(path, overrides, environ)
    problems = gathered.problems
    values, places = _read_table(gathered.given, catalogue(), problems)
    routes = [_read_route(given, problems) for given in gathered.routes]
    listeners = [_read_listener(given, problems) for given in gathered.listeners]
    if problems:
        raise ConfigError(problems)
    config = _compose(gathered, values, routes, environ, hostname)
    config = replace(config, listener=tuple(ListenerSettings(**one) for one in listeners))
    origins = {name: given.where for name, given in places.items()}
    for number, table in enumerate(gathered.listeners):
        origins |= {f"listener.{number}.{name}": given.where for name, given in table.items()}
    crossed = [
        Problem(where=_place(keys, places), key=keys[0], text=text)
        for keys, check in CROSS_CHECKS
        if (text := check(config))
    ]
    crossed += _cross_listeners(config, origins)
    if crossed:
        raise ConfigError(crossed)
    return Loaded(config=config, origins=origins, path=gathered.path)


def _read_table(
    given: Mapping[str, Given],
    known: Mapping[str, Entry],
    problems: list[Problem],
    *,
    prefix: str = "",
) -> tuple[dict[str, Any], dict[str, Given]]:
    """Read each value by its declaration; what cannot be read or is not known becomes a problem."""
    values: dict[str, Any] = {}
    places: dict[str, Given] = {}
    for name, item in given.items():
        if name == "" or (name.endswith(".") and name[:-1] in SECTIONS):
            continue  # the heading of a table; an empty table says nothing
        entry = known.get(name)
        if entry is None:
            problems.append(_unknown(name, item, known, prefix))
            continue
        try:
            single = entry.key.single
            value = read(entry.kind, item.value, textual=item.textual, single=single)
            check_value(prefix + name, value)
        except ValueError as error:
            problems.append(Problem(where=item.where, key=prefix + name, text=str(error)))
        else:
            values[name], places[name] = value, item
    return values, places


def _read_route(given: Mapping[str, Given], problems: list[Problem]) -> dict[str, Any]:
    """One ``[[route]]``; it must say what it is for, or it would silently match nothing."""
    values, _ = _read_table(given, route_catalogue(), problems, prefix="route.")
    match = given.get("match")
    if match is None or match.value == []:
        where = given[""].where if match is None else match.where
        problems.append(
            Problem(where=where, key="route.match", text="is missing: for what is this route?")
        )
    return values


def _read_listener(given: Mapping[str, Given], problems: list[Problem]) -> dict[str, Any]:
    """One ``[[listener]]``; it must say where it stands: no door is opened by a default."""
    values, _ = _read_table(given, listener_catalogue(), problems, prefix="listener.")
    address = given.get("address")
    if address is None or address.value == "":
        where = given[""].where if address is None else address.where
        problems.append(
            Problem(
                where=where,
                key="listener.address",
                text="is missing: where does this listener stand?",
                hint='such as "*:587", "127.0.0.1:25" or "unix:/run/deliveryagent/lmtp.sock"',
            )
        )
    return values


def _cross_listeners(config: Config, origins: Mapping[str, str]) -> Iterator[Problem]:
    """What does not fit inside a listener, and between them."""
    for number, listener in enumerate(config.listener):

        def problem(keys: Iterable[str], text: str, number: int = number) -> Problem:
            names = [f"listener.{number}.{name}" for name in (*keys, "")]
            where = next(origins[name] for name in names if name in origins)
            return Problem(where=where, key=f"listener.{next(iter(keys))}", text=text)

        for keys, check in CHECKS:
            if text := check(listener):
                yield problem(keys, text)
        if text := overlaps(config, number):
            yield problem(["address"], text)


def _unknown(name: str, item: Given, known: Mapping[str, Entry], prefix: str) -> Problem:
    section, dot, key = name.partition(".")
    if section in {"route", "listener"} and not prefix:
        text = f"{section}s stand in the file, each under a heading [[{section}]] of its own"
        return Problem(where=item.where, key=name, text=text)
    if dot and section not in SECTIONS and not prefix:
        near = get_close_matches(section, SECTIONS, n=1)
        hint = f"did you mean [{near[0]}]?" if near else "sections are " + ", ".join(SECTIONS)
        return Problem(where=item.where, key=name, text=f"unknown section [{section}]", hint=hint)
    if not dot and name in SECTIONS:
        return Problem(where=item.where, key=name, text=f"is a section: write [{name}]")
    near = get_close_matches(name, known, n=1, cutoff=0.7)
    if not near:  # the right key under the wrong heading
        wanted = key or name
        near = [other for other in known if other.rpartition(".")[2] == wanted][:1]
    hint = f'did you mean "{near[0]}"?' if near else ""
    return Problem(where=item.where, key=prefix + name, text="unknown setting", hint=hint)


def _compose(
    gathered: Gathered,
    values: Mapping[str, Any],
    routes: Iterable[Mapping[str, Any]],
    environ: Mapping[str, str],
    hostname: Callable[[], str],
) -> Config:
    sections = {
        section: {
            name.partition(".")[2]: value
            for name, value in values.items()
            if name.startswith(f"{section}.")
        }
        for section in SECTIONS
    }
    place = resolve(
        gathered.given.get("queue.url"),
        gathered.given.get("run_dir"),
        path=gathered.path,
        environ=environ,
    )
    sections["queue"]["url"] = place.queue_url
    own = values.get("hostname") or hostname()
    built = {name: kind(**sections[name]) for name, kind in SECTIONS.items()}
    return Config(
        hostname=own,
        origin=values.get("origin") or (not values.get("hostname") and mail_name()) or own,
        postmaster=values.get("postmaster") or f"postmaster@{own}",
        run_dir=place.run_dir,
        route=tuple(
            Route(
                match=route["match"],
                nexthop=route.get("nexthop", ""),
                smtp=narrowed(built["smtp"], route),
                lmtp=narrowed(built["lmtp"], route),
                delivery=narrowed(built["delivery"], route),
            )
            for route in routes
        ),
        **built,
    )


def _place(keys: Iterable[str], places: Mapping[str, Given]) -> str:
    return next((places[name].where for name in keys if name in places), "default")
