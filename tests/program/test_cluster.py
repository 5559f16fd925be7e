"""Several agents on one PostgreSQL queue: they share work and the limit of a site, and obey the same orders.

One receiving host takes everything and counts its sessions.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.doubles.stores import PostgresServer, postgres_server
from tests.program.cluster import LIMIT, Cluster, judge, names
from tests.program.whole_agent import eventually

__all__ = ["postgres_server"]


@pytest.fixture
def cluster(postgres_server: PostgresServer, tmp_path: Path) -> Iterator[Cluster]:
    """About 300 messages in a second."""
    with Cluster(tmp_path, postgres_server.fresh(), dot_delay=(0.0, 0.05)) as found:
        yield found


@pytest.fixture
def slow(postgres_server: PostgresServer, tmp_path: Path) -> Iterator[Cluster]:
    """About 50 messages in a second, so that there is time to do something."""
    with Cluster(tmp_path, postgres_server.fresh(), dot_delay=(0.1, 0.2)) as found:
        yield found


def test_two_agents_share_the_work_and_the_limit_of_a_site(cluster: Cluster) -> None:
    cluster.start(0, 1)
    cluster.fill(names(600), domains=30)
    cluster.settled()
    judge(cluster, [])
    assert cluster.site.peak <= LIMIT
    assert len(cluster.by(0)) + len(cluster.by(1)) == 600
    assert min(len(cluster.by(0)), len(cluster.by(1))) > 50, "an agent had nothing to do"
    status = cluster.agents[0].run("--json", "status")
    shown = json.loads(status.stdout)["agents"]
    assert [one["pid"] for one in shown] == sorted(
        (process.pid for process in cluster.services), key=[o["pid"] for o in shown].index
    )
    cluster.stop()
    assert cluster.rows("SELECT count(*) FROM agent") == [(0,)]
    assert cluster.rows("SELECT count(*) FROM site_share") == [(0,)]
    assert cluster.owners() == {}


def test_an_agent_that_comes_later_gets_its_part(slow: Cluster) -> None:
    slow.start(0)
    slow.fill(names(400), domains=30)
    eventually(lambda: len(slow.arrived()) > 20, limit=40)
    slow.start(1)
    for more in range(20):
        # The first one owns all of these destinations; there is always enough for two.
        slow.fill(names(100, f"more{more}-"), domains=30)
        if len(slow.by(1)) > 20:
            break
        time.sleep(0.5)
    slow.settled()
    judge(slow, [])
    assert slow.site.peak <= LIMIT
    assert len(slow.by(1)) > 20
    slow.stop()


def test_a_drain_hands_everything_over(slow: Cluster) -> None:
    slow.start(0, 1)
    slow.fill(names(400), domains=30)
    eventually(lambda: len(slow.by(0)) > 30, limit=40)
    done = slow.agents[0].run("drain", "--wait")
    assert done.returncode == 0, done.stderr
    assert "Drained" in done.stdout
    # What waits is in the other one's hands now, and this one says so.
    waiting = "SELECT address FROM recipient WHERE due IS NOT NULL ORDER BY message_id DESC LIMIT 1"
    why = slow.agents[0].run("why", slow.rows(waiting)[0][0]).stdout
    assert f"(process {slow.services[1].pid}) has " in why or "BEING DELIVERED" in why, why
    before = len(slow.by(0))
    mine = "SELECT id FROM agent WHERE pid = %s"
    [(agent,)] = slow.rows(mine, slow.services[0].pid)
    assert agent not in slow.owners()
    slow.settled()
    assert len(slow.by(0)) == before
    eventually(lambda: not slow.rows("SELECT 1 FROM site_share WHERE agent = %s", agent))
    status = slow.agents[1].run("status").stdout
    assert "draining" in status
    judge(slow, [])
    slow.stop()


def test_a_pause_is_obeyed_by_every_agent(slow: Cluster) -> None:
    slow.start(0, 1)
    slow.fill(names(400), domains=2)
    eventually(lambda: len(slow.arrived()) > 20, limit=40)
    for number in range(2):
        agent = slow.agents[number % 2]
        done = agent.run("dest", "pause", f"d{number}.same.test", "--note", "their migration")
        assert done.returncode == 0, done.stderr
    time.sleep(1.0)  # what the manual says
    settled = slow.rows("SELECT count(*) FROM recipient WHERE finished IS NULL")[0][0]
    assert settled > 0, "the test was too slow"
    eventually(lambda: slow.owners() == {}, limit=10)
    before = len(slow.site.ledger.arrivals)
    time.sleep(0.5)
    assert len(slow.site.ledger.arrivals) == before
    for number in range(2):
        assert slow.agents[1].run("dest", "resume", f"d{number}.same.test").returncode == 0
    slow.settled()
    judge(slow, [])
    slow.stop()


def test_an_order_finds_what_another_agent_has_in_memory(slow: Cluster) -> None:
    slow.start(0, 1)
    slow.fill(names(400), domains=6)
    eventually(lambda: len(slow.by(0)) > 20 and len(slow.by(1)) > 20, limit=40)
    done = slow.agents[0].run("--json", "queue", "delete", "--all", "--yes")
    assert done.returncode in (0, 6), done.stderr
    told = json.loads(done.stdout)
    slow.settled()
    counts = dict(slow.rows("SELECT status, count(*) FROM recipient GROUP BY status"))
    assert counts["deleted"] == told["recipients"] > 0
    assert counts["delivered"] == 400 - told["recipients"]
    arrived = len(slow.arrived())
    assert arrived == counts["delivered"], "what was deleted was not delivered"
    slow.stop()


def test_two_agents_in_one_directory_are_refused(cluster: Cluster) -> None:
    cluster.start(0)
    second = cluster.agents[0].start()
    assert second.wait(30) != 0
    assert "keeps its journals in" in cluster.agents[0].log.read_text()
    assert cluster.services[0].poll() is None
