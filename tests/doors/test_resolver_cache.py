"""A cache forgets in time and never grows beyond its limit."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deliveryagent.resolver.cache import Cache


class Hands:
    """A clock moved by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@given(
    st.lists(
        st.tuples(st.integers(0, 8), st.floats(0, 10), st.floats(0, 5), st.booleans()), max_size=60
    )
)
def test_what_is_found_is_the_latest_and_still_holds(
    steps: list[tuple[int, float, float, bool]],
) -> None:
    clock = Hands()
    cache: Cache[int, int] = Cache(4, clock)
    latest: dict[int, tuple[int, float]] = {}
    for number, (key, ttl, pause, keeps) in enumerate(steps):
        clock.now += pause
        if keeps:
            cache.keep(key, number, ttl)
            if ttl > 0:
                latest[key] = (number, clock.now + ttl)
        found = cache.find(key)
        if found is not None:
            value, expires = latest[key]
            assert found[0] == value
            assert 0 < found[1] <= expires - clock.now + 1e-9
        assert len(cache) <= 4


def test_the_least_recently_used_goes_first() -> None:
    cache: Cache[str, int] = Cache(2, Hands())
    cache.keep("a", 1, 9)
    cache.keep("b", 2, 9)
    assert cache.find("a") == (1, 9)
    cache.keep("c", 3, 9)
    assert cache.find("b") is None
    assert cache.find("a") == (1, 9)


def test_a_question_that_breaks_is_asked_again() -> None:
    async def run() -> None:
        cache: Cache[str, int] = Cache(2, Hands())

        async def broken() -> tuple[int, float]:
            raise KeyError("a fault")

        async def whole() -> tuple[int, float]:
            return 5, 1.0

        with pytest.raises(KeyError):
            await cache.ask("a", broken)
        assert await cache.ask("a", whole) == 5
        assert await cache.ask("a", broken) == 5

    asyncio.run(run())


def test_closing_ends_every_wait() -> None:
    async def run() -> None:
        cache: Cache[str, int] = Cache(2, Hands())

        async def endless() -> tuple[int, float]:
            await asyncio.Event().wait()
            return 1, 1.0

        waiter = asyncio.create_task(cache.ask("a", endless))
        await asyncio.sleep(0)
        await cache.close()
        with pytest.raises(asyncio.CancelledError):
            await waiter

    asyncio.run(run())
