"""Logins at a listener: hooks and the users file answer, guesses are slowed and limited."""

import asyncio
import resource
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from deliveryagent.intake import passwords, users_file
from deliveryagent.intake.accounts import Accounts
from deliveryagent.intake.hooks import Hooks
from deliveryagent.intake.logins import ListenerLogins
from deliveryagent.intake.passwords import PasswordHash
from deliveryagent.intake.users_file import Account
from deliveryagent.mail.verdict import Accept, Decision, Reject, Tempfail
from deliveryagent.policy.guessing import Guesses, GuessLimits
from deliveryagent.protocol import scram
from deliveryagent.protocol.sasl import CheckPassword, CheckToken, CramSecret, ScramKeys
from deliveryagent.protocol.session import Client, Session

KIM = CheckPassword("kim", "pencil")
WRONG = CheckPassword("kim", "crayon")


class Front:
    """The logins of one listener, and what was told about them."""

    def __init__(
        self, path: Path | None, hook: object = None, limits: GuessLimits | None = None
    ) -> None:
        self.now = 1000.0
        self.told: list[tuple[str, Mapping[str, Any]]] = []
        self.troubles: list[BaseException] = []
        self.accounts = None if path is None else Accounts(path)
        hooks = Hooks(
            [] if hook is None else [("hook", hook)],
            limit=30.0,
            trouble=lambda _name, _stage, error: self.troubles.append(error),
        )
        self.guesses = Guesses(limits)
        self.logins = ListenerLogins(
            self.accounts,
            hooks,
            self.guesses,
            clock=lambda: self.now,
            secret=b"secret",
            tell=lambda event, facts: self.told.append((event, facts)),
        )

    def run(self, action: Callable[[], Awaitable[None]]) -> None:
        async def main() -> None:
            await action()

        try:
            asyncio.run(main())
        finally:
            if self.accounts is not None:
                self.accounts.close()


