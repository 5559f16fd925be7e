"""Recipients on their way into the active set: asked for, sorted by lane and message.

Guarantees: nobody gets in who is there already; a recipient is in one group. Never touches the store.
"""

from collections.abc import Iterable

from deliveryagent.agent.active import Destination, Lane
from deliveryagent.agent.schedule import Schedule
from deliveryagent.mail.address import destination_of
from deliveryagent.mail.submission import Submission
from deliveryagent.policy.precedence import HEAD_START, first_due
from deliveryagent.policy.routing import Router
from deliveryagent.queue.lines import Claimed, Fetch, rewound

_BULK_SHARE = 2  # bulk recipients get one in so many places,
_PATIENT_SHARE = 8  # while what stands first in their line waits here for others to pass

Groups = dict[tuple[Lane, int], list[Claimed]]


def order(destination: Destination, limit: int, largest: int, octets: int, now: float) -> Fetch:
    """What a destination is asked for next: no more than so much, with contents up to ``largest`` each."""
    heard, destination.heard = destination.heard, None
    lanes = destination.lanes.values()
    if heard is not None:
        destination.cursor_small = rewound(destination.cursor_small, heard)
        destination.cursor_bulk = rewound(destination.cursor_bulk, heard)
    destination.fetching = True
    return Fetch(
        destination=destination.name,
        now=now,
        cursor_small=destination.cursor_small,
        cursor_bulk=destination.cursor_bulk,
        limit=limit,
        largest=largest,
        octets=octets,
        bulk_share=_PATIENT_SHARE if any(lane.patient for lane in lanes) else _BULK_SHARE,
    )


def passed(destination: Destination) -> bool:
    """Whether something was announced that is to go before what was read: it has a priority.

    What was merely committed out of turn does not count.
    """
    heard, place = destination.heard, destination.cursor_small
    return heard is not None and place is not None and heard < place[0] - HEAD_START / 2


def group(
    schedule: Schedule, destination: Destination, recipients: Iterable[Claimed], groups: Groups
) -> None:
    """Sort recipients of a destination that are not in memory yet by lane and message."""
    router, active = schedule.rules.router, schedule.active
    usual = router.by_domain(destination.name)
    lane = None
    for recipient in recipients:
        if (recipient.message_id, recipient.number) in active:
            continue
        if usual is None or lane is None:
            routed = usual or router.route(recipient.address, recipient.destination)
            lane = schedule.lane(destination, routed.next_hop, routed.index)
        found = groups.get((lane, recipient.message_id))
        if found is None:
            groups[lane, recipient.message_id] = [recipient]
        else:
            found.append(recipient)


def shared(groups: Groups) -> set[int]:
    """Messages that may have recipients at other destinations which go the same way."""
    return {
        message_id
        for (lane, message_id), recipients in groups.items()
        if recipients[0].recipient_count > 1 and lane.next_hop != lane.destination.name
    }


def join(schedule: Schedule, groups: Groups, siblings: Iterable[Claimed]) -> None:
    """A next hop that several destinations share gets all recipients of a message at once."""
    router: Router = schedule.rules.router
    for recipient in siblings:
        routed = router.route(recipient.address, recipient.destination)
        lanes = [
            members
            for (lane, message_id), members in groups.items()
            if message_id == recipient.message_id
            and (lane.next_hop, lane.route) == (routed.next_hop, routed.index)
        ]
        if not lanes or (recipient.message_id, recipient.number) in schedule.active:
            continue
        for members in lanes[1:]:
            members[:] = [one for one in members if one.number != recipient.number]
        if all(one.number != recipient.number for one in lanes[0]):
            lanes[0].append(recipient)


def newcomer(submission: Submission, now: float) -> Claimed | None:
    """The recipient of a new message as the store has it; None unless there is just one, due now."""
    envelope, facts = submission.envelope, submission.facts
    due = first_due(submission.arrival, envelope.not_before, envelope.priority)
    if len(envelope.recipients) != 1 or envelope.hold or due > now:
        return None
    new = envelope.recipients[0]
    return Claimed(
        message_id=submission.queue_id,
        number=1,
        address=new.address,
        destination=destination_of(new.address),
        bulk=envelope.priority < 0,
        attempts=0,
        due=due,
        notify=int(new.notify),
        orcpt=new.orcpt,
        warned=None,
        sender=envelope.sender,
        size=facts.size,
        dotted=facts.dotted,
        eightbit=facts.eightbit,
        utf8=facts.utf8_headers,
        long_lines=facts.long_lines,
        ret=envelope.ret.value,
        envid=envelope.envid,
        recipient_count=1,
        crashes=0,
        not_before=envelope.not_before,
        priority=envelope.priority,
        deliver_by=envelope.deliver_by,
        by_mode=envelope.by_mode,
        require_tls=envelope.require_tls,
    )
