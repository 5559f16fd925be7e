"""The dispatch wheel: requests leave for the workers, as far as the windows of their sites allow.

A worker is told how many requests of a site may run there before it gets the first of them, and whenever that
changes. Guarantees: everything that may go goes at once, each request to one worker. Never waits, never
decides whose turn it is: that is ``agent.schedule``.
"""

from collections.abc import Callable, Collection, Iterable, Mapping

from deliveryagent.agent import frames
from deliveryagent.agent.active import Batch, Destination
from deliveryagent.agent.crew import Worker
from deliveryagent.agent.schedule import Schedule
from deliveryagent.mail.delivery import DeliveryRequest, Handling, RequestRecipient
from deliveryagent.mail.envelope import arrival_of
from deliveryagent.policy import deadline
from deliveryagent.queue.lines import Claimed


def ready(workers: Iterable[Worker]) -> dict[int, Worker]:
    """Those that take requests, by their places."""
    return {worker.index: worker for worker in workers if worker.ready and not worker.draining}


def divide(
    schedule: Schedule, places: Collection[int], workers: Iterable[Worker], now: float
) -> None:
    """Tell workers what changed about their limits.

    Those at ``places`` serve. Where nobody does, nothing is to begin now, and what workers have not begun
    comes back.
    """
    schedule.staff(tuple(places))
    schedule.redivide(now)
    _tell(schedule, {worker.index: worker for worker in workers if worker.ready})


def hand_out(
    schedule: Schedule,
    places: Mapping[int, Worker],
    now: float,
    lapse: Callable[[Batch, float], None],
) -> tuple[set[Destination], int]:
    """Hand out everything that may go; returns whose it was, and the octets of content that went along.

    What may not go any more, because its time is over, is told to ``lapse``.
    """
    touched: set[Destination] = set()
    octets = 0
    for batch in schedule.next_batches(now):
        if schedule.rooms:
            _tell(schedule, places)
        first = batch.recipients[0]
        if first.deliver_by and deadline.over(first.deliver_by, first.by_mode, now):
            octets += len(batch.content or b"")
            lapse(batch, now)
            continue
        worker = places[batch.place]
        worker.in_flight += 1
        request = _request(batch)
        if request.content:
            octets += len(request.content)
        worker.say(frames.Deliver(request))
        touched.add(batch.lane.destination)
    return touched, octets


def _tell(schedule: Schedule, places: Mapping[int, Worker]) -> None:
    rooms, schedule.rooms = schedule.rooms, []
    for place, site, limit in rooms:
        if place in places:
            places[place].say(frames.Room(site, limit))


def _request(batch: Batch) -> DeliveryRequest:
    """What the worker gets; a content goes along once, and is no longer kept here."""
    first, lane = batch.recipients[0], batch.lane
    assert lane.site is not None
    content, batch.content = batch.content, None
    recipients = [
        RequestRecipient(one.number, one.address, one.attempts + 1, one.notify, one.orcpt)
        for one in batch.recipients
    ]
    return DeliveryRequest(
        serial=batch.serial,
        queue_id=first.message_id,
        sender=first.sender,
        recipients=tuple(recipients),
        domain=first.destination,
        next_hop=lane.next_hop,
        route=lane.route,
        size=first.size,
        dotted=first.dotted,
        eightbit=first.eightbit,
        utf8=first.utf8,
        long_lines=first.long_lines,
        ret=first.ret,
        envid=first.envid,
        arrival=arrival_of(first.message_id),
        due=first.due,
        content=content,
        site=lane.site.name,
        handling=_handling(first),
    )


def _handling(first: Claimed) -> Handling | None:
    """What the message asks of its way; most ask for nothing."""
    if first.priority or first.deliver_by or first.require_tls:
        return Handling(first.priority, first.deliver_by, first.by_mode, first.require_tls)
    return None
