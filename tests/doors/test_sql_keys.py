"""One idempotency key on every door: whichever is used, the same message under the same key is one message."""

from pathlib import Path

import psycopg
import pytest

from deliveryagent import Client, EnqueueError, enqueue
from tests.doors.test_enqueue_docs import CONFIGURATION
from tests.doubles.stores import Store
from tests.program.whole_agent import WholeAgent

TO = ["kim@example.net", "lee@example.com"]
SENDER = "shop@example.org"
LETTER = b"Subject: x\n\nhello\n"


def test_a_key_is_known_on_every_door(postgres_store: Store, tmp_path: Path) -> None:
    text = CONFIGURATION.format(directory=tmp_path, url=postgres_store.url)
    found: dict[str, str] = {}

    def sql(door: str, key: str) -> None:
        with psycopg.connect(postgres_store.url) as connection:
            if door == "python in a transaction":
                found[door] = enqueue(connection, LETTER, sender=SENDER, recipients=TO, key=key)
                return
            call = "SELECT deliveryagent.enqueue(%s, %s, %s::bytea, key => %s)"
            row = connection.execute(call, (SENDER, TO, LETTER, key)).fetchone()
            assert row is not None
            found[door] = row[0]

    with WholeAgent(tmp_path, text) as agent:
        with agent.serving():
            done = agent.run("send", "--key", "k", "-f", SENDER, *TO, text=LETTER)
            found["dagent send"] = done.stdout.strip()
            with Client(config=agent.config) as client:
                found["client"] = client.enqueue(SENDER, TO, LETTER, key="k")
                one = (SENDER, TO, LETTER, {"key": "k"})
                many = client.enqueue_many([one, (SENDER, TO, LETTER, {"key": "k2"}), one])
                found["client, many"], found["client, many again"] = many[0], many[2]
                assert many[1] != many[0]
                with pytest.raises(EnqueueError, match="another message"):
                    client.enqueue_many([(SENDER, TO, b"other: x\n", {"key": "k"})])
            sql("sql", "k")
            sql("python in a transaction", "k")
        with Client(config=agent.config) as client:
            found["client without a service"] = client.enqueue(SENDER, TO, LETTER, key="k")
    assert len(found) == 7
    assert len(set(found.values())) == 1, found
    assert postgres_store.value("SELECT count(*) FROM message") == 2
