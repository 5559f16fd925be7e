"""The file of accounts: what it says, who may read it, and that no change is lost."""

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deliveryagent.intake import passwords, users_file
from deliveryagent.intake.users_file import Account, Users, UsersFileError
from deliveryagent.protocol import scram

PASSWORD = passwords.hashed("pencil", log_n=4)
SCRAM = scram.derive("pencil", b"salt", 10)
WORDS = f"password={PASSWORD.text} scram={SCRAM.text}"


def account(name: str, *senders: str, cram: bytes = b"", disabled: bool = False) -> Account:
    return Account(
        name=name, password=PASSWORD, scram=SCRAM, cram=cram, senders=senders, disabled=disabled
    )


def test_what_is_written_is_read_again_with_comments_in_their_place() -> None:
    text = (
        ":secret=c2VjcmV0\n# people\n"
        f"kim {WORDS} sender=kim@example.org sender=@lists.example.org\n\n"
        f"# programs\nshop {WORDS} cram-md5=cGVuY2ls disabled\n"
    )
    users = users_file.read(text)
    assert users.secret == b"secret"
    assert users.accounts() == {
        "kim": account("kim", "kim@example.org", "@lists.example.org"),
        "shop": account("shop", cram=b"pencil", disabled=True),
    }
    assert users.text == text


names = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x24F), min_size=1, max_size=30)


@settings(max_examples=50)
@given(st.lists(names, max_size=5), st.booleans(), st.binary(max_size=20))
def test_whatever_name_an_account_may_have_it_is_found_again(
    given_: list[str], disabled: bool, cram: bytes
) -> None:
    users = Users(secret=b"secret")
    for word in given_:
        try:
            name = users_file.account_name(word)
        except UsersFileError:
            continue
        users.put(account(name, "kim@example.org", cram=cram, disabled=disabled))
    assert users_file.read(users.text) == users


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("kim", "no password="),
        (f"kim password={PASSWORD.text}", "no scram="),
        (f"kim {WORDS} disabeld", "not understood"),
        (f"kim {WORDS} disabled=no", "not understood"),
        (f"kim {WORDS} sender=nobody", 'neither an address nor "@domain"'),
        (f"kim {WORDS} {WORDS}", "not understood"),
        ("kim password=secret scram=secret", "not a scrypt hash"),
        (f"kim password={PASSWORD.text} scram=secret", "not a SCRAM-SHA-256 verifier"),
        (
            f"kim password={PASSWORD.text.replace('ln=4', 'ln=40')} scram={SCRAM.text}",
            "out of bounds",
        ),
        (f"alex {WORDS}", "alex is there twice"),
        (":secret=!", "line 2"),
    ],
)
def test_a_line_that_is_not_understood_is_an_error_and_tells_no_secret(
    line: str, complaint: str
) -> None:
    with pytest.raises(UsersFileError, match="line 2: ") as error:
        users_file.read(f"alex {WORDS}\n{line}\n")
    assert complaint in str(error.value)
    assert scram.encode(PASSWORD.digest) not in str(error.value)


def test_lines_known_from_before_are_not_read_again() -> None:
    before = users_file.read(f"kim {WORDS}\nalex {WORDS}\n")
    after = users_file.read(f"alex {WORDS}\nkim {WORDS} disabled\n", before.lines)
    assert after.accounts()["alex"] is before.accounts()["alex"]
    assert after.accounts()["kim"] == account("kim", disabled=True)
    with pytest.raises(UsersFileError, match="line 2: kim is there twice"):
        users_file.read(f"kim {WORDS}\nkim {WORDS}\n", before.lines)


@pytest.mark.parametrize("name", ["", "a b", "#kim", ":kim", "--kim", "k\x07m", "k" * 256, "🦀"])
def test_what_cannot_be_a_name_is_refused(name: str) -> None:
    with pytest.raises(UsersFileError):
        users_file.account_name(name)


