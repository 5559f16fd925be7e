"""Whose are the slots of a site: how agents on one queue share a site's limit.

``split`` is what would be fair, ``grant`` what an agent gets now. An agent that has more than its fair part
keeps what it has in flight and gives the rest back; an agent that has less takes what is free. So the limit
holds at every moment, and the fair state is reached as soon as what is in flight too much has ended.

Guarantees: slots never add up to more than the limit, provided they did not before; nobody gets more than it
wants; two agents that want the same get the same, up to one slot; where there are fewer slots than agents,
they take turns, so that nobody starves. An agent that asks twice with nothing in flight has its fair part the
second time, if the others have asked once in between.
"""

from collections.abc import Mapping

import msgspec

TURN = 10.0
"""Seconds an agent keeps a slot that others wait for, where there are fewer slots than agents."""


class Held(msgspec.Struct, frozen=True, array_like=True):
    """What the ledger says of one agent at a site: the slots it has, and how many it would like."""

    slots: int
    wanted: int


class Grant(msgspec.Struct, frozen=True):
    """What an agent gets.

    ``slots`` is how many requests it may have in flight from now on. ``target`` is its fair part: more than
    ``slots`` while others have not given back what is too much, less while it has too much in flight itself.
    ``call``: others have to be told, because slots became free that they wait for, or because they hold
    slots that this agent should have.
    """

    slots: int
    target: int
    call: bool


def split(limit: int, wanted: Mapping[int, int], *, turn: int = 0) -> dict[int, int]:
    """A fair part of ``limit`` for each agent, by what they want: the modest get all they want.

    What does not divide goes to the lowest agents; where not everybody can have one slot, the choice moves
    on with ``turn``.

    >>> split(20, {1: 3, 2: 30, 3: 30})
    {1: 3, 2: 9, 3: 8}
    >>> split(1, {1: 5, 2: 5}, turn=0), split(1, {1: 5, 2: 5}, turn=1)
    ({1: 1, 2: 0}, {1: 0, 2: 1})
    """
    parts = dict.fromkeys(sorted(wanted), 0)
    left = max(0, limit)
    greedy = sorted(parts, key=lambda agent: wanted[agent])
    while greedy:
        part = left // len(greedy)
        if wanted[greedy[0]] > part:
            break
        modest = greedy.pop(0)
        parts[modest] = max(0, wanted[modest])
        left -= parts[modest]
    if not greedy:
        return parts
    part, rest = divmod(left, len(greedy))
    greedy.sort()
    first = turn * rest % len(greedy) if part == 0 else 0
    for agent in greedy:
        parts[agent] = part
    for place in range(rest):
        parts[greedy[(first + place) % len(greedy)]] += 1
    return parts


def grant(
    limit: int,
    others: Mapping[int, Held],
    agent: int,
    *,
    held: int,
    wanted: int,
    busy: int,
    turn: int = 0,
) -> Grant:
    """What ``agent`` gets of a site, given what the others have.

    ``held`` are the slots it has now, ``busy`` of them cannot be given back yet. ``limit`` is the site's.

    >>> grant(20, {2: Held(20, 20)}, 1, held=0, wanted=20, busy=0)
    Grant(slots=0, target=10, call=True)
    >>> grant(20, {1: Held(0, 20)}, 2, held=20, wanted=20, busy=12)
    Grant(slots=12, target=10, call=True)
    """
    demand = {other: of.wanted for other, of in others.items()} | {agent: wanted}
    fair = split(limit, demand, turn=turn)
    target = fair[agent]
    free = limit - sum(of.slots for of in others.values())
    slots = max(min(target, free), min(busy, held))
    too_much = any(of.slots > fair[other] for other, of in others.items())
    too_little = any(of.slots < fair[other] for other, of in others.items())
    return Grant(slots, target, (slots < target and too_much) or (slots < held and too_little))
