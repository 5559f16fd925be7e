"""Who may log in: as the file says at this moment, in bounded time and memory."""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from deliveryagent.intake import passwords, users_file
from deliveryagent.intake.accounts import Accounts, LoginUnavailable
from deliveryagent.intake.passwords import PasswordHash
from deliveryagent.intake.users_file import Account
from deliveryagent.protocol import scram


def put(path: Path, name: str, password: str = "pencil", **more: object) -> Account:
    account = Account(
        name=name,
        password=passwords.hashed(password, log_n=4),
        scram=scram.derive(password, b"0123456789abcdef", 100),
        **more,  # type: ignore[arg-type]  # any of the fields
    )
    with users_file.editing(path) as users:
        users.put(account)
    return account


def set_mode(path: Path, mode: int) -> None:
    path.chmod(mode)


def remove(path: Path) -> None:
    path.unlink()


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    put(tmp_path / "users", "kim")
    return tmp_path / "users"


@pytest.fixture
def hashes(monkeypatch: pytest.MonkeyPatch) -> list[PasswordHash]:
    """What was really hashed against."""
    done: list[PasswordHash] = []
    fits = PasswordHash.fits

    def counted(self: PasswordHash, password: str) -> bool:
        done.append(self)
        return fits(self, password)

    monkeypatch.setattr(PasswordHash, "fits", counted)
    return done


@asynccontextmanager
async def opened(path: Path, **options: object) -> AsyncIterator[Accounts]:
    accounts = Accounts(path, **options)  # type: ignore[arg-type]  # as given by the tests
    try:
        yield accounts
    finally:
        accounts.close()


def play(path: Path, action: Callable[[Accounts], Awaitable[None]], **options: object) -> None:
    async def main() -> None:
        async with opened(path, **options) as accounts:
            await action(accounts)

    asyncio.run(main())


def test_a_name_and_its_password_fit_and_nothing_else_does(path: Path) -> None:
    put(path, "alex", "another", disabled=True)

    async def action(accounts: Accounts) -> None:
        assert accounts.load() == 2
        assert await accounts.check_password("kim", "pencil") == "kim"
        assert await accounts.check_password("kim", "pencils") is None
        assert await accounts.check_password("Kim", "pencil") is None
        assert await accounts.check_password("nobody", "pencil") is None
        assert await accounts.check_password("alex", "another") is None, "it is disabled"

    play(path, action)


def test_every_refusal_costs_one_hash_as_dear_as_any(
    path: Path, hashes: list[PasswordHash]
) -> None:
    put(path, "alex", "another", disabled=True)

    async def action(accounts: Accounts) -> None:
        for user in ("kim", "nobody", "alex"):
            assert await accounts.check_password(user, "wrong") is None
        assert await accounts.check_password("alex", "another") is None

    play(path, action)
    assert len(hashes) == 4
    assert {(one.log_n, one.blocks, one.lanes) for one in hashes} == {(4, 8, 1)}


def test_a_login_that_succeeded_is_known_again_for_some_time(
    path: Path, hashes: list[PasswordHash]
) -> None:
    now = 1000.0

    async def action(accounts: Accounts) -> None:
        nonlocal now
        for _ in range(5):
            assert await accounts.check_password("kim", "pencil") == "kim"
        assert len(hashes) == 1
        assert await accounts.check_password("kim", "pencils") is None
        assert len(hashes) == 2
        now += 601
        assert await accounts.check_password("kim", "pencil") == "kim"
        assert len(hashes) == 3

    play(path, action, clock=lambda: now)


