"""Claiming: who owns a destination, and in which order its recipients come."""

import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from sqlalchemy import Connection, event, text

from deliveryagent.queue import claims, content, leases, submissions
from deliveryagent.queue.claims import (
    Claimed,
    Cursor,
    Fetch,
    GiveBack,
    Siblings,
    Take,
    TakeUp,
    rewound,
)
from tests.doubles.stores import AGENT, NOW, Store, letter, outcome


def ready(store: Store, name: str = "a.example") -> float | None:
    found: float | None = store.value("SELECT ready FROM destination WHERE name = :n", n=name)
    return found


def names(store: Store, **options: int) -> list[str]:
    return [taken.name for taken in store.take(**options)]


def test_destinations_are_taken_that_waited_longest_first(store: Store) -> None:
    store.add(letter("x@a.example", arrival=NOW - 5), letter("x@b.example", arrival=NOW - 9))
    store.add(letter("x@c.example", arrival=NOW + 9), letter("x@d.example", arrival=NOW - 7))
    assert names(store, limit=2) == ["b.example", "d.example"]
    assert names(store) == ["a.example"]
    assert names(store) == []


def test_what_one_agent_owns_no_other_can_take(store: Store) -> None:
    store.add(letter("x@a.example"))
    assert names(store, agent=1) == ["a.example"]
    store.add(letter("y@a.example"))
    assert names(store, agent=2) == []
    assert store.do(claims.next_ready, 2) is None
    assert names(store, agent=1) == ["a.example"], "new work is announced to the owner"


def test_taking_tells_of_pause_site_and_the_earliest_new_work(store: Store) -> None:
    store.add(letter("x@a.example", arrival=NOW - 5))
    store.force(
        "UPDATE destination SET site = 's', paused_until = 9e9, pause_note = 'n', paused_by = 'b'"
    )
    assert store.take() == [claims.Taken("a.example", NOW - 5, "s", 9e9, "n", "b")]


def test_an_owner_goes_back_to_work_that_was_committed_late(store: Store) -> None:
    early, late = (
        letter("early@a.example", arrival=NOW - 8),
        letter("late@a.example", arrival=NOW - 4),
    )
    store.add(late)
    (taken,) = store.take()
    first = store.fetch("a.example")
    store.add(early)
    (again,) = store.take()
    assert again.ready == early.arrival
    cursor = rewound(first.cursor_small, again.ready)
    second = store.do(claims.fetch, Fetch("a.example", NOW, cursor, None, 10))
    assert [r.address for r in second.recipients] == ["early@a.example", "late@a.example"]
    assert rewound(None, NOW) is None
    assert taken.ready == late.arrival


def test_recipients_come_in_the_order_of_their_due_times_page_by_page(store: Store) -> None:
    letters = [letter(f"u{n}@a.example", arrival=NOW - 100 + n / 7) for n in range(25)]
    store.add(
        *reversed(letters), letter("other@b.example"), letter("later@a.example", arrival=NOW + 1)
    )
    seen: list[str] = []
    cursor: Cursor | None = None
    pages = 0
    while True:
        page = store.do(claims.fetch, Fetch("a.example", NOW, cursor, None, 10))
        seen += [r.address for r in page.recipients]
        cursor, pages = page.cursor_small, pages + 1
        if page.exhausted:
            break
    assert seen == [f"u{n}@a.example" for n in range(25)]
    assert pages == 3


def test_recipients_with_one_due_time_are_neither_lost_nor_doubled_at_a_border(
    store: Store,
) -> None:
    letters = [
        letter(*(f"u{n}.{k}@a.example" for k in range(3)), arrival=NOW - 1) for n in range(5)
    ]
    store.add(*letters)
    cursor, seen = None, []
    while True:
        page = store.do(claims.fetch, Fetch("a.example", NOW, cursor, None, 4))
        seen += [(r.message_id, r.number) for r in page.recipients]
        cursor = page.cursor_small
        if page.exhausted:
            break
    assert seen == [(one.queue_id, number) for one in letters for number in (1, 2, 3)]


