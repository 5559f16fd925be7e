"""How many deliveries a site gets at once, learned from how it fares.

A window says how many requests may be in flight to a site. It opens at ``initial_destination_concurrency``
and obeys four signals of :class:`~deliveryagent.mail.delivery.Pressure`:

* UP (a session ran to completion) lets it grow by one, as long as it is in use, up to the limit. After the
  site once asked us to slow down, growth beyond half of what it then was is one per whole window.
* SLOW (the site answers but asks for less) halves it, at most once per window of requests. When even a window
  of one is answered like this, three times over, the site is left alone for a short while.
* DOWN (the site cannot be used) lowers it by one and counts as one part in ``size`` of a failed cohort. One
  whole cohort, and at least three failures in a row, close it for ``minimal_backoff_time``, longer each time
  it happens again, up to ``maximal_backoff_time``.
* NONE changes nothing.

A closed window becomes half open when its time has come: room for one probe at a time. A probe that ends UP
opens it again, one that ends DOWN or SLOW closes it for longer.

Guarantees: 0 <= size <= limit; size is 0 exactly while closed; the order of equal signals does not matter;
results of requests that began before the closing cannot prolong it. A clock set back opens a closed window
for a probe rather than keeping it shut. Unlike Postfix, 421 and rate-limit replies count as SLOW, not as
success, and no window springs back to full size unprobed.
"""

import random
from dataclasses import dataclass
from typing import Annotated, assert_never

import msgspec

from deliveryagent.mail.delivery import Pressure
from deliveryagent.policy.retry import JITTER, RetrySettings
from deliveryagent.setting import key

UNLIMITED = 10_000
"""Stands for a limit of 0, which means no limit."""

_FEWEST_FAILURES = 3  # in a row, before a site is closed, however small its window
_SLOW_COHORTS = 3.0  # whole windows of nothing but SLOW before a pause
_SLOW_PAUSE = 0.2  # of minimal_backoff_time
_MOST_CLOSINGS = 10  # keeps the doubling in range


@dataclass(frozen=True, kw_only=True)
class ConcurrencySettings:
    """How many deliveries go to one site at the same time."""

    initial_destination_concurrency: Annotated[
        int,
        key(
            "Deliveries at once to a site nothing is known about yet.",
            postfix="initial_destination_concurrency",
        ),
    ] = 5
    default_destination_concurrency_limit: Annotated[
        int,
        key(
            "Most deliveries at once to a site; 0 means no limit.",
            postfix="default_destination_concurrency_limit",
        ),
    ] = 20


class Window(msgspec.Struct, frozen=True):
    """What is known of a site's capacity.

    ``size`` is how many requests may be in flight, 0 while closed. ``cohorts`` and ``slow`` count failed and
    slowed cohorts since the last success, ``failures`` the failures in a row. ``closed_until`` is a time in
    seconds since the epoch, 0 while open; once it has passed the window is half open. ``closings`` counts
    the closings that no lasting success has made up for. ``threshold`` is the size beyond which growth is
    slow, 0 if there is none. ``settling`` counts results still to come from before the last halving.
    ``reason`` says in the peer's words why the window is closed or was shrunk. ``updated`` is the time of the
    last change.
    """

    size: float
    cohorts: float = 0.0
    slow: float = 0.0
    failures: int = 0
    closed_until: float = 0.0
    closings: int = 0
    threshold: float = 0.0
    settling: int = 0
    reason: str = ""
    updated: float = 0.0


def opened(settings: ConcurrencySettings, *, limit: int) -> Window:
    """The window of a site nothing is known about, or that was reset by an operator."""
    return Window(size=float(_initial(settings, _ceiling(limit))))


def after(
    window: Window,
    pressure: Pressure,
    *,
    busy: int,
    now: float,
    limit: int,
    reason: str,
    settings: ConcurrencySettings,
    retry: RetrySettings,
    rng: random.Random,
) -> Window:
    """The window once a request has ended with this pressure.

    ``busy`` is how many requests were in flight, the ended one included. ``limit`` is the site's ceiling, 0
    for none. ``reason`` explains SLOW and DOWN.
    """
    ceiling = _ceiling(limit)
    if window.closed_until:
        return _after_closed(
            window, pressure, now=now, ceiling=ceiling, reason=reason,
            settings=settings, retry=retry, rng=rng,
        )  # fmt: skip
    match pressure:
        case Pressure.UP:
            return _grown(window, busy=busy, now=now, ceiling=ceiling, settings=settings)
        case Pressure.SLOW:
            return _slowed(
                window, busy=busy, now=now, ceiling=ceiling, reason=reason, retry=retry, rng=rng
            )
        case Pressure.DOWN:
            return _failed(window, now=now, ceiling=ceiling, reason=reason, retry=retry, rng=rng)
        case Pressure.NONE:
            return _within(window, ceiling)
        case _:
            assert_never(pressure)


def warned(window: Window, *, size: float, reason: str, now: float) -> Window:
    """The window once another agent has found that the site wants less at once: ``size`` at most.

    A closed window stays as it is, a smaller one too.
    """
    size = max(1.0, size)
    if window.closed_until or window.size <= size:
        return window
    return msgspec.structs.replace(window, size=size, threshold=size, reason=reason, updated=now)


