"""The whole agent while its PostgreSQL fails: nothing is lost, and nothing at all comes twice.

No process of the agent is killed here, so there is no doubt it could be in: every outcome that its workers saw
is recorded as soon as the database is back.
"""

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import make_url, text

from deliveryagent import Client
from deliveryagent.lab.arrivals import Ledger
from deliveryagent.lab.receiver import Receiver
from deliveryagent.lab.session import HostSettings
from deliveryagent.mail.submission import Accepted
from deliveryagent.queue import submissions
from deliveryagent.queue.engine import open_writer
from deliveryagent.queue.single import execute
from tests.doubles.database_proxy import Cutter, Pooler
from tests.doubles.stores import PostgresServer, Store
from tests.doubles.stores import letter as submission
from tests.program.test_crash import CONFIGURATION, LIMIT, WORKERS, Feeder, Trial, judge
from tests.program.whole_agent import Background, WholeAgent, eventually, letter


@contextlib.contextmanager
def under_load(directory: Path, url: str, *, idle: bool = False) -> Iterator[Trial]:
    """An agent that delivers all the time, or idles; in the end everything was delivered once."""
    ledger = Ledger(clock=time.monotonic)
    settings = HostSettings(name="mx.fault.test", dot_delay=(0.0, 0.03))
    (directory / "run").mkdir()
    with Background(lambda: Receiver(settings, ledger=ledger)) as receiver:
        configuration = CONFIGURATION.format(
            directory=directory, url=url, workers=WORKERS, limit=LIMIT, port=receiver.port
        )
        with WholeAgent(directory, configuration) as agent:
            trial = Trial(agent, ledger, random.Random())
            trial.service = agent.start()
            agent.ready(trial.service)
            feeder = Feeder(directory / "run" / "deliveryagent.sock", ledger)
            feeding = threading.Thread(target=feeder.run)
            if idle:
                feeder.stop.set()
            feeding.start()
            try:
                yield trial
            finally:
                feeder.stop.set()
                feeding.join()
            trial.drain()
            judge(trial, feeder, victim="the database")
            assert feeder.accepted or idle
            assert agent.run("db", "check").returncode == 0


def delivers(trial: Trial) -> Callable[[], bool]:
    """Whether something arrived since now."""
    before = len(trial.ledger.arrivals)
    return lambda: len(trial.ledger.arrivals) > before + 20


def test_restarts_of_the_server_and_killed_backends(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    url = postgres_server.fresh()
    with under_load(tmp_path, url) as trial:
        for _ in range(2):
            eventually(delivers(trial), limit=40)
            postgres_server.restart()
            for _ in range(3):
                eventually(delivers(trial), limit=40)
                postgres_server.order(
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                    f"WHERE datname = '{make_url(url).database}'"
                )
        log = trial.agent.log.read_text()
    assert "store_failed" in log
    assert "store_recovered" in log


@pytest.mark.parametrize("when", [pytest.param("before", marks=pytest.mark.slow), "after"])
def test_connections_cut_at_their_commits(
    tmp_path: Path, postgres_server: PostgresServer, when: str
) -> None:
    with Cutter(postgres_server.fresh()) as cutter, under_load(tmp_path, cutter.url) as trial:
        for _ in range(4):
            eventually(delivers(trial), limit=40)
            done = cutter.cuts
            cutter.cut_at(b"COMMIT\0", when)  # type: ignore[arg-type]
            eventually(lambda: cutter.cuts > done, limit=40)  # noqa: B023 - used at once
        eventually(delivers(trial), limit=40)


def test_a_foreign_transaction_that_locks_every_table(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    url = postgres_server.fresh()
    with under_load(tmp_path, url) as trial:
        eventually(delivers(trial), limit=40)
        foreign = open_writer(f"{url}&application_name=nightly+report")
        with foreign.begin() as connection:
            connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
            connection.execute(text("LOCK TABLE recipient IN EXCLUSIVE MODE"))
            eventually(lambda: "nightly report" in trial.agent.log.read_text(), limit=40)
            assert trial.service is not None
            assert trial.service.poll() is None
        foreign.dispose()
        eventually(delivers(trial), limit=40)


def test_behind_a_pooler_everything_but_the_news_works(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    with (
        Pooler(postgres_server.fresh()) as pooler,
        under_load(tmp_path, pooler.url) as trial,
    ):
        eventually(delivers(trial), limit=40)
        eventually(lambda: "news_lost" in trial.agent.log.read_text(), limit=40)
        name = put_beside(pooler.url, "beside")
        eventually(lambda: name in arrived(trial), limit=40)


def test_mail_put_into_the_queue_beside_the_agent_is_delivered_at_once(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    url = postgres_server.fresh()
    with under_load(tmp_path, url, idle=True) as trial:
        taken = []
        for place in range(3):
            put = time.monotonic()
            name = put_beside(url, f"beside{place}")
            eventually(lambda: name in arrived(trial), limit=40)  # noqa: B023 - used at once
            taken.append(time.monotonic() - put)
        assert min(taken) < 5, "sooner than by looking again from time to time"


def arrived(trial: Trial) -> set[str]:
    return {arrival.message_id for arrival in trial.ledger.arrivals}


def put_beside(url: str, name: str) -> str:
    """A message that no agent was handed, it is just committed; returns its Message-ID."""
    engine = open_writer(url)
    content = letter(f"{name}@fault.test")
    message = submission(f"{name}@beside.test", content=content, arrival=time.time())
    assert execute(engine, submissions.add, [message]) == [Accepted(message.queue_id)]
    engine.dispose()
    return f"<{name}@fault.test>"


def test_the_client_writes_to_the_database_where_no_service_runs(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    url = postgres_server.fresh()
    (tmp_path / "run").mkdir()
    configuration = CONFIGURATION.format(
        directory=tmp_path, url=url, workers=WORKERS, limit=LIMIT, port=9
    )
    agent = WholeAgent(tmp_path, configuration)
    with Client(config=agent.config, patience=1) as client:
        queue_id = client.enqueue("s@home.test", ["r@away.test"], letter("direct@fault.test"))
    engine = open_writer(url)
    assert Store(url, engine).value("SELECT count(*) FROM message") == 1
    engine.dispose()
    assert queue_id in agent.messages()
