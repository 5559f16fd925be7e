"""The examples of docs/hooks.md do what the page says."""

import asyncio
import inspect
import re
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deliveryagent.intake.hook import STAGES
from deliveryagent.intake.hook_loading import load_hook
from deliveryagent.intake.hooks import Hooks
from deliveryagent.mail.verdict import Accept, Decision, Hold, Reject, Tempfail
from deliveryagent.protocol.milter import VERSION, Action, Command, Step, Terms
from deliveryagent.protocol.milter_macros import names_for
from deliveryagent.protocol.sasl import CheckPassword, CheckToken
from deliveryagent.protocol.session import Client, Recipient, Session
from tests.doors.milters import begin, session

PAGE = (Path(__file__).parents[2] / "docs" / "hooks.md").read_text("utf-8")


@pytest.fixture(autouse=True)
def examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module with all examples, which can be imported, beside a table of customers."""
    source = "\n\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
    (tmp_path / "shop_examples.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("shop_examples", None)


async def ask(name: str, stage: str, where: Session, *given: object) -> Decision | None:
    """The opinion of one of the examples."""

    def trouble(hook: str, stage: str, error: BaseException) -> None:
        raise AssertionError((hook, stage)) from error

    hooks = Hooks([(name, load_hook(f"shop_examples:{name}"))], limit=20, trouble=trouble)
    answer = hooks.ask(stage, where, *given)
    return await answer if inspect.isawaitable(answer) else answer


def test_the_function_marks_messages_and_asks_for_a_subject() -> None:
    where = session(user="kim")
    message = begin(where, "lee@example.net")
    assert asyncio.run(ask("mark", "message", where, message)) is None
    assert message.header("X-Shop-User") == "kim"
    bare = begin(where, "lee@example.net", raw=b"From: kim@example.org\r\n\r\n")
    verdict = asyncio.run(ask("mark", "message", where, bare))
    assert verdict == Reject(code=550, enhanced="5.6.0", text="A subject, please")


def test_the_rules_apply_at_their_stages() -> None:
    async def main() -> None:
        stranger = session(client=Client(address="203.0.113.9"))
        refused = await ask("Rules", "connect", stranger)
        assert refused == Reject(code=554, text="Not from there", close=True)
        where = session()
        assert await ask("Rules", "connect", where) is None
        orders = Recipient(address="orders@shop.example")
        rewritten = await ask("Rules", "rcpt", where, orders)
        assert rewritten == Accept(address="orders+today@shop.example")
        large = begin(where, "lee@example.net", raw=b"A: b\r\n\r\n" + b"x\r\n" * 4_000_000)
        for _ in range(100):
            assert await ask("Rules", "mail", where, large.transaction) is None
        assert isinstance(await ask("Rules", "mail", where, large.transaction), Tempfail)
        assert await ask("Rules", "message", where, large) == Hold()
        assert large.tags == {"shop": "yes"}

    asyncio.run(main())


def test_the_coroutine_asks_another_service() -> None:
    async def stock(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        known = (await reader.readline()).startswith(b"lee@")
        writer.write(b"known\n" if known else b"unknown\n")
        writer.close()

    async def main() -> None:
        try:
            server = await asyncio.start_server(stock, "127.0.0.1", 7777)
        except OSError:
            pytest.skip("port 7777 is in use")
        async with server:
            lee, ann = (Recipient(address=f"{name}@example.net") for name in ("lee", "ann"))
            assert await ask("Stock", "rcpt", session(), lee) is None
            verdict = await ask("Stock", "rcpt", session(), ann)
            assert verdict == Reject(code=550, enhanced="5.1.1", text="Nobody of that name")
            await asyncio.sleep(0)

    asyncio.run(main())


def test_customers_log_in(tmp_path: Path) -> None:
    table = sqlite3.connect(tmp_path / "customers.db")
    table.execute("CREATE TABLE customer (login TEXT, password TEXT, name TEXT)")
    table.execute("INSERT INTO customer VALUES ('kim@shop', 'secret', 'kim')")
    table.commit()
    table.close()

    async def main() -> None:
        where = session()
        for asked, verdict in (
            (CheckPassword("kim@shop", "secret"), Accept(user="kim")),
            (CheckPassword("kim@shop", "wrong"), Reject()),
            (CheckToken("kim@shop", "token"), None),
        ):
            assert await ask("Customers", "auth", where, "PLAIN", asked) == verdict

    asyncio.run(main())


def test_the_mapping_decides_on_recipients() -> None:
    where = session(kind="lmtp")
    message = begin(where, "kim@shop.example", "lee@shop.example")
    assert asyncio.run(ask("quota", "message", where, message)) is None
    assert list(message.refused) == ["kim@shop.example"]


def test_the_greeting_is_another_one() -> None:
    verdict = asyncio.run(ask("Greeting", "connect", session()))
    assert verdict == Accept(text="shop.example at your service")


def test_the_page_names_every_stage_and_every_macro() -> None:
    assert set(re.findall(r"^\| `([a-z]+)` \|", PAGE, re.MULTILINE)) == STAGES
    usual = Terms(VERSION, Action(0), Step(0), {})
    for command, title in (
        (Command.CONNECT, "CONNECT"),
        (Command.HELO, "HELO"),
        (Command.MAIL, "MAIL"),
        (Command.RCPT, "RCPT"),
    ):
        line = re.search(rf"^\| {title} \| (.*) \|$", PAGE, re.MULTILINE)
        assert line is not None
        assert tuple(re.findall(r"`([^`]+)`", line[1])) == names_for(command, usual)