def test_the_same_question_asked_at_once_by_many_is_answered_once(
    path: Path, hashes: list[PasswordHash]
) -> None:
    async def action(accounts: Accounts) -> None:
        asked = [accounts.check_password("kim", "pencil") for _ in range(50)]
        assert set(await asyncio.gather(*asked)) == {"kim"}

    play(path, action)
    assert len(hashes) == 1


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Hashing takes until the event is set."""
    free = threading.Event()
    fits = PasswordHash.fits

    def slow(self: PasswordHash, password: str) -> bool:
        assert free.wait(60)
        return fits(self, password)

    monkeypatch.setattr(PasswordHash, "fits", slow)
    yield free
    free.set()


def test_too_many_at_once_are_told_to_come_again(path: Path, stuck: threading.Event) -> None:
    async def action(accounts: Accounts) -> None:
        waiting = [
            asyncio.ensure_future(accounts.check_password("kim", f"wrong{number}"))
            for number in range(4)
        ]
        await asyncio.sleep(0)
        with pytest.raises(LoginUnavailable, match="too many"):
            await accounts.check_password("kim", "pencil")
        stuck.set()
        assert await asyncio.gather(*waiting) == [None] * 4
        assert await accounts.check_password("kim", "pencil") == "kim"

    play(path, action, threads=1, waiting=3)


def test_who_stops_waiting_takes_nobody_else_along(path: Path, stuck: threading.Event) -> None:
    async def action(accounts: Accounts) -> None:
        one, other = (
            asyncio.ensure_future(accounts.check_password("kim", "pencil")) for _ in range(2)
        )
        await asyncio.sleep(0)
        one.cancel()
        await asyncio.sleep(0)
        stuck.set()
        assert await other == "kim"

    play(path, action)


def test_a_change_of_the_file_holds_from_the_next_question_on(path: Path) -> None:
    async def action(accounts: Accounts) -> None:
        assert await accounts.check_password("kim", "pencil") == "kim"
        put(path, "kim", "crayon")
        assert await accounts.check_password("kim", "pencil") is None
        assert await accounts.check_password("kim", "crayon") == "kim"
        assert await accounts.check_password("alex", "another") is None
        put(path, "alex", "another")
        assert await accounts.check_password("alex", "another") == "alex"
        put(path, "kim", "crayon", disabled=True)
        assert await accounts.check_password("kim", "crayon") is None
        assert not accounts.may_send_as("kim", "kim@example.org")
        with users_file.editing(path) as users:
            users.remove("alex")
        assert await accounts.check_password("alex", "another") is None

    play(path, action)


def test_an_account_changed_while_its_password_is_checked_is_not_let_in(
    path: Path, stuck: threading.Event
) -> None:
    async def action(accounts: Accounts) -> None:
        checked = asyncio.ensure_future(accounts.check_password("kim", "pencil"))
        await asyncio.sleep(0)
        put(path, "kim", "crayon")
        accounts.load()
        stuck.set()
        assert await checked is None

    play(path, action)


def test_a_file_that_cannot_be_used_lets_nobody_in_and_says_why(path: Path) -> None:
    async def action(accounts: Accounts) -> None:
        assert await accounts.check_password("kim", "pencil") == "kim"
        set_mode(path, 0o644)
        for _ in range(2):
            with pytest.raises(LoginUnavailable, match="open to others"):
                await accounts.check_password("kim", "pencil")
        with pytest.raises(LoginUnavailable):
            accounts.scram("kim")
        set_mode(path, 0o640)
        assert await accounts.check_password("kim", "pencil") == "kim"
        append(path, "nonsense\n")
        with pytest.raises(LoginUnavailable, match="line 4: nonsense has no password"):
            await accounts.check_password("kim", "pencil")
        remove(path)
        with pytest.raises(LoginUnavailable, match="No such file"):
            accounts.load()
        put(path, "kim")
        assert await accounts.check_password("kim", "pencil") == "kim"

    play(path, action)


def test_strangers_have_a_verifier_that_stays_the_same_also_after_a_restart(path: Path) -> None:
    found: list[scram.ScramVerifier] = []

    async def action(accounts: Accounts) -> None:
        real, stranger = accounts.scram("kim"), accounts.scram("nobody")
        assert real == scram.derive("pencil", b"0123456789abcdef", 100)
        assert stranger.iterations == real.iterations
        assert len(stranger.salt) == len(real.salt)
        assert accounts.scram("somebody").salt != stranger.salt
        found.append(stranger)

    play(path, action)
    play(path, action)
    assert found[0] == found[1]


def test_a_disabled_account_keeps_its_salt_but_no_password_fits(path: Path) -> None:
    account = put(path, "alex", "another", disabled=True)

    async def action(accounts: Accounts) -> None:
        shown = accounts.scram("alex")
        assert (shown.salt, shown.iterations) == (account.scram.salt, account.scram.iterations)
        assert shown.stored_key != account.scram.stored_key
        assert shown.server_key != account.scram.server_key

    play(path, action)


def test_only_accounts_that_asked_for_it_have_a_cram_secret(path: Path) -> None:
    put(path, "old", "pencil", cram=b"pencil")
    put(path, "gone", "pencil", cram=b"pencil", disabled=True)

    async def action(accounts: Accounts) -> None:
        assert accounts.cram_secret("old") == b"pencil"
        assert [accounts.cram_secret(name) for name in ("kim", "gone", "nobody")] == [None] * 3

    play(path, action)


def test_each_account_has_its_own_senders(path: Path) -> None:
    put(path, "shop", senders=("shop@example.org",))

    async def action(accounts: Accounts) -> None:
        assert accounts.may_send_as("shop", "shop@example.org")
        assert accounts.may_send_as("shop", "")
        assert not accounts.may_send_as("shop", "kim@example.org")
        assert accounts.may_send_as("kim", "whoever@example.org")
        assert not accounts.may_send_as("nobody", "kim@example.org")

    play(path, action)


def test_ten_thousand_wrong_passwords_leave_nothing_behind(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PasswordHash, "fits", lambda _, password: password == "pencil")

    async def action(accounts: Accounts) -> None:
        for number in range(10_000):
            assert await accounts.check_password(f"user{number}", "wrong") is None
        assert not accounts._running
        assert not accounts._known._ends
        assert await accounts.check_password("kim", "pencil") == "kim"

    play(path, action)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to others")
def test_a_changed_file_belongs_to_whom_it_belonged(path: Path) -> None:
    os.chown(path, 12345, 23456)
    put(path, "alex")
    assert (path.stat().st_uid, path.stat().st_gid) == (12345, 23456)
