"""Requests that wait, site by site: limits hold, order holds, nobody is forgotten or kept for ever."""

from hypothesis import given
from hypothesis import strategies as st

from deliveryagent.agent.lines import ENOUGH, NO_LIMIT, Lines
from tests.doubles.courier import request

SITES = ("a.test", "b.test", "")


def begun(lines: Lines) -> list[int]:
    """Begin what may begin."""
    serials = []
    while (line := lines.first()) is not None:
        serials.append(lines.begin(line).serial)
    return serials


def filled(*sites: str) -> Lines:
    lines = Lines()
    for serial, site in enumerate(sites, 1):
        lines.add(request("kim@example.net", serial=serial, site=site))
    return lines


def test_without_a_limit_everything_begins_at_once() -> None:
    assert sorted(begun(filled("a", "a", "", "b", ""))) == [1, 2, 3, 4, 5]


def test_no_more_than_the_limit_run_and_the_next_begins_when_one_ends() -> None:
    lines = filled("a", "a", "a", "a")
    lines.room("a", 2)
    assert begun(lines) == [1, 2]
    lines.end("a")
    assert begun(lines) == [3]
    assert begun(lines) == []


def test_a_lower_limit_ends_nothing_and_begins_nothing() -> None:
    lines = filled("a", "a", "a", "a")
    lines.room("a", 3)
    assert begun(lines) == [1, 2, 3]
    assert lines.room("a", 1) == []
    lines.end("a")
    lines.end("a")
    assert begun(lines) == []
    lines.end("a")
    assert begun(lines) == [4]


def test_no_room_gives_back_what_has_not_begun() -> None:
    lines = filled("a", "a", "b", "a")
    lines.room("a", 1)
    assert sorted(begun(lines)) == [1, 3]
    assert [r.serial for r in lines.room("a", 0)] == [2, 4]
    assert lines.room("unheard.test", 0) == []
    lines.end("a")
    assert begun(lines) == []


def test_sites_take_turns_in_beginning() -> None:
    assert begun(filled("a", "a", "a", "b", "b", "")) == [1, 4, 6, 2, 5, 3]


def test_a_site_is_forgotten_when_it_has_neither_work_nor_limit() -> None:
    lines = filled("a", "b")
    lines.room("a", 5)
    begun(lines)
    lines.end("a")
    lines.end("b")
    assert len(lines) == 1  # the limit of a is still the manager's word
    lines.room("a", 0)
    assert len(lines) == 0


def test_everything_can_be_taken_out() -> None:
    lines = filled("a", "b", "a")
    lines.room("a", 1)
    begun(lines)
    assert [r.serial for r in lines.clear()] == [3]
    assert lines.clear() == []


ACTS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.sampled_from(SITES), st.just(0)),
        st.tuples(st.just("room"), st.sampled_from(SITES), st.integers(0, 4)),
        st.tuples(st.just("end"), st.sampled_from(SITES), st.just(0)),
        st.tuples(st.just("begin"), st.just(""), st.integers(1, 3)),
    ),
    max_size=80,
)


@given(ACTS)
def test_limits_and_order_hold_whatever_happens(acts: list[tuple[str, str, int]]) -> None:
    lines = Lines()
    limits = dict.fromkeys(SITES, NO_LIMIT)
    running = dict.fromkeys(SITES, 0)
    waiting: dict[str, list[int]] = {site: [] for site in SITES}
    for serial, (act, site, number) in enumerate(acts):
        if act == "add":
            lines.add(request("kim@example.net", serial=serial, site=site))
            waiting[site].append(serial)
        elif act == "room":
            back = [r.serial for r in lines.room(site, number)]
            assert back == (waiting[site] if not number else [])
            if not number:
                waiting[site] = []
            limits[site] = number or NO_LIMIT
        elif act == "end" and running[site]:
            running[site] -= 1
            lines.end(site)
        else:
            for _ in range(number):
                line = lines.first()
                may = [s for s in SITES if waiting[s] and running[s] < limits[s]]
                assert (line is None) == (not may)
                if line is not None:
                    assert line.site in may
                    assert lines.begin(line).serial == waiting[line.site].pop(0)
                    running[line.site] += 1
    assert len(lines) <= len(SITES)


def crowded(lag: float) -> Lines:
    """So many sites have one request running that the process has enough to do."""
    lines = Lines()
    for serial in range(ENOUGH):
        lines.add(request("kim@example.net", serial=serial, site=f"s{serial}"))
    assert len(begun(lines)) == ENOUGH
    lines.breathe(lag)
    return lines


def test_a_site_that_waits_for_us_gets_no_second_session_while_there_is_enough_to_do() -> None:
    lines = crowded(0.01)
    lines.took("s0", 0.05)
    lines.took("s1", 0.5)
    lines.add(request("kim@example.net", serial=101, site="s0"))
    lines.add(request("kim@example.net", serial=102, site="s1"))
    lines.add(request("kim@example.net", serial=103, site="new"))
    assert sorted(begun(lines)) == [102, 103], "we wait for the second one, and the third has none"
    assert lines.next_of("s0") is not None, "who has a session goes on with it"
    lines.end("s0")
    assert begun(lines) == [101]


def test_when_there_is_breath_again_what_was_spared_begins() -> None:
    lines = crowded(0.01)
    lines.took("s0", 0.05)
    lines.add(request("kim@example.net", serial=101, site="s0"))
    assert begun(lines) == []
    assert not lines.breathe(0.01)
    assert lines.breathe(0.001)
    assert begun(lines) == [101]


def test_with_little_to_do_every_site_has_all_its_sessions() -> None:
    lines = filled("a", "a", "a")
    lines.breathe(1.0)
    lines.took("a", 0.001)
    assert begun(lines) == [1, 2, 3]
