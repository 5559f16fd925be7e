"""The examples of docs/enqueue-in-sql.md run, and what they enqueue is delivered."""

import contextlib
import io
import re
from pathlib import Path

import psycopg

from tests.doubles.sql_door import note_terms, usual_terms
from tests.doubles.stores import Store
from tests.program.whole_agent import WholeAgent, eventually

PAGE = Path(__file__).parents[2] / "docs" / "enqueue-in-sql.md"
BLOCK = re.compile(r"```(sql|python)\n(.*?)```", re.DOTALL)
SHOP = re.compile(r'"(postgresql(?:\+psycopg)?)://shop@localhost/shop"')

CONFIGURATION = """
hostname = "agent.test"
run_dir = "{directory}/run"
[queue]
url = "{url}"
[[route]]
match = ["*"]
nexthop = "discard:"
"""


def as_shop(url: str) -> str:
    """The address of the database for the user of the examples."""
    return url.replace("postgres:@", "shop:@")


def test_the_examples_run_as_they_stand(postgres_store: Store) -> None:
    note_terms(postgres_store, usual_terms())
    postgres_store.force("DROP ROLE IF EXISTS shop")
    postgres_store.force("CREATE ROLE shop LOGIN")
    postgres_store.force("GRANT CREATE ON SCHEMA public TO shop")
    blocks = BLOCK.findall(PAGE.read_text("utf-8"))
    assert [kind for kind, _ in blocks] == ["sql"] * 5 + ["python"] * 4
    names: dict[str, object] = {}
    said = io.StringIO()
    for number, (kind, source) in enumerate(blocks):
        if kind == "sql":
            url = postgres_store.url if number == 0 else as_shop(postgres_store.url)
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute(source)
        else:
            there = as_shop(postgres_store.url).partition("://")[2]
            with contextlib.redirect_stdout(said):
                exec(SHOP.sub(rf'"\1://{there}"', source), names)
    names["engine"].dispose()  # type: ignore[attr-defined]
    assert said.getvalue().startswith("65 the message contains a NUL")
    found = postgres_store.rows(
        "SELECT address, origin, not_before > 0 FROM recipient JOIN message ON id = message_id "
        "ORDER BY message_id, number"
    )
    assert found == [
        ("kim@example.net", "sql=shop", False),
        ("kim@example.net", "sql=shop", True),
        ("lee@example.com", "sql=shop", True),
        ("lee@example.com", "sql=shop", False),
        ("kim@example.net", "sql=shop", False),
        ("lee@example.com", "sql=shop", False),
        ("kim@example.net", "sql=shop", False),
    ]
    assert postgres_store.value("SELECT count(*) FROM invoices") == 2
    assert len(postgres_store.value("SELECT mail FROM orders WHERE id = 4712")) == 13


def states(store: Store) -> list[str]:
    return [row[0] for row in store.rows("SELECT status FROM recipient ORDER BY message_id")]


def test_what_is_committed_is_delivered_by_agents_that_start_later_or_run(
    postgres_store: Store, tmp_path: Path
) -> None:
    text = CONFIGURATION.format(directory=tmp_path, url=postgres_store.url)
    call = "SELECT deliveryagent.enqueue('', ARRAY['kim@example.net'], E'Subject: x\n\nhello\n')"
    with WholeAgent(tmp_path, text) as agent:
        assert agent.run("db", "migrate").returncode == 0
        postgres_store.force(call)
        assert states(postgres_store) == ["queued"]
        with agent.serving():
            eventually(lambda: states(postgres_store) == ["delivered"], limit=60)
            postgres_store.force(call)
            eventually(lambda: states(postgres_store) == ["delivered"] * 2, limit=60)
        done = agent.run("db", "check")
        assert done.returncode == 0, done.stdout + done.stderr
    assert postgres_store.value("SELECT hostname FROM deliveryagent.terms") == "agent.test"