def session(address: str = "192.0.2.1") -> Session:
    return Session(kind="submission", client=Client(address=address), hostname="mx.example.org")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with users_file.editing(tmp_path / "users") as users:
        users.put(
            Account(
                name="kim",
                password=passwords.hashed("pencil", log_n=4),
                scram=scram.derive("pencil", b"0123456789abcdef", 100),
                cram=b"pencil",
            )
        )
    return tmp_path / "users"


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The passwords that were really looked at; looking is cheap."""
    seen: list[str] = []

    def fits(_: PasswordHash, password: str) -> bool:
        seen.append(password)
        return password == "pencil"

    monkeypatch.setattr(PasswordHash, "fits", fits)
    return seen


def test_every_question_is_answered_from_the_file(path: Path) -> None:
    front = Front(path)

    async def action() -> None:
        assert await front.logins.answer(session(), KIM) == "kim"
        assert await front.logins.answer(session(), WRONG) is None
        assert await front.logins.answer(session(), CramSecret("kim")) == b"pencil"
        keys = await front.logins.answer(session(), ScramKeys("kim"))
        assert keys == scram.derive("pencil", b"0123456789abcdef", 100)
        assert await front.logins.answer(session(), CheckToken("kim", "pencil")) is None

    front.run(action)


def test_without_a_file_nobody_is_known_and_that_does_not_show() -> None:
    front = Front(None)

    async def action() -> None:
        assert await front.logins.answer(session(), KIM) is None
        assert await front.logins.answer(session(), CramSecret("kim")) is None
        first, again = [await front.logins.answer(session(), ScramKeys("kim")) for _ in range(2)]
        assert first == again == scram.made_up("kim", b"secret")

    front.run(action)


class Tokens:
    """A hook that knows a token, and somebody it will not have."""

    async def auth(
        self, _session: Session, _mechanism: str, asked: CheckPassword | CheckToken
    ) -> Decision | None:
        if asked.user == "banned":
            return Reject()
        if asked.user == "later":
            return Tempfail(code=454, enhanced="4.7.0", text="The directory is away")
        if isinstance(asked, CheckToken) and asked.token == "good":
            return Accept(user="kim@example.org")
        return None


def test_hooks_are_asked_before_the_file(path: Path) -> None:
    front = Front(path, Tokens())

    async def action() -> None:
        def answer(question: object) -> Awaitable[Any]:
            return front.logins.answer(session(), question)  # type: ignore[arg-type]

        assert await answer(CheckToken("kim", "good")) == "kim@example.org"
        assert await answer(CheckToken("", "good")) == "kim@example.org"
        assert await answer(CheckToken("kim", "bad")) is None
        assert await answer(CheckPassword("banned", "pencil")) is None
        assert (await answer(CheckPassword("later", "pencil"))).text == "The directory is away"
        assert await answer(KIM) == "kim"

    front.run(action)
    assert not front.troubles


def test_a_file_that_cannot_be_used_is_a_temporary_answer_and_told(path: Path) -> None:
    path.chmod(0o644)
    front = Front(path)

    async def action() -> None:
        for question in (KIM, ScramKeys("kim"), CramSecret("kim")):
            answer = await front.logins.answer(session(), question)
            assert (answer.code, answer.enhanced) == (454, "4.7.0")

    front.run(action)
    assert "open to others" in front.told[0][1]["reason"]
    assert "pencil" not in str(front.told)


def test_who_guessed_too_often_is_not_looked_at_any_more(path: Path, looked_at: list[str]) -> None:
    front = Front(path)
    delays = []

    async def action() -> None:
        for _ in range(10):
            assert front.logins.attempt(session()) is None
            assert await front.logins.answer(session(), WRONG) is None
            delays.append(front.logins.failed(session(), "kim"))
        barred = front.logins.attempt(session())
        assert barred is not None
        assert (barred.code, barred.enhanced) == (454, "4.7.0")
        assert await front.logins.answer(session(), KIM) == barred
        assert front.logins.attempt(session("192.0.2.2")) is None, "others may"
        front.now += 1800
        assert front.logins.attempt(session()) is None

    front.run(action)
    assert delays == [1, 2, 4, 8, 16, 30, 30, 30, 30, 30]
    assert looked_at == ["crayon"] * 10
    assert all("crayon" not in str(told) for told in front.told)


def test_who_logged_in_from_here_before_is_let_in_while_others_guess(path: Path) -> None:
    front = Front(path)

    async def action() -> None:
        assert await front.logins.answer(session(), KIM) == "kim"
        front.logins.succeeded(session(), "kim")
        for _ in range(20):
            front.logins.failed(session(), "alex")
        assert front.logins.attempt(session()) is None
        assert await front.logins.answer(session(), KIM) == "kim"
        barred = await front.logins.answer(session(), CheckPassword("alex", "pencil"))
        assert isinstance(barred, Tempfail)

    front.run(action)


def test_a_name_guessed_at_from_everywhere_is_looked_at_later(path: Path) -> None:
    front = Front(path, limits=GuessLimits(sleep=0.01))

    async def action() -> None:
        for number in range(20):
            front.logins.failed(session(f"10.0.0.{number}"), "kim")
        loop = asyncio.get_running_loop()
        begun = loop.time()
        assert await front.logins.answer(session(), KIM) == "kim"
        assert loop.time() - begun >= 0.015, "it waited, and was let in"

    front.run(action)


def test_ten_thousand_guesses_cost_few_hashes_and_little_memory(
    path: Path, looked_at: list[str]
) -> None:
    front = Front(path, limits=GuessLimits(sleep=0.0))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    async def action() -> None:
        for number in range(10_000):
            client = session(f"10.0.0.{number % 20}")
            if front.logins.attempt(client) is None:
                user = f"user{number % 500}"
                assert await front.logins.answer(client, CheckPassword(user, "wrong")) is None
                front.logins.failed(client, user)
        assert await front.logins.answer(session(), KIM) == "kim", "from elsewhere, all is well"

    front.run(action)
    assert len(looked_at) == 20 * 10 + 1
    assert len(front.guesses) <= 20 + 500
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 50_000, "KiB"