def test_a_claim_carries_what_delivery_must_know(store: Store) -> None:
    one = letter("Ann@A.example", content=b"12345", notify=3, ret="FULL", envid="e")
    facts = msgspec.structs.replace(one.facts, utf8_headers=True)
    one = msgspec.structs.replace(one, facts=facts)
    store.add(one)
    assert store.claim() == [
        Claimed(
            message_id=one.queue_id,
            number=1,
            address="Ann@A.example",
            destination="a.example",
            bulk=False,
            attempts=0,
            due=NOW - 10,
            notify=3,
            orcpt="",
            warned=None,
            sender="joe@example.org",
            size=5,
            dotted=False,
            eightbit=False,
            utf8=True,
            long_lines=False,
            ret="FULL",
            envid="e",
            recipient_count=1,
            crashes=0,
        )
    ]


def test_text_survives_the_way_through_json(store: Store) -> None:
    odd = '"q\\"uo\\\\te, {}[]: \u00fc\u4e2d\u2028"@a.example'
    store.add(letter(odd))
    assert [r.address for r in store.claim()] == [odd]


def test_bulk_recipients_take_turns_with_the_others(store: Store) -> None:
    big = letter(*(f"big{n}@a.example" for n in range(6)), bulk_after=1, arrival=NOW - 50)
    store.add(big, *(letter(f"small{n}@a.example", arrival=NOW - 10) for n in range(3)))
    page = store.fetch("a.example", limit=20)
    assert [r.address.partition("@")[0] for r in page.recipients] == [
        *("big0", "big1", "small0", "big2", "small1", "big3", "small2", "big4", "big5")
    ]
    assert page.exhausted


