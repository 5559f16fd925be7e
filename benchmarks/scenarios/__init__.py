"""The scenarios: each a module with ``cases``, which yields its comparisons one by one.

A scenario sets up what a case needs before it yields it and takes it down afterwards; it is closed
in the middle when a run ends early.
"""

from collections.abc import Callable, Iterator, Mapping

from benchmarks.equipment import Plan
from benchmarks.figures import Case
from benchmarks.scenarios import (
    drain,
    enqueue,
    growth,
    isolation,
    latency,
    postgresql,
    take,
    tls,
)

SCENARIOS: Mapping[str, Callable[[Plan], Iterator[Case]]] = {
    "drain": drain.cases,
    "take": take.cases,
    "latency": latency.cases,
    "enqueue": enqueue.cases,
    "growth": growth.cases,
    "isolation": isolation.cases,
    "tls": tls.cases,
    "postgresql": postgresql.cases,
}