def room(window: Window, *, busy: int, now: float) -> int:
    """How many more requests may start now."""
    if is_closed(window, now):
        return 0
    size = 1 if window.closed_until else int(window.size)
    return max(0, size - busy)


def is_closed(window: Window, now: float) -> bool:
    """Whether nothing may start now, not even a probe."""
    # A time before the last change means that the clock was set back: what it says of the future is void.
    return window.updated <= now < window.closed_until


def is_full(window: Window, *, limit: int) -> bool:
    """Whether success can add nothing: the window has the size of its limit and no bad experience."""
    return window.size == _ceiling(limit) and not remembers(window) and not window.settling


def remembers(window: Window) -> bool:
    """Whether the window holds bad experience that should outlive the mail that made it."""
    return bool(
        window.closed_until or window.failures or window.slow or window.closings or window.threshold
    )


def _ceiling(limit: int) -> int:
    return limit if limit > 0 else UNLIMITED


def _initial(settings: ConcurrencySettings, ceiling: int) -> int:
    return max(1, min(settings.initial_destination_concurrency, ceiling))


def _within(window: Window, ceiling: int) -> Window:
    return msgspec.structs.replace(window, size=float(ceiling)) if window.size > ceiling else window


def _grown(
    window: Window, *, busy: int, now: float, ceiling: int, settings: ConcurrencySettings
) -> Window:
    size = window.size
    # A window that is not in use has proved nothing about a larger one.
    if size < busy + _initial(settings, ceiling):
        size += 1.0 if not window.threshold or size < window.threshold else 1.0 / size
    size = min(size, float(ceiling))
    if size == window.size and not remembers(window) and not window.settling:
        return window  # the usual case of a busy healthy site costs nothing
    return msgspec.structs.replace(
        window,
        size=size,
        cohorts=0.0,
        slow=0.0,
        failures=0,
        closings=max(0, window.closings - 1),
        threshold=0.0 if size >= ceiling else window.threshold,
        settling=max(0, window.settling - 1),
        updated=now,
    )


def _slowed(
    window: Window,
    *,
    busy: int,
    now: float,
    ceiling: int,
    reason: str,
    retry: RetrySettings,
    rng: random.Random,
) -> Window:
    size = min(window.size, float(ceiling))
    slow = window.slow + 1.0 / max(size, 1.0)
    if size <= 1.0 and slow >= _SLOW_COHORTS:
        pause = retry.minimal_backoff_time * _SLOW_PAUSE
        return _closed(window, now=now, pause=pause, reason=reason, retry=retry, rng=rng)
    if window.settling:
        return msgspec.structs.replace(
            window, size=size, slow=slow, settling=window.settling - 1, reason=reason, updated=now
        )
    half = max(1.0, size / 2)
    return msgspec.structs.replace(
        window,
        size=half,
        slow=slow,
        threshold=half,
        settling=max(0, busy - 1),
        reason=reason,
        updated=now,
    )


def _failed(
    window: Window,
    *,
    now: float,
    ceiling: int,
    reason: str,
    retry: RetrySettings,
    rng: random.Random,
) -> Window:
    size = min(window.size, float(ceiling))
    failures = window.failures + 1
    cohorts = window.cohorts + 1.0 / max(size, 1.0)
    if cohorts >= 1.0 and failures >= _FEWEST_FAILURES:
        pause = retry.minimal_backoff_time
        return _closed(window, now=now, pause=pause, reason=reason, retry=retry, rng=rng)
    return msgspec.structs.replace(
        window,
        size=max(1.0, size - 1.0),
        cohorts=cohorts,
        failures=failures,
        settling=max(0, window.settling - 1),
        reason=reason,
        updated=now,
    )


def _after_closed(
    window: Window,
    pressure: Pressure,
    *,
    now: float,
    ceiling: int,
    reason: str,
    settings: ConcurrencySettings,
    retry: RetrySettings,
    rng: random.Random,
) -> Window:
    match pressure:
        case Pressure.UP:
            # The closings stay until more successes follow: a site that flaps is left alone for longer.
            size = float(_initial(settings, ceiling))
            threshold = min(window.threshold, size) if window.threshold else 0.0
            return Window(size=size, closings=window.closings, threshold=threshold, updated=now)
        case Pressure.SLOW | Pressure.DOWN if not is_closed(window, now):
            share = _SLOW_PAUSE if pressure is Pressure.SLOW else 1.0
            pause = retry.minimal_backoff_time * share
            return _closed(window, now=now, pause=pause, reason=reason, retry=retry, rng=rng)
        case _:
            return window


def _closed(
    window: Window,
    *,
    now: float,
    pause: float,
    reason: str,
    retry: RetrySettings,
    rng: random.Random,
) -> Window:
    longest = max(pause, retry.maximal_backoff_time)
    pause = min(pause * 2**window.closings, longest) * rng.uniform(1, 1 + JITTER)
    return Window(
        size=0.0,
        cohorts=window.cohorts,
        closed_until=now + pause,
        closings=min(window.closings + 1, _MOST_CLOSINGS),
        threshold=window.threshold,
        reason=reason,
        updated=now,
    )