def test_senders_are_compared_as_they_are_delivered() -> None:
    kim = account("kim", users_file.sender("Kim@Example.ORG"), users_file.sender("@Bücher.example"))
    assert kim.senders == ("kim@example.org", "@xn--bcher-kva.example")
    assert kim.may_send_as("KIM@example.org")
    assert kim.may_send_as("anyone@xn--bcher-kva.example")
    assert kim.may_send_as(""), "the null sender is everybody's"
    assert not kim.may_send_as("kim@sub.xn--bcher-kva.example")
    assert not kim.may_send_as("kim@example.org.example.net")
    assert not kim.may_send_as("other@example.org")
    assert account("alex").may_send_as("other@example.org")


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o400, 0o440])
def test_a_file_for_its_owner_and_group_is_used(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "users"
    path.write_text(f"kim {WORDS}\n")
    path.chmod(mode)
    assert list(users_file.load(path).accounts()) == ["kim"]


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o604, 0o602, 0o641])
def test_a_file_open_to_others_is_not_used(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "users"
    path.write_text(f"kim {WORDS}\n")
    path.chmod(mode)
    with pytest.raises(UsersFileError, match=r"open to others \(mode 0") as error:
        users_file.load(path)
    assert error.value.hint == f"chmod 0640 {path}"


def test_what_is_no_text_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "users"
    path.write_bytes(b"\xff\xfe")
    path.chmod(0o600)
    with pytest.raises(UsersFileError, match="UTF-8"):
        users_file.load(path)
    with pytest.raises(UsersFileError, match="not a file"):
        users_file.load(Path(os.devnull))


def test_a_new_file_is_for_its_owner_and_group_and_a_changed_one_stays_as_it_was(
    tmp_path: Path,
) -> None:
    path = tmp_path / "users"
    with users_file.editing(path) as users:
        users.put(account("kim"))
    assert path.stat().st_mode & 0o777 == 0o640
    path.chmod(0o600)
    secret = users_file.load(path).secret
    with users_file.editing(path) as users:
        users.put(account("alex"))
    assert path.stat().st_mode & 0o777 == 0o600
    assert users_file.load(path).secret == secret
    assert list(users_file.load(path).accounts()) == ["kim", "alex"]
    assert sorted(found.name for found in tmp_path.iterdir()) == ["users", "users.lock"]


def test_an_edit_that_fails_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "users"
    with users_file.editing(path) as users:
        users.put(account("kim"))
    before = path.read_bytes()

    def fail() -> None:
        with users_file.editing(path) as users:
            users.remove("kim")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert path.read_bytes() == before


def test_a_full_disk_changes_nothing_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "users"
    with users_file.editing(path) as users:
        users.put(account("kim"))
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"), users_file.editing(path) as users:
        users.put(account("alex"))
    assert path.read_bytes() == before
    assert sorted(found.name for found in tmp_path.iterdir()) == ["users", "users.lock"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    path = tmp_path / "users"
    path.symlink_to(tmp_path / "real" / "users")
    with users_file.editing(path) as users:
        users.put(account("kim"))
    assert path.is_symlink()
    assert list(users_file.load(tmp_path / "real" / "users").accounts()) == ["kim"]


ADD_TWENTY = """
import sys
from pathlib import Path
from deliveryagent.intake import passwords, users_file
from deliveryagent.intake.users_file import Account
from deliveryagent.protocol import scram
for number in range(20):
    with users_file.editing(Path(sys.argv[1])) as users:
        users.put(Account(
            name=f"{sys.argv[2]}{number}",
            password=passwords.hashed("pencil", log_n=2),
            scram=scram.derive("pencil", b"salt", 10),
        ))
"""


def test_changes_of_several_processes_are_all_made(tmp_path: Path) -> None:
    path = tmp_path / "users"
    running = [
        subprocess.Popen([sys.executable, "-c", ADD_TWENTY, str(path), prefix]) for prefix in "abc"
    ]
    while any(process.poll() is None for process in running):
        if path.exists():
            users_file.load(path)  # never half of it
    assert [process.wait(60) for process in running] == [0, 0, 0]
    assert len(users_file.load(path).accounts()) == 60


def test_a_change_that_never_ends_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(users_file, "_PATIENCE", 0.05)
    with (tmp_path / "users.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with (
            pytest.raises(UsersFileError, match="by another process"),
            users_file.editing(tmp_path / "users"),
        ):
            raise AssertionError