def test_a_big_message_never_takes_more_than_half_of_the_room(store: Store) -> None:
    store.add(letter(*(f"big{n}@a.example" for n in range(50)), bulk_after=1, arrival=NOW - 50))
    store.add(*(letter(f"small{n}@a.example") for n in range(20)))
    page = store.fetch("a.example", limit=10)
    assert sum(r.bulk for r in page.recipients) == 5
    assert len(page.recipients) == 10
    assert not page.exhausted


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 16, 100])
def test_neither_line_starves_whatever_the_room(store: Store, limit: int) -> None:
    store.add(letter(*(f"big{n}@a.example" for n in range(8)), bulk_after=1, arrival=NOW - 50))
    store.add(*(letter(f"small{n}@a.example") for n in range(8)))
    page = store.fetch("a.example", limit=limit)
    assert len(page.recipients) == min(limit, 16)
    assert page.recipients[0].bulk is False
    assert sum(r.bulk for r in page.recipients) >= min(limit // 2, 7)
    seen = {r.address for r in page.recipients}
    while not page.exhausted:
        cursors = (page.cursor_small, page.cursor_bulk)
        page = store.do(claims.fetch, Fetch("a.example", NOW, *cursors, limit))
        seen |= {r.address for r in page.recipients}
    assert len(seen) == 16


def test_each_line_goes_on_behind_its_own_cursor(store: Store) -> None:
    store.add(letter(*(f"big{n}@a.example" for n in range(8)), bulk_after=1, arrival=NOW - 50))
    store.add(*(letter(f"small{n}@a.example") for n in range(8)))
    small = bulk = None
    seen: list[str] = []
    for _ in range(20):
        page = store.do(claims.fetch, Fetch("a.example", NOW, small, bulk, 3))
        seen += [r.address for r in page.recipients]
        small, bulk = page.cursor_small, page.cursor_bulk
        if page.exhausted:
            break
    assert len(seen) == len(set(seen)) == 16


def test_given_back_a_destination_is_ready_when_its_next_recipient_is_due(store: Store) -> None:
    store.add(letter("x@a.example"), letter("y@a.example"), letter("z@b.example"))
    (one, two) = [c for c in store.claim() if c.destination == "a.example"]
    store.settle(outcome(one, "deferred", due=NOW + 50), outcome(two, "deferred", due=NOW + 40))
    assert ready(store) is None
    store.run(
        claims.give_back, GiveBack("a.example", AGENT), GiveBack("b.example", AGENT, NOW + 900)
    )
    assert ready(store) == NOW + 40
    assert ready(store, "b.example") == NOW + 900
    assert store.do(claims.next_ready, AGENT) == NOW + 40
    assert names(store, now=NOW + 41) == ["a.example"]  # type: ignore[arg-type]
    assert store.problems() == []


def test_the_bulk_line_counts_for_readiness(store: Store) -> None:
    store.add(letter("x@a.example", "y@a.example", bulk_after=1))
    small = next(c for c in store.claim() if not c.bulk)
    store.settle(outcome(small))
    store.do(claims.give_back, GiveBack("a.example", AGENT))
    assert ready(store) == NOW - 10


def test_given_back_with_nothing_waiting_a_destination_sleeps(store: Store) -> None:
    store.add(letter("x@a.example"))
    store.settle(*(outcome(c) for c in store.claim()))
    store.do(claims.give_back, GiveBack("a.example", AGENT))
    assert ready(store) is None
    assert store.value("SELECT owner FROM destination") is None


def test_work_announced_meanwhile_is_not_forgotten_when_giving_back(store: Store) -> None:
    store.add(letter("x@a.example"))
    store.settle(*(outcome(c) for c in store.claim()))
    store.add(letter("y@a.example", not_before=NOW + 5))
    store.do(claims.give_back, GiveBack("a.example", AGENT))
    assert ready(store) == NOW + 5


def test_only_the_owner_gives_back(store: Store) -> None:
    store.add(letter("x@a.example"))
    store.take(agent=1)
    store.do(claims.give_back, GiveBack("a.example", 2))
    assert store.value("SELECT owner FROM destination") == 1


def test_what_a_dead_agent_owned_returns(store: Store) -> None:
    store.add(letter("x@a.example"), letter("x@b.example"))
    store.take(agent=1, limit=1)
    store.take(agent=2, limit=1)
    store.force("UPDATE agent SET lease_until = 1 WHERE id = 1")
    assert store.do(leases.recover, leases.Recovery(alone=False)) == 1
    assert store.rows("SELECT id FROM agent") == [(2,)]
    assert store.do(leases.recover, leases.Recovery(alone=True)) == 1
    assert store.rows("SELECT name FROM destination WHERE ready IS NULL OR owner IS NOT NULL") == []
    assert store.do(leases.renew, leases.Renewal(agent=2, length=60)) == []


def test_an_agent_that_ends_gives_everything_back(store: Store) -> None:
    store.add(letter("x@a.example"))
    store.take()
    store.do(leases.retire, AGENT)
    assert ready(store) == NOW - 10
    assert store.rows("SELECT id FROM agent") == []


def test_siblings_are_the_due_recipients_at_destinations_of_ours(store: Store) -> None:
    one = letter("x@a.example", "y@b.example", "z@c.example", "v@a.example")
    store.add(one)
    store.take(agent=1, limit=2)
    found = store.do(claims.siblings, Siblings(one.queue_id, NOW, 1))
    assert [r.address for r in found] == ["x@a.example", "y@b.example", "v@a.example"]
    assert len(store.do(claims.siblings, Siblings(one.queue_id, NOW, 1, limit=2))) == 2
    assert store.do(claims.siblings, Siblings(one.queue_id, NOW - 60, 1)) == []


def test_one_recipient_is_recalled_as_long_as_it_lives(store: Store) -> None:
    one = letter("x@a.example", "y@a.example", hold=True)
    store.add(one)
    with store.engine.connect() as connection:
        found = claims.recalled(connection, one.queue_id, 2)
        assert found is not None
        assert (found.address, found.due) == ("y@a.example", 0.0)
        assert claims.recalled(connection, one.queue_id, 3) is None
    store.settle(outcome(one))
    with store.engine.connect() as connection:
        assert claims.recalled(connection, one.queue_id, 1) is None


def test_contents_come_whole_and_byte_for_byte(store: Store) -> None:
    bodies = [bytes([n, 0, 255 - n]) * (n + 1) for n in range(200)]
    letters = [letter("x@a.example", content=body) for body in bodies]
    gone = letter("x@a.example")
    store.add(*letters, gone, letter("x@a.example", content=b""))
    store.force("DELETE FROM content WHERE message_id = :id", id=gone.queue_id)
    ids = [one.queue_id for one in (*letters, gone)]
    found = store.do(claims.contents, ids)
    assert found == dict(zip(ids, bodies, strict=False))
    assert store.do(claims.contents, []) == {}


def test_small_contents_come_with_their_recipients_as_far_as_there_is_room(store: Store) -> None:
    sizes = {"a": 100, "b": 5000, "c": 300, "d": 300}
    letters = [
        letter(f"{name}@{host}.example", content=b"x" * size, arrival=NOW - 50 + place)
        for host in ("one", "two")
        for place, (name, size) in enumerate(sizes.items())
    ]
    store.add(*letters)
    orders = [
        Fetch(f"{host}.example", NOW, None, None, 10, largest=1000, octets=500)
        for host in ("one", "two")
    ]
    for page in store.run(claims.fetch, *orders):
        got = {
            r.address[0]: len(page.contents[r.message_id])
            for r in page.recipients
            if r.message_id in page.contents
        }
        assert got == {"a": 100, "c": 300}
        assert len(page.recipients) == 4
    (plain,) = store.run(claims.fetch, Fetch("one.example", NOW, None, None, 10))
    assert plain.contents == {}


def test_large_contents_come_along_with_small_ones(store: Store) -> None:
    wanted = [
        bytes([n]) * size for n, size in enumerate((5, content.JOINED + 1, 70_000, 9, 20_000))
    ]
    letters = [letter("x@one.example", content=one) for one in wanted]
    store.add(*letters)
    order = Fetch("one.example", NOW, None, None, 10, largest=1 << 20, octets=1 << 20)
    (page,) = store.run(claims.fetch, order)
    assert [page.contents[one.queue_id] for one in letters] == wanted


def test_a_part_that_is_not_there_is_none(store: Store) -> None:
    one = letter("x@a.example", content=b"\0ab")
    store.add(one)
    assert store.run(claims.part, (one.queue_id, 0), (one.queue_id, 1), (5, 0)) == [
        b"\0ab",
        None,
        None,
    ]


def test_contents_are_read_one_by_one_where_joining_cuts_them(
    sqlite_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = letter("x@a.example", content=b"a\0b"), letter("x@a.example", content=b"cd")
    sqlite_store.add(one, other)
    answers = content._first_parts.answers
    monkeypatch.setattr(
        content._first_parts,
        "answers",
        lambda c, rows: [(lengths, data[:1]) for lengths, data in answers(c, rows)],
    )
    found = sqlite_store.do(claims.contents, [one.queue_id, other.queue_id])
    assert found == {one.queue_id: b"a\0b", other.queue_id: b"cd"}


# -- several agents ---


def test_an_agent_passes_over_what_another_is_just_taking(postgres_store: Store) -> None:
    store = postgres_store
    store.add(*(letter(f"x@{name}.example") for name in "abc"))
    store.register(1)
    store.register(2)
    with store.engine.begin() as first, store.engine.begin() as second:
        (one,) = claims.take(first, [Take(1, NOW, 1)])
        (rest,) = claims.take(second, [Take(2, NOW, 10)])
    assert len(one) == 1
    assert {taken.name for taken in (*one, *rest)} == {"a.example", "b.example", "c.example"}
    assert len(rest) == 2


def test_work_committed_while_its_destination_is_given_back_is_not_forgotten(
    postgres_store: Store,
) -> None:
    """Giving back waits for the newcomer's lock, and sees the row but not the new recipient."""
    store = postgres_store
    store.add(letter("x@a.example"))
    store.settle(*(outcome(c) for c in store.claim()))
    returning = threading.Thread(
        target=store.do, args=(claims.give_back, GiveBack("a.example", AGENT))
    )
    with store.engine.begin() as connection:
        submissions.add(connection, [letter("y@a.example")])
        returning.start()
        for _ in range(200):
            waits = "SELECT count(*) FROM pg_locks WHERE NOT granted"
            if store.value(waits):
                break
            time.sleep(0.01)
        else:
            pytest.fail("giving back did not wait")
    returning.join()
    assert ready(store) == NOW - 10
    assert store.problems() == []


# -- cost ---


def plans(store: Store, action: Callable[[], None]) -> list[str]:
    """How SQLite goes about the statements of an action."""
    statements: list[str] = []

    @event.listens_for(store.engine, "connect")
    def watch(connection: Any, _: object) -> None:
        connection.set_trace_callback(statements.append)

    action()
    event.remove(store.engine, "connect", watch)
    with store.engine.connect() as connection:
        return [
            str(row[3])
            for sql in statements
            if sql.startswith(("SELECT", "UPDATE", "DELETE"))
            for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}")
        ]


@pytest.fixture
def full_store(sqlite_store: Store) -> Store:
    """100,000 recipients: one dead destination with nearly all of them, a thousand others."""
    sqlite_store.force(
        """INSERT INTO message (id, sender, size, dotted, eightbit, utf8, long_lines, recipient_count, origin)
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000)
        SELECT i, 's@example.org', 1, 0, 0, 0, 0, 1, '' FROM n"""
    )
    sqlite_store.force(
        """INSERT INTO recipient (message_id, number, address, destination, bulk, status, due, updated)
        SELECT id, 1, 'x@y', CASE WHEN id % 100 = 0 THEN 'd' || id ELSE 'dead' END, 0, 'queued', 1.0 + id, 0
        FROM message"""
    )
    sqlite_store.force(
        "INSERT INTO destination (name, ready) SELECT destination, min(due) FROM recipient GROUP BY 1"
    )
    return sqlite_store


def steps(store: Store, action: Callable[[Connection], object]) -> int:
    """How many of SQLite's instructions an action takes, in hundreds."""
    ticks = 0

    def tick() -> int:
        nonlocal ticks
        ticks += 1
        return 0

    with store.engine.connect() as connection:
        raw = connection.connection.driver_connection
        assert raw is not None
        raw.set_progress_handler(tick, 100)
        action(connection)
        connection.rollback()
    return ticks


def test_fetching_costs_what_it_returns_however_much_waits(full_store: Store) -> None:
    def fetch(name: str, cursor: Cursor | None, limit: int = 50) -> int:
        wanted = Fetch(name, 1e9, cursor, None, limit)
        return steps(full_store, lambda connection: claims.fetch(connection, [wanted]))

    first = fetch("dead", None)
    middle = fetch("dead", (50_000.0, 0, 0))
    small = fetch("d100", None)
    assert middle <= first * 1.2 + 2
    assert first < 100, "some 200 instructions per recipient"
    assert small < 10
    assert fetch("dead", None, limit=500) < first * 12


def test_taking_and_giving_back_cost_nothing_of_the_backlog(full_store: Store) -> None:
    full_store.register()
    take = Take(AGENT, 1e9, 10)
    assert steps(full_store, lambda connection: claims.take(connection, [take])) < 50
    full_store.do(claims.take, take)
    back = [GiveBack("dead", AGENT), GiveBack("d100", AGENT)]
    assert steps(full_store, lambda connection: claims.give_back(connection, back)) < 20


def test_a_dead_destination_does_not_delay_the_others(full_store: Store) -> None:
    """One round of claims reaches a thousand destinations with one recipient each past 99,000 dead ones."""
    full_store.register()
    taken = full_store.do(claims.take, Take(AGENT, 1e9, 2000))
    assert len(taken) == 1001
    fetched = full_store.run(claims.fetch, *(Fetch(t.name, 1e9, None, None, 40) for t in taken))
    by_name = dict(zip((t.name for t in taken), fetched, strict=True))
    assert len(by_name["dead"].recipients) == 40
    assert all(len(f.recipients) == 1 for name, f in by_name.items() if name != "dead")


def test_claiming_reads_by_index_only(sqlite_store: Store) -> None:
    sqlite_store.add(letter("x@a.example", "y@b.example", bulk_after=1))
    sqlite_store.register()

    def everything() -> None:
        sqlite_store.take()
        page = sqlite_store.fetch("a.example")
        sqlite_store.do(claims.siblings, Siblings(page.recipients[0].message_id, NOW, AGENT))
        sqlite_store.do(claims.contents, [page.recipients[0].message_id])
        sqlite_store.do(claims.next_ready, AGENT)
        sqlite_store.do(claims.give_back, GiveBack("a.example", AGENT))

    found = plans(sqlite_store, everything)
    scans = [line for line in found if line.startswith("SCAN")]
    tables = ("recipient", "message", "content", "destination")
    whole = [line for line in scans if line.split()[1] in tables and "INDEX" not in line]
    assert not whole
    assert any(
        "USING INDEX ix_recipient_due (destination=? AND bulk=? AND (due," in line for line in found
    )
    assert not [line for line in found if "TEMP B-TREE" in line]


def test_postgresql_reads_the_waiting_line_by_its_index(postgres_store: Store) -> None:
    postgres_store.add(*(letter(f"u{n}@d{n % 50}.example") for n in range(500)))
    with postgres_store.engine.begin() as connection:
        connection.execute(text("ANALYZE"))
        for way in ("seqscan", "bitmapscan"):  # so few rows would be read in any way
            connection.execute(text(f"SET enable_{way} = off"))
        plan = connection.execute(
            text(
                "EXPLAIN SELECT * FROM recipient WHERE destination = 'd1.example' AND bulk = false "
                "AND due <= 2e9 AND (due, message_id, number) > (0.0, 0, 0) "
                "ORDER BY due, message_id, number LIMIT 10"
            )
        )
        lines = "\n".join(row[0] for row in plan)
    assert "Index Scan using ix_recipient_due" in lines
    assert "Sort" not in lines


def take_up(store: Store, *names: str, agent: int = AGENT) -> dict[str, claims.Fetched]:
    store.register(agent)
    wanted = TakeUp(agent=agent, now=NOW, names=names, limit=10, largest=0, octets=0)
    found: dict[str, claims.Fetched] = store.do(claims.take_up, wanted)
    return found


def test_taking_up_owns_destinations_and_reads_their_lines_at_once(store: Store) -> None:
    store.add(letter("x@a.example"), letter("y@a.example"), letter("x@b.example"))
    pages = take_up(store, "b.example", "a.example", "unknown.example")
    read = {name: [r.address for r in page.recipients] for name, page in pages.items()}
    assert read == {"a.example": ["x@a.example", "y@a.example"], "b.example": ["x@b.example"]}
    assert all(page.exhausted for page in pages.values())
    assert ready(store) is None
    assert names(store, agent=2) == []
    store.add(letter("z@a.example"))
    assert take_up(store, "a.example") == {}, "it is ours already"
    assert names(store) == ["a.example"]


def test_taking_up_leaves_out_what_is_not_due_or_paused_or_somebodys(store: Store) -> None:
    store.add(letter("x@later.example", arrival=NOW + 9), letter("x@paused.example"))
    store.add(letter("x@resumed.example"))
    store.force(f"UPDATE destination SET paused_until = {NOW + 9} WHERE name = 'paused.example'")
    store.force(f"UPDATE destination SET paused_until = {NOW - 9} WHERE name = 'resumed.example'")
    store.add(letter("x@theirs.example"))
    assert list(take_up(store, "theirs.example", agent=2)) == ["theirs.example"]
    every = ("later.example", "paused.example", "resumed.example", "theirs.example")
    assert list(take_up(store, *every)) == ["resumed.example"]
