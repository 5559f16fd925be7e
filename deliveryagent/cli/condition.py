"""Gathers, judges and shows the state of the agent, for people and for monitoring.

The check follows the conventions of monitoring plugins: one line, exit status 0 ok, 1 warning, 2
critical, 3 unknown, numbers behind a bar. What is critical: no service, a store that cannot be
written, no worker, a listener that is down, mail that is due and that nobody takes up, an agent of the queue
that is silent for long.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from deliveryagent.agent.records import rfc3339
from deliveryagent.cli import view
from deliveryagent.cli.command import Invocation
from deliveryagent.cli.screen import Screen, Tone, clean, clock, count, span, until, utc
from deliveryagent.cli.view import View
from deliveryagent.mail.envelope import format_queue_id
from deliveryagent.policy.gates import FOR_EVER
from deliveryagent.queue import overview, search
from deliveryagent.queue.overview import Paused
from deliveryagent.queue.search import COUNTED, Counts
from deliveryagent.queue.states import Member
from deliveryagent.queue.store import StoreError

_MOST_SITES = 5
_SILENT = 60.0  # seconds behind its lease after which nobody can have noticed that an agent is gone
_WORDS = ("OK", "WARNING", "CRITICAL", "UNKNOWN")
OK, WARNING, CRITICAL, UNKNOWN = range(4)


class State(NamedTuple):
    """Everything the screen shows. ``overdue`` is in seconds; ``live`` is None when no service answers.

    ``agents`` are all that work on the queue, on whatever host.
    """

    now: float
    counts: Counts
    next_ready: float | None
    pauses: list[Paused]
    live: dict[str, Any] | None
    reached: bool
    trouble: str
    agents: Sequence[Member] = ()

    @property
    def overdue(self) -> float:
        """For how long mail has been due that no agent has taken up, in seconds."""
        return max(0.0, self.now - self.next_ready) if self.next_ready is not None else 0.0


def gather(found: View, *, most: int = COUNTED) -> State:
    """Ask the service and the store. Beyond ``most``, recipients are not counted any further."""
    live = found.door.look("status")
    return State(
        now=found.now,
        counts=search.counts(found.reader, found.now, most=most),
        next_ready=overview.next_ready(found.reader, found.now),
        pauses=list(overview.pauses(found.reader, found.now)),
        live=live,
        reached=found.door.reached,
        trouble=found.door.trouble,
        agents=overview.members(found.reader),
    )


def show(invocation: Invocation) -> None:
    """The state on one screen. Raises ``StoreError`` when there is no queue."""
    with view.opened(invocation) as found:
        state = gather(found)
    screen = invocation.screen()
    if invocation.json:
        screen.record(_record(state))
    else:
        _show(screen, state, invocation.hostname())


def check(invocation: Invocation, limits: dict[str, float | None]) -> int:
    """The state on one line; returns the exit status 0 to 3."""
    screen = invocation.screen()
    asked = [limits.get(name) or 0 for name in ("warning_waiting", "critical_waiting")]
    try:
        with view.opened(invocation) as found:
            state = gather(found, most=max(COUNTED, *(int(limit) + 1 for limit in asked)))
    except StoreError as error:
        screen.line(f"DELIVERYAGENT UNKNOWN - {clean(str(error))}")
        return UNKNOWN
    return _check(screen, state, limits, json=invocation.json)


# -- for monitoring --------------------------------------------------------------------------------


def judge(state: State, limits: dict[str, float | None]) -> tuple[int, list[str]]:
    """The exit status of ``--check`` and the reasons, the worst first."""
    found: list[tuple[int, str]] = []
    if state.live is None:
        what = (
            f"the service does not answer: {state.trouble}" if state.reached else "no service runs"
        )
        found.append((CRITICAL, what))
    else:
        store, workers = state.live["store"], state.live["workers"]
        if not store["writable"]:
            found.append((CRITICAL, f"the store cannot be written: {store['reason']}"))
        if not any(worker["pid"] for worker in workers):
            found.append((CRITICAL, "no delivery worker runs"))
        found += [
            (CRITICAL, f"the listener {clean(one['address'])} does not run")
            for one in state.live.get("listeners", [])
            if not one["ready"]
        ]
        if state.live["draining"]:
            found.append((WARNING, "draining"))
    for one in state.agents:
        if one.left < 0:
            level = CRITICAL if one.left < -_SILENT else WARNING
            found.append((level, f"{_named(one)} has not renewed its lease for {span(-one.left)}"))
    values = {"overdue": state.overdue, "waiting": float(state.counts.waiting)}
    shown = {"overdue": f"due mail waits for {span(state.overdue)}"}
    shown["waiting"] = f"{count(state.counts.waiting, 'recipient')} waiting"
    for name, value in values.items():
        for level, word in ((CRITICAL, "critical"), (WARNING, "warning")):
            limit = limits.get(f"{word}_{name}")
            if limit is not None and value > limit:
                found.append((level, shown[name]))
                break
    found.sort(key=lambda one: -one[0])
    return max((level for level, _ in found), default=OK), [text for _, text in found]


def _check(screen: Screen, state: State, limits: dict[str, float | None], *, json: bool) -> int:
    level, reasons = judge(state, limits)
    if json:
        screen.record({"status": _WORDS[level], "reasons": reasons, **_record(state)})
        return level
    counts = state.counts
    summary = "; ".join(reasons) or (
        f"{count(counts.waiting, 'recipient')} waiting, {counts.due} due, {counts.held} held"
    )
    oldest = state.now - counts.oldest if counts.oldest is not None else 0.0
    data = {
        "waiting": (f"{counts.waiting}", "waiting"),
        "due": (f"{counts.due}", ""),
        "held": (f"{counts.held}", ""),
        "active": (f"{state.live['active'] if state.live else 0}", ""),
        "oldest": (f"{oldest:.0f}s", ""),
        "overdue": (f"{state.overdue:.0f}s", "overdue"),
    }
    figures = " ".join(
        f"{name}={value};{_limit(limits, 'warning', bound)};{_limit(limits, 'critical', bound)};0"
        for name, (value, bound) in data.items()
    )
    screen.line(f"DELIVERYAGENT {_WORDS[level]} - {clean(summary)} | {figures}")
    return level


def _limit(limits: dict[str, float | None], word: str, bound: str) -> str:
    limit = limits.get(f"{word}_{bound}") if bound else None
    return "" if limit is None else f"{limit:.0f}"


# -- for programs and people -----------------------------------------------------------------------


def _record(state: State) -> dict[str, Any]:
    counts = msgspec.to_builtins(state.counts)
    return {
        "running": state.live is not None,
        "queue": {
            **counts,
            "oldest": None if counts["oldest"] is None else rfc3339(counts["oldest"]),
            "overdue": state.overdue,
        },
        "pauses": [
            {**msgspec.to_builtins(pause), "until": _moment(pause.until)} for pause in state.pauses
        ],
        "agents": [_agent_record(one) for one in state.agents],
        "service": state.live,
    }


def _agent_record(one: Member) -> dict[str, Any]:
    facts = msgspec.to_builtins(one)
    return {
        "id": format_queue_id(one.agent),
        **{name: facts[name] for name in ("host", "pid", "version")},
        "started": rfc3339(one.started),
        "lease": None if one.left > FOR_EVER else one.left,
        **{name: facts[name] for name in ("draining", "destinations", "waiting", "in_flight")},
    }


def _moment(until_then: float) -> str | None:
    return None if until_then >= FOR_EVER else rfc3339(until_then)


def _show(screen: Screen, state: State, hostname: str) -> None:
    word, tone = _condition(state)
    facts = [screen.paint(hostname, "strong"), screen.paint(word, tone)]
    if state.live is not None:
        facts.insert(1, f"deliveryagent {clean(str(state.live.get('version', '')))}")
        facts.append(f"up {span(state.now - float(state.live['started']))}")
    screen.line("  ".join([*facts, utc(int(state.now))]))
    counts = state.counts
    held = f", {count(counts.held, 'held', 'held')}" if counts.held else ""
    least = "" if counts.whole else "at least "
    waits = f"{least}{count(counts.waiting, 'recipient')} waiting"
    screen.line(f"queue   {waits}, {least}{counts.due} due now{held}")
    if counts.oldest is not None:
        ahead = until(state.next_ready, state.now) if state.next_ready is not None else "taken up"
        age = span(state.now - counts.oldest)
        screen.line(f"        oldest {age}, next due {ahead}")
    if state.live is not None:
        _show_live(screen, state.live, state.now)
    if len(state.agents) > 1 or any(one.left < 0 for one in state.agents):
        for one in state.agents:
            _show_agent(screen, one, state.now)
    for pause in state.pauses:
        _show_pause(screen, pause, state.now)
    if state.live is None:
        screen.line("do      systemctl start deliveryagent | dagent serve")


def _condition(state: State) -> tuple[str, Tone]:
    if state.live is None:
        return (
            f"does not answer: {clean(state.trouble)}" if state.reached else "not running"
        ), "bad"
    if not state.live["store"]["writable"]:
        return (
            f"stopped, the store cannot be written: {clean(state.live['store']['reason'])}",
            "bad",
        )
    if state.live["draining"]:
        return "draining: takes mail, starts no delivery", "warn"
    return "accepting, delivering", "good"


def _show_live(screen: Screen, live: dict[str, Any], now: float) -> None:
    workers = live["workers"]
    running = [worker for worker in workers if worker["pid"]]
    sessions = sum(int(worker["sessions"]) for worker in workers)
    restarts = sum(int(worker["restarts"]) for worker in workers)
    facts = [f"{count(int(live['active']), 'recipient')} in flight", count(sessions, "session")]
    if restarts:
        facts.append(count(restarts, "restart"))
    lag = max((float(worker["lag"]) for worker in workers), default=0.0)
    if lag > 1:
        facts.append(f"up to {span(lag)} behind")
    screen.line(f"workers {len(running)} of {len(workers)} running, {', '.join(facts)}")
    _show_listeners(screen, live.get("listeners", []))
    troubled = [site for site in live["sites"] if site.get("closed_until") or site.get("reason")]
    for site in troubled[:_MOST_SITES]:
        closed = site.get("closed_until")
        what = f"closed until {clock(closed, now)}" if closed else f"window {site['window']}"
        sign = screen.paint("!!" if closed else "!", "bad" if closed else "warn")
        screen.line(f"{sign:2}      {clean(site['name'])}  {what}: {clean(site['reason'])}")
    if len(troubled) > _MOST_SITES:
        more = count(len(troubled) - _MOST_SITES, "more site")
        screen.line(f"        {more} in trouble: dagent dest list")


def _show_listeners(screen: Screen, listeners: Sequence[dict[str, Any]]) -> None:
    title = "doors"
    for one in listeners:
        facts = [
            f"{one['kind']} {clean(one['address'])}",
            count(int(one["sessions"]), "session"),
            f"{count(int(one['taken']), 'message')} taken",
        ]
        if one["restarts"]:
            facts.append(count(int(one["restarts"]), "restart"))
        if not one["ready"]:
            facts.append(screen.paint("does not run", "bad"))
        screen.line(f"{title:<8}{', '.join(facts)}")
        title = ""


def _named(one: Member) -> str:
    """An agent of the queue, for people."""
    return f"the agent on {clean(one.host)} (process {one.pid})"


def _show_agent(screen: Screen, one: Member, now: float) -> None:
    facts = [
        f"{clean(one.host)} process {one.pid}",
        f"{clean(one.version)} up {span(now - one.started)}",
        f"owns {count(one.destinations, 'destination')}",
        f"{count(one.in_flight, 'request')} in flight",
    ]
    if one.draining:
        facts.append(screen.paint("draining", "warn"))
    if one.left < 0:
        facts.append(screen.paint(f"silent: lease over for {span(-one.left)}", "bad"))
    screen.line(f"agent   {', '.join(facts)}")


def _show_pause(screen: Screen, pause: Paused, now: float) -> None:
    end = "" if pause.until >= FOR_EVER else f" until {clock(pause.until, now)}"
    by = f" by {pause.by}" if pause.by else ""
    note = f' ("{pause.note}")' if pause.note else ""
    advice = f"   dagent dest resume {pause.name}"
    screen.line(f"i       {clean(f'{pause.name} paused{by}{end}{note}')}{clean(advice)}")
