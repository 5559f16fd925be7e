"""How agents share the slots of a site."""

from hypothesis import given
from hypothesis import strategies as st

from deliveryagent.policy.shares import Held, grant, split

LIMITS = st.integers(0, 40)
WANTED = st.dictionaries(st.integers(1, 9), st.integers(0, 60), min_size=1, max_size=7)


@given(LIMITS, WANTED, st.integers(0, 20))
def test_parts_never_exceed_the_limit_nor_anybodys_wish(
    limit: int, wanted: dict[int, int], turn: int
) -> None:
    parts = split(limit, wanted, turn=turn)
    assert set(parts) == set(wanted)
    assert sum(parts.values()) == min(limit, sum(wanted.values()))
    assert all(0 <= parts[agent] <= wanted[agent] for agent in wanted)


@given(LIMITS, WANTED, st.integers(0, 20))
def test_who_gets_less_than_it_wants_gets_no_less_than_anybody_else(
    limit: int, wanted: dict[int, int], turn: int
) -> None:
    parts = split(limit, wanted, turn=turn)
    for agent, part in parts.items():
        if part < wanted[agent]:
            assert all(other <= part + 1 for other in parts.values())


@given(st.integers(1, 5), st.integers(1, 9), st.integers(0, 50))
def test_nobody_starves_where_slots_are_fewer_than_agents(
    limit: int, agents: int, start: int
) -> None:
    wanted = dict.fromkeys(range(agents), 100)
    served = {
        agent
        for turn in range(start, start + agents)
        for agent, part in split(limit, wanted, turn=turn).items()
        if part
    }
    assert served == set(wanted)


STEPS = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 30), st.floats(0, 1)), min_size=1, max_size=60
)


@given(st.integers(1, 30), STEPS)
def test_slots_never_add_up_to_more_than_the_limit(
    limit: int, steps: list[tuple[int, int, float]]
) -> None:
    """Whoever asks, in whatever order, with whatever still in flight."""
    ledger: dict[int, Held] = {}
    for agent, wanted, still in steps:
        held = ledger.get(agent, Held(0, 0)).slots
        busy = int(held * still)
        others = {other: of for other, of in ledger.items() if other != agent}
        got = grant(limit, others, agent, held=held, wanted=wanted, busy=busy)
        assert busy <= got.slots <= max(wanted, busy)
        ledger[agent] = Held(got.slots, wanted)
        assert sum(of.slots for of in ledger.values()) <= limit


@given(st.integers(0, 30), WANTED)
def test_two_rounds_of_asking_reach_the_fair_state(limit: int, wanted: dict[int, int]) -> None:
    first = min(wanted)
    ledger = {first: Held(limit, limit)}  # somebody was here first and has everything
    for _ in range(2):
        for agent in sorted(wanted):
            others = {other: of for other, of in ledger.items() if other != agent}
            held = ledger.get(agent, Held(0, 0)).slots
            got = grant(limit, others, agent, held=held, wanted=wanted[agent], busy=0)
            ledger[agent] = Held(got.slots, wanted[agent])
    assert {agent: of.slots for agent, of in ledger.items()} == split(limit, wanted)


def test_others_are_called_only_when_it_helps() -> None:
    assert not grant(20, {}, 1, held=0, wanted=30, busy=0).call
    assert not grant(20, {2: Held(10, 20)}, 1, held=10, wanted=20, busy=10).call
    assert grant(20, {2: Held(20, 20)}, 1, held=0, wanted=1, busy=0).call, "who has too much"
    assert grant(20, {2: Held(5, 20)}, 1, held=15, wanted=1, busy=1).call, "who waits for it"
    assert not grant(20, {2: Held(5, 5)}, 1, held=15, wanted=1, busy=1).call, "nobody waits"


def test_what_is_in_flight_is_kept_until_it_ends() -> None:
    got = grant(10, {2: Held(0, 10)}, 1, held=10, wanted=10, busy=8)
    assert (got.slots, got.target) == (8, 5)
    got = grant(10, {2: Held(2, 10)}, 1, held=8, wanted=10, busy=5)
    assert (got.slots, got.target) == (5, 5)
