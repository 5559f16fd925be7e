"""How a site's window is divided among workers."""

from hypothesis import given
from hypothesis import strategies as st

from deliveryagent.agent.active import Site
from deliveryagent.agent.allotment import (
    BRISK,
    SESSIONS_PER_WORKER,
    SWIFT,
    divide,
    first_place,
    paced,
)
from deliveryagent.policy.concurrency import Window

NOW = 1_800_000_000.0


def site(size: float = 20.0, **facts: object) -> Site:
    found = Site("mx.test", Window(size=size), 1000)
    for name, fact in facts.items():
        setattr(found, name, fact)
    return found


def limits(found: Site) -> dict[int, int]:
    return {portion.place: portion.limit for portion in found.portions}


def test_a_small_window_stays_with_one_worker_always_the_same() -> None:
    found = site(20.0)
    told = list(divide(found, (4, 7, 9), NOW))
    assert [(portion.place, portion.limit) for portion in told] == [
        (first_place("mx.test", (4, 7, 9)), 20)
    ]
    assert list(divide(found, (4, 7, 9), NOW)) == [], "nothing changed, nobody is told"


def test_a_large_window_is_spread_over_the_workers() -> None:
    found = site(3.0 * SESSIONS_PER_WORKER + 5)
    list(divide(found, (0, 1), NOW))
    assert sorted(limits(found).values()) == [SESSIONS_PER_WORKER + 5, 2 * SESSIONS_PER_WORKER]


def test_only_a_brisk_site_that_never_complained_gets_requests_ahead() -> None:
    for facts, most in (
        ({"brisk": True}, 40),
        ({}, 20),
        ({"brisk": True, "strict": True}, 20),
        ({"brisk": True, "window": Window(size=20.0, failures=1)}, 20),
        ({"brisk": True, "window": Window(size=20.0, threshold=10.0)}, 20),
        ({"brisk": True, "window": Window(size=0.0, closed_until=NOW - 1, updated=NOW - 9)}, 1),
        ({"brisk": True, "window": Window(size=0.0, closed_until=NOW + 1, updated=NOW - 9)}, 0),
    ):
        found = site(**facts)
        list(divide(found, (0,), NOW))
        assert sum(portion.most for portion in found.portions) == most, facts


def test_a_closing_takes_back_what_has_not_begun() -> None:
    found = site(20.0)
    list(divide(found, (0,), NOW))
    found.portions[0].held = 30
    found.window = Window(size=0.0, closed_until=NOW + 300, updated=NOW)
    assert [(p.place, p.limit, p.most) for p in divide(found, (0,), NOW)] == [(0, 0, 0)]


def test_what_a_worker_still_has_that_serves_the_site_no_more_counts() -> None:
    found = site(20.0)
    list(divide(found, (0,), NOW))
    found.portions[0].held = 15
    told = {portion.place: portion.limit for portion in divide(found, (1,), NOW)}
    assert told == {0: 0, 1: 5}
    found.portions[-1].held = 0
    list(divide(found, (1,), NOW))
    assert limits(found) == {1: 20}


def test_a_share_among_agents_bounds_the_window() -> None:
    found = site(20.0, share=7)
    list(divide(found, (0,), NOW))
    assert limits(found) == {0: 7}


@given(
    st.lists(
        st.tuples(
            st.floats(0.0, 150.0),  # the window's size
            st.sets(st.integers(0, 4), max_size=4),  # workers that are ready
            st.lists(
                st.tuples(st.integers(0, 4), st.integers(0, 60)), max_size=4
            ),  # what they have
        ),
        max_size=12,
    )
)
def test_limits_and_what_is_held_elsewhere_never_exceed_the_window(
    steps: list[tuple[float, set[int], list[tuple[int, int]]]],
) -> None:
    found = site(0.0)
    for size, places, held in steps:
        found.window = Window(size=size)
        for place, count in held:
            for portion in found.portions:
                if portion.place == place:
                    portion.held = count
        list(divide(found, tuple(sorted(places)), NOW))
        serving = [portion for portion in found.portions if portion.limit]
        leaving = [portion for portion in found.portions if not portion.limit]
        assert {portion.place for portion in serving} <= places
        total = sum(portion.limit for portion in serving)
        if total:
            assert total + sum(portion.held for portion in leaving) <= int(size)
        assert total <= int(size)


def test_the_faster_a_site_answers_the_more_a_worker_has_at_hand() -> None:
    found = site()
    for seconds, times in ((9.0, 1), (0.3, BRISK), (0.001, SWIFT), (0.1, SWIFT), (0.3, BRISK)):
        paced(found, seconds)
        list(divide(found, (0,), NOW))
        assert [portion.most for portion in found.portions] == [times * 20]
    assert not paced(found, 0.1), "with so many more in front it may take longer, not without"


def test_among_other_agents_workers_have_no_more_at_hand_than_a_window() -> None:
    found = site(share=20, brisk=True, swift=True)
    list(divide(found, (0,), NOW))
    assert [portion.most for portion in found.portions] == [BRISK * 20]
