"""The things of the active set: destinations in custody, their lanes, the requests in them, the sites.

Plain objects with the facts that ``agent.schedule`` keeps about them. Never decides whose turn it is.
"""

from bisect import bisect_right
from collections import deque
from dataclasses import dataclass, field

import msgspec

from deliveryagent.policy import precedence
from deliveryagent.policy.concurrency import UNLIMITED, Window
from deliveryagent.queue.lines import Claimed, Cursor

FIRST_QUOTA = 40
LARGEST_QUOTA = 2000


class Batch(msgspec.Struct, eq=False):
    """Recipients of one message that share a next hop: one delivery request."""

    recipients: list[Claimed]
    lane: "Lane"
    content: bytes | None = None
    suspect: bool = False
    octets: int = 0  # of the content that travels along
    serial: int = 0
    dispatched: float = 0.0
    portion: "Portion | None" = None  # where it was handed out

    @property
    def queue_id(self) -> int:
        """The message it belongs to."""
        return self.recipients[0].message_id

    @property
    def place(self) -> int:
        """The worker that has it, -1 before."""
        return -1 if self.portion is None else self.portion.place


def _rank(batch: Batch) -> float:
    first = batch.recipients[0]
    return precedence.rank(first.due, first.message_id, first.priority)


@dataclass(slots=True, eq=False)
class Lane:
    """What one destination has waiting for one next hop."""

    destination: "Destination"
    next_hop: str
    route: int
    site: "Site | None" = None
    pending: deque[Batch] = field(default_factory=deque)
    in_turn: bool = False
    ranked: bool = False  # something with a priority waits, or did when it last had anything

    @property
    def patient(self) -> bool:
        """Whether something of a low priority waits here."""
        return self.ranked and bool(self.pending) and self.pending[-1].recipients[0].priority < 0

    def line_up(self, batch: Batch, *, first: bool) -> None:
        """Let a request wait: behind the others, but for what has a priority; ``first``: before them."""
        pending = self.pending
        if batch.recipients[0].priority or not pending:
            self.ranked = bool(batch.recipients[0].priority)
        if first:
            pending.appendleft(batch)
        elif self.ranked and pending:
            pending.insert(bisect_right(pending, _rank(batch), key=_rank), batch)
        else:
            pending.append(batch)


@dataclass(slots=True, eq=False)
class Destination:
    """A destination in this agent's custody, with the place reached in its waiting line.

    ``heard`` is the earliest due time of work that was announced since its line was last read.
    """

    name: str
    lanes: dict[tuple[str, int], Lane] = field(default_factory=dict)
    cursor_small: Cursor | None = None
    cursor_bulk: Cursor | None = None
    heard: float | None = None
    exhausted: bool = False  # nothing more was due when last asked
    fetching: bool = False
    open: bool = False  # nothing waited outside when last asked: what comes now may join in memory
    linger: float = 0.0  # until when it stays although it is done
    quota: int = FIRST_QUOTA  # the most it may have waiting in memory
    pending: int = 0  # recipients in memory, not in flight
    unsettled: int = 0  # recipients in flight, or over but not recorded yet
    pace: int = 0  # recipients recorded since the quota was last looked at, and in the time before
    last_pace: int = 0
    since: float = 0.0  # when it was taken
    leaving: bool = False  # goes back to the store as soon as nothing is unsettled
    not_before: float = 0.0  # when it may be taken up again

    @property
    def done(self) -> bool:
        """Whether it can go back: nothing in memory, nothing unsettled, nothing more to fetch."""
        if self.unsettled or self.fetching:
            return False
        return self.leaving or (self.exhausted and not self.pending)


@dataclass(slots=True, eq=False)
class Portion:
    """A site's part in one worker.

    ``limit`` is how many requests may run there, as the worker was told, ``most`` how many it may have,
    ``held`` how many it has.
    """

    place: int
    limit: int = 0
    most: int = 0
    held: int = 0


@dataclass(slots=True, eq=False)
class Site:
    """The MX hosts that one or more lanes share, with the window that limits the requests that run."""

    name: str
    window: Window
    limit: int
    busy: int = 0  # requests in the hands of workers
    turns: deque[Lane] = field(default_factory=deque)
    in_ring: bool = False
    failed: float = 0.0  # when it was last found unusable
    share: int = UNLIMITED  # of the limit that is this agent's, where several agents work
    strict: bool = False  # no more in flight than may run: a part of the share is to be given back
    brisk: bool = False  # it answers so fast that workers should have the next request at hand
    swift: bool = False  # … and many more, because it has done with them before we have looked
    portions: list[Portion] = field(default_factory=list)
    divided: Window | None = None  # the window that was divided into these portions
    full: bool = False  # success cannot change it
    home: int | None = None  # the worker that has, or will have, its first sessions

    @property
    def running(self) -> int:
        """How many requests run now, as far as can be known here."""
        return sum(min(portion.held, portion.limit) for portion in self.portions)

    def waiting(self) -> int:
        """Recipients in memory that wait for this site."""
        return sum(len(batch.recipients) for lane in self.turns for batch in lane.pending)
