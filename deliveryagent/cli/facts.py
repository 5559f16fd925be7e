"""Gathers what is known of a recipient for ``agent.explain``: rows from the store, live facts from the service.

Guarantees: each destination is asked about once; what the service does not tell is taken from what
was last recorded. Decides nothing: that is ``agent.explain`` and the policies behind it.
"""

from typing import Any

from deliveryagent.agent.explain import Answer, Known
from deliveryagent.agent.records import due_of
from deliveryagent.cli.view import View
from deliveryagent.mail.envelope import Notify, RecipientStatus, format_queue_id
from deliveryagent.policy.gates import FOR_EVER, Pause, Situation
from deliveryagent.queue import overview
from deliveryagent.queue.overview import Waiting
from deliveryagent.queue.search import Found, FoundRecipient
from deliveryagent.queue.states import DestinationState, Member, SiteState


class Facts:
    """What one command learns, remembered while it runs."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._service = view.door.look("status")
        self._destinations: dict[str, DestinationState | None] = {}
        self._waiting: dict[tuple[str, int, str], Waiting] = {}
        self._live: dict[str, dict[str, Any]] = {}
        self._members: dict[int, Member] | None = None

    @property
    def running(self) -> bool:
        """Whether a service works on this queue; one that may not be asked counts as running."""
        return self._service is not None or self._view.door.reached

    def known(self, message: Found, one: FoundRecipient) -> Known:
        """Everything that is known of one recipient."""
        now = self._view.now
        answer = Answer(
            stage=one.stage, code=one.code, enhanced=one.enhanced, text=one.text, host=one.host
        )
        others = self._others(one)
        return Known(
            queue_id=format_queue_id(message.queue_id),
            number=one.number,
            address=one.address,
            sender=message.sender,
            arrival=message.arrival,
            not_before=message.not_before,
            deliver_by=message.deliver_by,
            by_mode=message.by_mode,
            attempts=one.attempts,
            answer=answer,
            situation=self._situation(message, one, now),
            finished=one.finished,
            notify=Notify(one.notify),
            warned=one.warned is not None,
            reported=format_queue_id(one.reported) if one.reported else "",
            running=self.running,
            same_answer=others.same_answer,
            waiting=others.all,
        )

    def live(self, name: str) -> dict[str, Any]:
        """The site of a destination as the service sees it now; empty when it knows none."""
        if name not in self._live:
            answer = self._view.door.look("dest", name=name) if self._service else None
            self._live[name] = answer if answer and answer.get("name") else {}
        return self._live[name]

    def _destination(self, name: str) -> DestinationState | None:
        if name not in self._destinations:
            self._destinations[name] = overview.one_destination(
                self._view.reader,
                name,
                waiting=0,  # ``_others`` counts what is asked for
            )
        return self._destinations[name]

    def _others(self, one: FoundRecipient) -> Waiting:
        if one.due is None:
            return Waiting(0, 0)
        answer = (one.code, one.enhanced) if one.attempts else (0, "")
        asked = (one.destination, *answer)
        if asked not in self._waiting:
            name, code, enhanced = asked
            self._waiting[asked] = overview.others(
                self._view.reader, name, code=code, enhanced=enhanced
            )
        found = self._waiting[asked]
        # The recipient itself is among those counted.
        return Waiting(max(0, found.all - 1), max(0, found.same_answer - 1))

    def _situation(self, message: Found, one: FoundRecipient, now: float) -> Situation:
        destination = self._destination(one.destination)
        live = self.live(one.destination)
        name = str(live.get("name") or (destination.site if destination else ""))
        site = overview.one_site(self._view.reader, name) if name else None
        service = self._service or {}
        store = service.get("store", {})
        room, busy = _room(live)
        keeper = self._keeper(destination)
        return Situation(
            now=now,
            status=RecipientStatus(one.status),
            due=due_of(message, one),
            note=one.text if one.status == RecipientStatus.HELD else "",
            destination=one.destination,
            site=name,
            destination_pause=_pause(destination),
            closed_until=float(live["closed_until"] or 0) if live else _closed(site),
            closed_reason=str(live["reason"] if live else site.reason if site else ""),
            room=room,
            in_flight=busy,
            active=(message.queue_id, one.number) in self._view.active,
            draining=bool(service.get("draining")),
            store_writable=bool(store.get("writable", True)),
            store_trouble=str(store.get("reason", "")),
            keeper=keeper,
            slots_elsewhere=live.get("share") == 0,
        )

    def _keeper(self, destination: DestinationState | None) -> str:
        """The other agent that has a destination in hand, as far as one is known to live."""
        if destination is None or destination.owner is None:
            return ""
        if self._members is None:
            self._members = {one.agent: one for one in overview.members(self._view.reader)}
        owner = self._members.get(destination.owner)
        here = str((self._service or {}).get("agent", ""))
        # Where nobody else can be, a lease has no end.
        if owner is None or not 0 < owner.left < FOR_EVER or format_queue_id(owner.agent) == here:
            return ""
        return f"the agent on {owner.host} (process {owner.pid})"


def _pause(state: DestinationState | None) -> Pause | None:
    if state is None or state.paused_until is None:
        return None
    return Pause(state.paused_until, state.pause_note, state.paused_by)


def _closed(site: SiteState | None) -> float:
    return (site.closed_until or 0.0) if site is not None else 0.0


def _room(live: dict[str, Any]) -> tuple[int | None, int]:
    """How many more deliveries a site takes, and how many are in flight; None when nobody counts."""
    if not live:
        return None, 0
    busy = int(live.get("busy", 0))
    return max(0, max(1, int(live.get("window", 1))) - busy), busy
