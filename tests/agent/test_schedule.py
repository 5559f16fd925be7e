"""The active set: turns, windows, suspects, leaving."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deliveryagent.agent import schedule as schedules
from deliveryagent.agent.active import Batch, Lane
from deliveryagent.agent.allotment import paced
from deliveryagent.agent.rules import Rules
from deliveryagent.agent.schedule import Schedule
from deliveryagent.mail.delivery import Pressure
from deliveryagent.policy.concurrency import ConcurrencySettings
from deliveryagent.policy.retry import RetrySettings
from deliveryagent.policy.routing import Router
from deliveryagent.queue.claims import Claimed

NOW = 1_800_000_000.0


def schedule(*, limit: int = 20) -> Schedule:
    rules = Rules(
        router=Router(),
        retry=RetrySettings(),
        concurrency=ConcurrencySettings(),
        recipient_limit=lambda _: 50,
        site_limit=lambda _: limit,
        shutdown_grace=1.0,
    )
    return Schedule(rules=rules, rng=random.Random(1))


def claimed(
    message_id: int,
    number: int = 1,
    *,
    domain: str = "a.test",
    crashes: int = 0,
    due: float = NOW,
    priority: int = 0,
) -> Claimed:
    return Claimed(
        message_id=message_id,
        number=number,
        address=f"user{number}@{domain}",
        destination=domain,
        bulk=False,
        attempts=0,
        due=due,
        notify=0,
        orcpt="",
        warned=None,
        sender="s@example.test",
        size=100,
        dotted=False,
        eightbit=False,
        utf8=False,
        long_lines=False,
        ret="",
        envid="",
        recipient_count=1,
        crashes=crashes,
        priority=priority,
    )


def lane(plan: Schedule, domain: str, site: str | None = None) -> Lane:
    found = plan.lane(plan.destination(domain), domain, -1)
    plan.assign(found, plan.site(site or domain, -1))
    return found


def add(plan: Schedule, to: Lane, *recipients: Claimed, limit: int = 50) -> list[Batch]:
    return [b for r in recipients for b in plan.add(to, [r], limit, {})]


def test_sites_take_turns_however_much_one_has_waiting() -> None:
    plan = schedule()
    add(plan, lane(plan, "big.test"), *(claimed(n) for n in range(100)))
    add(plan, lane(plan, "small.test"), claimed(1000))
    add(plan, lane(plan, "other.test"), claimed(2000))
    first = [
        b.lane.destination.name for _, b in zip(range(3), plan.next_batches(NOW), strict=False)
    ]
    assert first == ["big.test", "small.test", "other.test"]


def test_destinations_of_one_site_share_its_window_and_take_turns() -> None:
    plan = schedule()
    for domain, start in (("a.test", 0), ("b.test", 100)):
        add(
            plan,
            lane(plan, domain, "mx.test"),
            *(claimed(start + n, domain=domain) for n in range(20)),
        )
    started = Counter(b.lane.destination.name for b in plan.next_batches(NOW))
    assert sum(started.values()) == 5
    assert max(started.values()) - min(started.values()) <= 1


def test_a_recipient_that_is_active_is_not_taken_in_again() -> None:
    plan = schedule()
    to = lane(plan, "a.test")
    assert len(add(plan, to, claimed(1))) == 1
    assert add(plan, to, claimed(1)) == []
    assert plan.size == 1


def test_suspects_go_one_at_a_time() -> None:
    plan = schedule()
    for domain in ("a.test", "b.test", "c.test"):
        add(plan, lane(plan, domain), claimed(hash(domain) % 10**6, domain=domain, crashes=1))
    first = list(plan.next_batches(NOW))
    assert len(first) == 1
    assert list(plan.next_batches(NOW)) == []
    plan.complete(first[0].serial, Pressure.UP, "", NOW)
    assert len(list(plan.next_batches(NOW))) == 1


def test_a_request_that_came_back_untried_goes_first() -> None:
    plan = schedule(limit=1)
    to = lane(plan, "a.test")
    add(plan, to, claimed(1), claimed(2))
    (batch,) = plan.next_batches(NOW)
    plan.complete(batch.serial, Pressure.NONE, "", NOW)
    plan.put_back(batch, {1})
    assert [b.queue_id for b in plan.next_batches(NOW)] == [1]
    assert to.destination.unsettled == 1


def test_a_dismissed_destination_forgets_what_waits_and_is_done_when_the_rest_is_recorded() -> None:
    plan = schedule(limit=1)
    to = lane(plan, "a.test")
    add(plan, to, claimed(1), claimed(2), claimed(3))
    (batch,) = plan.next_batches(NOW)
    plan.dismiss(to.destination, not_before=NOW + 300)
    assert plan.size == 1
    assert to.destination.unsettled == 1
    plan.complete(batch.serial, Pressure.UP, "", NOW)
    plan.settled(batch)
    assert to.destination.done
    plan.drop(to.destination)
    assert plan.size == 0
    assert list(plan.next_batches(NOW)) == []


def test_a_site_that_fails_closes_and_gets_a_probe_when_its_time_has_come() -> None:
    plan = schedule()
    to = lane(plan, "dead.test")
    add(plan, to, *(claimed(n) for n in range(50)))
    for _ in range(10):
        for batch in plan.next_batches(NOW):
            plan.complete(batch.serial, Pressure.DOWN, "connection refused", NOW)
    site = to.site
    assert site is not None
    until = plan.closed_until(site, NOW)
    assert until > NOW
    assert list(plan.next_batches(NOW)) == []
    assert plan.next_reopening(NOW) == until
    plan.reopen(until + 1)
    assert len(list(plan.next_batches(until + 1))) == 1


@given(
    st.lists(
        st.tuples(
            st.integers(0, 3),  # which domain gets a message
            st.integers(0, 2),  # which of its sites
            st.sampled_from(list(Pressure)),
        ),
        max_size=60,
    ),
    st.integers(1, 20),
)
def test_windows_hold_and_every_recipient_is_handed_out_exactly_once(
    steps: list[tuple[int, int, Pressure]], limit: int
) -> None:
    plan = schedule(limit=limit)
    seen: Counter[int] = Counter()
    flying: list[Batch] = []
    now = NOW
    for number, (domain, site, pressure) in enumerate(steps):
        name = f"d{domain}.test"
        destination = plan.destination(name)
        known = plan.lane(destination, name, -1)
        if known.site is None:
            plan.assign(known, plan.site(f"site{site}", -1))
        add(plan, known, claimed(number, domain=name))
        for batch in plan.next_batches(now):
            seen[batch.queue_id] += 1
            flying.append(batch)
        for held in plan.sites.values():
            assert held.running <= max(1, limit)
            assert held.busy == sum(1 for b in flying if b.lane.site is held)
        if flying and number % 2:
            done = flying.pop(0)
            plan.complete(done.serial, pressure, "because", now)
            plan.settled(done)
        now += 1
    assert all(count == 1 for count in seen.values())
    for _ in range(1000):
        now += 5000
        plan.reopen(now)
        for batch in plan.next_batches(now):
            seen[batch.queue_id] += 1
            flying.append(batch)
        if not flying:
            break
        while flying:
            done = flying.pop()
            plan.complete(done.serial, Pressure.UP, "", now)
            plan.settled(done)
    assert seen == Counter(range(len(steps)))
    assert plan.size == 0


def test_with_much_content_at_the_workers_they_get_no_more_than_may_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(schedules, "_AHEAD", 1000)
    plan = schedule()
    to = lane(plan, "a.test")
    for n in range(40):
        plan.add(to, [claimed(n)], 50, {n: bytes(100 if n < 20 else 300)})
    assert to.site is not None
    paced(to.site, 0.001)
    batches = list(plan.next_batches(NOW))
    assert len(batches) == 10, "five run, and five more wait behind them: a thousand octets"
    for batch in batches[:7]:
        plan.complete(batch.serial, Pressure.NONE, "", NOW)
    assert len(list(plan.next_batches(NOW))) == 7


def waiting(of: Lane) -> list[int]:
    return [batch.queue_id for batch in of.pending]


def test_in_a_line_a_higher_priority_goes_before_and_a_lower_one_behind_all_others() -> None:
    plan = schedule()
    to = lane(plan, "a.test")
    for message_id, priority in enumerate([0, -1, 0, 3, -9, 9, 0, 3], start=1):
        add(plan, to, claimed(message_id, priority=priority))
    assert waiting(to) == [6, 4, 8, 1, 3, 7, 2, 5]
    assert to.patient


def test_a_low_priority_is_not_passed_by_what_came_much_later() -> None:
    plan = schedule()
    to = lane(plan, "a.test")
    add(plan, to, claimed(1, priority=-2), claimed(2, due=NOW + 7000), claimed(3, due=NOW + 7300))
    assert waiting(to) == [2, 1, 3]


def test_without_priorities_the_order_is_that_of_arrival_whatever_was_due_when() -> None:
    plan = schedule()
    to = lane(plan, "a.test")
    add(plan, to, claimed(1, due=NOW), claimed(2, due=NOW - 9e5), claimed(3, due=NOW - 5))
    assert waiting(to) == [1, 2, 3]
    assert not to.patient


def test_what_memory_has_no_room_for_is_what_would_go_last() -> None:
    plan = schedule()
    to = lane(plan, "a.test")
    add(plan, to, claimed(1), claimed(2, priority=-1), claimed(3, priority=1))
    plan.trim(to.destination, 2)
    assert waiting(to) == [3, 1]


def test_what_came_back_untried_keeps_its_place_at_the_head() -> None:
    plan = schedule(limit=1)
    to = lane(plan, "a.test")
    add(plan, to, claimed(1, priority=-5), claimed(2, priority=-9))
    (batch,) = plan.next_batches(NOW)
    plan.complete(batch.serial, Pressure.NONE, "", NOW)
    add(plan, to, claimed(3))
    plan.put_back(batch, {1})
    assert waiting(to) == [1, 3, 2]


@given(st.lists(st.integers(-9, 9), max_size=40))
def test_whatever_comes_those_of_one_moment_stand_by_priority(coming: list[int]) -> None:
    plan = schedule()
    to = lane(plan, "a.test")
    for message_id, priority in enumerate(coming, start=1):
        add(plan, to, claimed(message_id, priority=priority))
    order = [(-batch.recipients[0].priority, batch.queue_id) for batch in to.pending]
    assert order == sorted(order)
