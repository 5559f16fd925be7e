"""The course of an order on recipients: step after step, and asking other agents for what they own.

Who calls says how an operation is done (``Do``): in the service the database thread does it, a command works
on the queue itself. Each step is a transaction of its own.

Guarantees: what other agents own is asked back before it is changed; what they do not give back in time, as it
is in flight there, is left alone and counted as such.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from typing import Any

import msgspec

from deliveryagent.queue import orders, recalls
from deliveryagent.queue.operation import Operation
from deliveryagent.queue.orders import Order, OrderResult

PATIENCE = 5.0
"""Seconds that other agents get to end what they have in flight."""

_PAUSE = 0.1


class Tally(msgspec.Struct, kw_only=True):
    """What an order did or would do so far. ``bytes`` is the size of the messages, ``sample`` some of their
    ids, ``owing`` messages that owe a report now.
    """

    messages: int = 0
    recipients: int = 0
    skipped_active: int = 0
    bytes: int = 0
    sample: list[int] = []
    owing: list[int] = []


Do = Callable[[Operation[Any, Any], Any], Awaitable[Any]]
"""Runs an operation on an item, in a transaction of its own, and gives its answer."""

Skip = Callable[[], Collection[tuple[int, int]]]


async def first(order: Order, tally: Tally, skip: Skip, do: Do) -> dict[str, int]:
    """Carry out an order where nobody else is concerned; returns what other agents own, and how much of it.

    ``skip`` says which recipients are in flight here.
    """
    foreign: Counter[str] = Counter()
    after: tuple[int, int] | None = (0, 0)
    while after is not None:
        step = msgspec.structs.replace(order, after=after, skip=frozenset(skip()))
        done: OrderResult = await do(orders.order, step)
        tally.messages += done.messages
        tally.recipients += done.recipients
        tally.skipped_active += done.skipped_active
        tally.bytes += done.bytes
        tally.sample += done.sample
        tally.owing += done.owing
        foreign.update(done.foreign)
        after = done.next
    return foreign


async def rest(
    order: Order, tally: Tally, skip: Skip, do: Do, *, foreign: dict[str, int]
) -> dict[str, int]:
    """Ask other agents for what they own, and carry the order out there as they give it back."""
    if not foreign:
        return {}
    names = sorted(foreign)
    await do(recalls.ask, names)
    loop = asyncio.get_running_loop()
    until = loop.time() + PATIENCE
    while foreign and loop.time() < until:
        await asyncio.sleep(_PAUSE)
        order = msgspec.structs.replace(order, only=tuple(sorted(foreign)))
        foreign = await first(order, tally, skip, do)
    await do(recalls.end, names)
    tally.skipped_active += sum(foreign.values())
    return foreign
