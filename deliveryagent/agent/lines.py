"""The requests of a worker that have not begun, a line for each site.

The manager sends more requests of a site than may run at once, and says how many may; the next one
of the line begins the moment one ends, without asking.

While many requests run and this process is what they wait for, more of them at once bring nothing
but the cost of more sessions: a site whose transactions take hardly longer than a turn of the event
loop then has one at a time, and its next request waits for the session of the one before.

Guarantees: never more than the limit of a site run; each site's requests begin in the order they
came, and sites take turns when not all that may begin can; a lower limit ends nothing that runs. A
site without work and without a limit is forgotten, so what is kept is what the manager said. Never
begins anything itself.
"""

import sys
from collections import deque

from deliveryagent.mail.delivery import DeliveryRequest

NO_LIMIT = sys.maxsize
ENOUGH = 40  # requests that run, with which a busy process has enough to do
_TURNS = 10.0  # times the event loop's lag that a transaction takes at a site which waits for us, not we for it
_UNKNOWN = 0.02  # seconds; what a first transaction counts as, until it is over


class Line:
    """One site: ``running`` of its requests have begun, those in ``waiting`` have not.

    ``took`` is how many seconds its last transaction needed.
    """

    __slots__ = ("limit", "listed", "running", "site", "took", "waiting")

    def __init__(self, site: str) -> None:
        self.site = site
        self.limit = NO_LIMIT
        self.running = 0
        self.took = _UNKNOWN
        self.waiting: deque[DeliveryRequest] = deque()
        self.listed = False  # among those looked at for the next to begin

    @property
    def moves(self) -> bool:
        """Whether its first request may begin."""
        return bool(self.waiting) and self.running < self.limit


class Lines:
    """All lines of a worker."""

    def __init__(self) -> None:
        self._lines: dict[str, Line] = {}
        self._turns: deque[Line] = deque()  # a line in here may have stopped moving since
        self._running = 0
        self._brief = 0.0  # a site whose transactions take less waits for this process
        self._spared: set[Line] = set()  # these would move if there were not enough to do

    def __len__(self) -> int:
        return len(self._lines)

    def add(self, request: DeliveryRequest) -> bool:
        """A request came; returns whether one of its line may begin."""
        line = self._lines.get(request.site)
        if line is None:
            line = self._lines[request.site] = Line(request.site)
        line.waiting.append(request)
        if line.running >= line.limit:
            return False
        self._list(line)
        return True

    def room(self, site: str, limit: int) -> list[DeliveryRequest]:
        """The manager names a limit; with 0 it takes the line back, which is returned, and forgets the
        limit.
        """
        line = self._lines.get(site)
        if line is None:
            line = self._lines[site] = Line(site)
        if limit > 0:
            line.limit = limit
            self._list(line)
            return []
        line.limit = NO_LIMIT
        unbegun = list(line.waiting)
        line.waiting.clear()
        self._forget_idle(line)
        return unbegun

    def first(self) -> Line | None:
        """The line whose turn it is, its first request may begin; None when there is none."""
        turns = self._turns
        while turns:
            line = turns[0]
            if line.waiting and line.running < line.limit:
                if not self._waits_for_us(line):
                    return line
                self._spared.add(line)
            turns.popleft()
            line.listed = False
        return None

    def _waits_for_us(self, line: Line) -> bool:
        return self._running >= ENOUGH and line.running > 0 and line.took < self._brief

    def breathe(self, lag: float) -> bool:
        """The event loop is so many seconds late; returns whether more may begin now."""
        self._brief = _TURNS * lag
        freed = [line for line in self._spared if not self._waits_for_us(line)]
        self._spared.difference_update(freed)
        for line in freed:
            self._list(line)
        return bool(freed)

    def took(self, site: str, seconds: float) -> None:
        """How long a transaction of this site needed."""
        self._lines[site].took = seconds

    def begin(self, line: Line) -> DeliveryRequest:
        """Take the first request of a line; it runs now, and other sites have their turn."""
        line.running += 1
        self._running += 1
        turns = self._turns
        if turns and turns[0] is line:
            turns.rotate(-1)
        return line.waiting.popleft()

    def next_of(self, site: str) -> Line | None:
        """The line of a site if its first request may take the place of one that ends.

        Not when another site has been waiting for its turn.
        """
        line = self._lines[site]
        turns = self._turns
        if (
            line.waiting
            and line.running <= line.limit
            and (not turns or self.first() in (line, None))
        ):
            return line
        return None

    def spare(self, site: str) -> int:
        """How many more requests of a site might run; negative where more run than may."""
        line = self._lines.get(site)
        return NO_LIMIT if line is None else line.limit - line.running

    def crowd(self, site: str) -> None:
        """One of this site runs besides those that began."""
        self._lines[site].running += 1
        self._running += 1

    def end(self, site: str) -> None:
        """A request of this site runs no more."""
        line = self._lines[site]
        line.running -= 1
        self._running -= 1
        if line.waiting:
            self._list(line)
        else:
            self._forget_idle(line)

    def drop(self, line: Line) -> DeliveryRequest:
        """Take the first request of a line without beginning it."""
        request = line.waiting.popleft()
        self._forget_idle(line)
        return request

    def clear(self) -> list[DeliveryRequest]:
        """All that has not begun, taken out."""
        lines = list(self._lines.values())
        return [self.drop(line) for line in lines for _ in range(len(line.waiting))]

    def _list(self, line: Line) -> None:
        if not line.listed and line.moves:
            line.listed = True
            self._turns.append(line)

    def _forget_idle(self, line: Line) -> None:
        if not line.running and not line.waiting and line.limit == NO_LIMIT:
            self._lines.pop(line.site, None)
            self._spared.discard(line)
