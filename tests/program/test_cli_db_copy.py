"""``dagent db copy``: the whole command, killed and run again, and what people are told."""

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import msgspec
import pytest

from deliveryagent.agent.journal import Journal
from deliveryagent.mail.delivery import RequestRecipient
from deliveryagent.queue import copy as copying
from deliveryagent.queue import leases
from deliveryagent.queue.engine import open_writer
from deliveryagent.queue.lock import QueueLock
from deliveryagent.queue.upgrade import ensure
from tests.agent.test_recovery import request_for
from tests.doubles.stores import PostgresServer, Store, outcome
from tests.doubles.stores import letter as submission
from tests.doubles.worker_double import delivered
from tests.program.whole_agent import ROOT, WholeAgent

CONFIGURATION = """
hostname = "agent.test"
run_dir = "{directory}/run"
[queue]
url = "sqlite:///{directory}/queue.sqlite3"
[[route]]
match = ["*"]
nexthop = "discard:"
"""
MESSAGES = 1200

Rows = dict[str, list[tuple[object, ...]]]


@pytest.fixture
def agent(tmp_path: Path) -> WholeAgent:
    """An agent whose queue has some thousand messages; a tenth was tried before."""
    (tmp_path / "run").mkdir()
    agent = WholeAgent(tmp_path, CONFIGURATION.format(directory=tmp_path))
    url = f"sqlite:///{tmp_path}/queue.sqlite3"
    engine = open_writer(url)
    ensure(engine)
    store, now = Store(url, engine), time.time()
    letters = [submission(f"r{n}@d{n % 50}.test", arrival=now) for n in range(MESSAGES)]
    store.add(*letters)
    store.settle(*(outcome(one) for one in letters[:200]))
    store.settle(*(outcome(one, "deferred", due=now) for one in letters[200:250]))
    store.do(leases.recover, leases.Recovery(alone=True))
    engine.dispose()
    return agent


def everything(url: str) -> Rows:
    """What is in the tables, except what belongs to one place."""
    engine = open_writer(url)
    with engine.connect() as connection:
        found: Rows = {
            table.name: sorted(tuple(row) for row in connection.execute(copying._kept(table)))
            for table in copying._ORDER
        }
    engine.dispose()
    return found


def killed_at(agent: WholeAgent, url: str, table: str) -> None:
    """Run the command and kill it as soon as it says that it is at this table."""
    command = agent._command("db", "copy", "--to", url)
    with subprocess.Popen(command, stderr=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.decode().startswith(table):
                break
        os.kill(process.pid, signal.SIGKILL)


def test_killed_and_run_again_it_moves_everything_once(
    agent: WholeAgent, postgres_server: PostgresServer
) -> None:
    url = postgres_server.fresh()
    before = everything(f"sqlite:///{agent.directory}/queue.sqlite3")
    tables = [table.name for table in copying._ORDER[:4]]
    for table in sorted(random.sample(tables, 2), key=tables.index):
        killed_at(agent, url, table)
        refused = agent.run("serve", "--until-idle")
        assert refused.returncode == 1
        assert "this queue is being copied to postgresql://" in refused.stderr
        refused = agent.run("--set", f"queue.url={url}", "serve", "--until-idle")
        assert "incomplete copy" in refused.stderr
    done = agent.run("db", "copy", "--to", url)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        "The queue is copied: 1 200 messages, 1 200 recipients; 1 000 recipients waiting.\n"
    )
    assert "start the service" in done.stderr
    assert everything(url) == before
    assert "was moved to postgresql://" in agent.run("serve", "--until-idle").stderr
    served = agent.run("--set", f"queue.url={url}", "serve", "--until-idle")
    assert served.returncode == 0, served.stderr
    done_now = [r for r in everything(url)["recipient"] if "delivered" in r]
    assert len(done_now) == MESSAGES
    assert agent.run("--set", f"queue.url={url}", "db", "check").returncode == 0


def test_a_running_service_has_to_be_stopped_first(agent: WholeAgent) -> None:
    with QueueLock(agent.directory / "queue.sqlite3"):
        refused = agent.run("db", "copy", "--to", f"sqlite:///{agent.directory}/other.sqlite3")
    assert refused.returncode == 75
    assert "Stop the service first" in refused.stderr
    assert not (agent.directory / "other.sqlite3").exists()


def test_what_dead_workers_knew_is_recorded_before(agent: WholeAgent) -> None:
    url = f"sqlite:///{agent.directory}/queue.sqlite3"
    other = f"sqlite:///{agent.directory}/other.sqlite3"
    engine = open_writer(url)
    store, identity = Store(url, engine), ensure(engine)
    ((message_id, address, attempts),) = store.rows(
        "SELECT message_id, address, attempts FROM recipient WHERE due IS NOT NULL LIMIT 1"
    )
    engine.dispose()
    path = agent.directory / "journal" / "w.journal"
    path.parent.mkdir()
    writing = Journal.create(path, identity, slots=4)
    request = msgspec.structs.replace(
        request_for(message_id),
        recipients=(RequestRecipient(1, address, attempts + 1),),
        domain=address.partition("@")[2],
    )
    slot = writing.start(request)
    assert slot is not None
    writing.replied(slot, delivered(request))
    writing.close()
    told = agent.run("--json", "db", "copy", "--to", other)
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)["rows"]["attempt"] == 251
    assert not list(path.parent.glob("*.journal"))


def test_it_can_be_given_up_and_asks_for_an_address(agent: WholeAgent) -> None:
    other = f"sqlite:///{agent.directory}/other.sqlite3"
    assert agent.run("db", "copy").returncode == 2
    assert agent.run("db", "copy", "--to", other, "--abandon").returncode == 2
    itself = agent.run("db", "copy", "--to", f"sqlite:///{agent.directory}/queue.sqlite3")
    assert itself.returncode == 2
    killed_at(agent, other, "message")
    assert agent.run("db", "copy", "--abandon").stderr == "the queue is open again\n"
    assert agent.run("serve", "--until-idle").returncode == 0
