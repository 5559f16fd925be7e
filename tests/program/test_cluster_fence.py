"""Agents of one queue that are killed, or stopped for longer than their lease: nothing is lost, and nothing is
delivered again that need not be.

The receiving host notes when each final dot came in and when it was answered. A message may come twice only
when its agent was killed or stopped between the two, as far as it could know.
"""

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.doubles.stores import PostgresServer, postgres_server
from tests.program.cluster import LEASE, LIMIT, Cluster, judge, names, paused
from tests.program.whole_agent import eventually, workers_of

__all__ = ["postgres_server"]


@pytest.fixture
def cluster(postgres_server: PostgresServer, tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path, postgres_server.fresh(), dot_delay=(0.0, 0.03)) as found:
        yield found


def test_after_kill_9_the_other_agent_takes_over(cluster: Cluster) -> None:
    cluster.start(0, 1)
    cluster.fill(names(600), domains=30)
    eventually(lambda: len(cluster.by(0)) > 30 and len(cluster.by(1)) > 30, limit=40)
    os.killpg(cluster.services[0].pid, signal.SIGKILL)
    killed = time.monotonic()
    cluster.services[0].wait(10)
    cluster.settled(limit=LEASE * 1.5 + 40)
    judge(cluster, [killed])
    left = [(cluster.services[1].pid,)]
    eventually(lambda: cluster.rows("SELECT pid FROM agent") == left, limit=LEASE * 1.5 + 10)
    assert cluster.site.peak <= LIMIT


def test_an_agent_that_is_killed_and_comes_back_need_not_wait_for_its_lease(
    cluster: Cluster,
) -> None:
    cluster.start(0)
    cluster.fill(names(300), domains=10)
    eventually(lambda: len(cluster.by(0)) > 30, limit=40)
    os.killpg(cluster.services[0].pid, signal.SIGKILL)
    killed = time.monotonic()
    cluster.services[0].wait(10)
    cluster.rows("UPDATE agent SET lease_until = lease_until + 600 RETURNING id")
    cluster.start(0)
    cluster.settled()
    judge(cluster, [killed])
    assert cluster.rows("SELECT pid FROM agent") == [(cluster.services[1].pid,)]


@pytest.mark.parametrize("whole", [True, False], ids=["everything", "manager"])
def test_an_agent_that_was_paused_beyond_its_lease_delivers_nothing_again(
    cluster: Cluster, *, whole: bool
) -> None:
    cluster.start(0, 1)
    cluster.fill(names(600), domains=30)
    eventually(lambda: len(cluster.by(0)) > 30 and len(cluster.by(1)) > 30, limit=40)
    victim = cluster.services[0]
    stopped = time.monotonic()
    with paused(victim, workers=whole):
        agents = "SELECT pid FROM agent ORDER BY started"
        eventually(lambda: cluster.rows(agents) == [(cluster.services[1].pid,)], limit=30)
        before = len(cluster.arrived())
        if before < 600:
            eventually(lambda: len(cluster.arrived()) > before, limit=30)
    eventually(lambda: "lease_lost" in cluster.agents[0].log.read_text(), limit=30)
    eventually(lambda: len(cluster.rows(agents)) == 2, limit=40)
    cluster.fill(names(100, "later"), domains=30)
    cluster.settled()
    judge(cluster, [stopped])
    assert victim.poll() is None, "it goes on as another agent"
    cluster.stop()


def test_an_agent_that_is_told_to_stop_while_it_begins_anew_stops(cluster: Cluster) -> None:
    cluster.start(0)
    taken_over = (
        "WITH freed AS (UPDATE destination SET owner = NULL) DELETE FROM agent RETURNING id"
    )
    cluster.rows(taken_over)
    log = cluster.agents[0].log
    eventually(lambda: "lease_lost" in log.read_text(), limit=30)
    eventually(lambda: " stopped " in log.read_text(), limit=30, pause=0.005)
    cluster.stop()


@pytest.mark.slow
def test_workers_that_were_paused_go_on_without_repeating(cluster: Cluster) -> None:
    cluster.start(0)
    cluster.fill(names(300), domains=10)
    eventually(lambda: len(cluster.by(0)) > 30, limit=40)
    workers = workers_of(cluster.services[0])
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    stopped = time.monotonic()
    time.sleep(LEASE + 0.5)
    for pid in workers:
        os.kill(pid, signal.SIGCONT)
    cluster.settled()
    judge(cluster, [stopped])
    assert "lease_lost" not in cluster.agents[0].log.read_text()
    cluster.stop()


def strike(cluster: Cluster, rng: random.Random) -> float:
    """Kill or pause one of the two agents; the moment it happened."""
    number = rng.randrange(2)
    victim: subprocess.Popen[bytes] = cluster.services[number]
    moment = time.monotonic()
    if rng.random() < 0.5:
        os.killpg(victim.pid, signal.SIGKILL)
        victim.wait(10)
        time.sleep(rng.choice((0.0, 0.5, LEASE + 1)))
        process = cluster.agents[number].start()
        cluster.agents[number].ready(process, limit=40)
        cluster.services[number] = process
    else:
        with paused(victim, workers=rng.random() < 0.5):
            time.sleep(rng.choice((0.2, LEASE + 2)))
    return moment


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_10000_messages_survive_kills_and_pauses_at_random_moments(cluster: Cluster) -> None:
    seed = random.randrange(2**32)
    rng = random.Random(seed)
    cluster.start(0, 1)
    cluster.fill(names(10_000), domains=200)
    moments = []
    while len(cluster.arrived()) < 9_500:
        before = len(cluster.arrived())
        eventually(lambda: len(cluster.arrived()) > before + 100, limit=120)  # noqa: B023
        time.sleep(rng.uniform(0, 1))
        moments.append(strike(cluster, rng))
    with contextlib.suppress(AssertionError):
        cluster.settled(limit=300)
    assert cluster.rows("SELECT status, count(*) FROM recipient GROUP BY status") == [
        ("delivered", 10_000)
    ], f"seed {seed}"
    judge(cluster, moments)
    cluster.stop()
