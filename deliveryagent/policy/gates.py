"""Why a recipient waits: every gate between it and its next attempt that is shut at the moment.

The scheduler sends when the list is empty; ``why`` prints the list. Both take it from here, so what people
are told is what the agent does.

Guarantees: the list is empty exactly when an attempt may start now; every shut gate says until when, or that
nobody knows; the order is fixed, from what only a person can change to what passes by itself.
"""

from enum import StrEnum

import msgspec

from deliveryagent.mail.envelope import FINAL_STATUSES, RecipientStatus

FOR_EVER = 1e11
"""A time beyond all others (seconds since the epoch): until somebody changes it."""


class GateKind(StrEnum):
    """What can keep a recipient from being tried."""

    FINISHED = "finished"  # nothing more will be tried
    ACTIVE = "active"
    HELD = "held"
    STORE_PAUSED = "store paused"
    DRAINING = "draining"
    PAUSED_DESTINATION = "paused destination"
    DUE = "due"
    CLOSED_SITE = "closed site"
    SUSPECT = "suspect"
    ELSEWHERE = "elsewhere"  # another agent has its destination in hand
    WINDOW_FULL = "window full"


class Gate(msgspec.Struct, frozen=True):
    """One shut gate.

    ``until`` is when it opens by itself (seconds since the epoch), None when that is not known or a person
    has to act. ``text`` is one short sentence.
    """

    kind: GateKind
    until: float | None
    text: str


class Pause(msgspec.Struct, frozen=True):
    """An operator's pause of a destination: until when, why and by whom."""

    until: float
    note: str = ""
    by: str = ""


class Situation(msgspec.Struct, frozen=True, kw_only=True):
    """The facts about one recipient that decide whether it is tried now.

    ``due`` is None for a recipient that has no due time. ``destination`` and ``site`` are names for the text.
    ``closed_until`` and ``closed_reason`` are the site's window's. ``room`` is how many more requests the
    site takes, None when no window exists yet. ``suspect_waiting`` means that this message was there when a
    process died, and another such message is being tried alone just now. ``keeper`` names another agent of the
    queue that has the destination in hand; what this agent does or has room for then says nothing.
    ``slots_elsewhere``: the site's slots are all with other agents.
    """

    now: float
    status: RecipientStatus
    due: float | None = None
    note: str = ""
    destination: str = ""
    site: str = ""
    destination_pause: Pause | None = None
    closed_until: float = 0.0
    closed_reason: str = ""
    room: int | None = None
    in_flight: int = 0
    suspect_waiting: bool = False
    active: bool = False
    draining: bool = False
    store_writable: bool = True
    store_trouble: str = ""
    keeper: str = ""
    slots_elsewhere: bool = False


def waiting(situation: Situation) -> tuple[Gate, ...]:
    """All shut gates; empty means that an attempt may start now."""
    if situation.status in FINAL_STATUSES:
        return (
            Gate(
                GateKind.FINISHED, None, f"It is {situation.status.value}; nothing more is tried."
            ),
        )
    if situation.active or situation.status is RecipientStatus.ACTIVE:
        return (Gate(GateKind.ACTIVE, None, "An attempt is in flight."),)
    found = (*_of_the_message(situation), *_of_the_agent(situation), *_of_the_way(situation))
    return tuple(sorted(found, key=lambda gate: _ORDER[gate.kind]))


_ORDER = {kind: place for place, kind in enumerate(GateKind)}


def _of_the_message(now: Situation) -> list[Gate]:
    shut: list[Gate] = []
    if now.status is RecipientStatus.HELD:
        shut.append(Gate(GateKind.HELD, None, _explained("It is on hold", now.note)))
    elif now.due is None or now.due > now.now:
        shut.append(Gate(GateKind.DUE, now.due, "Its next attempt is not due yet."))
    if now.suspect_waiting:
        text = "A process died while this message was delivered; such messages are tried one at a time."
        shut.append(Gate(GateKind.SUSPECT, None, text))
    return shut


def _of_the_agent(now: Situation) -> list[Gate]:
    shut: list[Gate] = []
    if not now.store_writable:
        text = _explained("Outcomes cannot be recorded, so nothing is sent", now.store_trouble)
        shut.append(Gate(GateKind.STORE_PAUSED, None, text))
    if now.keeper:
        text = f"{now.keeper[0].upper()}{now.keeper[1:]} has {now.destination} in hand."
        shut.append(Gate(GateKind.ELSEWHERE, None, text))
    elif now.draining:
        shut.append(Gate(GateKind.DRAINING, None, "The agent is draining and starts nothing new."))
    return shut


def _of_the_way(now: Situation) -> list[Gate]:
    shut: list[Gate] = []
    if now.destination_pause is not None and now.destination_pause.until > now.now:
        what = f"The destination {now.destination} is paused".replace("  ", " ")
        shut.append(_paused(GateKind.PAUSED_DESTINATION, now.destination_pause, what))
    site = f"The site {now.site}" if now.site else "The site"
    if now.closed_until > now.now:
        text = _explained(f"{site} is closed after failures", now.closed_reason)
        shut.append(Gate(GateKind.CLOSED_SITE, now.closed_until, text))
    elif now.slots_elsewhere and not now.keeper:
        text = f"{site} gets all the deliveries it takes at once from other agents just now."
        shut.append(Gate(GateKind.WINDOW_FULL, None, text))
    elif now.room is not None and now.room <= 0 and not now.keeper:
        text = f"{site} is busy with all {now.in_flight} deliveries it gets at once."
        if now.in_flight <= 1:
            text = f"{site} gets one delivery at a time just now."
        shut.append(Gate(GateKind.WINDOW_FULL, None, text))
    return shut


def _paused(kind: GateKind, pause: Pause, what: str) -> Gate:
    by = f" by {pause.by}" if pause.by else ""
    until = None if pause.until >= FOR_EVER else pause.until
    return Gate(kind, until, _explained(f"{what}{by}", pause.note))


def _explained(sentence: str, reason: str) -> str:
    """One line, however many the reason had."""
    return f"{sentence}: {' '.join(reason.split())}" if reason.strip() else f"{sentence}."
