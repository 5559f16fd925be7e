"""Looks at destinations and sites for ``dagent dest``.

Guarantees: a name is a domain or an address literal as the queue writes it, in lower case and A-labels; what
the service says of a site counts more than what was last recorded. Changes nothing.
"""

from typing import Any

import click
import msgspec

from deliveryagent.agent.records import rfc3339
from deliveryagent.cli import view
from deliveryagent.cli.command import Invocation
from deliveryagent.cli.faults import CommandError, ExitStatus
from deliveryagent.cli.screen import Cell, Column, Screen, clean, clock, count, until
from deliveryagent.cli.view import View
from deliveryagent.mail.address import AddressError, parse_mailbox
from deliveryagent.policy.gates import FOR_EVER
from deliveryagent.queue import overview, shape
from deliveryagent.queue.states import DestinationState, SiteState


def destination_name(word: str) -> str:
    """The destination a word names, as the queue writes it."""
    try:
        return parse_mailbox(f"x@{word.strip().removeprefix('@')}").destination
    except AddressError as error:
        raise click.UsageError(f'"{word}" is no domain: {error}') from None


def print_list(invocation: Invocation, limit: int) -> None:
    """Destinations that are paused, then those with most waiting."""
    screen = invocation.screen()
    with view.opened(invocation) as found:
        states = _states(found, limit)
        known = {one.name: one for one in _sites(found)}
        live = {str(s["name"]): s for s in (found.door.look("status") or {}).get("sites", [])}
    if invocation.json:
        for state in states:
            screen.record(_record(state, known.get(state.site), live.get(state.site)))
        return
    if not states:
        screen.note("Nothing waits and nothing is paused.")
        return
    columns = [
        Column("DESTINATION"),
        Column("WAITING", right=True),
        Column("STATE"),
        Column("NEXT"),
        Column("SITE"),
    ]
    rows = []
    for state in states:
        word = _condition(state, known.get(state.site), live.get(state.site), found.now)
        closed = _closed(known.get(state.site), live.get(state.site))
        ahead = _ahead(state, closed, found.now)
        rows.append([state.name, str(state.waiting), word, ahead, state.site or "-"])
    screen.table(columns, rows)


def _states(found: View, limit: int) -> list[DestinationState]:
    paused = [one.name for one in overview.pauses(found.reader, found.now)]
    busy = dict(shape.fullest(found.reader, limit))
    names = list(dict.fromkeys([*paused, *busy]))[:limit]
    found_states = (overview.one_destination(found.reader, name, busy.get(name)) for name in names)
    return [state for state in found_states if state is not None]


def _sites(found: View) -> list[SiteState]:
    return overview.sites(found.reader)


def _condition(
    state: DestinationState, site: SiteState | None, live: dict[str, Any] | None, now: float
) -> str | Cell:
    if state.paused_until is not None and state.paused_until > now:
        return Cell("paused", "warn")
    if _closed(site, live) > now:
        return Cell("closed", "bad")
    return "open"


def _closed(site: SiteState | None, live: dict[str, Any] | None) -> float:
    """Until when a site is closed, as far as is known; 0 when it is not."""
    if live:
        return float(live.get("closed_until") or 0)
    return (site.closed_until or 0.0) if site is not None else 0.0


def _ahead(state: DestinationState, closed: float, now: float) -> str:
    """When something will be tried there."""
    if state.ready is None:
        return "-" if state.owner is None else "taken up"
    moment = max(state.ready, closed, state.paused_until or 0.0)
    return "-" if moment >= FOR_EVER else until(moment, now)


def _record(
    state: DestinationState, site: SiteState | None, live: dict[str, Any] | None
) -> dict[str, Any]:
    closed = _closed(site, live) or None
    return {
        "name": state.name,
        "waiting": state.waiting,
        "ready": _moment(state.ready),
        "taken_up": state.owner is not None,
        "paused": state.paused_until is not None,
        "paused_until": _moment(state.paused_until),
        "pause_note": state.pause_note,
        "paused_by": state.paused_by,
        "site": {
            "name": state.site,
            "window": live["window"] if live else site.concurrency if site else None,
            "busy": live["busy"] if live else None,
            "closed_until": _moment(closed),
            "reason": live["reason"] if live else site.reason if site else "",
        },
    }


def _moment(moment: float | None) -> str | None:
    return None if moment is None or moment >= FOR_EVER else rfc3339(moment)


def print_one(invocation: Invocation, domain: str) -> None:
    """One destination: what waits, its site, its window, its pause."""
    name = destination_name(domain)
    screen = invocation.screen()
    with view.opened(invocation) as found:
        state = overview.one_destination(found.reader, name)
        live = found.door.look("dest", name=name)
        live = live if live and live.get("name") else None
        if state is None and live is None:
            raise CommandError(
                f"no mail for {name} has been seen",
                code=ExitStatus.NOT_FOUND,
                hint=f"dagent probe postmaster@{name}",
            )
        if state is None:
            state = _unknown(name)
        if live:
            state = msgspec.structs.replace(state, site=str(live["name"]))
        site = overview.one_site(found.reader, state.site) if state.site else None
        if invocation.json:
            screen.record(_record(state, site, live))
            return
        _print(screen, found, state, site, live)


def _unknown(name: str) -> DestinationState:
    return DestinationState(
        name=name,
        ready=None,
        owner=None,
        site="",
        paused_until=None,
        pause_note="",
        paused_by="",
        waiting=0,
    )


def _print(
    screen: Screen,
    found: View,
    state: DestinationState,
    site: SiteState | None,
    live: dict[str, Any] | None,
) -> None:
    now = found.now
    screen.line(
        f"{screen.paint(clean(state.name), 'strong')}  {count(state.waiting, 'recipient')} waiting"
    )
    if state.paused_until is not None and state.paused_until > now:
        end = "" if state.paused_until >= FOR_EVER else f" until {clock(state.paused_until, now)}"
        note = f": {state.pause_note}" if state.pause_note else ""
        screen.line(f"paused  by {clean(state.paused_by)}{end}{clean(note)}")
    elif state.owner is not None:
        screen.line("next    taken up by a running agent")
    elif state.ready is not None:
        screen.line(f"next    {until(state.ready, now)}")
    if not state.site:
        screen.line("site    not known yet: nothing has been resolved for it")
        return
    screen.line(f"site    {clean(state.site)}")
    window = live["window"] if live else site.concurrency if site else None
    if window is not None:
        busy = f", {live['busy']} in flight" if live else ""
        screen.line(f"window  {window:g}{busy}")
    closed = _closed(site, live)
    reason = str(live["reason"] if live else site.reason if site else "")
    if closed > now:
        screen.line(
            f"closed  until {clock(closed, now)}, then one delivery finds out if it is back"
        )
    if reason:
        screen.line(f"reason  {clean(reason)}")
    advice = [f"dagent queue list --domain {state.name}"]
    if closed > now:
        advice.append(f"dagent dest reset {state.name}")
    if state.paused_until is not None and state.paused_until > now:
        advice.append(f"dagent dest resume {state.name}")
    screen.line(f"do      {clean(' | '.join(advice))}")
