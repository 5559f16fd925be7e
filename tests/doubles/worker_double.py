"""A worker without a process: answers the manager's frames in the same event loop, as a script says.

The rest is real: the store, the manager, the journal's recovery. ``Answers`` decides the outcome of each
request; what was asked is kept in ``seen``.
"""

import asyncio
from collections import deque
from collections.abc import Callable

from deliveryagent.agent import frames
from deliveryagent.agent.manager import Manager
from deliveryagent.mail.delivery import (
    DeliveryRequest,
    DeliveryResult,
    HostTry,
    Pressure,
    RecipientResult,
    Stage,
    Verdict,
)

Answer = Callable[[DeliveryRequest], DeliveryResult | None]
"""The result of a request; None: never answered."""


def delivered(request: DeliveryRequest) -> DeliveryResult:
    """Every recipient taken."""
    return answer(request, Verdict.DELIVERED, code=250, enhanced="2.0.0", text="taken")


def refused(request: DeliveryRequest) -> DeliveryResult:
    """The site cannot be reached."""
    return answer(
        request,
        Verdict.DEFERRED,
        enhanced="4.4.1",
        text="connection refused",
        pressure=Pressure.DOWN,
        stage=Stage.CONNECT,
    )


def bounced(request: DeliveryRequest) -> DeliveryResult:
    """Every recipient refused for good."""
    return answer(
        request, Verdict.BOUNCED, code=550, enhanced="5.1.1", text="no such user", stage=Stage.RCPT
    )


def answer(
    request: DeliveryRequest,
    verdict: Verdict,
    *,
    code: int = 0,
    enhanced: str = "4.0.0",
    text: str = "",
    stage: Stage = Stage.DOT,
    pressure: Pressure = Pressure.UP,
) -> DeliveryResult:
    """One verdict for all recipients of a request."""
    host = HostTry("mx.test", "127.0.0.2", 25, "", 1, 0.0, 0.0, 0.0, stage, code, enhanced, text)
    return DeliveryResult(
        serial=request.serial,
        queue_id=request.queue_id,
        recipients=tuple(
            RecipientResult(r.number, verdict, stage, code, enhanced, text, 0)
            for r in request.recipients
        ),
        tries=(host,),
        pressure=pressure,
        reason=text,
        started=request.due,
    )


class WorkerDouble:
    """Stands where a ``crew.Worker`` stands."""

    def __init__(self, manager: Manager, answers: Answer, *, delay: float = 0.0) -> None:
        self.index = 0
        self.pid = 1
        self.ready = True
        self.draining = False
        self.in_flight = 0
        self.unsent = 0
        self.reading = 0
        self.wanted: deque[frames.Fetch] = deque()
        self.sessions = 0
        self.lag = 0.0
        self.restarts = 0
        self.answers = answers
        self.delay = delay
        self.seen: list[DeliveryRequest] = []
        self.settled = 0
        self.receipts = 0
        self.most = 0
        self.lease = float("inf")
        self.site: Callable[[str], str] = lambda next_hop: f"site-of-{next_hop}"
        self._manager = manager
        self._sequence = 0

    def say(self, frame: frames.ToWorker) -> None:
        """Take a frame from the manager."""
        loop = asyncio.get_running_loop()
        match frame:
            case frames.Lookup():
                found = frames.Site(frame.serial, self.site(frame.next_hop), 300.0)
                loop.call_soon(self._hear, found)
            case frames.Deliver():
                self.seen.append(frame.request)
                self.most = max(self.most, self.in_flight)
                loop.call_later(self.delay, self._answer, frame.request)
            case frames.Release():
                loop.call_soon(self._hear, frames.Released(frame.serial))
            case frames.Settled():
                self.settled = max(self.settled, frame.sequence)
                self.receipts += 1
            case _:
                return

    def _answer(self, request: DeliveryRequest) -> None:
        result = self.answers(request)
        if result is not None:
            self._sequence += 1
            fields = {n: getattr(result, n) for n in DeliveryResult.__struct_fields__}
            self._hear(frames.Results([DeliveryResult(**fields | {"sequence": self._sequence})]))

    def _hear(self, frame: frames.FromWorker) -> None:
        self._manager.worker_said(self, frame)  # type: ignore[arg-type] # stands in for a Worker


class CrewDouble:
    """Stands where the crew stands."""

    def __init__(self, *workers: WorkerDouble) -> None:
        self.workers = list(workers)

    @property
    def everyone(self) -> set[WorkerDouble]:
        """All workers."""
        return set(self.workers)

    def lease(self, until: float) -> None:
        """Until when they may deliver."""
        for worker in self.workers:
            worker.lease = until
