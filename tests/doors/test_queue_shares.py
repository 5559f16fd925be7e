"""The ledger of slots, on a real PostgreSQL."""

import random
import threading

from deliveryagent.queue import leases, shares, sites
from deliveryagent.queue.shares import Ask, Asks, Ends, Opening, Share
from deliveryagent.queue.sites import SiteState
from tests.doubles.stores import NOW, Store


def ask(store: Store, agent: int, wanted: int, *, busy: int = 0, site: str = "mx") -> Share:
    question = Ask(site=site, limit=10, wanted=wanted, busy=busy)
    (share,) = store.do(shares.ask, Asks(agent, (question,)))
    return share


def slots(store: Store, site: str = "mx") -> dict[int, int]:
    return dict(store.rows("SELECT agent, slots FROM site_share WHERE site = :site", site=site))


def test_who_asks_first_gets_what_it_wants(postgres_store: Store) -> None:
    postgres_store.register(1)
    assert ask(postgres_store, 1, 8) == Share("mx", 8, 8)
    assert ask(postgres_store, 1, 16) == Share("mx", 10, 10)


def test_a_second_agent_gets_its_part_as_the_first_gives_back(postgres_store: Store) -> None:
    store = postgres_store
    store.register(1)
    store.register(2)
    ask(store, 1, 10)
    assert ask(store, 2, 10) == Share("mx", 0, 5)
    assert store.run(shares.contended, 1, 2) == [["mx"], ["mx"]]
    assert ask(store, 1, 10, busy=8) == Share("mx", 8, 5)
    assert ask(store, 2, 10) == Share("mx", 2, 5)
    assert ask(store, 1, 10, busy=3) == Share("mx", 5, 5)
    assert ask(store, 2, 10) == Share("mx", 5, 5)


def test_slots_that_are_given_back_are_free(postgres_store: Store) -> None:
    store = postgres_store
    store.register(1)
    store.register(2)
    ask(store, 1, 10)
    ask(store, 2, 4)
    store.do(shares.end, Ends(1, ("mx", "never-asked")))
    assert ask(store, 2, 10) == Share("mx", 10, 10)
    assert store.run(shares.contended, 2) == [[]]


def test_the_slots_of_the_dead_are_free(postgres_store: Store) -> None:
    store = postgres_store
    store.register(1)
    store.register(2)
    ask(store, 1, 10)
    store.force("UPDATE agent SET lease_until = 1 WHERE id = 1")
    assert ask(store, 2, 10).slots == 0, "as long as nobody has taken over"
    store.do(leases.recover, leases.Recovery(alone=False))
    assert ask(store, 2, 10).slots == 10


def test_nobody_gets_slots_before_a_lonely_agent_said_what_it_has_in_flight(
    postgres_store: Store,
) -> None:
    store = postgres_store
    store.register(1)
    assert store.do(leases.go_alone, 1) is True
    store.register(2)
    assert ask(store, 2, 10).slots == 0
    store.do(shares.begin, Opening(1, (("mx", 7), ("other", 2))))
    assert ask(store, 2, 10) == Share("mx", 3, 5)
    assert slots(store) == {1: 7, 2: 3}


def test_a_site_in_trouble_has_one_slot_in_all(postgres_store: Store) -> None:
    store = postgres_store
    store.register(1)
    store.register(2)
    closed = SiteState(
        name="mx", concurrency=0, closed_until=NOW - 1, reason="refused", updated=NOW
    )
    store.do(sites.save, closed)
    assert ask(store, 1, 4) == Share("mx", 1, 1)
    assert ask(store, 2, 4).slots == 0
    opened = SiteState(name="mx", concurrency=5, closed_until=None, reason="", updated=NOW)
    store.do(sites.save, opened)
    assert ask(store, 2, 4).slots == 4


def test_many_sites_are_asked_for_at_once(postgres_store: Store) -> None:
    store = postgres_store
    store.register(1)
    asks = tuple(Ask(site=f"s{n}", limit=5, wanted=2, busy=0) for n in range(300))
    answers = store.do(shares.ask, Asks(1, asks))
    assert answers == [Share(f"s{n}", 2, 2) for n in range(300)]


def test_agents_that_ask_at_the_same_time_never_get_more_than_there_is(
    postgres_store: Store,
) -> None:
    store = postgres_store
    for agent in range(1, 5):
        store.register(agent)
    stop = threading.Event()
    exceeded: list[int] = []
    errors: list[BaseException] = []

    def be_agent(agent: int) -> None:
        rng = random.Random(agent)
        held = 0
        try:
            for _ in range(25):
                if rng.random() < 0.2:
                    store.do(shares.end, Ends(agent, ("mx",)))
                    held = 0
                else:
                    busy = rng.randint(0, held)
                    held = ask(store, agent, rng.randint(0, 12), busy=busy).slots
        except BaseException as error:  # noqa: BLE001 - told to the test
            errors.append(error)

    def watch() -> None:
        while not stop.is_set():
            total = store.value("SELECT coalesce(sum(slots), 0) FROM site_share")
            if total > 10:
                exceeded.append(total)

    watcher = threading.Thread(target=watch)
    agents = [threading.Thread(target=be_agent, args=(agent,)) for agent in range(1, 5)]
    for thread in (watcher, *agents):
        thread.start()
    for thread in agents:
        thread.join()
    stop.set()
    watcher.join()
    assert not errors
    assert not exceeded
